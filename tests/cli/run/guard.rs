//! The command has a guard: killed, it leaves nothing of the agent.

use std::io::Read;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use super::{Run, run};
use crate::support::trees::{TREE, Trees, guard_of, is_alive, rounds};
use crate::support::wait_until;

// Every agent, and all that it has started, lived on: nothing was left to end them.
#[test]
fn killed_command_leaves_no_process() {
    const RUNS: usize = 20;
    for round in 0..rounds() {
        let trees = Trees::new();
        let script = trees.script();
        let start = |_| Run::start(&["-q"], &["sh", "-c", &script]);
        let mut runs: Vec<Run> = (0..RUNS).map(start).collect();
        wait_until("all trees are up", || trees.alive().len() == RUNS * TREE);
        let guards: Vec<Pid> =
            runs.iter().map(|run| guard_of(run.child.id()).expect("it runs")).collect();
        for run in &mut runs {
            run.child.kill().expect("SIGKILL");
        }
        for run in &mut runs {
            run.child.wait().expect("reaped");
        }
        for guard in guards {
            wait_until("the guard ends", || !is_alive(guard));
        }
        let left = trees.alive();
        for pid in &left {
            let _gone = kill_process(*pid, Signal::KILL);
        }
        assert_eq!(left, [], "round {round}: they outlived the command");
    }
    println!("{} rounds of {RUNS} commands", rounds());
}

// Where there can be no guard the command goes on without one, and says so.
#[test]
fn missing_guard_is_named() {
    let start = |flags: &[&str]| {
        // A shell waits until its limit is set, and becomes the command.
        let mut run = Run::start_by(flags, &["cat"], |command| {
            let program = command.get_program().to_owned();
            let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            *command = Command::new("sh");
            command.args(["-c", "read line; exec \"$0\" \"$@\""]).arg(program).args(args);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        });
        let low = Rlimit { current: Some(100), maximum: Some(100) };
        prlimit(Some(Pid::from_child(&run.child)), Resource::Locks, low).expect("ours");
        run.send(b"now\n");
        run
    };
    let done = start(&[]).finish(b"{}\n");
    assert_eq!((done.code(), &done.stdout[..]), (Some(0), &b"{}\n"[..]));
    let line = done.stderr.first().expect("a line");
    assert!(line.starts_with("agentpipe: start: RLIMIT_LOCKS"), "{line}");
    assert!(line.contains("--no-guard"), "{line}");
    let quiet = start(&["--no-guard"]).finish(b"{}\n");
    assert_eq!(quiet.stderr, [""; 0]);
}

#[test]
fn no_guard_starts_none() {
    for (flags, wanted) in [(&[][..], true), (&["--no-guard"], false)] {
        let mut run = Run::start(flags, &["cat"]);
        run.send(b"{}\n");
        // The guard is started before the agent.
        let mut echo = [0; 3];
        run.child.stdout.as_mut().expect("piped").read_exact(&mut echo).expect("an echo");
        assert_eq!(guard_of(run.child.id()).is_some(), wanted, "{flags:?}");
        assert_eq!(run.finish(b"").code(), Some(0));
    }
    assert_eq!(run(&["--no-guard"], &["true"], b"").code(), Some(0));
}
