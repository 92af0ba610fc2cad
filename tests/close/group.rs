//! The process group of an agent: launchers that leave before the real agent, processes that keep an
//! output, and what the report says of them.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use agentpipe::{Agent, AgentCommand, ClosePolicy, CloseReason, CloseStage, Engine, ExitStatus};
use rustix::process::{Pid, Signal, kill_process};

use crate::agents::rest;
use crate::support::own_process::{alone, test_name};
use crate::support::process::assert_gone;
use crate::support::{HANG, assert_sound, engine, fake};

fn shell(engine: &Engine, script: &str) -> Agent {
    let command = AgentCommand::new("/bin/sh").args(["-c", script]);
    engine.spawn_blocking(command).expect("there is a shell")
}

/// The records that are left, as text.
fn records(agent: &mut Agent) -> Vec<String> {
    let text = |event| match event {
        agentpipe::Event::Record(record) => Some(record.as_str().expect("text").to_owned()),
        _ => None,
    };
    rest(agent).into_iter().filter_map(text).collect()
}

/// Deaf to the end of its input; on SIGTERM it takes 0.4 s to save.
const SAVES_ON_SIGTERM: &str = r#"trap 'sleep 0.4; echo "{\"saved\":true}"; exit 0' TERM
    echo '{}'; while :; do sleep 0.05; done"#;

