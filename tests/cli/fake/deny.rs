//! `agentpipe fake deny`: a command under a filter.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};

use crate::support::PROGRAM;

fn deny(rules: &[&str], command: &[&str]) -> Output {
    let mut deny = Command::new(PROGRAM);
    deny.args(["fake", "deny"]).args(rules).arg("--").args(command);
    deny.stdin(Stdio::null()).output().expect("starts")
}

fn sh(rules: &[&str], script: &str) -> Output {
    deny(rules, &["/bin/sh", "-c", script])
}

// A test of a refusal proves nothing if the call is not refused, or with another error.
#[test]
fn denied_call_answers_its_errno() {
    let text = [("EPERM", "not permitted"), ("38", "not implemented"), ("ESRCH", "o such process")];
    for (errno, says) in text {
        let output = sh(&[&format!("kill={errno}")], "kill -0 $$");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(says), "{errno}: {stderr}");
    }
}

// The command must be what it would be without the filter, and so must the calls that are not named.
#[test]
fn the_rest_of_the_command_is_unchanged() {
    let output = sh(&["setsid=EPERM", "waitid=ENOSYS"], "kill -0 $$ && echo here; exit 7");
    assert_eq!((output.stdout.as_slice(), output.status.code()), (b"here\n".as_slice(), Some(7)));
    let output = sh(&["setsid=EPERM"], "kill -PIPE $$; exit 7");
    assert_eq!(output.status.signal(), Some(13), "SIGPIPE has its default action");
}

// A kernel that knows the call and not a flag answers EINVAL to the flag only.
#[test]
fn rule_may_depend_on_an_argument() {
    let script = "kill -0 $$ 2>/dev/null || kill -CONT $$ && kill -9 $$";
    let output = sh(&["kill:1:0=EINVAL", "kill:1:15=EPERM"], script);
    assert_eq!(output.status.signal(), Some(9));
    let output = sh(&["kill:1:0=EINVAL", "kill:1:18=EPERM"], script);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn descendants_inherit_the_refusal() {
    let output = sh(&["kill=EPERM"], "sh -c 'sh -c \"kill -0 $$ 2>/dev/null\"'; exit $?");
    assert_eq!(output.status.code(), Some(1));
}

// A misspelt call that is silently allowed makes a test pass that should not.
#[test]
fn unknown_names_are_usage_errors() {
    let wrong = [
        ("io_uring_set=EPERM", "io_uring_setup"),
        ("kill=EPERMIT", "EPERM"),
        ("kill=0", "unknown errno"),
        ("kill=4096", "unknown errno"),
        ("kill", "SYSCALL=ERRNO"),
        ("kill:6:0=EPERM", "from 0 to 5"),
        ("kill:x=EPERM", "from 0 to 5"),
    ];
    for (rule, says) in wrong {
        let output = sh(&[rule], "true");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{rule}: {stderr}");
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{rule}: {stderr}");
    }
    assert_eq!(sh(&[], "true").status.code(), Some(2), "nothing to deny");
}

#[test]
fn missing_command_is_one_line() {
    let output = deny(&["kill=EPERM"], &["/no/such/program"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/no/such/program") && stderr.lines().count() == 1, "{stderr}");
}
