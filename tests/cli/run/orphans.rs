//! Processes that the agent leaves behind: dead ones are reaped, live ones are named.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::launcher::first_process;
use super::{Run, fake};
use crate::support::own_process::test_name;
use crate::support::process::is_gone;
use crate::support::{PROGRAM, skipped, wait_until};

/// Returns the children of a process, zombies included.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("proc").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .map(|pid| pid.parse().expect("a number"))
        .collect()
}

fn first_line(run: &mut Run) -> String {
    let mut line = String::new();
    let stdout = run.child.stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("text");
    line
}

// As the first process of a container the command inherits every orphan. Zombies fill the table of
// processes until no agent can start.
#[test]
fn orphans_of_the_agent_are_reaped() {
    // The orphans live on until a byte comes, so they belong to the command when they die.
    let script = "mkfifo \"$0\"; for i in 1 2 3 4 5; do (read x <\"$0\" &) ; done
        echo '{}'; read line; exit 7";
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    let mut run = Run::start(&[], &["sh", "-c", script, fifo.to_str().expect("text")]);
    assert_eq!(first_line(&mut run), "{}\n");
    let host = run.child.id();
    // The agent and the guard are the others.
    wait_until("the orphans come to the command", || children(host).len() == 7);
    fs::write(&fifo, "\n".repeat(100)).expect("they read");
    wait_until("they are reaped", || children(host).len() == 2);
    // The status of the agent is not taken from the engine.
    let done = run.finish(b"{}\n");
    assert_eq!((done.code(), done.count("left_running")), (Some(7), 0), "{done:?}");
}

// A background job of a shell tool left the group of the agent. It outlives the close, and nothing said so.
#[test]
fn live_orphans_are_named_at_the_end() {
    let script =
        "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo \"{\\\"pid\\\":$!}\"; read line";
    let mut run = Run::start(&["--no-guard"], &["sh", "-c", script]);
    let line: serde_json::Value = serde_json::from_str(&first_line(&mut run)).expect("JSON");
    let pid = i32::try_from(line["pid"].as_i64().expect("a number")).expect("a pid");
    drop(run.child.stdin.take());
    let output = run.child.wait_with_output().expect("ends");
    let said = String::from_utf8(output.stderr).expect("text");
    let pid = Pid::from_raw(pid).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it lives");
    let report = fs::read_to_string(run.folder.path().join("report")).expect("a report");
    assert!(report.contains("\"left_running\":1"), "{report}");
    let named = format!("; 1 processes of it left running (pids {})", pid.as_raw_nonzero());
    assert!(said.contains(&named), "{said}");
}

// A shell starts a job and becomes the command by `exec`: the job is a child, and none of the agent.
#[test]
fn older_child_is_not_the_agents() {
    let agent = fake(&[]);
    let mut run = Run::start_by(&[], &agent, |command| {
        let program = command.get_program().to_owned();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let script = "sleep 1000 </dev/null >/dev/null 2>&1 & exec \"$0\" \"$@\"";
        *command = Command::new("sh");
        command.args(["-c", script]).arg(program).args(args);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    });
    run.send(b"{}\n");
    assert_eq!(first_line(&mut run), "{}\n");
    let sleeper = *children(run.child.id()).iter().min().expect("a child");
    let done = run.finish(b"");
    let sleeper = Pid::from_raw(i32::try_from(sleeper).expect("a pid")).expect("a pid");
    assert!(!is_gone(sleeper.as_raw_nonzero().get().unsigned_abs()), "it lives on");
    kill_process(sleeper, Signal::KILL).expect("it lives");
    assert_eq!(done.count("left_running"), 0, "{}", done.report);
}

// A background process that holds only stderr held up the end of the agent, and so its exit code.
#[test]
fn holder_of_stderr_does_not_delay_the_end() {
    let script = "sleep 1000 </dev/null >/dev/null & echo \"{\\\"pid\\\":$!}\"; exit 42";
    // Its input stays open: only the agent ends this.
    let mut run = Run::start(&["--drain", "10m"], &["sh", "-c", script]);
    wait_until("it ends", || run.child.try_wait().expect("our child").is_some());
    let done = run.collect();
    let line: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((done.code(), &done.report["close"]["reason"]), (Some(42), &"exited".into()));
    assert!(!done.stages().contains(&"kill"), "{}", done.report);
    assert!(is_gone(line["pid"].as_u64().expect("a number")), "it was of the agent's group");
}

// In a container the command is the process 1, and its session has no number: the guard did not start.
#[test]
fn first_process_of_a_container_reaps() {
    let first = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        first_process(&mut command).args(args).stdin(Stdio::null()).output()
    };
    if let Err(error) = first("true", &[]) {
        return skipped(test_name!(), &format!("no user namespace with a /proc: {error}"));
    }
    let script =
        "(true &); until [ \"$(cat /proc/1/task/*/children)\" = \"$$ \" ]; do :; done; echo {}";
    // The agent and nothing else; with a guard that one, too.
    for args in [&["--no-guard", "--", "sh", "-c", script][..], &["--", "sh", "-c", "echo {}"]] {
        let output = first(PROGRAM, &[&["run"], args].concat()).expect("starts");
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"{}\n"[..]), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.lines().count(), 1, "the summary: {said}");
    }
}
