//! The pipes of an agent: back-pressure, stderr, half-closed input, many agents, and any runtime.

use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::process::pid;
use crate::support::{CEILING, HANG, block_on_within, check_echo, engine, fake, spawn, wait_until};
use agentpipe::{
    Agent, AgentCommand, AgentReader, AgentStats, ClosePolicy, CloseReason, CloseStage, Engine,
    ErrorKind, Event, ExitStatus, Limits, Record,
};
use rustix::process::{
    Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, kill_process, setrlimit, waitid,
};
use serde_json::Value;

/// Reads to the end: the records, and the last event.
fn read_all(agent: &mut Agent) -> (Vec<Record>, Option<Event>) {
    let (mut records, mut last) = (Vec::new(), None);
    while let Some(event) = agent.next_blocking() {
        if let Event::Record(record) = &event {
            records.push(record.clone());
        }
        last = Some(event);
    }
    (records, last)
}

fn sequence_of(record: &Record) -> u64 {
    record.json::<Value>().expect("JSON")["seq"].as_u64().expect("a sequence number")
}

/// Records `0..count`, each once, in order.
fn check_sequence(records: &[Record], count: u64) {
    let found: Vec<u64> = records.iter().map(sequence_of).collect();
    assert_eq!(found, (0..count).collect::<Vec<u64>>());
}

/// Whether it is blocked in write(2).
fn is_blocked_in_write(pid: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split(' ').next() == Some(libc::SYS_write.to_string().as_str())
}

// The reader is slower than its agent. Without back-pressure the host's memory grows with the
// output; a read that stays armed goes on taking it.
#[test]
fn slow_reader_blocks_the_agent_without_loss() {
    let engine = engine();
    let limits = Limits::new().inbox_high(64 << 10);
    let command = fake(&["--records", "4000"]).limits(limits);
    let mut agent = spawn(&engine, command);
    wait_until("the read is paused", || agent.stats().pauses == 1);
    wait_until("the agent is blocked", || is_blocked_in_write(agent.pid()));
    let held = agent.stats().bytes_in;
    // What a turn may bring beyond the mark is bounded by the pipe and the pool.
    // An event weighs a little more than its bytes, so it may be a little less than the mark.
    assert!((32 << 10..1 << 20).contains(&held), "{held}");
    thread::sleep(Duration::from_millis(50));
    assert_eq!(agent.stats().bytes_in, held, "nothing is read while it is paused");
    assert!(is_blocked_in_write(agent.pid()));
    // Half way on it is paused again: what is left does not fit.
    let mut records: Vec<Record> =
        (0..2000).map(|_| agent.next_record_blocking().expect("a record")).collect();
    wait_until("the read is paused again", || agent.stats().pauses > 1);
    wait_until("the agent is blocked again", || is_blocked_in_write(agent.pid()));
    agent.end_input();
    let (rest, last) = read_all(&mut agent);
    records.extend(rest);
    check_sequence(&records, 4000);
    assert_eq!(last, Some(Event::Exit(ExitStatus::Code(0))));
    assert_eq!(agent.stats().records_discarded, 0);
}

// All agents of a thread share one pool. If unread bytes stayed in its buffers, a few slow readers
// would stop all agents.
#[test]
fn slow_readers_do_not_stop_another_agent() {
    let engine = Engine::builder().buffers(8).build().expect("io_uring");
    let limits = Limits::new().inbox_high(16 << 10);
    let slow: Vec<Agent> =
        (0..12).map(|_| spawn(&engine, fake(&["--flood"]).limits(limits))).collect();
    for agent in &slow {
        wait_until("each is paused", || agent.stats().pauses > 0);
    }
    let mut quick = spawn(&engine, fake(&[]));
    for number in 0..500 {
        check_echo(&mut quick, &format!("{{\"n\":{number}}}"));
    }
    let ring = engine.counters_blocking()[0];
    assert_eq!((ring.buffers - ring.buffers_free, ring.stale), (0, 0), "{ring:?}");
    assert_eq!(quick.close_blocking().exit(), ExitStatus::Code(0));
    for agent in &slow {
        // All the time it may want on a busy machine: EPIPE ends it, and no signal.
        let report = agent.close_with_blocking(ClosePolicy::abort().abort_grace(CEILING));
        assert_eq!(report.exit(), ExitStatus::Code(1), "{report}");
    }
}

