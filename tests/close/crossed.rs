//! Closing an agent while something else happens to it: both pipes full, a death half-way, a
//! status taken by another part of the host, more output than may be kept.

use std::time::{Duration, Instant};

use agentpipe::{ClosePolicy, CloseStage, Event, ExitStatus, Limits};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::agents::spawn;
use crate::agents::{record_bytes, rest};
use crate::support::{HANG, assert_sound, engine, fake};

fn pid_of(agent: &agentpipe::Agent) -> Pid {
    Pid::from_raw(agent.pid().try_into().expect("a pid")).expect("a pid")
}

// The agent blocks on its stdout and does not read; the writer blocks on the agent's stdin and does
// not drain. Reading resolves it.
#[test]
fn full_pipes_do_not_deadlock() {
    let engine = engine();
    let limits = Limits::new().inbox_high(1);
    let mut agent =
        engine.spawn_blocking(fake(&["--flood", "2m"]).limits(limits)).expect("it starts");
    while agent.stats().pauses == 0 {
        std::thread::yield_now();
    }
    let record = format!("{{\"pad\":\"{}\"}}", "x".repeat(50_000));
    for _ in 0..10 {
        agent.send_blocking(&record).expect("accepted");
    }
    let report = agent.close_blocking();
    assert_eq!((report.stage(), report.exit()), (CloseStage::Drain, ExitStatus::Code(0)));
    assert_eq!((report.unsent_records(), report.stats().records_out), (0, 10), "{report:?}");
    let echoed = 10 * (record.len() + 1);
    assert_eq!(record_bytes(&rest(&mut agent)), (2 << 20) + echoed, "{report}");
    assert_sound(&report);
}

#[test]
fn kill_during_a_close_is_reported() {
    let engine = engine();
    let agent = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]);
    let pid = pid_of(&agent);
    let (reader, writer) = agent.split();
    let begun = Instant::now();
    let closing = std::thread::spawn(move || {
        reader.close_with_blocking(ClosePolicy::graceful().drain(Duration::from_secs(60)))
    });
    // Its input is closed once the close has got as far as Drain.
    while writer.send_blocking("{}").is_ok() {
        std::thread::yield_now();
    }
    kill_process(pid, Signal::KILL).expect("it lives");
    let report = closing.join().expect("no panic");
    assert_eq!(report.exit(), ExitStatus::Signal(9));
    assert!(report.stage() <= CloseStage::Drain, "{report}");
    assert!(begun.elapsed() < HANG, "{report:?}");
    assert_sound(&report);
}

// A `waitpid(-1)` elsewhere in the host takes the status. The close reports that and does not hang.
#[test]
fn stolen_exit_status_is_unknown() {
    let engine = engine();
    let agent = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]);
    let pid = pid_of(&agent);
    // Both wait for the same exit: either may get the status, and both ways must end well.
    let steal = move || matches!(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED), Ok(Some(_)));
    let thief = std::thread::spawn(steal);
    kill_process(pid, Signal::KILL).expect("it lives");
    let stolen = thief.join().expect("no panic");
    let report = agent.closed_blocking();
    let expected = if stolen { ExitStatus::Unknown } else { ExitStatus::Signal(9) };
    assert_eq!(report.exit(), expected, "{report}");
    assert_sound(&report);
}

// Output beyond what may be kept while closing is counted and dropped, and does not block.
#[test]
fn output_beyond_the_budget_is_counted() {
    let engine = engine();
    let limits = Limits::new().inbox_high(64 << 10).drain_max(1 << 20);
    let mut agent =
        engine.spawn_blocking(fake(&["--flood", "8m"]).limits(limits)).expect("it starts");
    while agent.stats().pauses == 0 {
        std::thread::yield_now();
    }
    let report = agent.close_blocking();
    let stats = *report.stats();
    assert_eq!((stats.records_in, stats.bytes_in), (8192, 8 << 20), "{report}");
    let kept = rest(&mut agent);
    let records = kept.iter().filter(|event| matches!(event, Event::Record(_))).count() as u64;
    assert_eq!(records + stats.records_discarded, 8192, "{report}");
    assert!(stats.records_discarded > 6000 && records > 500, "{report}");
    assert_eq!(stats.bytes_discarded, stats.records_discarded * 1023, "{report}");
    assert_sound(&report);
}

// Another process may kill the agent: nothing waits for an agent that is gone.
#[test]
fn external_kill_ends_the_reader() {
    let engine = engine();
    let mut agent = spawn(&engine, &[]);
    kill_process(pid_of(&agent), Signal::KILL).expect("it lives");
    assert_eq!(rest(&mut agent), [Event::Exit(ExitStatus::Signal(9))]);
    let report = agent.close_blocking();
    assert!(report.output_may_be_lost(), "it may have had some in its memory: {report}");
    assert_sound(&report);
}

// A turn is open and its input has ended: the interrupt cannot be sent, so the close does not wait
// for it.
#[test]
fn turn_without_input_is_not_awaited() {
    let engine = engine();
    let agent = spawn(&engine, &["--ignore-eof"]);
    let (mut reader, writer) = agent.split();
    writer.set_interrupt(Some(b"{\"interrupt\":true}")).expect("a good record");
    writer.send_blocking("{}").expect("accepted");
    writer.end_input();
    reader.next_record_blocking().expect("it has read its input");
    let policy = ClosePolicy::graceful().interrupt(HANG * 2).drain(Duration::from_millis(50));
    let report = writer.close_with_blocking(policy);
    assert_eq!((report.stage(), report.exit()), (CloseStage::Terminate, ExitStatus::Signal(15)));
    assert!(report.total() < HANG, "{report:?}");
    assert_sound(&report);
}

// A writer that waits for its bytes to reach the pipe gets an error.
#[test]
fn flush_of_an_aborted_agent_fails() {
    let engine = engine();
    let agent = spawn(&engine, &["--never-read-stdin", "--ignore-eof"]);
    let (reader, writer) = agent.split();
    let record = format!("{{\"pad\":\"{}\"}}", "x".repeat(200_000));
    writer.send_blocking(&record).expect("accepted");
    let flushing = std::thread::spawn(move || writer.flush_blocking());
    let report = reader.abort_blocking();
    let error = flushing.join().expect("no panic").expect_err("the pipe holds less");
    assert_eq!(error.kind(), agentpipe::ErrorKind::Closed, "{error}");
    assert_eq!(report.unsent_records(), 1, "{report}");
    assert_sound(&report);
}

// Writers send while the agent is being closed: each accepted record is on the pipe or counted as
// unsent.
#[test]
fn records_accepted_during_a_close_are_counted() {
    let engine = engine();
    for round in 0..100 {
        let agent = spawn(&engine, &["--never-read-stdin", "--ignore-eof"]);
        let (reader, writer) = agent.split();
        let start = std::sync::Arc::new(std::sync::Barrier::new(4));
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let (writer, start) = (writer.clone(), std::sync::Arc::clone(&start));
                std::thread::spawn(move || {
                    start.wait();
                    (0..10_000).take_while(|_| writer.send_blocking("{\"n\":1}").is_ok()).count()
                })
            })
            .collect();
        start.wait();
        let report = reader.abort_blocking();
        let accepted: usize = senders.into_iter().map(|s| s.join().expect("no panic")).sum();
        let counted = report.stats().records_out + report.unsent_records();
        assert_eq!(counted, accepted as u64, "round {round}: {report}");
    }
}
