//! Wakers that panic, on the threads of an engine.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::support::process::is_gone;
use crate::support::{CEILING, check_echo, engine, fake, spawn, wait_until};
use agentpipe::{Agent, Engine, Event, ExitStatus, Limits};

#[derive(Clone, Copy, Debug)]
enum Panics {
    WhenWoken,
    WhenDropped,
    /// With a value that panics when it is dropped.
    Twice,
}

struct Bad {
    how: Panics,
    woken: Arc<AtomicUsize>,
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("the payload of a panic");
    }
}

impl Wake for Bad {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        match self.how {
            Panics::WhenWoken => panic!("a waker"),
            Panics::Twice => panic_any(Bomb),
            Panics::WhenDropped => {}
        }
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        // In a test that fails it must not hide why.
        if matches!(self.how, Panics::WhenDropped) && !std::thread::panicking() {
            panic!("the destructor of a waker");
        }
    }
}

/// A waker of the kind, whose only owner will be what it is registered with; and how often it was
/// woken.
fn bad(how: Panics) -> (Waker, Arc<AtomicUsize>) {
    let woken = Arc::default();
    (Waker::from(Arc::new(Bad { how, woken: Arc::clone(&woken) })), woken)
}

/// Leaves this waker behind, and nothing else that holds it.
fn poll_with<F: Future + ?Sized>(mut future: Pin<&mut F>, waker: Waker) {
    assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
}

const ALL: [Panics; 3] = [Panics::WhenWoken, Panics::WhenDropped, Panics::Twice];

/// Nothing about the engine and this agent of another user has changed.
fn check_unharmed(engine: &Engine, innocent: &mut Agent) {
    check_echo(innocent, "{\"still\":\"here\"}");
    let mut next = spawn(engine, fake(&[]));
    check_echo(&mut next, "{\"one\":\"more\"}");
    assert_eq!(next.close_blocking().exit(), ExitStatus::Code(0));
}

// A bug in a user's executor panics in its waker. The engine thread died of it with the agents of
// all other users.
#[test]
fn panicking_reader_waker_ends_no_agent() {
    for how in ALL {
        let engine = engine();
        let mut innocent = spawn(&engine, fake(&[]));
        let (mut reader, writer) = spawn(&engine, fake(&[])).split();
        let (waker, woken) = bad(how);
        assert!(reader.poll_next(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        writer.send_blocking("{}").expect("sent");
        wait_until("it is woken", || woken.load(Ordering::SeqCst) == 1);
        let record = reader.next_record_blocking().expect("what it was woken for");
        assert_eq!(record.as_bytes(), b"{}", "{how:?}");
        check_unharmed(&engine, &mut innocent);
        assert_eq!(writer.close_blocking().exit(), ExitStatus::Code(0));
        assert_eq!(innocent.close_blocking().exit(), ExitStatus::Code(0));
        assert_eq!(engine.shutdown_blocking(CEILING).aborted, 0);
    }
}

// Ten tasks wait for the report of one close, and the first of them has a bad waker.
#[test]
fn panicking_waker_does_not_lose_other_wakes() {
    for how in ALL {
        let engine = engine();
        let mut innocent = spawn(&engine, fake(&[]));
        let limits = Limits::new().outbox_high(1);
        let agent = spawn(&engine, fake(&["--never-read-stdin"]).limits(limits));
        let record = format!("\"{}\"", "x".repeat(200 << 10));
        agent.send_blocking(&record).expect("an empty queue takes any record");
        let mut closed = pin!(agent.closed());
        let mut flushed = pin!(agent.flush());
        let mut sent = pin!(agent.send("{}"));
        let wakers: Vec<_> = (0..3).map(|_| bad(how)).collect();
        let mut counts = Vec::new();
        let futures: [Pin<&mut dyn Pending>; 3] =
            [closed.as_mut(), flushed.as_mut(), sent.as_mut()];
        for (future, (waker, woken)) in futures.into_iter().zip(wakers) {
            future.check_pending(waker);
            counts.push(woken);
        }
        std::thread::scope(|scope| {
            let others = [(); 3].map(|()| scope.spawn(|| agent.closed_blocking()));
            let late = scope.spawn(|| agent.flush_blocking());
            let report = agent.abort_blocking();
            for other in others {
                assert_eq!(other.join().expect("no panic"), report, "{how:?}");
            }
            let error = late.join().expect("no panic").expect_err("never flushed");
            assert!(error.is_closed(), "{error}");
        });
        for woken in counts {
            wait_until("each is woken", || woken.load(Ordering::SeqCst) > 0);
        }
        check_unharmed(&engine, &mut innocent);
    }
}

/// A future of any output, polled once.
trait Pending {
    fn check_pending(self: Pin<&mut Self>, waker: Waker);
}

impl<F: Future> Pending for F {
    fn check_pending(self: Pin<&mut Self>, waker: Waker) {
        poll_with(self, waker);
    }
}

// An agent that dies with its parent dies with the thread that spawned it. A panic there killed all
// of them, and left the pending spawns without an answer.
#[test]
fn panicking_waker_spares_the_spawning_thread() {
    for how in ALL {
        let engine = engine();
        let command = fake(&[]).die_with_parent(true);
        let mut innocent = pollster::block_on(engine.spawn(command)).expect("spawns");
        let (mut spawning, woken) = loop {
            let mut spawning = Box::pin(engine.spawn(fake(&[])));
            let (waker, woken) = bad(how);
            let polled = spawning.as_mut().poll(&mut Context::from_waker(&waker));
            // From here the engine alone holds it, unless the spawning thread was quicker.
            let _last = catch_unwind(AssertUnwindSafe(|| drop(waker)));
            match polled {
                Poll::Pending => break (spawning, woken),
                Poll::Ready(agent) => drop(agent.expect("spawns").close_blocking()),
            }
        };
        wait_until("it is woken", || woken.load(Ordering::SeqCst) == 1);
        let Poll::Ready(Ok(agent)) =
            spawning.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        else {
            panic!("an agent is what it was woken for");
        };
        assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
        let mut next = pollster::block_on(engine.spawn(fake(&[]))).expect("spawns");
        check_echo(&mut next, "{}");
        check_unharmed(&engine, &mut innocent);
    }
}

// The woken task is cancelled at once, and owns the engine.
#[test]
fn waker_can_drop_the_last_engine_handle() {
    struct Owner(std::sync::Mutex<Option<(Engine, Agent)>>, AtomicUsize);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().expect("unpoisoned").take());
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let engine = engine();
    let (mut reader, writer) = spawn(&engine, fake(&[])).split();
    let other = spawn(&engine, fake(&["--ignore-eof", "--ignore-sigterm"]));
    let pids = [reader.pid(), other.pid()];
    let owner = Arc::new(Owner(std::sync::Mutex::new(Some((engine, other))), AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&owner));
    assert!(reader.poll_next(&mut Context::from_waker(&waker)).is_pending());
    writer.send_blocking("{}").expect("sent");
    wait_until("it is woken", || owner.1.load(Ordering::SeqCst) == 1);
    assert!(matches!(reader.next_blocking(), Some(Event::Record(_))));
    drop((reader, writer));
    for pid in pids {
        wait_until("no agent is left", || is_gone(pid));
    }
}
