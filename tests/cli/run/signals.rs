//! Signals to `agentpipe run`, and the signal state that it inherits.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::launcher::inheriting;
use super::{Run, fake};
use crate::support::lease::Lease;
use crate::support::{PROGRAM, wait_until};

const STARTED: &[u8] = b"{\"a\":1}\n";

/// An echo agent behind a launcher that leaves these signals ignored, and those blocked. It has
/// answered once.
fn started(
    ignored: &'static [i32],
    blocked: &'static [i32],
    args: &[&str],
) -> (Run, BufReader<std::process::ChildStdout>) {
    let mut run = Run::start_by(&[], &fake(args), |command| {
        inheriting(command, ignored, blocked);
    });
    let mut stdout = BufReader::new(run.child.stdout.take().expect("piped"));
    echoes(&mut run, &mut stdout);
    (run, stdout)
}

fn echoes(run: &mut Run, stdout: &mut impl BufRead) {
    run.send(STARTED);
    let mut line = Vec::new();
    stdout.read_until(b'\n', &mut line).expect("readable");
    assert_eq!(line, STARTED);
}

// `nohup agentpipe run ... &`, and the terminal is closed: the agent must work on.
#[test]
fn ignored_hangup_stays_ignored() {
    let (mut run, mut stdout) = started(&[libc::SIGHUP, libc::SIGINT], &[], &[]);
    run.signal(Signal::HUP);
    run.signal(Signal::INT);
    for _ in 0..10 {
        echoes(&mut run, &mut stdout);
    }
    drop(run.child.stdin.take());
    let done = run.collect();
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 11), "{done:?}");
    // Not ignored, the same signals close.
    for signal in [Signal::HUP, Signal::INT] {
        let (run, _stdout) = started(&[], &[], &[]);
        run.signal(signal);
        assert_eq!(run.collect().report["close"]["reason"], "requested");
    }
}

// A launcher blocks SIGTERM while it forks, and its children inherit that. The service manager then
// waits, kills, and leaves the agent behind.
#[test]
fn signals_blocked_at_the_start_still_close() {
    let all = &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (run, _stdout) = started(&[], all, &[]);
        run.signal(signal);
        let done = run.collect();
        assert_eq!((done.code(), &done.report["close"]["mode"]), (Some(0), &"graceful".into()));
    }
    // Nothing but SIGTERM ends this process in order, so that one may not be ignored.
    let (run, _stdout) = started(&[libc::SIGTERM], &[], &[]);
    run.signal(Signal::TERM);
    assert_eq!(run.collect().report["close"]["reason"], "requested");
}

#[test]
fn ignored_sigchld_keeps_the_exit_code() {
    let (mut run, _stdout) = started(&[libc::SIGCHLD], &[libc::SIGCHLD], &["--exit-code", "7"]);
    drop(run.child.stdin.take());
    let done = run.collect();
    assert_eq!(done.code(), Some(7), "{done:?}");
    assert_eq!(done.report["exit"], serde_json::json!({ "code": 7 }));
}

#[test]
fn agent_inherits_no_signal_state() {
    let all = &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD, libc::SIGUSR1];
    // No shell: some clear the mask themselves.
    let agent = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"];
    let run = Run::start_by(&[], &agent, |command| {
        inheriting(command, all, all);
    });
    let done = run.finish(b"");
    let noise = ["SigBlk", "SigIgn"]
        .map(|set| format!("agentpipe: noise: 24 bytes: {set}:\\t0000000000000000"));
    assert_eq!(done.stderr, noise);
}

// With RLIMIT_FSIZE on a log file the signal for it killed the host without a message.
#[test]
fn file_size_limit_is_an_error() {
    let out = tempfile::NamedTempFile::new().expect("a file");
    let program = format!("ulimit -f 64; exec \"$0\" \"$@\" >{}", out.path().display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &program, PROGRAM, "run", "--", PROGRAM, "fake", "--flood"]);
    let output = shell.stdin(Stdio::piped()).output().expect("starts");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("writing to stdout failed: File too large"), "{stderr}");
    assert!(stderr.contains("; stdout did not take "), "{stderr}");
}

// An agent has used up the processes of its user. A signal handler that needs a new thread panics,
// and then only SIGKILL ends the host.
#[test]
fn signals_need_no_extra_thread() {
    let (mut run, _stdout) = started(&[], &[], &[]);
    let names = || -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", run.child.id())).expect("proc").flatten();
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.map(|name| name.trim_end().to_owned()).collect()
    };
    // A thread without a name has that of the process, and one with a name has it for a moment.
    let unnamed = || names().iter().filter(|name| *name == "agentpipe").count();
    wait_until("all threads but the first have a name", || unnamed() == 1);
    let known =
        |name: &String| name == "agentpipe" || name == "agentpipe-0" || name == "agentpipe-spawn";
    assert!(names().iter().all(known), "{:?}", names());
    drop(run.child.stdin.take());
    assert_eq!(run.collect().code(), Some(0));
}

// `run` died of such a signal at once, and an agent that ignores the end of its input stayed.
#[test]
fn every_ending_signal_closes_the_agent() {
    for signal in [Signal::QUIT, Signal::USR1, Signal::USR2, Signal::ALARM] {
        let (run, _stdout) = started(&[], &[], &[]);
        run.signal(signal);
        let done = run.collect();
        assert_eq!((done.code(), &done.report["close"]["reason"]), (Some(0), &"requested".into()));
    }
    // Ignored ones stay ignored: a shell without job control ignores SIGQUIT for background jobs.
    let (mut run, mut stdout) = started(&[libc::SIGQUIT, libc::SIGUSR1], &[], &[]);
    run.signal(Signal::QUIT);
    run.signal(Signal::USR1);
    echoes(&mut run, &mut stdout);
    drop(run.child.stdin.take());
    assert_eq!(run.collect().code(), Some(0));
}

// The program is on a file server that does not answer. Ctrl-C did nothing. Later, the end of the process
// waited 5 s more for the exec, after the limit of the command itself.
#[test]
fn hanging_exec_does_not_delay_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    fs::copy("/bin/true", &program).expect("copied");
    let lease = Lease::take(&program);
    let mut child = Command::new(PROGRAM)
        .args(["run", "--"])
        .arg(&program)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    wait_until("the exec hangs", || lease.is_wanted());
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it lives");
    let begun = Instant::now();
    let mut line = String::new();
    let stderr = child.stderr.as_mut().expect("piped");
    BufReader::new(stderr).read_line(&mut line).expect("text");
    assert!(line.contains("signal 15 came, and the exec of the agent hangs"), "{line}");
    let said = Instant::now();
    assert_eq!(child.wait().expect("our child").code(), Some(128 + 15));
    assert!(said.elapsed() < Duration::from_secs(4), "{:?}", said.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "not when the lease is over");
    assert!(lease.is_wanted(), "it hangs on");
}