// A debug build logs megabytes to stderr, the host never reads it, and the agent stopped before its
// first answer. Nor may unread lines stop its stdout.
#[test]
fn stderr_flood_does_not_block_the_agent() {
    let engine = engine();
    for events in [false, true] {
        let limits = Limits::new().inbox_high(16 << 10).stderr_tail(1000);
        let command = fake(&["--flood-stderr", "8m"]).limits(limits).stderr_events(events);
        let agent = spawn(&engine, command);
        // The answer comes only after the last byte of stderr was taken.
        agent.send_blocking("{}").expect("sent");
        wait_until("stderr is drained", || agent.stats().stderr_bytes >= 8 << 20);
        wait_until("the agent goes on", || agent.stats().records_in == 1);
        let report = agent.close_blocking();
        let stats = *report.stats();
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
        assert_eq!(stats.stderr_lines_dropped > 0, events, "{stats:?}");
        let tail = report.stderr_tail().len();
        assert!((1..=1000).contains(&tail), "the tail is bounded: {tail}");
    }
}

/// Reads all that is left, and returns the bytes of stderr and whether all records were numbered in order.
fn read_stderr(agent: &mut AgentReader, into: &mut Vec<u8>) -> usize {
    let mut records = 0;
    while let Some(event) = agent.next_blocking() {
        match event {
            Event::Stderr(line) => into.extend_from_slice(line.as_bytes()),
            Event::Record(_) => records += 1,
            _ => {}
        }
    }
    records
}

// A log that the user needs lost nine lines of ten, because the reader was a little slower than
// the agent. With back-pressure the agent waits for its reader.
#[test]
fn backpressure_keeps_every_stderr_line() {
    let engine = engine();
    let limits = Limits::new().inbox_high(16 << 10);
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i >&2; i=$((i+1)); done; echo '{}'";
    let command = AgentCommand::new("sh").args(["-c", script]);
    let command = command.limits(limits).stderr_events(true).stderr_backpressure(true);
    let (mut reader, writer) = spawn(&engine, command).split();
    wait_until("reading is paused", || writer.stats().pauses > 0);
    let mut said = Vec::new();
    assert_eq!(read_stderr(&mut reader, &mut said), 1);
    let wanted: String = (0..20000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&said), wanted);
    assert_eq!(writer.closed_blocking().stats().stderr_lines_dropped, 0);
}

// The place where a host shows the log is slow: the log waits, and the answers do not.
#[test]
fn held_stderr_lets_records_pass() {
    let engine = engine();
    let script = "yes log | head -n 400000 >&2 & cat; wait";
    let command = AgentCommand::new("sh").args(["-c", script]);
    let command = command.stderr_events(true).stderr_backpressure(true);
    let (mut reader, writer) = spawn(&engine, command).split();
    reader.hold_stderr(true);
    let mut said = Vec::new();
    for _ in 0..200 {
        writer.send_blocking("{}").expect("sent");
        loop {
            match reader.next_blocking().expect("an event") {
                Event::Stderr(line) => said.extend_from_slice(line.as_bytes()),
                Event::Record(_) => break,
                other => panic!("{other:?}"),
            }
        }
    }
    let held_at = writer.stats().stderr_bytes;
    assert!(held_at < 1_600_000, "it was read on: {held_at}");
    reader.hold_stderr(false);
    writer.end_input();
    read_stderr(&mut reader, &mut said);
    assert_eq!(said.len(), 1_600_000);
    assert_eq!(writer.closed_blocking().stats().stderr_lines_dropped, 0);
}

// A close that waited for a held stderr would always need force.
#[test]
fn close_reads_held_stderr() {
    let engine = engine();
    let script = "read line; yes log | head -n 100000 >&2";
    let command = AgentCommand::new("sh").args(["-c", script]).stderr_events(true);
    let (mut reader, writer) = spawn(&engine, command.stderr_backpressure(true)).split();
    reader.hold_stderr(true);
    let report = writer.close_blocking();
    assert_eq!((report.stage(), report.exit()), (CloseStage::Drain, ExitStatus::Code(0)));
    let mut said = Vec::new();
    read_stderr(&mut reader, &mut said);
    assert_eq!((said.len(), report.stats().stderr_lines_dropped), (400_000, 0));
}