// Behind `sh -c` the launcher dies of SIGTERM at once. The real agent got SIGKILL 100 ms later,
// while it was saving.
#[test]
fn launcher_does_not_shorten_terminate() {
    let engine = engine();
    let mut agent =
        shell(&engine, &format!("sh -c '{}'; true", SAVES_ON_SIGTERM.replace('\'', "'\\''")));
    agent.next_record_blocking().expect("it is up");
    let quick = Duration::from_millis(100);
    let report = agent.close_with_blocking(ClosePolicy::graceful().drain(quick));
    assert_eq!((report.stage(), report.exit()), (CloseStage::Terminate, ExitStatus::Signal(15)));
    assert_eq!(records(&mut agent), [r#"{"saved":true}"#], "{report}");
    assert_eq!(report.outputs_held(), Some(false), "it let go by itself: {report}");
    assert_sound(&report);
}

// A launcher leaves at the end of its input, or by itself, while the real agent still waits for the
// network.
#[test]
fn agent_is_read_after_its_launcher_left() {
    let engine = engine();
    let worker = r#"(sleep 0.4; echo "{\"late\":1}"; sleep 0.4; echo "{\"late\":2}") &"#;
    for (script, reason) in [
        (format!("echo '{{}}'; read line; {worker} exit 3"), CloseReason::Requested),
        (format!("echo '{{}}'; {worker} exit 3"), CloseReason::Exited),
    ] {
        let mut agent = shell(&engine, &script);
        agent.next_record_blocking().expect("it is up");
        let report = match reason {
            CloseReason::Requested => agent.close_blocking(),
            _ => agent.closed_blocking(),
        };
        assert_eq!((report.exit(), report.reason()), (ExitStatus::Code(3), reason), "{report}");
        assert_eq!(records(&mut agent), [r#"{"late":1}"#, r#"{"late":2}"#], "{report}");
        assert_eq!((report.outputs_held(), report.killed_extra()), (Some(false), 0), "{report}");
        assert!(!report.output_may_be_lost(), "{report}");
        assert_sound(&report);
    }
}

// The process that a launcher leaves behind may work for long without writing, also if it starts
// only with the end of its input.
#[test]
fn orphaned_agent_has_all_of_the_drain() {
    let engine = engine();
    let work = "(i=0; while [ $i -lt 600000 ]; do i=$((i+1)); done; echo '{}') & exit 0";
    for script in [work.to_owned(), format!("read line; {work}")] {
        let mut agent = shell(&engine, &script);
        // Less than the work takes.
        let exit_drain = Duration::from_millis(100);
        let policy = ClosePolicy::graceful().exit_drain(exit_drain).drain(HANG);
        let report = agent.close_with_blocking(policy);
        assert_eq!(records(&mut agent), ["{}"], "{report}");
        assert!(!report.output_may_be_lost(), "{report}");
        assert_sound(&report);
    }
}

// A background job holds the outputs until it has redirected its own. It was taken for a holder as
// long as it lived, if the engine looked in that moment.
#[test]
fn job_that_lets_go_of_the_outputs_is_not_awaited() {
    let engine = engine();
    let job = "sh -c 'sleep 0.3; exec >/dev/null 2>&1; while :; do :; done' &";
    let stray = r#"setsid sh -c 'echo "{\"pid\":$$}"; exec sleep 1000' &"#;
    let mut agent = shell(&engine, &format!("{stray} read line; {job} exit 6"));
    let record = agent.next_record_blocking().expect("the stray is up");
    let value: serde_json::Value = serde_json::from_slice(record.as_bytes()).expect("JSON");
    let report = agent.close_with_blocking(
        ClosePolicy::graceful().exit_drain(Duration::from_secs(2)).drain(HANG),
    );
    let pid = value["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    kill_process(pid.expect("a pid"), Signal::KILL).expect("it is not ours to end");
    assert_eq!((report.exit(), report.stage()), (ExitStatus::Code(6), CloseStage::Drain));
    assert_eq!((report.outputs_held(), report.killed_extra()), (Some(true), 1), "{report}");
    assert!(report.total() < HANG / 2, "{report:?}");
    assert_sound(&report);
}

// A job of the group that writes elsewhere holds no output. Only the stray beside it does, and that
// costs no more than `exit_drain`.
#[test]
fn job_with_other_output_is_not_awaited() {
    let engine = engine();
    let job = "sh -c 'while :; do :; done' >/dev/null 2>&1 &";
    let stray = r#"setsid sh -c 'echo "{\"pid\":$$}"; exec sleep 1000' &"#;
    let mut agent = shell(&engine, &format!("{stray} read line; {job} exit 6"));
    let record = agent.next_record_blocking().expect("the stray is up");
    let value: serde_json::Value = serde_json::from_slice(record.as_bytes()).expect("JSON");
    let report = agent.close_with_blocking(
        ClosePolicy::graceful().exit_drain(Duration::from_millis(200)).drain(HANG),
    );
    let pid = value["pid"].as_i64().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    kill_process(pid.expect("a pid"), Signal::KILL).expect("it is not ours to end");
    assert_eq!(report.exit(), ExitStatus::Code(6));
    assert_eq!((report.outputs_held(), report.killed_extra()), (Some(true), 1), "{report}");
    assert!(report.total() < HANG / 2, "{report:?}");
    assert_sound(&report);
}

// A helper holds the output and is silent: it costs `exit_drain`, and then SIGTERM is enough.
#[test]
fn silent_output_holder_gets_sigterm() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("a folder");
    let marker = dir.path().join("marker");
    let helper =
        format!("trap 'echo > {}; exit' TERM; while :; do sleep 0.02; done", marker.display());
    let mut agent = shell(&engine, &format!("({helper}) & echo '{{}}'; read line; exit 4"));
    agent.next_record_blocking().expect("it is up");
    let report = agent.close_with_blocking(
        ClosePolicy::graceful().exit_drain(Duration::from_millis(50)).terminate(HANG),
    );
    assert_eq!((report.exit(), report.stage()), (ExitStatus::Code(4), CloseStage::Drain));
    assert!(marker.exists(), "it could act on SIGTERM: {report}");
    assert_eq!(report.outputs_held(), Some(true), "{report}");
    assert!(report.killed_extra() >= 1, "{report}");
    assert!(report.total() < HANG, "{report:?}");
    assert_sound(&report);
}

// A daemon in another session holds the output and writes to it without end.
#[test]
fn endless_daemon_costs_exit_drain_once() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pid");
    let daemon =
        format!("echo $$ > {}; while :; do echo \"{{}}\"; sleep 0.01; done", file.display());
    let mut agent = shell(&engine, &format!("setsid sh -c '{daemon}' & read line; exit 5"));
    agent.next_record_blocking().expect("the daemon is up");
    let report = agent.close_with_blocking(
        ClosePolicy::graceful().exit_drain(Duration::from_millis(200)).drain(HANG),
    );
    let pid: i32 = fs::read_to_string(&file).expect("written").trim().parse().expect("a pid");
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it is not ours to end");
    assert_eq!(report.exit(), ExitStatus::Code(5));
    assert_eq!((report.outputs_held(), report.killed_extra()), (Some(true), 0), "{report}");
    assert!(report.output_may_be_lost(), "the daemon was cut off: {report}");
    assert!(report.total() < HANG / 2, "{report:?}");
    assert_sound(&report);
}

// A child that is killed with its leader is counted, however fast it is gone.
#[test]
fn child_killed_with_its_leader_is_counted() {
    let engine = engine();
    for _ in 0..20 {
        let mut agent =
            shell(&engine, "trap '' TERM; sleep 1000 & echo '{}'; while wait; do :; done");
        agent.next_record_blocking().expect("it is up");
        let report = agent.close_with_blocking(
            ClosePolicy::graceful()
                .drain(Duration::from_millis(20))
                .terminate(Duration::from_millis(20))
                .cut(Duration::from_millis(1)),
        );
        assert_eq!((report.stage(), report.killed_extra()), (CloseStage::Kill, 1), "{report}");
    }
}

// The agent leaves by itself when its pipes are cut: the output it still had is unknown.
#[test]
fn aborted_agent_may_have_lost_output() {
    let engine = engine();
    let mut agent = engine.spawn_blocking(fake(&[])).expect("it starts");
    agent.send_blocking("{}").expect("accepted");
    agent.next_record_blocking().expect("it is up");
    let abort = ClosePolicy::abort().abort_grace(HANG);
    let report = agent.close_with_blocking(abort);
    assert_eq!((report.stage(), report.exit()), (CloseStage::Cut, ExitStatus::Code(0)), "{report}");
    assert!(report.output_may_be_lost(), "{report}");
}

// A process that is dead and not reaped by its parent does not count.
#[test]
fn zombie_is_not_counted_as_killed() {
    let engine = engine();
    for way in ["close", "abort"] {
        // The shell becomes the agent, which knows nothing of the child that it inherits.
        let exec = format!(
            "true & exec {} fake --ignore-sigterm {}",
            env!("CARGO_BIN_EXE_agentpipe"),
            if way == "abort" { "--ignore-eof" } else { "" },
        );
        let mut agent = shell(&engine, &exec);
        agent.send_blocking("{}").expect("accepted");
        agent.next_record_blocking().expect("it is up");
        let children = format!("/proc/{0}/task/{0}/children", agent.pid());
        let zombie = fs::read_to_string(children).expect("children");
        let stat =
            || fs::read_to_string(format!("/proc/{}/stat", zombie.trim())).expect("unreaped");
        while !stat().contains(") Z ") {
            thread::yield_now();
        }
        let report = if way == "close" { agent.close_blocking() } else { agent.abort_blocking() };
        assert_eq!(report.killed_extra(), 0, "{way}: {report}");
        assert_sound(&report);
    }
}

// An agent without children holds its outputs itself: no report claims another holder.
#[test]
fn childless_agent_never_shares_its_outputs() {
    let engine = engine();
    for round in 0..200 {
        let agent = engine.spawn_blocking(fake(&["--exit-after", "3", "--flood"])).expect("starts");
        let report = match round % 4 {
            0 => agent.abort_blocking(),
            1 => agent.close_blocking(),
            _ => agent.closed_blocking(),
        };
        assert_ne!(report.outputs_held(), Some(true), "{report}");
    }
}

// A leader is killed while another process holds its outputs: whether one does cannot be known.
#[test]
fn outputs_held_is_unknown_after_a_cut() {
    let engine = engine();
    let agent = engine.spawn_blocking(fake(&["--ignore-eof", "--ignore-sigterm"])).expect("starts");
    let report = agent.abort_blocking();
    assert_eq!((report.stage(), report.outputs_held()), (CloseStage::Kill, None), "{report}");
    assert_eq!(report.input_ended_while_busy(), None, "{report}");
    assert!(report.output_may_be_lost(), "{report}");
    assert!(report.to_json().contains(r#""outputs_held":null"#), "{}", report.to_json());
}

// An abort does not wait until the holder lets go. During many spawns each child has the
// descriptors of the others for a moment, and the report of a childless agent named a holder.
#[test]
fn outputs_held_is_unknown_after_an_abort() {
    let engine = engine();
    let mut agent = shell(&engine, "sleep 1000 & echo '{}'; exit 0");
    agent.next_record_blocking().expect("it is up");
    // Once its exit is seen, writes are refused.
    while agent.send_blocking("{}").is_ok() {
        thread::yield_now();
    }
    let report = agent.abort_blocking();
    assert_eq!((report.exit(), report.outputs_held()), (ExitStatus::Code(0), None), "{report}");
    assert_eq!(report.killed_extra(), 1, "{report}");
    assert!(report.output_may_be_lost(), "the child could write: {report}");
}

// The host ignores SIGCHLD, so the kernel reaps the agent. The rest of the group must go all the
// same.
#[test]
fn ignored_sigchld_leaves_no_group() {
    if !alone(test_name!()) {
        return;
    }
    crate::sys::ignore_sigchld();
    let engine = engine();
    let mut agent =
        shell(&engine, "sleep 1000 >/dev/null 2>&1 & echo \"{\\\"pid\\\":$!}\"; read line");
    let record = agent.next_record_blocking().expect("it is up");
    let value: serde_json::Value = serde_json::from_slice(record.as_bytes()).expect("JSON");
    let report = agent.close_blocking();
    assert_eq!(report.exit(), ExitStatus::Unknown, "{report}");
    let note = report.exit_note().expect("a reason");
    assert!(note.contains("SIGCHLD"), "{note}");
    assert_eq!(report.killed_extra(), 1, "{report}");
    let pid = u32::try_from(value["pid"].as_u64().expect("a number")).expect("a pid");
    // It was killed; its end takes a moment, and only its new parent can reap it.
    let begun = Instant::now();
    let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    while !stat().is_empty() && !stat().contains(") Z ") {
        assert!(begun.elapsed() < HANG, "it lives: {}", stat());
        thread::yield_now();
    }
}

// An operator traces a stuck agent, and the agent exits meanwhile. The exit is seen, but the
// process cannot be reaped before the tracer lets go.
#[test]
fn traced_agent_is_reaped_later() {
    let engine = Engine::builder().max_agents(1).build().expect("io_uring");
    let agent = engine.spawn_blocking(fake(&[])).expect("it starts");
    let pid = agent.pid();
    let mut tracer = Tracer::attach(pid);
    let report =
        agent.close_with_blocking(ClosePolicy::graceful().kill(Duration::from_millis(200)));
    assert_eq!(report.exit(), ExitStatus::Unknown, "{report}");
    assert_eq!(report.exit_note(), Some("a debugger holds the exited process"), "{report}");
    assert_eq!((report.killed_extra(), report.outputs_held()), (0, Some(false)), "{report}");
    // It keeps no place while the tracer holds it.
    let next = engine.spawn_blocking(fake(&[])).expect("the place is free");
    tracer.let_go();
    assert_gone(pid);
    assert_eq!(next.close_blocking().exit(), ExitStatus::Code(0));
}

// The tracer lets go within the limit of the close, which waits and has the status.
#[test]
fn tracer_that_lets_go_keeps_the_status() {
    let engine = engine();
    let agent = engine.spawn_blocking(fake(&["--exit-code", "7"])).expect("it starts");
    let mut tracer = Tracer::attach(agent.pid());
    let closing = thread::spawn(move || {
        let report = agent.close_with_blocking(ClosePolicy::graceful().kill(HANG));
        (agent, report)
    });
    tracer.await_exit();
    tracer.let_go();
    let (_agent, report) = closing.join().expect("no panic");
    assert_eq!((report.exit(), report.exit_note()), (ExitStatus::Code(7), None), "{report}");
    assert_sound(&report);
}

// The engine ends while the tracer still holds the agent: the agent is reaped when the tracer lets
// go.
#[test]
fn traced_agent_is_reaped_after_its_engine() {
    let engine = engine();
    let agent = engine.spawn_blocking(fake(&[])).expect("it starts");
    let pid = agent.pid();
    let mut tracer = Tracer::attach(pid);
    agent.close_with_blocking(ClosePolicy::graceful().kill(Duration::from_millis(100)));
    drop(agent);
    drop(engine);
    tracer.let_go();
    assert_gone(pid);
}

/// Another process that traces an agent, as strace and gdb do. It is this test binary.
struct Tracer {
    child: std::process::Child,
    pid: u32,
}

impl Tracer {
    fn attach(pid: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"));
        child.args(["--exact", "--nocapture", "sys::tracer"]);
        child.env(crate::sys::TRACED, pid.to_string()).stdin(Stdio::piped()).process_group(0);
        let child = child.stdout(Stdio::null()).spawn().expect("it starts");
        let tracer = Self { child, pid };
        tracer.await_line("TracerPid:", |value| value != "0");
        tracer
    }

    /// Waits for a line of its status.
    fn await_line(&self, name: &str, holds: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            let status =
                fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("unreaped");
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            if value.is_some_and(|value| holds(value.trim())) {
                return;
            }
            assert!(begun.elapsed() < HANG, "{status}");
            thread::yield_now();
        }
    }

    /// The process has exited, and the tracer has it.
    fn await_exit(&self) {
        self.await_line("State:", |state| state.starts_with('Z'));
    }

    /// Ends the tracer.
    fn let_go(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("ours").success(), "the tracer failed");
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
