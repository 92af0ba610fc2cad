//! System calls of these tests that have no safe form.
#![expect(unsafe_code, reason = "ptrace(2) and signal(2)")]

use std::io::Read;

/// Names the process that is to be traced.
pub(crate) const TRACED: &str = "AGENTPIPE_TEST_TRACE";

/// As some hosts do, and as a program inherits it from some launchers.
pub(crate) fn ignore_sigchld() {
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR);
}

// The tracer of `group.rs`, in its own process: it attaches without stopping the agent, stays until
// stdin ends, and lets go when it ends. In any other run it asserts that it was not started as one.
#[test]
fn tracer() {
    match std::env::var(TRACED) {
        Ok(pid) => check_traced(pid.parse().expect("a pid")),
        Err(absent) => assert_eq!(absent, std::env::VarError::NotPresent),
    }
}

fn check_traced(pid: i32) {
    // SAFETY: passes numbers only.
    let done = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("readable");
}
