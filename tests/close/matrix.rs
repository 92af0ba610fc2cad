//! The close matrix through the library: each way an agent can misbehave, a real child each, and
//! what the report says of it.

use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::agents::spawn;
use crate::agents::{once_within, record_bytes, rest};
use crate::support::process::assert_gone;
use crate::support::{HANG, assert_sound, engine, fake, wait_until};
use agentpipe::{
    AgentCommand, CloseMode, ClosePolicy, CloseReason, CloseStage, ErrorKind, Event, ExitStatus,
};

/// Every rung is short, so that a test of the last one is quick.
fn quick() -> ClosePolicy {
    ClosePolicy::graceful()
        .flush(Duration::from_millis(100))
        .drain(Duration::from_millis(200))
        .terminate(Duration::from_millis(100))
        .cut(Duration::from_millis(100))
}

#[test]
fn idle_agent_leaves_at_end_of_input() {
    let engine = engine();
    once_within(Duration::from_millis(100), || {
        let mut agent = spawn(&engine, &[]);
        agent.send_blocking(r#"{"n":1}"#).expect("accepted");
        assert!(agent.next_record_blocking().is_some());
        let report = agent.close_blocking();
        assert_eq!(report.stage(), CloseStage::Drain);
        assert_eq!(report.exit(), ExitStatus::Code(0));
        assert_eq!((report.stats().records_in, report.stats().records_out), (1, 1));
        assert_eq!((report.unsent_bytes(), report.killed_extra()), (0, 0));
        assert_sound(&report);
        report.total()
    });
}

// The stall this crate exists for: the parent stops reading, the child blocks in write(2) with a
// SIGTERM handler that restarts the call, and every step of a close takes its full limit.
#[test]
fn unread_full_stdout_is_delivered() {
    let engine = engine();
    // Records of 1 KiB and one single write of 3 MiB: SIGTERM does not do the same to both.
    for flags in [
        ["--flood", "3m", "--sigterm-restart"],
        ["--flood", "3m", "--ignore-sigterm"],
        ["--one-write", "3m", "--sigterm-restart"],
    ] {
        once_within(Duration::from_millis(100), || {
            let mut agent = spawn(&engine, &flags);
            while agent.stats().pauses == 0 {
                std::thread::yield_now();
            }
            let report = agent.close_blocking();
            assert_eq!(report.stage(), CloseStage::Drain, "{report}");
            assert_eq!(report.exit(), ExitStatus::Code(0));
            assert_eq!(report.stats().records_discarded, 0);
            assert_eq!(record_bytes(&rest(&mut agent)), 3 << 20);
            assert_sound(&report);
            report.total()
        });
    }
}

// Real CLIs do not block in write(2): they queue in memory, and do not act on the end of their
// input while the queue is unread. One build drops its queue then.
#[test]
fn queue_of_13_mb_is_delivered() {
    let engine = engine();
    for like in ["claude-native", "claude-node"] {
        once_within(Duration::from_millis(150), || {
            let mut agent =
                spawn(&engine, &["--like", like, "--backlog", "13m", "--backlog-at-start"]);
            while agent.stats().pauses == 0 {
                std::thread::yield_now();
            }
            let report = agent.close_blocking();
            assert_eq!((report.stage(), report.exit()), (CloseStage::Drain, ExitStatus::Code(0)));
            assert_eq!(report.stats().truncated_tail_bytes, 0, "{like}: {report}");
            let events = rest(&mut agent);
            assert!(record_bytes(&events) >= 13 << 20, "{like}: {report}");
            assert_sound(&report);
            report.total()
        });
    }
}

#[test]
fn idle_cli_of_either_kind_leaves() {
    let engine = engine();
    for like in ["claude-native", "claude-node"] {
        once_within(Duration::from_millis(150), || {
            let report = spawn(&engine, &["--like", like]).close_blocking();
            assert_eq!((report.stage(), report.exit()), (CloseStage::Drain, ExitStatus::Code(0)));
            assert_sound(&report);
            report.total()
        });
    }
}

#[test]
fn close_after_the_last_record_loses_nothing() {
    let engine = engine();
    for like in ["claude-native", "claude-node"] {
        once_within(Duration::from_millis(150), || {
            let mut agent = spawn(&engine, &["--like", like, "--session-state"]);
            let user = r#"{"type":"user","message":{"role":"user","content":"Hello."}}"#;
            agent.send_blocking(user).expect("accepted");
            loop {
                let record = agent.next_record_blocking().expect("a result comes");
                if record.envelope().expect("JSON").kind.as_deref() == Some("result") {
                    break;
                }
            }
            let report = agent.close_blocking();
            assert_eq!((report.stage(), report.exit()), (CloseStage::Drain, ExitStatus::Code(0)));
            let late = rest(&mut agent);
            assert!(matches!(late[0], Event::Record(_)), "{like}: the state record came: {late:?}");
            assert_sound(&report);
            report.total()
        });
    }
}

#[test]
fn endless_flood_is_cut_within_the_limits() {
    let engine = engine();
    let flags = ["--flood", "--never-read-stdin", "--ignore-sigterm"];
    let agent = spawn(&engine, &flags);
    let begun = Instant::now();
    let report = agent.close_with_blocking(quick());
    let bound = quick().max_duration() + Duration::from_millis(250);
    assert!(begun.elapsed() < bound, "{report:?}");
    assert!(report.stage() >= CloseStage::Cut, "{report}");
    assert_sound(&report);
}

// Writer and child each wait for the other: 900 KB are accepted, the pipe takes 64 KiB.
#[test]
fn blocked_writer_does_not_delay_the_close() {
    let engine = engine();
    let agent = spawn(&engine, &["--never-read-stdin", "--ignore-eof"]);
    let record = format!("{{\"pad\":\"{}\"}}", "x".repeat(90_000));
    for _ in 0..10 {
        agent.send_blocking(&record).expect("accepted");
    }
    let report = agent.close_with_blocking(quick());
    let stats = report.stats();
    let accepted = 10 * (record.len() as u64 + 1);
    assert_eq!(stats.bytes_out + report.unsent_bytes(), accepted, "{report:?}");
    assert!(report.unsent_bytes() > 0);
    assert_eq!(stats.records_out + report.unsent_records(), 10);
    assert_eq!(report.stage(), CloseStage::Terminate);
    assert_sound(&report);
}

#[test]
fn agent_that_ignores_eof_is_terminated() {
    let engine = engine();
    let report = spawn(&engine, &["--ignore-eof"]).close_with_blocking(quick());
    assert_eq!((report.stage(), report.exit()), (CloseStage::Terminate, ExitStatus::Signal(15)));
    assert_sound(&report);
}

#[test]
fn agent_that_ignores_sigterm_is_killed() {
    let engine = engine();
    let report = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]).close_with_blocking(quick());
    assert_eq!((report.stage(), report.exit()), (CloseStage::Kill, ExitStatus::Signal(9)));
    assert_sound(&report);
}