// An agent asks for a password, or whether to install a package, and waits. Without the prompt its
// host waits, too.
#[test]
fn prompt_on_stderr_is_an_event() {
    let engine = engine();
    let script = "printf 'Ok to proceed? ' >&2; read answer; echo thanks >&2; echo '{}'";
    let command = AgentCommand::new("sh").args(["-c", script]).stderr_events(true);
    let mut agent = spawn(&engine, command);
    let first = block_on_within(HANG, agent.next());
    let Some(Event::Stderr(prompt)) = first else { panic!("no prompt") };
    assert_eq!((&*prompt.text(), prompt.is_finished()), ("Ok to proceed? ", false));
    agent.send_blocking("{}").expect("sent");
    let Some(Event::Stderr(rest)) = agent.next_blocking() else { panic!("no rest") };
    assert_eq!((&*rest.text(), rest.is_finished()), ("thanks", true));
    assert_eq!(agent.close_blocking().stderr_tail(), "Ok to proceed? thanks\n");
}

// A server says at its start why it cannot work, and its host reads once its user asks.
#[test]
fn first_stderr_lines_wait_for_a_late_reader() {
    let engine = engine();
    let args = ["--stderr", "no licence", "--exit-now"];
    let mut agent = spawn(&engine, fake(&args).stderr_events(true));
    let report = pollster::block_on(agent.closed());
    assert_eq!(report.stderr_tail(), "no licence\n");
    let Some(Event::Stderr(line)) = agent.next_blocking() else { panic!("it is lost") };
    assert_eq!(line.text(), "no licence");
}

#[test]
fn stderr_lines_are_events_only_on_request() {
    let engine = engine();
    let args = ["--stderr", "one", "--stderr", "two", "--exit-now"];
    for (events, wanted) in [(true, vec!["one", "two"]), (false, Vec::new())] {
        let mut agent = spawn(&engine, fake(&args).stderr_events(events));
        let mut lines = Vec::new();
        let mut others = Vec::new();
        while let Some(event) = agent.next_blocking() {
            match event {
                Event::Stderr(line) => lines.push(line.text().into_owned()),
                other => others.push(other),
            }
        }
        assert_eq!(lines, wanted);
        assert_eq!(others, [Event::Exit(ExitStatus::Code(0))]);
        assert_eq!(agent.closed_blocking().stderr_tail(), "one\ntwo\n");
    }
}

// Many agents compute only once their input is complete: the half-closed pipe is their protocol.
#[test]
fn output_is_read_after_the_input_ended() {
    let engine = engine();
    let mut agent = spawn(&engine, fake(&["--flood-after-input", "--records", "3000"]));
    agent.send_blocking("{\"go\":1}").expect("sent");
    agent.end_input();
    let (mut records, last) = read_all(&mut agent);
    assert_eq!(records.remove(0).as_bytes(), b"{\"go\":1}");
    check_sequence(&records, 3000);
    assert_eq!(last, Some(Event::Exit(ExitStatus::Code(0))));
    assert_eq!(agent.send_blocking("{}").expect_err("ended").kind(), ErrorKind::InputEnded);
    let report = agent.closed_blocking();
    assert_eq!((report.reason(), report.unsent_bytes()), (CloseReason::Exited, 0));
    assert_eq!(report.stats().records_out, 1);
}

/// Polls once; whether it was ready. The future is dropped.
fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

