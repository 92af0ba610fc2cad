//! Hosts that deny io_uring: the error names the cause and the remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use super::{agentpipe, check_refusal, seccomp};
use crate::support::{PROGRAM, check_line};

fn deny_io_uring(command: &mut Command, errno: i32) -> &mut Command {
    seccomp::deny(command, libc::SYS_io_uring_setup, errno)
}

// The default profile of containers answers EPERM (some ENOSYS). "Operation not permitted" alone
// does not lead to the profile.
#[test]
fn seccomp_denial_names_the_remedy() {
    let says = ["seccomp", "io_uring_setup", "profile"];
    for errno in [libc::EPERM, libc::ENOSYS] {
        let mut command = agentpipe(&["run", "--", "cat"]);
        let output = deny_io_uring(&mut command, errno).output().expect("starts");
        check_refusal(&output, 125, &says);

        let mut command = agentpipe(&["doctor"]);
        let output = deny_io_uring(&mut command, errno).output().expect("starts");
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout).expect("text");
        assert!(text.contains("does NOT work here"), "{text}");
        let problems: Vec<&str> =
            text.lines().filter(|line| line.starts_with("problem: ")).collect();
        assert_eq!(problems.len(), 1, "{text}");
        check_line(problems[0], &says);

        let mut command = agentpipe(&["doctor", "--json"]);
        let output = deny_io_uring(&mut command, errno).output().expect("starts");
        assert_eq!(output.status.code(), Some(1));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["usable"], false);
        assert_eq!(report["backend"], serde_json::Value::Null);
        check_line(report["problem"].as_str().expect("a problem"), &says);
    }
}

/// `agentpipe run -- cat` under a limit of the shell, as a user for whom limits hold.
fn run_limited(limit: &str) -> Output {
    // The test tree may be below a folder of root's, which another user cannot reach.
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let program = folder.path().join("agentpipe");
    fs::copy(PROGRAM, &program).expect("copied");
    // Root is not charged, so root runs it as the user 65534.
    let as_nobody = rustix::process::geteuid().is_root();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("{limit}; exec \"$0\" run -- cat")]).arg(program);
    if as_nobody {
        command.uid(65_534).gid(65_534).current_dir("/");
    }
    let output = command.stdin(std::process::Stdio::null()).output();
    output.expect("root may change its user; run the tests as an ordinary user instead")
}

#[test]
fn memlock_denial_names_the_remedy() {
    let output = run_limited("ulimit -l 0");
    check_refusal(&output, 125, &["RLIMIT_MEMLOCK is 0 bytes", "ulimit -l"]);
}

// A thread was refused, and `run` panicked with a backtrace.
#[test]
fn refused_thread_is_one_line() {
    // dash has the limit under another letter than bash.
    let output = run_limited("ulimit -u 1 2>/dev/null || ulimit -p 1");
    check_refusal(&output, 125, &["cannot start", "thread"]);
}