// A grandchild holds the pipe: exit and end of output are two events.
#[test]
fn grandchild_holding_stdout_is_swept() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("a folder");
    for setsid in [false, true] {
        let file = dir.path().join(format!("pids-{setsid}"));
        let path = file.to_str().expect("text");
        let mut flags = vec!["--grandchild-holds-stdout", "30s", "--print-pids", path];
        if setsid {
            flags.push("--setsid");
        }
        let mut agent = spawn(&engine, &flags);
        agent.send_blocking("{}").expect("accepted");
        agent.next_record_blocking().expect("it is up");
        let report = agent.close_blocking();
        assert_eq!(report.outputs_held(), Some(true), "{report}");
        assert_eq!(report.exit(), ExitStatus::Code(0));
        assert!(report.total() < Duration::from_secs(5), "{report:?}");
        let pids: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
        let grandchild = pids["grandchild"].as_u64().expect("a pid");
        assert_eq!(report.killed_extra(), u64::from(!setsid), "{report}");
        let grandchild = i32::try_from(grandchild).expect("a pid");
        if setsid {
            // Out of its group, it is out of reach: only the pipes are cut from it.
            let pid = rustix::process::Pid::from_raw(grandchild).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
        }
        assert_sound(&report);
    }
}

// An operator configures on the command that stray processes are left alone and that closes are
// quick. `close()`, `abort()` and a dropped handle must all follow that.
#[test]
fn closes_use_the_limits_of_the_command() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("a folder");
    for way in ["close", "abort", "drop"] {
        let file = dir.path().join(way);
        let path = file.to_str().expect("text");
        let flags = ["--grandchild-holds-stdout", "300s", "--ignore-eof", "--print-pids", path];
        let command = fake(&flags).close_policy(quick().kill_group(false));
        let mut agent = engine.spawn_blocking(command).expect("it starts");
        agent.send_blocking("{}").expect("accepted");
        agent.next_record_blocking().expect("it is up");
        let pids: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).expect("written")).expect("JSON");
        let grandchild = i32::try_from(pids["grandchild"].as_u64().expect("a pid")).expect("a pid");
        let pid = agent.pid();
        match way {
            "close" => {
                let report = agent.close_blocking();
                assert_eq!(report.stage(), CloseStage::Terminate, "{report:?}");
                let drain = report.stages().iter().find(|(stage, _)| *stage == CloseStage::Drain);
                // The default is 2 s.
                let drain = drain.expect("it drained").1;
                assert!(drain < Duration::from_secs(1), "{report:?}");
            }
            "abort" => assert_eq!(agent.abort_blocking().killed_extra(), 0),
            _ => drop(agent),
        }
        assert_gone(pid);
        let grandchild = rustix::process::Pid::from_raw(grandchild).expect("a pid");
        // It is left alone, and there to be killed.
        rustix::process::kill_process(grandchild, rustix::process::Signal::KILL).expect(way);
    }
}