// A timeout around `send`: if the dropped future had sent half a record, or sent it later, the
// agent would read garbage, or act on a cancelled request.
#[test]
fn dropped_send_sends_nothing() {
    let engine = engine();
    let limits = Limits::new().outbox_high(32 << 10);
    let mut agent = spawn(&engine, fake(&[]).limits(limits));
    check_echo(&mut agent, "{}");
    kill_process(pid(&agent), Signal::STOP).expect("it lives");
    // The signal only begins to stop it: on another core it goes on reading for a moment.
    waitid(WaitId::Pid(pid(&agent)), WaitIdOptions::STOPPED).expect("it stops");
    let record = |number: usize| format!("{{\"n\":{number},\"pad\":\"{}\"}}", "x".repeat(1000));
    // The engine empties the outbox into the pipe until that is full, too.
    let (mut accepted, mut dropped) = (Vec::new(), 0);
    let mut number = 0;
    let mut full_since = Instant::now();
    while full_since.elapsed() < Duration::from_millis(100) {
        match poll_once(agent.send(record(number))) {
            Some(sent) => {
                sent.expect("accepted");
                accepted.push(number);
                full_since = Instant::now();
            }
            None => dropped += 1,
        }
        number += 1;
        if dropped > 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(dropped > 5, "{dropped}");
    let bytes: usize = accepted.iter().map(|number| record(*number).len() + 1).sum();
    let pipe = usize::try_from(agent.stats().stdin_pipe_size).expect("a size");
    let ceiling = (32 << 10) + pipe + record(number).len();
    assert!(bytes <= ceiling, "{bytes} accepted, outbox and pipe hold {ceiling}");
    assert_eq!(poll_once(agent.flush()).map(|flushed| flushed.is_ok()), None, "bytes are unsent");

    // A writer that waits is woken when there is room.
    let waiting = record(number);
    thread::scope(|scope| {
        let sender = scope.spawn(|| agent.send_blocking(&waiting));
        kill_process(pid(&agent), Signal::CONT).expect("it lives");
        sender.join().expect("no panic").expect("sent once there is room");
    });
    accepted.push(number);
    agent.flush_blocking().expect("flushed");
    agent.end_input();
    let (records, last) = read_all(&mut agent);
    let echoed: Vec<usize> = records
        .iter()
        .map(|record| record.json::<Value>().expect("whole")["n"].as_u64().expect("n"))
        .map(|n| usize::try_from(n).expect("small"))
        .collect();
    assert_eq!(echoed, accepted, "exactly what was accepted, in order");
    assert_eq!(last, Some(Event::Exit(ExitStatus::Code(0))));
}

// Records of two bytes each cost an allocation and an entry of a list. A limit on the bytes alone
// would hold thirty times as much.
#[test]
fn queue_of_tiny_records_is_bounded() {
    let engine = engine();
    let limits = Limits::new().outbox_high(64 << 10);
    let agent = spawn(&engine, fake(&["--never-read-stdin"]).limits(limits));
    let (mut accepted, mut full_since) = (0_u64, Instant::now());
    while full_since.elapsed() < Duration::from_millis(100) {
        if let Some(sent) = poll_once(agent.send("1")) {
            sent.expect("accepted");
            accepted += 1;
            full_since = Instant::now();
        }
    }
    let in_pipe = agent.stats().stdin_pipe_size / 2;
    assert!(accepted <= in_pipe + 1100, "{accepted} accepted, the pipe holds {in_pipe}");
    let report = agent.abort_blocking();
    assert_eq!(report.stats().records_out + report.unsent_records(), accepted, "{report:?}");
}

/// Held by the engine thread from its wake-up on, until the test lets it go on.
struct Hold {
    held: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Wake for Hold {
    fn wake(self: Arc<Self>) {
        let _heard = self.held.send(());
        let _timeout = self.go_on.lock().expect("not poisoned").recv_timeout(CEILING);
    }
}

/// Says, when it is woken, whether another thing was done before.
struct AfterAll {
    done: Arc<AtomicBool>,
    told: Sender<bool>,
}

impl Wake for AfterAll {
    fn wake(self: Arc<Self>) {
        let _heard = self.told.send(self.done.load(Ordering::SeqCst));
    }
}

struct Done(Arc<AtomicBool>);

impl Wake for Done {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn busy_handles_do_not_starve_others() {
    // If the mailbox of an engine thread is never empty, its pipes must still have their turns, and
    // the deadlines of a close too.
    //
    // A clock cannot show that on a busy machine, so the test holds the engine until the mailbox is
    // full and a record lies in a pipe, and asserts the order of the two.
    const ASKED: usize = 20_000;
    let engine = engine();
    let ended = spawn(&engine, fake(&["--exit-now"]));
    ended.closed_blocking();
    let mut brake = spawn(&engine, fake(&[]));
    let script = "kill -STOP $$; echo '{}'; kill -STOP $$; exec cat";
    let mut other = spawn(&engine, AgentCommand::new("/bin/sh").args(["-c", script]));
    let await_stop = |agent: &Agent| waitid(WaitId::Pid(pid(agent)), WaitIdOptions::STOPPED);
    await_stop(&other).expect("it stops");

    let (held, is_held) = channel();
    let (release, go_on) = channel();
    let hold = Waker::from(Arc::new(Hold { held, go_on: Mutex::new(go_on) }));
    assert!(pin!(brake.next()).poll(&mut Context::from_waker(&hold)).is_pending());
    brake.send_blocking("{}").expect("sent");
    is_held.recv_timeout(CEILING).expect("the engine delivers the echo");

    let (told, delivered) = channel();
    let done = Arc::new(AtomicBool::new(false));
    let waker = Waker::from(Arc::new(AfterAll { done: Arc::clone(&done), told }));
    assert!(pin!(other.next()).poll(&mut Context::from_waker(&waker)).is_pending());
    kill_process(pid(&other), Signal::CONT).expect("it lives");
    await_stop(&other).expect("its record is in the pipe, and it stops again");
    for _ in 0..ASKED {
        assert!(poll_once(ended.abort()).is_some(), "it has ended, and the engine is asked to see");
    }
    let mut last = pin!(engine.counters());
    let waker = Waker::from(Arc::new(Done(Arc::clone(&done))));
    assert!(last.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());

    release.send(()).expect("the engine waits");
    let after_all = delivered.recv_timeout(CEILING).expect("the record is delivered");
    assert!(!after_all, "the record waited for {ASKED} requests");
    assert_eq!(pollster::block_on(last).len(), 1, "they are all taken in the end");

    kill_process(pid(&other), Signal::CONT).expect("it lives");
    for mut agent in [brake, other] {
        assert!(agent.next_record_blocking().is_some());
        assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
    }
}

struct Task;

impl Wake for Task {
    fn wake(self: Arc<Self>) {}
}

// A stuck agent gets a request with a timeout every second, each in a new task. Each waker would
// hold its task until the agent is closed.
#[test]
fn cancelled_wait_holds_nothing() {
    let engine = engine();
    let agent = spawn(&engine, fake(&["--never-read-stdin"]).limits(Limits::new().outbox_high(1)));
    let record = format!("\"{}\"", "x".repeat(100 << 10));
    agent.send_blocking(&record).expect("an empty queue takes any record");
    let task = Arc::new(Task);
    let waker = Waker::from(Arc::clone(&task));
    let mut context = Context::from_waker(&waker);
    for _ in 0..100 {
        assert!(pin!(agent.send("{}")).poll(&mut context).is_pending());
        assert!(pin!(agent.flush()).poll(&mut context).is_pending());
        assert!(pin!(agent.closed()).poll(&mut context).is_pending());
    }
    // The test's own, and that in `waker`.
    assert_eq!(Arc::strong_count(&task), 2, "wakers of futures that are gone");
    assert_eq!(agent.abort_blocking().exit(), ExitStatus::Signal(9));
}

// `select!` drops the losing future at every turn.
#[test]
fn dropped_next_loses_no_event() {
    let engine = engine();
    let mut agent = spawn(&engine, fake(&["--records", "2000", "--exit-after", "2000"]));
    let (mut records, mut pending) = (Vec::new(), 0_u64);
    loop {
        match poll_once(agent.next()) {
            Some(Some(Event::Record(record))) => records.push(record),
            Some(Some(Event::Exit(status))) => assert_eq!(status, ExitStatus::Code(0)),
            Some(Some(other)) => panic!("{other:?}"),
            Some(None) => break,
            None => {
                pending += 1;
                thread::yield_now();
            }
        }
    }
    assert!(pending > 0);
    check_sequence(&records, 2000);
}

/// 200 agents take 800 descriptors, and a shell often grants 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
}

async fn talk_and_close(engine: Engine, number: usize) -> AgentStats {
    let mut agent = engine.spawn(fake(&[])).await.expect("spawns");
    for turn in 0..10 {
        let text = format!("{{\"agent\":{number},\"turn\":{turn}}}");
        agent.send(&text).await.expect("sent");
        let answer = agent.next_record().await.expect("an echo");
        assert_eq!(answer.as_bytes(), text.as_bytes());
    }
    let report = agent.close().await;
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    *report.stats()
}

/// All of them live at the same time: none is closed before the last one has answered.
async fn talk_all_and_close(engine: Engine, agents: usize) {
    let meeting = Arc::new(tokio::sync::Barrier::new(agents));
    let mut running = tokio::task::JoinSet::new();
    for number in 0..agents {
        let (engine, meeting) = (engine.clone(), meeting.clone());
        running.spawn(async move {
            let mut agent = engine.spawn(fake(&[])).await.expect("spawns");
            let text = format!("{{\"agent\":{number}}}");
            agent.send(&text).await.expect("sent");
            let answer = agent.next_record().await.expect("an echo");
            assert_eq!(answer.as_bytes(), text.as_bytes());
            meeting.wait().await;
            agent.close().await.exit()
        });
    }
    while let Some(done) = running.join_next().await {
        assert_eq!(done.expect("no panic"), ExitStatus::Code(0));
    }
}

#[test]
fn two_hundred_agents_talk_and_close() {
    raise_descriptor_limit();
    let engine = engine();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(talk_all_and_close(engine.clone(), 200));
    assert_eq!(engine.agents(), 0);
    let ring = engine.counters_blocking()[0];
    assert_eq!((ring.in_kernel, ring.buffers - ring.buffers_free, ring.stale), (1, 0, 0));
}

#[test]
fn two_engine_threads_share_the_agents() {
    let engine = Engine::builder().threads(2).build().expect("io_uring");
    let mut agents: Vec<Agent> = (0..8).map(|_| spawn(&engine, fake(&[]))).collect();
    for agent in &mut agents {
        check_echo(agent, "{}");
    }
    // Of each agent: two reads and the watch of its exit; and the watch of the wake-up.
    let in_kernel: Vec<u64> =
        engine.counters_blocking().iter().map(|ring| ring.in_kernel).collect();
    assert_eq!(in_kernel, [4 * 3 + 1, 4 * 3 + 1]);
    for agent in &agents {
        assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
    }
    let in_kernel: Vec<u64> =
        engine.counters_blocking().iter().map(|ring| ring.in_kernel).collect();
    assert_eq!(in_kernel, [1, 1]);
}

/// Runs 16 agents of one engine, each in a task of this runtime.
fn talk_in_tasks(runtime: &tokio::runtime::Runtime) {
    let engine = engine();
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..16).map(|number| tokio::spawn(talk_and_close(engine.clone(), number))).collect();
        for task in tasks {
            assert_eq!(task.await.expect("no panic").records_in, 10);
        }
    });
}

