//! Engines and engine threads that have ended, or are about to.

use std::fs;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use agentpipe::{Agent, AgentCommand, CloseReason, Engine, Error, ErrorKind, Event, ExitStatus};

use super::raw;
use crate::support::own_process::{alone, test_name};
use crate::support::process::{Held, is_gone};
use crate::support::{CEILING, check_echo, engine, fake, has_ring, spawn, wait_until};

/// The descriptors of this process's rings, in the order they were made.
fn rings() -> Vec<RawFd> {
    let mut rings: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .expect("proc")
        .flatten()
        .filter(|entry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            target.to_string_lossy().contains("io_uring")
        })
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    rings.sort_unstable();
    rings
}

/// Its thread cannot enter the ring any more, and ends when it is next woken.
fn end_thread_of(agent: &mut Agent, ring: RawFd) {
    raw::replace(ring);
    let before = agent.stats().records_out;
    // Refused or not, it wakes the thread.
    let sent = agent.send_blocking("{}").is_ok();
    check_killed(agent);
    let report = agent.closed_blocking();
    let counted = report.stats().records_out + report.unsent_records();
    assert_eq!(counted, before + u64::from(sent), "an accepted record is written or unsent");
}

fn check_killed(agent: &mut Agent) {
    let events: Vec<Event> = std::iter::from_fn(|| agent.next_blocking()).collect();
    assert_eq!(events.last(), Some(&Event::Exit(ExitStatus::Signal(9))), "{events:?}");
    let report = agent.closed_blocking();
    assert_eq!(
        report.exit(),
        ExitStatus::Signal(9),
        "the report says what the events say: {report}"
    );
    assert!(is_gone(report.pid()));
}

fn check_stopped<T: std::fmt::Debug>(spawned: Result<T, Error>, what: &str) {
    let error = spawned.expect_err("an agent of a dead thread");
    assert_eq!(error.kind(), ErrorKind::EngineStopped, "{error}");
    assert!(error.to_string().contains(what), "{error}");
}

// A host closed descriptors that were not its own, among them a ring. The dead thread had no
// agents, so the lightest load, and each new agent went there and was dead.
#[test]
fn dead_engine_thread_gets_no_agent() {
    if !has_ring(test_name!()) || !alone(test_name!()) {
        return;
    }
    let engine = Engine::builder().threads(2).max_agents(4).build().expect("io_uring");
    let rings = rings();
    let [first, second] = rings[..] else { panic!("two rings: {rings:?}") };
    let mut agent = spawn(&engine, fake(&[]));
    end_thread_of(&mut agent, first);
    // The number of places is what it was: those of the dead thread are free.
    let mut agents: Vec<Agent> = (0..4)
        .map(|number| match number {
            0 | 1 => spawn(&engine, fake(&[])),
            _ => pollster::block_on(engine.spawn(fake(&[]))).expect("spawns"),
        })
        .collect();
    for agent in &mut agents {
        check_echo(agent, "{\"on\":\"the other thread\"}");
    }
    end_thread_of(&mut agents[0], second);
    agents[1..].iter_mut().for_each(check_killed);
    let what = "every thread of the engine has ended";
    check_stopped(engine.spawn_blocking(fake(&[])), what);
    check_stopped(pollster::block_on(engine.spawn(fake(&[]))), what);
    let settings = agentpipe::WarmPoolSettings::new();
    let pool = agentpipe::WarmPool::new(&engine, fake(&[]), settings).expect("a pool");
    check_stopped(pool.acquire_blocking(), what);
    assert_eq!(engine.counters_blocking().len(), 2);
    assert_eq!(engine.shutdown_blocking(CEILING).agents, 0);
    check_stopped(engine.spawn_blocking(fake(&[])), "the engine was shut down");
    assert_eq!(Held::now().children, Vec::<u32>::new());
}

/// Spawns when it is woken, on the thread that wakes it.
struct Spawns(Engine, Mutex<Option<Result<Agent, Error>>>);

impl Wake for Spawns {
    fn wake(self: Arc<Self>) {
        let spawned = self.0.spawn_blocking(fake(&[]));
        *self.1.lock().expect("unpoisoned") = Some(spawned);
    }
}