#[test]
fn agent_that_closes_stdout_is_closed() {
    let engine = engine();
    let command = fake(&["--close-stdout", "--ignore-eof"]).close_policy(quick());
    let mut agent = engine.spawn_blocking(command).expect("it starts");
    let events = rest(&mut agent);
    assert_eq!(events, [Event::Exit(ExitStatus::Signal(15))]);
    let report = agent.close_blocking();
    assert_eq!(report.reason(), CloseReason::OutputEnded);
    assert_sound(&report);
}

#[test]
fn dead_agent_refuses_writes_with_the_cause() {
    let engine = engine();
    let mut agent = spawn(&engine, &["--exit-now", "--exit-code", "3", "--stderr", "no licence"]);
    assert_eq!(rest(&mut agent), [Event::Exit(ExitStatus::Code(3))]);
    let report = agent.close_blocking();
    assert_eq!((report.stage(), report.reason()), (CloseStage::Refuse, CloseReason::Exited));
    assert_eq!(report.exit(), ExitStatus::Code(3));
    let error = agent.send_blocking("{}").expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::Closed);
    let text = error.to_string();
    assert!(text.contains("exit code 3") && text.contains("no licence"), "{text}");
    assert_sound(&report);
}

// The agent never read its input, and its status reports success.
#[test]
fn exit_0_does_not_hide_unread_input() {
    let engine = engine();
    let agent = spawn(&engine, &["--exit-now"]);
    let record = format!("{{\"pad\":\"{}\"}}", "x".repeat(90_000));
    let sent = (0..5).take_while(|_| agent.send_blocking(&record).is_ok()).count() as u64;
    let report = agent.close_blocking();
    assert_eq!((report.exit(), report.stats().records_in), (ExitStatus::Code(0), 0));
    // What found room in the pipe counts as out, and nothing more.
    let stats = report.stats();
    assert_eq!(stats.records_out + report.unsent_records(), sent, "{report:?}");
    assert_eq!(stats.bytes_out + report.unsent_bytes(), sent * (record.len() as u64 + 1));
    assert!(stats.bytes_out <= 64 << 10, "{report:?}");
    assert_sound(&report);
}

