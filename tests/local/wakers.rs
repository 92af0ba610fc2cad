//! Wakers that ask the engine for something, and wakers that panic: they run inside of a turn of its
//! driver, and inside of requests.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use agentpipe::{
    CloseReason, CloseReport, ErrorKind, Event, ExitStatus, IoCounters, LocalAgent, LocalEngine,
    Result, ShutdownReport,
};

use super::{check_echo, in_each, spawn, until};
use crate::support::fake;

type Work = Box<dyn FnOnce()>;

thread_local! {
    /// What the waker does on its thread, once.
    static WORK: RefCell<Option<Work>> = const { RefCell::new(None) };
}

struct Works(AtomicUsize);

impl Wake for Works {
    fn wake(self: Arc<Self>) {
        if let Some(work) = WORK.take() {
            self.0.fetch_add(1, Ordering::Relaxed);
            work();
        }
    }
}

/// Does it in the waker of a reader, in the middle of a turn.
async fn in_a_turn(engine: &LocalEngine, work: impl FnOnce() + 'static) {
    let (mut reader, writer) = spawn(engine, &["--ignore-eof"]).await.split();
    let works = Arc::new(Works(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&works));
    WORK.set(Some(Box::new(work)));
    assert!(reader.poll_next(&mut Context::from_waker(&waker)).is_pending());
    writer.send("{}").await.expect("sent");
    until("the waker did it", || works.0.load(Ordering::Relaxed) == 1).await;
}

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;
type Begun<T> = Rc<RefCell<Option<Boxed<T>>>>;

/// Waits for what a waker has begun.
async fn outcome<T>(of: &Begun<T>) -> T {
    let future = of.take().expect("the waker began it");
    future.await
}

/// Polls a future for the first time inside of a waker.
fn begin<T: 'static>(future: impl Future<Output = T> + 'static) -> (Begun<T>, impl FnOnce()) {
    let begun: Begun<T> = Rc::default();
    let keep = Rc::clone(&begun);
    let work = move || {
        let mut future: Boxed<T> = Box::pin(future);
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        *keep.borrow_mut() = Some(match polled {
            Poll::Ready(output) => Box::pin(std::future::ready(output)),
            Poll::Pending => future,
        });
    };
    (begun, work)
}

// With a metrics hook in a waker the driver panicked, and every agent was aborted.
#[test]
fn waker_can_read_the_metrics() {
    in_each(async |engine: LocalEngine| {
        let mut innocent = spawn(&engine, &[]).await;
        check_echo(&mut innocent, "{\"n\":1}").await;
        let counted: Rc<RefCell<IoCounters>> = Rc::default();
        let (asked, told) = (engine.clone(), Rc::clone(&counted));
        in_a_turn(&engine, move || *told.borrow_mut() = asked.metrics().io).await;
        let counted = *counted.borrow();
        // At most a turn old.
        assert!(counted.submitted > 0 && counted.submitted <= engine.metrics().io.submitted);
        check_echo(&mut innocent, "{\"n\":2}").await;
        assert!(innocent.close().await.exit().success());
    });
}

#[test]
fn waker_can_shut_the_engine_down() {
    in_each(async |engine: LocalEngine| {
        let mut other = spawn(&engine, &[]).await;
        check_echo(&mut other, "{}").await;
        let asked = engine.clone();
        let (begun, work) = begin(async move { asked.shutdown(Duration::MAX).await });
        in_a_turn(&engine, work).await;
        let report: ShutdownReport = outcome(&begun).await;
        // The one whose waker it was has no handle any more: it is aborted.
        assert!((1..=2).contains(&report.agents), "{report:?}");
        let closed = other.closed().await;
        assert_eq!((closed.exit(), closed.reason()), (ExitStatus::Code(0), CloseReason::Shutdown));
        let refused = engine.spawn(fake(&[])).await.expect_err("it is shut down");
        assert_eq!(refused.kind(), ErrorKind::EngineStopped);
        assert_eq!(engine.shutdown(Duration::ZERO).await.agents, report.agents);
    });
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

// An executor may poll its task inside the waker. The task waits for a spawn, too, and the agent is
// ready by then.
#[test]
fn waker_can_take_a_spawned_agent() {
    in_each(async |engine: LocalEngine| {
        let asked = engine.clone();
        let mut spawning: Boxed<Result<LocalAgent>> =
            Box::pin(async move { asked.spawn(fake(&[])).await });
        let came = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&came));
        assert!(spawning.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        until("it is spawned", || came.0.load(Ordering::SeqCst)).await;
        let (begun, work) = begin(spawning);
        in_a_turn(&engine, work).await;
        let mut agent = outcome(&begun).await.expect("spawns");
        check_echo(&mut agent, "{}").await;
        assert!(agent.close().await.exit().success());
    });
}

#[test]
fn waker_can_close_and_drop_everything() {
    in_each(async |engine: LocalEngine| {
        let closing = spawn(&engine, &[]).await;
        let dropped = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]).await;
        let pids = [closing.pid(), dropped.pid()];
        let asked = engine.clone();
        let (begun, close) = begin(async move { closing.close().await });
        in_a_turn(&engine, move || {
            close();
            drop((dropped, asked));
        })
        .await;
        let report: CloseReport = outcome(&begun).await;
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
        assert_eq!(engine.abandoned(), 2, "and the one whose waker it was");
        drop(engine);
        for pid in pids {
            until("it is gone", || !std::fs::exists(format!("/proc/{pid}")).expect("proc")).await;
        }
    });
}

#[test]
fn panicking_waker_ends_no_agent() {
    in_each(async |engine: LocalEngine| {
        let mut innocent = spawn(&engine, &[]).await;
        let (mut reader, writer) = spawn(&engine, &[]).await.split();
        let works = Arc::new(Works(AtomicUsize::new(0)));
        WORK.set(Some(Box::new(|| panic!("a waker"))));
        let waker = Waker::from(Arc::clone(&works));
        assert!(reader.poll_next(&mut Context::from_waker(&waker)).is_pending());
        writer.send("{}").await.expect("sent");
        until("it is woken", || works.0.load(Ordering::Relaxed) == 1).await;
        let Some(Event::Record(record)) = reader.next().await else { panic!("a record") };
        assert_eq!(record.as_bytes(), b"{}");
        check_echo(&mut innocent, "{}").await;
        assert!(writer.close().await.exit().success());
        assert!(innocent.close().await.exit().success());
    });
}
