//! The rows of the close matrix that matter most, on the caller's thread.

use std::fs;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use agentpipe::{
    AgentCommand, ClosePolicy, CloseReason, CloseStage, Event, ExitStatus, Limits, LocalEngine,
};

use super::{check_echo, in_each, runtimes, spawn, until};
use crate::support::process::assert_gone;
use crate::support::{HANG, assert_sound, fake};

/// Stages cut short, so that the deaf are killed soon.
fn hurried() -> ClosePolicy {
    let tiny = Duration::from_millis(5);
    ClosePolicy::graceful().quiet_period(tiny).drain(tiny).min_drain(tiny).terminate(tiny).cut(tiny)
}

#[test]
fn idle_agent_leaves_at_end_of_input() {
    in_each(async |engine: LocalEngine| {
        let mut agent = spawn(&engine, &[]).await;
        check_echo(&mut agent, "{\"n\":1}").await;
        let report = agent.close().await;
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
        assert!(report.stage() <= CloseStage::Drain, "{report}");
        assert_eq!(agent.close().await.to_json(), report.to_json(), "a second closer's report");
        assert_eq!(agent.next().await, Some(Event::Exit(ExitStatus::Code(0))));
        assert_eq!(agent.next().await, None);
        assert_sound(&report);
    });
}

// The defect this library exists for: a wait for the exit with a full pipe never ends.
#[test]
fn unread_full_stdout_is_drained() {
    in_each(async |engine: LocalEngine| {
        let command = fake(&["--flood", "2m"]).limits(Limits::new().inbox_high(64 << 10));
        let agent = engine.spawn(command).await.expect("spawns");
        until("the read is paused", || agent.stats().pauses > 0).await;
        let report = agent.close_with(ClosePolicy::graceful().drain(HANG)).await;
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
        assert_eq!(report.stats().records_in, 2048, "{report}");
        assert_sound(&report);
    });
}

// The agents of a local engine share a sum as well.
#[test]
fn sum_of_closing_agents_is_a_setting() {
    for (total, kept) in [(0, 0..2 << 20), (usize::MAX, 8192 * 1023..usize::MAX)] {
        for runtime in runtimes() {
            let kept = kept.clone();
            runtime(Box::pin(async move {
                let engine = LocalEngine::builder().drain_total_max(total).build();
                let mut agent = spawn(&engine.expect("io_uring"), &["--flood", "8m"]).await;
                let report = agent.close_with(ClosePolicy::graceful().drain(HANG)).await;
                let (mut records, mut bytes) = (0, 0);
                while let Some(record) = agent.next_record().await {
                    records += 1;
                    bytes += record.len();
                }
                assert_eq!(records + report.stats().records_discarded, 8192, "{report}");
                assert!(kept.contains(&bytes), "{bytes} of {total}");
            }));
        }
    }
}

/// No thread of that process runs.
fn asleep(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let stat = |task: fs::DirEntry| fs::read_to_string(task.path().join("stat"));
    tasks.map(stat).all(|stat| stat.is_ok_and(|stat| stat.contains(") S ")))
}

#[test]
fn busy_thread_is_not_silence() {
    // A close waits until the agent's output is silent. Meanwhile the thread does something else for
    // 30 ms, and the agent fills its pipe and sleeps. Its input was ended then, and a Node program
    // dropped the megabytes that it had queued.
    in_each(async |engine: LocalEngine| {
        let flags = ["--like", "claude-node", "--backlog", "13m", "--backlog-at-start"];
        let (mut reader, agent) = spawn(&engine, &flags).await.split();
        until("the read is paused", || agent.stats().pauses > 0).await;
        // Only silence may end the input.
        let policy = ClosePolicy::graceful().drain(HANG);
        let mut closing = pin!(agent.close_with(policy));
        assert!(poll_fn(|context| Poll::Ready(closing.as_mut().poll(context).is_pending())).await);
        let mut read = agent.stats().bytes_in;
        for _ in 0..20 {
            let over = || agent.close_report().is_some();
            until("more is read", || over() || agent.stats().bytes_in > read).await;
            if over() {
                break;
            }
            read = agent.stats().bytes_in;
            // The thread is not given to the engine until the agent has slept.
            let mut slept = Instant::now();
            while slept.elapsed() < Duration::from_millis(30) {
                if !asleep(agent.pid()) {
                    slept = Instant::now();
                }
            }
        }
        let report = closing.await;
        assert_eq!(report.stats().truncated_tail_bytes, 0, "{report}");
        let mut bytes = 0;
        while let Some(event) = reader.next().await {
            if let Event::Record(record) = event {
                bytes += record.len() + 1;
            }
        }
        assert!(bytes >= 13 << 20, "{bytes}: {report}");
        assert_sound(&report);
    });
}

// The thread of the agents does something else for longer than `drain`. When it came back every
// limit had passed, and the agent got SIGTERM while it was saving.
#[test]
fn busy_thread_is_not_charged_to_the_agent() {
    in_each(async |engine: LocalEngine| {
        let dir = tempfile::tempdir().expect("a folder");
        let marker = dir.path().join("saved");
        let script = format!(
            "while read line; do :; done; echo '{{}}'; sleep 2.5; : > {}",
            marker.display()
        );
        let command = AgentCommand::new("/bin/sh").args(["-c", &script]);
        let (mut reader, agent) = engine.spawn(command).await.expect("spawns").split();
        let drain = Duration::from_millis(1500);
        let mut closing = pin!(agent.close_with(ClosePolicy::graceful().drain(drain)));
        assert!(poll_fn(|context| Poll::Ready(closing.as_mut().poll(context).is_pending())).await);
        reader.next_record().await.expect("it has seen the end of its input");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2000) {
            std::hint::spin_loop();
        }
        let report = closing.await;
        assert_eq!((report.stage(), report.exit()), (CloseStage::Drain, ExitStatus::Code(0)));
        assert!(report.stalled() > Duration::from_millis(500), "{report:?}");
        assert!(marker.exists(), "{report}");
        assert_sound(&report);
    });
}