#[test]
fn death_by_signal_is_reported() {
    let engine = engine();
    let mut agent = spawn(&engine, &["--exit-now", "--die-by-signal", "SEGV"]);
    assert_eq!(rest(&mut agent), [Event::Exit(ExitStatus::Signal(11))]);
    assert_sound(&agent.close_blocking());
}

#[test]
fn closing_twice_gives_the_same_report() {
    let engine = engine();
    let agent = spawn(&engine, &[]);
    let first = agent.close_blocking();
    assert_eq!(first, agent.close_blocking());
    assert_eq!(first, agent.abort_blocking());
    assert_sound(&first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_closes_get_the_same_report() {
    let engine = engine();
    let agent = engine.spawn(fake(&["--flood", "200k"])).await.expect("it starts");
    let (reader, writer) = agent.split();
    let one = tokio::spawn(async move { reader.close().await });
    let two = tokio::spawn(async move { writer.close().await });
    let (one, two) = (one.await.expect("no panic"), two.await.expect("no panic"));
    assert_eq!(one, two);
    assert_sound(&one);
}

// A cancelled disconnect must not leave the child alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_close_goes_on() {
    let engine = engine();
    let agent = engine.spawn(fake(&["--ignore-eof"])).await.expect("it starts");
    let close = agent.close_with(quick());
    assert!(tokio::time::timeout(Duration::from_millis(1), close).await.is_err());
    let report = tokio::time::timeout(HANG, agent.closed()).await.expect("it goes on");
    assert_eq!(report.stage(), CloseStage::Terminate);
    assert_sound(&report);
}

#[test]
fn abort_hurries_a_graceful_close() {
    let engine = engine();
    let (reader, writer) = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]).split();
    let begun = Instant::now();
    let waiting = std::thread::spawn(move || reader.close_blocking());
    let report = writer.abort_blocking();
    assert!(begun.elapsed() < Duration::from_secs(2), "{report:?}");
    assert_eq!(report, waiting.join().expect("no panic"));
    assert_eq!((report.mode(), report.exit()), (CloseMode::Abort, ExitStatus::Signal(9)));
    assert_sound(&report);
}

// The first close allows a minute for each stage; a later caller names limits of a moment.
#[test]
fn second_abort_can_be_shorter() {
    let engine = engine();
    let agent = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]);
    let minute = Duration::from_secs(60);
    let patient = ClosePolicy::graceful().drain(minute).cut(minute).abort_grace(minute);
    let mut first = std::pin::pin!(agent.close_with(patient));
    assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let begun = Instant::now();
    let report = agent.close_with_blocking(ClosePolicy::abort().abort_grace(Duration::ZERO));
    assert!(begun.elapsed() < HANG, "{report:?}");
    assert_eq!((report.mode(), report.exit()), (CloseMode::Abort, ExitStatus::Signal(9)));
    assert_sound(&report);
}

#[test]
fn dropped_agent_is_aborted_and_counted() {
    let engine = engine();
    let agent = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]);
    let pid = agent.pid();
    drop(agent);
    assert_eq!(engine.abandoned(), 1);
    assert_gone(pid);
}

#[test]
fn shutdown_of_a_hundred_agents_leaves_none() {
    let engine = engine();
    let kinds: [&[&str]; 5] = [
        &[],
        &["--flood", "--ignore-sigterm"],
        &["--ignore-eof", "--ignore-sigterm"],
        &["--like", "claude-native", "--backlog", "1m", "--backlog-at-start"],
        &["--never-read-stdin"],
    ];
    let agents: Vec<_> = (0..100).map(|n| spawn(&engine, kinds[n % kinds.len()])).collect();
    let report = engine.shutdown_blocking(Duration::from_secs(1));
    assert_eq!(report.agents, 100);
    assert!(report.total < HANG, "{report:?}");
    for agent in &agents {
        let closed = agent.close_report().expect("every agent is reported");
        assert_eq!(closed.reason(), CloseReason::Shutdown);
        assert_gone(agent.pid());
    }
    let error = engine.spawn_blocking(fake(&[])).expect_err("it is shut down");
    assert_eq!(error.kind(), ErrorKind::EngineStopped);
}

