//! One agent among many that wants everything, and one reader that takes nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, Backend, Limits};

use super::{in_its_pipe, spawn};
use crate::support::{CEILING, check_echo, engine, fake, wait_until};

const AGENTS: usize = 100;

/// The failure is an answer that waits for the end of the flood, which has none.
const ANSWER_MAX: Duration = Duration::from_millis(250);

/// Round trips through the agents in turn; the time that half of them stay below.
fn median_of_rounds(agents: &mut [Agent]) -> Duration {
    let mut times: Vec<Duration> = (0..500)
        .map(|round| {
            let begun = Instant::now();
            let which = round % agents.len();
            check_echo(&mut agents[which], "{\"type\":\"ping\"}");
            begun.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

// One agent prints a log file without end; the other ninety-nine on its engine thread must still
// answer.
#[test]
fn flooding_agent_does_not_silence_others() {
    let engine = engine();
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| spawn(&engine, &fake(&[]))).collect();
    for size in ["256", "65536"] {
        let mut flooder = spawn(&engine, &fake(&["--flood", "--record-size", size]));
        let (over, records) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && flooder.next_record_blocking().is_some() {
                    records.fetch_add(1, Ordering::Relaxed);
                }
            });
            wait_until("it floods", || records.load(Ordering::Relaxed) > 1000);
            let before = records.load(Ordering::Relaxed);
            let median = median_of_rounds(&mut agents);
            assert!(median < ANSWER_MAX, "{median:?} beside records of {size} bytes");
            wait_until("it flooded all the time", || records.load(Ordering::Relaxed) > before);
            over.store(true, Ordering::Relaxed);
        });
        flooder.abort_blocking();
    }
}

// A task hangs while its agent goes on printing. The pool of buffers belongs to all agents of the
// thread; unread output must not stay in it.
#[test]
fn stuck_reader_costs_only_its_own_agent() {
    let engine = engine();
    let mut agents: Vec<Agent> = (0..AGENTS).map(|_| spawn(&engine, &fake(&[]))).collect();
    let unread = fake(&["--flood"]).limits(Limits::new().inbox_high(64 << 10));
    let unread = spawn(&engine, &unread);
    wait_until("its reading is paused", || engine.metrics().total.pauses == 1);
    // Its earlier output is read, and nothing follows.
    let ring = engine.counters_blocking()[0];
    assert_eq!(ring.buffers_free, ring.buffers, "no buffer is held for it");
    assert!(median_of_rounds(&mut agents) < ANSWER_MAX);
    assert_eq!(
        (engine.metrics().total.pauses, unread.stats().pauses),
        (1, 1),
        "and it stays paused"
    );
}

/// Called by the engine thread when there is something to read: says how much the flooder was read
/// by then, and waits until it may go on.
struct Gate {
    flooder: agentpipe::AgentWriter,
    reached: Sender<u64>,
    go_on: Option<Mutex<Receiver<()>>>,
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        let _heard = self.reached.send(self.flooder.stats().bytes_in);
        if let Some(go_on) = &self.go_on {
            let _timeout = go_on.lock().expect("not poisoned").recv_timeout(CEILING);
        }
    }
}

/// Polls once, so that the next event calls the gate.
fn listen(agent: &mut Agent, gate: Gate) {
    let waker = Waker::from(Arc::new(gate));
    let mut next = Box::pin(agent.next());
    let polled = next.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "it has said nothing yet");
}

#[test]
fn flooder_is_read_for_two_turns_at_most() {
    // The documented bound: a thousand agents share a thread, and the output of a flooding one is
    // read for the current turn and the next one at most before another agent is served. A turn
    // takes a pool of buffers at most.
    //
    // A clock cannot show that on a busy machine, so the test counts: it holds the engine until the
    // answer of another agent is in its pipe, and reads how much of the flood came before it.
    const BUFFERS: u64 = 128;
    const TURN: u64 = BUFFERS * 4096;
    let engine = engine();
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let mut told =
        std::fs::OpenOptions::new().read(true).write(true).open(&fifo).expect("ours to open");

    let cat = AgentCommand::new("cat");
    let mut crowd: Vec<Agent> = (0..1000).map(|_| spawn(&engine, &cat)).collect();
    let mut brake = crowd.pop().expect("a thousand");
    // It gets its text beside its stdin, so that no write of the engine is pending.
    let mut speaker = spawn(&engine, &cat.clone().arg(&fifo));
    let flood = fake(&["--flood", "--record-size", "256"]);
    let (mut flood, flooder) = spawn(&engine, &flood).split();
    let over = AtomicBool::new(false);
    let mut most = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(flood.next_blocking().is_some(), "it has no end");
            }
        });
        wait_until("it floods", || flooder.stats().bytes_in > 1 << 20);
        for _ in 0..20 {
            let (reached, held) = channel();
            let (release, go_on) = channel();
            let go_on = Some(Mutex::new(go_on));
            listen(&mut brake, Gate { flooder: flooder.clone(), reached, go_on });
            brake.send_blocking("{}").expect("sent");
            let before = held.recv_timeout(CEILING).expect("the engine is held");
            let (reached, delivered) = channel();
            listen(&mut speaker, Gate { flooder: flooder.clone(), reached, go_on: None });
            std::io::Write::write_all(&mut told, b"{}\n").expect("written");
            wait_until("it spoke", || in_its_pipe(&speaker) == 3);
            release.send(()).expect("the engine waits");
            let after = delivered.recv_timeout(CEILING).expect("it is delivered");
            most = most.max(after - before);
            assert!(speaker.next_record_blocking().is_some());
            assert!(brake.next_record_blocking().is_some());
        }
        let median = median_of_rounds(&mut crowd);
        assert!(median < ANSWER_MAX, "{median:?} beside a flood, among a thousand");
        over.store(true, Ordering::Relaxed);
    });
    println!("at most {} KiB of the flooder were read before another's record", most >> 10);
    assert!(most <= 2 * TURN, "{most} bytes");
    // With epoll one read of 64 KiB a turn.
    let buffers = if engine.backend() == Backend::IoUring { BUFFERS } else { 1 };
    assert_eq!(engine.metrics().total.io.buffers, buffers);
    flooder.abort_blocking();
}
