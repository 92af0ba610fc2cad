//! What a record costs in numbers that are the same on a busy machine: allocations, completions,
//! calls of `io_uring_enter`. A defect too small for a stopwatch shows here.
//!
//! The agent is `cat` of a FIFO: it repeats what the test writes there, and nothing is sent through the
//! engine for it. So each count is exact, and the assertions are equalities.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use agentpipe::{Agent, AgentCommand, Backend, Engine, IoCounters, JsonCheck, Limits, Record};

use crate::allocator::calls;
use crate::support::own_process::{alone, test_name};
use crate::support::{PROGRAM, has_ring, wait_until};

/// Records of one counted round.
const RECORDS: u64 = 1000;
/// Allocations of bulk reads that begin anew. Of one more for each record there would be [`RECORDS`].
const RESUMES: u64 = RECORDS / 10;
/// Before that, so that every queue and buffer has its size.
const WARM_UP: u64 = 200;

/// An agent that repeats what the test writes.
struct Parrot {
    agent: Agent,
    mouth: File,
    /// The bytes of one write: `records` records, each with its newline.
    lines: Vec<u8>,
    records: u64,
}

/// How a reader looks at a record, and what the engine checks for that.
type Look = (&'static str, JsonCheck, fn(&Record));

const LOOKS: [Look; 2] = [
    ("framed", JsonCheck::Shape, |record| assert!(!record.is_empty())),
    ("envelope", JsonCheck::Syntax, |record| {
        assert_eq!(record.envelope().expect("an object").kind.as_deref(), Some("flood"));
    }),
];

impl Parrot {
    fn new(engine: &Engine, check: JsonCheck, size: usize, records: u64) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("mouth");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        let command = AgentCommand::new("cat").arg(&path).limits(Limits::new().json_check(check));
        let agent = engine.spawn_blocking(command).expect("cat starts");
        // Opens once cat has it open, too; then neither needs its name.
        let mouth = OpenOptions::new().write(true).open(&path).expect("writable");
        let (head, tail) = (r#"{"type":"flood","pad":""#, "\"}\n");
        let pad = "x".repeat(size - head.len() - tail.len());
        let lines = format!("{head}{pad}{tail}").repeat(usize::try_from(records).expect("few"));
        Self { agent, mouth, lines: lines.into_bytes(), records }
    }

    /// One write by the agent; its records are taken before the next.
    fn say(&mut self, look: fn(&Record)) {
        self.mouth.write_all(&self.lines).expect("writable");
        for _ in 0..self.records {
            look(&self.agent.next_record_blocking().expect("a record"));
        }
    }

    fn say_often(&mut self, records: u64, look: fn(&Record)) {
        for _ in 0..records / self.records {
            self.say(look);
        }
    }
}

/// Calls of the allocator, by all threads, for a thousand records: the least of three rounds,
/// because the threads of the test harness call it, too, when another test begins.
fn allocations(engine: &Engine, (_, check, look): Look, size: usize, burst: u64) -> u64 {
    let mut parrot = Parrot::new(engine, check, size, burst);
    parrot.say_often(WARM_UP, look);
    let mut round = || {
        let before = calls();
        parrot.say_often(RECORDS, look);
        calls() - before
    };
    let calls = round().min(round()).min(round());
    parrot.agent.abort_blocking();
    calls
}

// 4096 bytes are a whole read.
#[test]
fn single_records_cost_no_allocation() {
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    for look in LOOKS {
        for size in [256, 1000, 1024, 4000, 4096] {
            let calls = allocations(&engine, look, size, 1);
            assert_eq!(calls, 0, "{} of {size} bytes", look.0);
        }
    }
}

// Several records come in one read and so in one turn: the queues that hold them are used again.
#[test]
fn batched_records_cost_no_allocation() {
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    for look in LOOKS {
        for burst in [5, 10] {
            let calls = allocations(&engine, look, 256, burst);
            assert_eq!(calls, 0, "{}, {burst} at a time", look.0);
        }
    }
}

// A record that spans reads is assembled in a reused buffer. Above 8 KiB it has its own memory,
// which grows (32 KiB) and is cut to size at the end. Larger ones come by bulk reads.
#[test]
fn record_spanning_reads_costs_few_allocations() {
    const SMALL_MAX: usize = (8 << 10) + 1;
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    let small = [5000, 8000, SMALL_MAX].map(|size| (size, 0));
    // With epoll one read brings a record of 64 KiB whole, which is not ahead of the reads.
    let whole = u64::from(engine.backend() == Backend::Epoll);
    let large = [(SMALL_MAX + 1, 1), (12_000, 1), (16 << 10, 2), (32 << 10, 2), (64 << 10, whole)];
    for look in LOOKS {
        for (size, each) in [&small[..], &large].concat() {
            let (calls, most) = (allocations(&engine, look, size, 1), each * RECORDS);
            // Bulk reads cost none but the chunk, which they take anew after a pause of the machine. And
            // a single read has a larger buffer, so that fewer records span reads.
            assert!(calls <= most + RESUMES, "{} of {size} bytes: {calls}, not {most}", look.0);
        }
    }
}

// Reads end in the middle of records. Only four at a time: more may come in several turns, and how
// much the inbox grows then depends on when the reader polls.
#[test]
fn records_cut_by_reads_cost_no_allocation() {
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    for look in LOOKS {
        for size in [1500, 3000] {
            let calls = allocations(&engine, look, size, 4);
            assert!(calls <= RESUMES, "{} of {size} bytes: {calls}", look.0);
        }
    }
}

// After a burst an agent is read from the pool again: it holds no chunk, and a read costs no submission.
#[test]
fn agent_that_pauses_after_a_burst_holds_nothing() {
    if !has_ring(test_name!()) || !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    let (_, check, look) = LOOKS[0];
    let mut parrot = Parrot::new(&engine, check, 64 << 10, 1);
    let submissions = |parrot: &mut Parrot, records| {
        let before = engine.metrics().total.io;
        parrot.say_often(records, look);
        since(&engine, before)[2]
    };
    let in_burst = submissions(&mut parrot, 100);
    assert!(in_burst > 0, "a bulk read is a submission");
    // Beside the last bulk read: its cancel, and the read of the pool.
    let before = engine.metrics().total.io;
    wait_until("the chunk is given back", || since(&engine, before)[2] >= 2);
    if engine.kernel_features().multishot {
        parrot.lines.truncate(0);
        parrot
            .lines
            .extend_from_slice(format!("{{\"pad\":\"{}\"}}\n", "x".repeat(3000)).as_bytes());
        // Longer than the pause that ends a burst, and on a busy machine more than once.
        wait_until("reads of the pool", || {
            std::thread::sleep(Duration::from_millis(30));
            submissions(&mut parrot, 1) == 0
        });
    }
    parrot.agent.abort_blocking();
}

// Without a pause between them records wait in chunks and queues, and the machine decides how many
// of these there must be. Not a matter of timing: a chunk is for 32 KiB of records and two
// allocations, and a queue doubles.
#[test]
fn flood_costs_chunks_and_queues() {
    const QUEUES: u64 = 3 * 10;
    const WINDOWS: u64 = 9;
    if !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    for (_, check, look) in LOOKS {
        for size in [256, 1000, 1024, 4096] {
            let flood = ["fake", "--flood", "--never-read-stdin", "--record-size"];
            let command = AgentCommand::new(PROGRAM).args(flood);
            let command = command.arg(size.to_string()).limits(Limits::new().json_check(check));
            let mut agent = engine.spawn_blocking(command).expect("it starts");
            let mut window = || {
                let before = calls();
                (0..RECORDS).for_each(|_| look(&agent.next_record_blocking().expect("a record")));
                calls() - before
            };
            window();
            let before = engine.metrics().total;
            let mut calls: Vec<u64> = (0..WINDOWS).map(|_| window()).collect();
            let [completions, enters, ..] = since(&engine, before.io);
            let records = engine.metrics().total.records_in - before.records_in;
            calls.sort_unstable();
            let chunks = (RECORDS * size).div_ceil(32 << 10);
            assert!(calls[calls.len() / 2] <= 2 * chunks + QUEUES, "{size}: {calls:?}");
            // A turn may begin between two looks.
            let most = records + records / 10;
            assert!(completions <= most, "{size}: {completions} for {records}");
            // A polling engine submits a single read by itself, and with epoll each look is a call.
            let most = if engine.kernel_features().multishot { most } else { 2 * most };
            let is_ring = engine.backend() == Backend::IoUring;
            assert!(!is_ring || enters <= most, "{size}: {enters} for {records}");
            agent.abort_blocking();
        }
    }
}

/// Completions, enters, submissions and stale completions.
fn since(engine: &Engine, before: IoCounters) -> [u64; 4] {
    let now = engine.metrics().total.io;
    [
        now.completions - before.completions,
        now.enters - before.enters,
        now.submitted - before.submitted,
        now.stale - before.stale,
    ]
}

// Reads stay armed and the reader sends nothing: a completion for each read, an enter for each
// wait, and no submission. A single read is submitted again, at times by an enter that finds the engine
// still polling.
#[test]
fn read_is_one_completion_and_one_enter() {
    if !has_ring(test_name!()) || !alone(test_name!()) {
        return;
    }
    let engine = Engine::new().expect("io_uring");
    let (_, check, look) = LOOKS[1];
    for (size, burst) in [(256, 1), (1024, 1), (4096, 1), (256, 10), (1024, 4)] {
        let mut parrot = Parrot::new(&engine, check, size, burst);
        parrot.say_often(WARM_UP, look);
        let before = engine.metrics().total.io;
        parrot.say_often(RECORDS, look);
        let reads = RECORDS / burst;
        let found = since(&engine, before);
        if engine.kernel_features().multishot {
            assert_eq!(found, [reads, reads, 0, 0], "{burst} of {size} bytes");
        } else {
            let [completions, enters, submitted, stale] = found;
            assert_eq!((completions, stale), (reads, 0), "{burst} of {size} bytes: {found:?}");
            assert!(submitted.abs_diff(reads) <= 1, "{burst} of {size} bytes: {found:?}");
            assert!(
                (reads..=2 * reads + 1).contains(&enters),
                "{burst} of {size} bytes: {found:?}"
            );
        }
        parrot.agent.abort_blocking();
    }
}
