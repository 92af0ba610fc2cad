//! Handles of one agent beside those of another, and writers beside writers: what one of them asks
//! for, or gives up, costs the others nothing.
//!
//! The agents are real processes. Times are asserted against generous ceilings only.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::support::process::pid;
use crate::support::{check_alive, engine, fake, shell, spawn, wait_until};
use agentpipe::{Agent, ClosePolicy, CloseReason, ExitStatus, Limits};
use rustix::process::{Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Returns once the agent stands still.
fn stop(agent: &Agent) {
    kill_process(pid(agent), Signal::STOP).expect("the agent lives");
    await_stop(agent);
}

fn await_stop(agent: &Agent) {
    waitid(WaitId::Pid(pid(agent)), WaitIdOptions::STOPPED).expect("the agent stops");
}

fn go_on(agent: &Agent) {
    kill_process(pid(agent), Signal::CONT).expect("the agent lives");
}

/// Set when the task that has it as its waker is woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Woken {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>, woken: &Arc<Woken>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::clone(woken))))
}

/// Polls once, so that the request is sent, and drops the future.
fn ask<F: Future>(future: F) {
    let _no_matter = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

// An agent has crashed, the next agent gets its slot in the engine, and then a task closes the
// handle of the first.
#[test]
fn stale_handle_does_not_close_the_next_agent() {
    let engine = engine();
    for round in 0..4 {
        let (reader, writer) = spawn(&engine, fake(&["--exit-now"])).split();
        writer.set_interrupt(Some(b"{}")).expect("a good record");
        assert_eq!(writer.closed_blocking().exit(), ExitStatus::Code(0));
        let mut live = spawn(&engine, fake(&[]));
        check_alive(&mut live);

        ask(writer.close());
        ask(writer.abort());
        ask(writer.close_with(ClosePolicy::abort()));
        writer.set_interrupt(None).expect("nothing to refuse");
        writer.end_input();
        drop(reader);
        drop(writer);
        // The answer comes after all that was asked for before.
        let counters = engine.counters_blocking();
        check_alive(&mut live);
        assert!(live.close_report().is_none(), "round {round}: {counters:?}");

        let report = live.close_blocking();
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
        assert_eq!(report.reason(), CloseReason::Requested, "{report}");
    }
}

// Two tasks write to one agent, each with a timeout. The first is woken and times out before it
// runs; the second waits for room and must still be woken.
#[test]
fn cancelled_writer_passes_its_wake_on() {
    let engine = engine();
    // Its stdout stays open: an agent without is closed.
    let command = shell("exec cat 3>&1 > /dev/null").limits(Limits::new().outbox_high(1));
    let agent = spawn(&engine, command);
    let more_than_a_pipe = format!("\"{}\"", "x".repeat(1 << 20));

    stop(&agent);
    agent.send_blocking(&more_than_a_pipe).expect("an empty queue takes any record");
    let first = Arc::new(Woken::default());
    let mut gives_up = Box::pin(agent.send("1"));
    assert!(poll(gives_up.as_mut(), &first).is_pending());
    go_on(&agent);
    wait_until("the first writer is woken", || first.is_set());

    stop(&agent);
    agent.send_blocking(&more_than_a_pipe).expect("the queue is empty again");
    let second = Arc::new(Woken::default());
    let mut waits = Box::pin(agent.send("2"));
    assert!(poll(waits.as_mut(), &second).is_pending());
    drop(gives_up);
    assert!(!second.is_set(), "there is no room yet");
    go_on(&agent);
    wait_until("the second writer is woken", || second.is_set());
    assert!(matches!(poll(waits.as_mut(), &second), Poll::Ready(Ok(()))));
    drop(waits);

    agent.flush_blocking().expect("flushed");
    let report = agent.close_blocking();
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    assert_eq!((report.stats().records_out, report.unsent_records()), (3, 0), "{report:?}");
}

/// A task that sends the same record again and again, and runs only when it is woken.
struct Sender<'a> {
    agent: &'a Agent,
    record: &'a str,
    sending: Pin<Box<dyn Future<Output = agentpipe::Result<()>> + 'a>>,
    woken: Arc<Woken>,
    accepted: usize,
}

impl<'a> Sender<'a> {
    fn new(agent: &'a Agent, record: &'a str) -> Self {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        Self { agent, record, sending: Box::pin(agent.send(record)), woken, accepted: 0 }
    }

