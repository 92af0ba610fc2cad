//! The terminal of the user, which the agent must not have.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{getpid, getsid, setsid};

use super::descriptors::terminal;
use crate::support::PROGRAM;
use crate::support::own_process::test_name;

const PART: &str = "AGENTPIPE_TEST_TERMINAL_PART";

/// Whether /dev/tty is there: the terminal of the session, whatever descriptors 0 to 2 are.
fn own_terminal() -> Result<File, Option<i32>> {
    let tty = OpenOptions::new().read(true).write(true).open("/dev/tty");
    tty.map_err(|error| error.raw_os_error())
}

// An agent with the terminal of its host could type into the user's shell (TIOCSTI), turn the echo
// off, take the keys, or become the foreground. This test plays all parts: it opens a terminal,
// begins a session in it as a login does, and runs `agentpipe run` there with itself as the agent.
#[test]
fn agent_has_no_terminal() {
    match std::env::var(PART).as_deref() {
        Ok("shell") => as_shell(test_name!()),
        Ok("agent") => {
            assert_eq!(getsid(None), Ok(getpid()), "it leads its own session");
            let refused = own_terminal().map(drop);
            assert_eq!(refused, Err(Some(Errno::NXIO.raw_os_error())));
            println!("{{\"terminal\":false}}");
        }
        _ => {
            let (ours, theirs) = terminal();
            let shell = myself(test_name!(), "shell")
                .stdin(theirs.try_clone().expect("dup"))
                .stdout(theirs.try_clone().expect("dup"))
                .stderr(theirs)
                .status()
                .expect("starts");
            let mut said = vec![0; 64 << 10];
            let len = File::from(ours).read(&mut said).expect("readable");
            let said = String::from_utf8_lossy(&said[..len]).into_owned();
            assert!(shell.success(), "{said}");
        }
    }
}

fn myself(test: &str, part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "--nocapture", test]).env(PART, part);
    command
}

fn as_shell(test: &str) {
    setsid().expect("it leads no group yet");
    // The first terminal that the leader of a session opens becomes that of the session.
    let name = rustix::termios::ttyname(rustix::stdio::stdin(), Vec::new()).expect("a terminal");
    let name = name.to_str().expect("text");
    let tty = OpenOptions::new().read(true).write(true).open(name).expect("there");
    assert!(own_terminal().is_ok(), "the part of the shell has a terminal");
    let agent = std::env::current_exe().expect("this binary");
    let output = Command::new(PROGRAM)
        .args(["run", "--"])
        .arg(agent)
        .args(["--exact", "--nocapture", test])
        .env(PART, "agent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .output()
        .expect("starts");
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert_eq!(output.stdout, b"{\"terminal\":false}\n", "{shown}");
    drop(tty);
}