#[test]
fn dead_runtime_keeps_no_agent_alive() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let agent = runtime.block_on(async {
        let engine = engine();
        engine.spawn(fake(&["--flood", "--ignore-sigterm"])).await.expect("it starts")
    });
    drop(runtime);
    let pid = agent.pid();
    // The last handle of the engine, too: it aborts, and its thread goes on without it.
    drop(agent);
    assert_gone(pid);
}

#[test]
fn abort_gives_a_writing_agent_epipe() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("a folder");
    let marker = dir.path().join("epipe");
    let path = marker.to_str().expect("text");
    let mut agent = spawn(&engine, &["--flood", "--epipe-marker", path, "--never-read-stdin"]);
    agent.next_record_blocking().expect("it floods");
    let report = agent.abort_blocking();
    assert_eq!((report.stage(), report.mode()), (CloseStage::Cut, CloseMode::Abort));
    assert_eq!(report.exit(), ExitStatus::Code(1));
    assert!(marker.exists(), "the agent saw EPIPE");
    assert_sound(&report);
}

// An early SIGTERM lost the last assistant message of real sessions.
#[test]
fn graceful_close_leaves_time_to_save() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("a folder");
    let marker = dir.path().join("transcript");
    let path = marker.to_str().expect("text");
    let report = spawn(&engine, &["--flush-delay", "300ms", "--marker", path]).close_blocking();
    assert_eq!((report.stage(), report.exit()), (CloseStage::Drain, ExitStatus::Code(0)));
    assert!(marker.exists(), "{report}");
}

// Without a reader the output is read, counted and dropped; the agent is never blocked.
#[test]
fn dropped_reader_blocks_nothing() {
    let engine = engine();
    let (reader, writer) = spawn(&engine, &["--flood", "4m"]).split();
    drop(reader);
    let report = writer.close_blocking();
    assert_eq!(report.stats().records_in, 4096, "{report}");
    assert_eq!(report.stats().bytes_in, 4 << 20);
    assert!(report.stats().records_discarded > 3000, "{report}");
    assert_sound(&report);
}

/// An agent may close its stdout and then take its time. A graceful close that begins in that moment
/// must not become an abort because the agent's own policy is one.
#[test]
fn early_end_of_stdout_does_not_abort_a_graceful_close() {
    let engine = engine();
    // It acts on SIGTERM, which an abort does not send.
    let script = "trap 'exit 3' TERM; exec >&-; read line; while :; do sleep 0.01; done";
    let policy = ClosePolicy::abort().drain(Duration::from_millis(300));
    let command = AgentCommand::new("sh").args(["-c", script]).close_policy(policy);
    let mut requested = 0;
    for _ in 0..40 {
        let agent = engine.spawn_blocking(command.clone()).expect("spawns");
        let stdout = format!("/proc/{}/fd/1", agent.pid());
        wait_until("stdout is closed", || std::fs::read_link(&stdout).is_err());
        // The engine reads the end of the output; no event tells the caller so.
        std::thread::sleep(Duration::from_millis(10));
        let report = agent.close_blocking();
        // On a busy host the engine may have begun a close of its own before.
        if report.reason() == CloseReason::Requested {
            requested += 1;
            let ended = (report.exit(), report.mode());
            assert_eq!(ended, (ExitStatus::Code(3), CloseMode::Graceful), "{report}");
        }
        if requested == 4 {
            return;
        }
    }
    panic!("only {requested} closes were requested");
}