    /// The bytes accepted so far.
    fn run(&mut self) -> usize {
        if self.woken.0.swap(false, Ordering::SeqCst) {
            while let Poll::Ready(sent) = poll(self.sending.as_mut(), &self.woken) {
                sent.expect("accepted");
                self.accepted += self.record.len();
                self.sending = Box::pin(self.agent.send(self.record));
            }
        }
        self.accepted
    }
}

// The agent takes a part of its input and then computes for an hour. There is room for the next
// record all that time, and its sender must not sleep.
#[test]
fn writer_is_woken_when_there_is_room() {
    const HIGH: usize = 512 << 10;
    const TAKEN: usize = 200_000;
    let engine = engine();
    let script = format!("kill -STOP $$; head -c {TAKEN} > /dev/null; exec sleep 1000");
    let agent = spawn(&engine, shell(&script).limits(Limits::new().outbox_high(HIGH)));
    await_stop(&agent);
    let record = format!("\"{}\"", "x".repeat(16 << 10));
    let mut sender = Sender::new(&agent, &record);
    let full = HIGH - 2 * record.len();
    wait_until("the outbox is full", || sender.run() >= full);

    go_on(&agent);
    wait_until("the sender has used the room", || sender.run() >= full + TAKEN);
    let flush = Box::pin(agent.flush());
    assert!(poll(pin!(flush).as_mut(), &sender.woken).is_pending(), "most is still unwritten");
    agent.abort_blocking();
}

// A host drops the reader with much unread and lets the agent work on. Back-pressure without a
// reader would stop the agent for good.
#[test]
fn agent_without_a_reader_is_not_blocked() {
    let engine = engine();
    let command = fake(&["--flood", "8m"]).limits(Limits::new().inbox_high(64 << 10));
    let (reader, writer) = spawn(&engine, command).split();
    wait_until("the read is paused", || writer.stats().pauses == 1);
    drop(reader);
    wait_until("all is read", || writer.stats().bytes_in >= 8 << 20);
    // Behind the flood, the agent converses again.
    writer.send_blocking("{}").expect("sent");
    wait_until("the answer is read", || writer.stats().bytes_in > 8 << 20);
    assert_eq!(writer.close_blocking().exit(), ExitStatus::Code(0));
}

#[cfg(feature = "stream")]
#[test]
fn reader_is_a_stream_and_writer_a_sink() {
    use std::future::poll_fn;
    use std::pin::Pin;

    use futures_core::Stream;
    use futures_sink::Sink;

    // Room for one record at a time: a sink that ignores back-pressure would fail or lose records.
    let limits = Limits::new().outbox_high(1);
    let agent = spawn(&engine(), fake(&[]).limits(limits));
    let (mut reader, mut writer) = agent.split();
    pollster::block_on(async {
        for n in 0..100 {
            let mut sink = Pin::new(&mut writer);
            poll_fn(|context| Sink::<String>::poll_ready(sink.as_mut(), context))
                .await
                .expect("room");
            sink.start_send(format!("{{\"n\":{n}}}")).expect("accepted");
        }
        let mut sink = Pin::new(&mut writer);
        poll_fn(|context| Sink::<String>::poll_close(sink.as_mut(), context))
            .await
            .expect("closes");
        let mut records = 0;
        let mut stream = Pin::new(&mut reader);
        while let Some(event) = poll_fn(|context| Stream::poll_next(stream.as_mut(), context)).await
        {
            if let agentpipe::Event::Record(record) = event {
                assert_eq!(record.as_bytes(), format!("{{\"n\":{records}}}").as_bytes());
                records += 1;
            }
        }
        assert_eq!(records, 100);
    });
    assert_eq!(writer.closed_blocking().exit(), ExitStatus::Code(0));
}

#[test]
fn try_send_is_refused_while_the_outbox_is_full() {
    // An agent that does not read must neither block the caller nor take memory without a limit.
    let limits = Limits::new().outbox_high(64 << 10);
    let agent = spawn(&engine(), fake(&[]).limits(limits));
    stop(&agent);
    let record = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
    let refused = (0..10_000).find_map(|_| agent.try_send(&record).err()).expect("it is full");
    assert_eq!(refused.kind(), agentpipe::ErrorKind::Overloaded, "{refused}");
    agent.abort_blocking();
    let refused = agent.try_send(&record).expect_err("closed");
    assert_eq!(refused.kind(), agentpipe::ErrorKind::Closed, "{refused}");
}
