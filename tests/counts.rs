//! What a record costs in numbers that are the same on a busy machine: allocations, completions,
//! calls of `io_uring_enter`. A defect too small for a stopwatch shows here.
//!
//! A process of its own, because the allocator counts what belongs to the process. The agent is
//! `cat` of a FIFO: it says what the test writes there, when the test does, and nothing is sent
//! through the engine for it. So each count is exact, and what is asserted is equality.
#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentpipe::{Agent, AgentCommand, Engine, IoCounters, JsonCheck, Limits, Record};

struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the promises of `realloc`.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the promises of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// All tests of this file read one counter, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records that are counted, in rounds of so many.
const RECORDS: u64 = 1000;
/// Before that, so that every queue and buffer has its size.
const WARM_UP: u64 = 200;

/// What a record should cost the allocator. Memory of chunks is used again.
const TARGET: u64 = 0;
/// A record above a quarter of a chunk (8 KiB) has memory of its own.
const TARGET_LARGE: u64 = 1;

/// An agent that says what it is told to say.
struct Parrot {
    agent: Agent,
    mouth: File,
    /// One write's worth: so many records, each with its newline.
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

/// Calls of the allocator, by all threads, for a thousand records.
fn allocations(engine: &Engine, (_, check, look): Look, size: usize, burst: u64) -> u64 {
    let mut parrot = Parrot::new(engine, check, size, burst);
    parrot.say_often(WARM_UP, look);
    let before = CALLS.load(Ordering::Relaxed);
    parrot.say_often(RECORDS, look);
    let calls = CALLS.load(Ordering::Relaxed) - before;
    parrot.agent.abort_blocking();
    calls
}

// The least that "no per-record allocation" means. 4096 bytes are a whole read.
#[test]
fn a_thousand_records_that_come_one_by_one_cost_no_allocation() {
    let _alone = alone();
    let engine = Engine::new().expect("io_uring");
    for look in LOOKS {
        for size in [256, 1000, 1024, 4000, 4096] {
            let calls = allocations(&engine, look, size, 1);
            assert_eq!(calls, TARGET * RECORDS, "{} of {size} bytes", look.0);
        }
    }
}

// Ten in one read: the queues on both sides hold them for a moment.
#[test]
fn a_thousand_records_that_come_ten_at_a_time_cost_no_more_allocations_than_now() {
    const TEN: u64 = 10;
    /// For each read: the turn's batch and the inbox grow from nothing.
    const NOW: u64 = 5;
    let _alone = alone();
    let engine = Engine::new().expect("io_uring");
    for look in LOOKS {
        let calls = allocations(&engine, look, 256, TEN);
        let (target, now) = (TARGET * RECORDS, NOW * RECORDS / TEN);
        assert!(calls <= now, "{}: {calls}, was {now}, should be {target}", look.0);
    }
}

// A record that spans reads is put together; a large one keeps what it was put together in.
#[test]
fn a_record_that_spans_reads_costs_no_more_allocations_than_now() {
    let _alone = alone();
    let engine = Engine::new().expect("io_uring");
    for look in LOOKS {
        let sizes = [(5000, TARGET, 2), (16 << 10, TARGET_LARGE, 4), (64 << 10, TARGET_LARGE, 6)];
        for (size, target, now) in sizes {
            let each = allocations(&engine, look, size, 1).div_ceil(RECORDS);
            let name = look.0;
            assert!(each <= now, "{name} of {size}: {each}, was {now}, should be {target}");
        }
    }
}

// Without a pause between them records wait in queues that grow and shrink, by as much as the
// machine pleases; one allocation more for each shows all the same.
#[test]
fn a_flood_costs_less_than_an_allocation_and_at_most_a_completion_and_an_enter_a_record() {
    const WINDOWS: u64 = 9;
    let _alone = alone();
    let engine = Engine::new().expect("io_uring");
    for (_, check, look) in LOOKS {
        for size in ["256", "1024", "4096"] {
            let flood = ["fake", "--flood", "--never-read-stdin", "--record-size", size];
            let command = AgentCommand::new(env!("CARGO_BIN_EXE_agentpipe")).args(flood);
            let command = command.limits(Limits::new().json_check(check));
            let mut agent = engine.spawn_blocking(command).expect("it starts");
            let mut window = || {
                let before = CALLS.load(Ordering::Relaxed);
                (0..RECORDS).for_each(|_| look(&agent.next_record_blocking().expect("a record")));
                CALLS.load(Ordering::Relaxed) - before
            };
            window();
            let before = engine.stats();
            let mut calls: Vec<u64> = (0..WINDOWS).map(|_| window()).collect();
            let [completions, enters, ..] = since(&engine, before.io);
            let records = engine.stats().records_in - before.records_in;
            calls.sort_unstable();
            assert!(calls[calls.len() / 2] < RECORDS, "{size}: {calls:?}");
            // A turn may begin between two looks.
            let most = records + records / 10;
            assert!(completions <= most, "{size}: {completions} for {records}");
            assert!(enters <= most, "{size}: {enters} for {records}");
            agent.abort_blocking();
        }
    }
}

/// Completions, enters, submissions and stale completions.
fn since(engine: &Engine, before: IoCounters) -> [u64; 4] {
    let now = engine.stats().io;
    [
        now.completions - before.completions,
        now.enters - before.enters,
        now.submitted - before.submitted,
        now.stale - before.stale,
    ]
}

// Reads stay armed and the reader wakes nobody: a completion for each read's worth, an enter for
// each wait, and no submission.
#[test]
fn a_read_is_one_completion_and_one_enter() {
    let _alone = alone();
    let engine = Engine::new().expect("io_uring");
    let (_, check, look) = LOOKS[1];
    for (size, burst) in [(256, 1), (1024, 1), (4096, 1), (256, 10), (1024, 4)] {
        let mut parrot = Parrot::new(&engine, check, size, burst);
        parrot.say_often(WARM_UP, look);
        let before = engine.stats().io;
        parrot.say_often(RECORDS, look);
        let reads = RECORDS / burst;
        assert_eq!(since(&engine, before), [reads, reads, 0, 0], "{burst} of {size} bytes");
        parrot.agent.abort_blocking();
    }
}