#[test]
fn works_in_a_multi_threaded_runtime() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().expect("a runtime");
    talk_in_tasks(&runtime);
}

// The engine must never need the caller's thread to make progress.
#[test]
fn works_in_a_current_thread_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    talk_in_tasks(&runtime);
}

#[test]
fn works_on_plain_threads() {
    let engine = engine();
    thread::scope(|scope| {
        for number in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                let mut agent = spawn(engine, fake(&[]));
                for turn in 0..20 {
                    check_echo(&mut agent, &format!("[{number},{turn}]"));
                }
                agent.flush_blocking().expect("flushed");
                assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
            });
        }
    });
    assert_eq!(engine.agents(), 0);
}

#[test]
fn halves_work_on_two_threads() {
    let engine = engine();
    let (mut reader, writer) = spawn(&engine, fake(&[])).split();
    let second = writer.clone();
    thread::scope(|scope| {
        for (writer, name) in [(writer, "a"), (second, "b")] {
            scope.spawn(move || {
                for number in 0..1000 {
                    writer.send_blocking(format!("[\"{name}\",{number}]")).expect("sent");
                }
                // The last writer dropped ends the input, and so the agent.
            });
        }
        let mut next = std::collections::BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 0)]);
        while let Some(record) = reader.next_record_blocking() {
            let (name, number) = record.json::<(String, i32)>().expect("whole");
            let wanted = next.get_mut(&name).expect("one of the two");
            assert_eq!(number, *wanted, "each writer's records stay in order");
            *wanted += 1;
        }
        assert_eq!(next.into_values().collect::<Vec<i32>>(), [1000, 1000]);
    });
    assert_eq!(reader.closed_blocking().exit(), ExitStatus::Code(0));
}