// The task that waits for the report spawns the next agent, and was refused because the engine
// counted the dead one.
#[test]
fn dead_thread_frees_its_places_with_the_report() {
    if !has_ring(test_name!()) || !alone(test_name!()) {
        return;
    }
    let engine = Engine::builder().threads(2).max_agents(1).build().expect("io_uring");
    let ring = rings()[0];
    let (reader, writer) = spawn(&engine, fake(&[])).split();
    let spawns = Arc::new(Spawns(engine, Mutex::new(None)));
    let waker = Waker::from(Arc::clone(&spawns));
    let mut closed = Box::pin(writer.closed());
    assert!(closed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    raw::replace(ring);
    let _sent = writer.send_blocking("{}");
    wait_until("it is woken", || spawns.1.lock().expect("unpoisoned").is_some());
    drop(closed);
    let spawned = spawns.1.lock().expect("unpoisoned").take().expect("just seen");
    let mut agent = spawned.expect("there is a place");
    check_echo(&mut agent, "{}");
    assert!(reader.close_report().is_some());
}

// A few of several thousand spawns beside a shutdown were `Ok` with an agent that no thread had
// taken over.
#[test]
fn spawn_racing_a_shutdown_is_whole_or_refused() {
    let (mut agents, mut refused) = (0, 0);
    for round in 0..150 {
        let engine = Engine::builder().threads(1 + round % 2).build().expect("io_uring");
        let go = AtomicBool::new(false);
        let spawned: Vec<Result<Agent, Error>> = thread::scope(|scope| {
            let spawner = |blocking| {
                let (engine, go) = (&engine, &go);
                scope.spawn(move || {
                    // In some rounds an agent is there before the shutdown, also on a busy machine.
                    let first = usize::from(round % 10 == 9);
                    let spawned = (0..3).map(|number| {
                        if number == first {
                            go.store(true, Ordering::SeqCst);
                        }
                        match blocking {
                            true => engine.spawn_blocking(AgentCommand::new("cat")),
                            false => pollster::block_on(engine.spawn(AgentCommand::new("cat"))),
                        }
                    });
                    spawned.collect::<Vec<_>>()
                })
            };
            let spawners = [spawner(true), spawner(false), spawner(true)];
            while !go.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            engine.shutdown_blocking(Duration::from_millis(round as u64 % 3));
            spawners.into_iter().flat_map(|spawner| spawner.join().expect("no panic")).collect()
        });
        for spawned in spawned {
            let mut agent = match spawned {
                Ok(agent) => agent,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::EngineStopped, "{error}");
                    refused += 1;
                    continue;
                }
            };
            agents += 1;
            let report = agent.closed_blocking();
            assert_eq!(report.reason(), CloseReason::Shutdown, "{report}");
            assert_ne!(report.exit(), ExitStatus::Unknown, "{report}");
            let events: Vec<Event> = std::iter::from_fn(|| agent.next_blocking()).collect();
            assert_eq!(events, [Event::Exit(report.exit())]);
            assert!(!report.stages().is_empty(), "no thread has had it: {report:?}");
        }
    }
    assert!(agents > 0 && refused > 0, "{agents} agents, {refused} refused");
}

/// Answers when its input has ended, after a while, and with its own exit code.
fn slow() -> AgentCommand {
    let script = "cat >/dev/null; sleep 0.3; echo '{\"last\":1}'; exit 7";
    AgentCommand::new("sh").args(["-c", script])
}

// `Duration::MAX` overflowed an `Instant`, the thread panicked, and every agent was killed.
#[test]
fn unlimited_shutdown_waits_for_its_agents() {
    let limits = [Duration::MAX, Duration::from_secs(1 << 62), Duration::from_secs(u64::MAX)];
    for limit in limits {
        let engine = engine();
        let mut agent = spawn(&engine, slow());
        let report = engine.shutdown_blocking(limit);
        assert_eq!((report.agents, report.aborted), (1, 0), "{limit:?}");
        let events: Vec<Event> = std::iter::from_fn(|| agent.next_blocking()).collect();
        let [Event::Record(record), Event::Exit(ExitStatus::Code(7))] = &events[..] else {
            panic!("{limit:?}: {events:?}");
        };
        assert_eq!(record.as_bytes(), b"{\"last\":1}");
    }
}

// A wait of centuries overflows in the kernel, ends at once, and the thread spins.
#[test]
fn unlimited_shutdown_sleeps_and_can_be_hurried() {
    let engine = engine();
    let patient = agentpipe::ClosePolicy::graceful().drain(Duration::from_secs(3600));
    let command = fake(&["--ignore-eof", "--ignore-sigterm"]).close_policy(patient);
    let agent = spawn(&engine, command);
    thread::scope(|scope| {
        let first = scope.spawn(|| engine.shutdown_blocking(Duration::MAX));
        wait_until("the close begins", || agent.send_blocking("{}").is_err());
        // What a close does at its beginning is over after a while.
        thread::sleep(Duration::from_millis(300));
        let enters = |engine: &Engine| engine.counters_blocking()[0].enters;
        let before = enters(&engine);
        thread::sleep(Duration::from_millis(300));
        let entered = enters(&engine) - before;
        assert!(entered < 100, "{entered} enters while nothing happens");
        let second = engine.shutdown_blocking(Duration::ZERO);
        assert_eq!((second.agents, second.aborted), (1, 1));
        assert_eq!(first.join().expect("no panic").aborted, 1);
    });
    assert_eq!(agent.closed_blocking().exit(), ExitStatus::Signal(9));
}
