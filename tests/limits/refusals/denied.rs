//! Hosts that deny io_uring: the error names the cause and the remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use super::{agentpipe, check_refusal, seccomp};
use crate::support::{PROGRAM, check_line, gets_ring};

fn deny_io_uring(command: &mut Command, errno: i32) -> &mut Command {
    seccomp::deny(command, libc::SYS_io_uring_setup, errno)
}

// The default profile of containers answers EPERM (some ENOSYS). "Operation not permitted" alone
// does not lead to the profile.
#[test]
fn seccomp_denial_names_the_remedy() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut command = agentpipe(&["run", "--backend", "io_uring", "--", "cat"]);
        let output = deny_io_uring(&mut command, errno).output().expect("starts");
        check_refusal(&output, 125, &REMEDY);
    }
}

const REMEDY: [&str; 3] = ["seccomp", "io_uring_setup", "profile"];

// In a container with the default profile no agent could be started.
#[test]
fn denied_ring_falls_back_and_says_so() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("report");
        let mut command = agentpipe(&["run", "--report", path.to_str().expect("text"), "--"]);
        command.args(["sh", "-c", "echo '{}'"]).env_remove("AGENTPIPE_BACKEND");
        let output = deny_io_uring(&mut command, errno).output().expect("starts");
        assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"{}\n"[..]), "{output:?}");
        let summary = String::from_utf8(output.stderr).expect("text");
        assert!(summary.contains("(graceful, epoll)"), "{summary}");
        let report = fs::read_to_string(path).expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["backend"], "epoll");
        check_line(report["fallback"].as_str().expect("a reason"), &REMEDY);

        let mut command = agentpipe(&["doctor", "--json"]);
        command.env_remove("AGENTPIPE_BACKEND");
        let output = deny_io_uring(&mut command, errno).output().expect("starts");
        assert_eq!(output.status.code(), Some(0));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&report["usable"], &report["backend"]), (&true.into(), &"epoll".into()));
        check_line(report["fallback"].as_str().expect("a reason"), &REMEDY);
    }
}

// A misspelt setting of the operator must not run with another backend.
#[test]
fn unknown_backend_is_named() {
    let output = agentpipe(&["run", "--", "cat"]).env("AGENTPIPE_BACKEND", "iouring").output();
    check_refusal(&output.expect("starts"), 125, &["AGENTPIPE_BACKEND is iouring", "io_uring, "]);
}

/// `agentpipe run -- cat` under a limit of the shell, as a user for whom limits hold.
fn run_limited(limit: &str, backend: &str) -> Output {
    // The test tree may be below a folder of root's, which another user cannot reach.
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let program = folder.path().join("agentpipe");
    fs::copy(PROGRAM, &program).expect("copied");
    // Root is not charged, so root runs it as the user 65534.
    let as_nobody = rustix::process::geteuid().is_root();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("{limit}; exec \"$0\" run --backend $1 -- cat")])
        .arg(program)
        .arg(backend)
        .env_remove("AGENTPIPE_BACKEND");
    if as_nobody {
        command.uid(65_534).gid(65_534).current_dir("/");
    }
    let output = command.stdin(std::process::Stdio::null()).output();
    output.expect("root may change its user; run the tests as an ordinary user instead")
}

#[test]
fn memlock_denial_names_the_remedy() {
    if !gets_ring() {
        return;
    }
    let output = run_limited("ulimit -l 0", "io_uring");
    check_refusal(&output, 125, &["RLIMIT_MEMLOCK is 0 bytes", "ulimit -l"]);
    let output = run_limited("ulimit -l 0", "auto");
    assert!(output.status.success(), "rings alone are charged: {output:?}");
}

// A thread was refused, and `run` panicked with a backtrace.
#[test]
fn refused_thread_is_one_line() {
    // dash has the limit under another letter than bash.
    let output = run_limited("ulimit -u 1 2>/dev/null || ulimit -p 1", "auto");
    check_refusal(&output, 125, &["cannot start", "thread"]);
}
