//! What the agent of `agentpipe run` can reach, as docs/guide/security.md says.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread;

use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::support::PROGRAM;

/// Runs an agent that lists, a line each, what it can reach of the command that runs it. Root may read
/// any process, so this one loses those rights.
fn reached(flags: &[&str]) -> Vec<String> {
    let script = r#"h=$PPID
        for name in environ maps; do
            cat /proc/$h/$name >/dev/null 2>&1 && echo "{\"reached\":\"$name\"}"
        done
        readlink /proc/$h/fd/0 >/dev/null && echo '{"reached":"fd"}'
        kill -0 $h && echo '{"reached":"signal"}'
        true"#;
    let mut command = Command::new(PROGRAM);
    command.args(["run", "-q"]).args(flags).args(["--", "/bin/sh", "-c", script]);
    command.stdin(Stdio::null()).process_group(0);
    // The rights belong to a thread and reach what it starts.
    let run = thread::spawn(move || {
        for right in [CapabilitySet::SYS_PTRACE, CapabilitySet::PERFMON, CapabilitySet::SYS_ADMIN] {
            // Without root there is nothing to lose.
            let _refused = remove_capability_from_bounding_set(right);
        }
        command.output().expect("runs")
    });
    let Output { status, stdout, stderr } = run.join().expect("no panic");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let stdout = String::from_utf8(stdout).expect("text");
    let name = |line: &str| line.split('"').nth(3).expect("a name").to_owned();
    stdout.lines().map(name).collect()
}

// An agent of the same user could read the memory of the command, and through its descriptors the
// records of its parent. It can still send it a signal: only another user prevents that.
#[test]
fn agent_cannot_read_the_command_that_runs_it() {
    assert_eq!(reached(&[]), ["signal"]);
    assert_eq!(reached(&["--dumpable"]), ["environ", "maps", "fd", "signal"]);
}

// sudo, and other programs that gain privileges, fail in an agent unless it is allowed.
#[test]
fn new_privileges_need_a_flag() {
    let flags = |flags: &[&str]| {
        let script = "sed -n 's/^NoNewPrivs:[^0-9]*/{\"flag\":/p' /proc/self/status; echo '}'";
        let mut command = Command::new(PROGRAM);
        command.args(["run", "-q"]).args(flags);
        command.args(["--", "/bin/sh", "-c", &format!("echo $({script})")]).stdin(Stdio::null());
        String::from_utf8(command.output().expect("runs").stdout).expect("text")
    };
    assert_eq!(flags(&[]), "{\"flag\":1 }\n");
    assert_eq!(flags(&["--allow-new-privs"]), "{\"flag\":0 }\n");
}