#[test]
fn endless_flood_is_cut() {
    in_each(async |engine: LocalEngine| {
        let mut agent = spawn(&engine, &["--flood"]).await;
        assert!(agent.next_record().await.is_some());
        let policy = ClosePolicy::abort().abort_grace(HANG);
        let report = agent.close_with(policy).await;
        // EPIPE ends it, and no signal.
        assert_eq!(report.exit(), ExitStatus::Code(1), "{report}");
        assert_sound(&report);
    });
}

// Deadlines are the engine's own timer here; without it the close never ends.
#[test]
fn deaf_agent_is_killed_by_the_deadlines() {
    in_each(async |engine: LocalEngine| {
        let deaf = ["--flood", "--ignore-eof", "--ignore-sigterm", "--ignore-epipe"];
        let mut agent = spawn(&engine, &deaf).await;
        assert!(agent.next_record().await.is_some());
        let report = agent.close_with(hurried()).await;
        assert_eq!((report.stage(), report.exit()), (CloseStage::Kill, ExitStatus::Signal(9)));
        assert_sound(&report);
    });
}

#[test]
fn blocked_writer_does_not_delay_the_close() {
    in_each(async |engine: LocalEngine| {
        let command = fake(&["--never-read-stdin"]).limits(Limits::new().outbox_high(64 << 10));
        let (_reader, writer) = engine.spawn(command).await.expect("spawns").split();
        let record = format!("\"{}\"", "x".repeat(200 << 10));
        writer.send(&record).await.expect("an empty queue takes any record");
        let blocked = tokio::task::spawn_local({
            let (writer, record) = (writer.clone(), record.clone());
            async move { writer.send(&record).await }
        });
        tokio::task::yield_now().await;
        let report = writer.abort().await;
        assert!(report.unsent_bytes() > 64 << 10, "{report}");
        assert!(blocked.await.expect("it ends").is_err(), "the writer gets an error");
        assert_sound(&report);
    });
}

#[test]
fn dropped_close_goes_on() {
    in_each(async |engine: LocalEngine| {
        let agent = spawn(&engine, &[]).await;
        {
            let mut closing = pin!(agent.close());
            let polled = poll_fn(|context| Poll::Ready(closing.as_mut().poll(context))).await;
            assert!(polled.is_pending(), "it takes more than a poll");
        }
        let report = agent.closed().await;
        assert_eq!(report.reason(), CloseReason::Requested);
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
        assert_sound(&report);
    });
}

#[test]
fn dropped_agent_is_aborted_and_counted() {
    in_each(async |engine: LocalEngine| {
        let agent = spawn(&engine, &["--flood", "--ignore-eof", "--ignore-sigterm"]).await;
        let pid = agent.pid();
        drop(agent);
        assert_eq!(engine.abandoned(), 1);
        until("it does not count any more", || engine.agents() == 0).await;
        until("it is gone", || !fs::exists(format!("/proc/{pid}")).expect("readable")).await;
    });
}

#[test]
fn shutdown_closes_all_and_refuses_spawns() {
    in_each(async |engine: LocalEngine| {
        let polite = spawn(&engine, &[]).await;
        let deaf = spawn(&engine, &["--ignore-eof", "--ignore-sigterm"]).await;
        let report = engine.shutdown(Duration::from_millis(200)).await;
        assert_eq!((report.agents, report.aborted), (2, 1), "{report:?}");
        assert_eq!(polite.closed().await.exit(), ExitStatus::Code(0));
        assert_eq!(deaf.closed().await.reason(), CloseReason::Shutdown);
        let refused = engine.spawn(fake(&[])).await.expect_err("refused");
        assert_eq!(refused.kind(), agentpipe::ErrorKind::EngineStopped);
        assert_eq!(engine.shutdown(Duration::ZERO).await.agents, 2, "the same report");
    });
}

// A timeout or a panic drops the future that holds everything half-way.
#[test]
fn dead_runtime_keeps_no_agent_alive() {
    for runtime in runtimes() {
        let (sender, handles) = std::sync::mpsc::channel();
        let kept = std::rc::Rc::new(std::cell::RefCell::new(None));
        let place = std::rc::Rc::clone(&kept);
        runtime(Box::pin(async move {
            let engine = LocalEngine::new().expect("io_uring");
            let mut agent = spawn(&engine, &["--flood", "--ignore-eof", "--ignore-sigterm"]).await;
            assert!(agent.next_record().await.is_some());
            sender.send(agent.pid()).expect("the test listens");
            *place.borrow_mut() = Some((engine, agent));
        }));
        // The runtime is gone, the handles are not.
        let pid = handles.recv().expect("a pid");
        assert_gone(pid);
        let (engine, agent) = kept.take().expect("kept");
        let report = agent.close_report().expect("the report is there");
        assert_eq!(report.reason(), CloseReason::Shutdown, "{report}");
        assert_eq!(engine.metrics().io.in_kernel, 0);
        assert_sound(&report);
        drop(agent);
        assert_eq!(engine.abandoned(), 0, "it was closed, if not by its owner");
    }
}
