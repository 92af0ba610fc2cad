//! Bad input gets one clear line, and nothing is lost or left running after it.
//!
//! Twice each: as the library's error, and as the line and the exit code of `agentpipe run`.

mod at_the_limits;
mod commands;
mod denied;
mod late_filter;
mod no_clone3;
mod older_kernels;
mod profile;
mod records;
mod seccomp;
mod signals;

use std::fs;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{CEILING, PROGRAM, check_alive, check_line, fake};
use agentpipe::{Engine, ExitStatus};

/// A refusal leaves no agent, no process, and an engine that works.
fn check_nothing_left(engine: &Engine) {
    assert_eq!(engine.agents(), 0);
    let mut agent = engine.spawn_blocking(fake(&[])).expect("spawning goes on");
    check_alive(&mut agent);
    assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
    let ring = engine.counters_blocking()[0];
    assert_eq!((ring.in_kernel, ring.buffers - ring.buffers_free), (1, 0), "{ring:?}");
    check_no_zombie();
}

/// Other tests run beside this one, so a zombie may be one of theirs, on its way out.
fn check_no_zombie() {
    let own = std::process::id().to_string();
    let zombies = || {
        let stats = fs::read_dir("/proc").expect("proc").flatten();
        let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        let is_ours = |stat: &String| {
            let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let mut words = rest.split_whitespace();
            words.next() == Some("Z") && words.next() == Some(&own)
        };
        stats.filter(is_ours).collect::<Vec<String>>()
    };
    let begun = Instant::now();
    let mut before = zombies();
    while !before.is_empty() {
        assert!(begun.elapsed() < CEILING, "never reaped: {before:?}");
        thread::sleep(Duration::from_millis(2));
        // Only one that stays is a leak.
        let after = zombies();
        before.retain(|zombie| after.contains(zombie));
    }
}

/// `agentpipe ARGS`, its stdin at its end.
fn agentpipe(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args).stdin(Stdio::null());
    command
}

/// What `agentpipe run` says where it refuses: exactly one line, on stderr, with its name.
fn check_run_refuses(args: &[&str], code: i32, says: &[&str]) {
    let mut all = vec!["run"];
    all.extend(args);
    let output = agentpipe(&all).output().expect("starts");
    check_refusal(&output, code, says);
}

fn check_refusal(output: &Output, code: i32, says: &[&str]) {
    let stderr = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(output.stdout, b"", "stdout is for records");
    let line = stderr.strip_suffix('\n').expect("a whole line");
    check_line(line, says);
    assert!(line.starts_with("agentpipe: "), "{line}");
}

// A script logs stderr; a screen of help hides the one word that was wrong.
#[test]
fn usage_errors_are_one_line() {
    check_run_refuses(&["--no-such-flag", "--", "cat"], 2, &["--no-such-flag", "usage: "]);
    check_run_refuses(&[], 2, &["<CMD>"]);
    check_run_refuses(&["--drain", "5", "--", "cat"], 2, &["--drain", "unit"]);
    check_run_refuses(&["--framing", "xml", "--", "cat"], 2, &["xml", "content-length"]);
    check_run_refuses(&["--record-max", "x", "--", "cat"], 2, &["--record-max"]);
    let output = agentpipe(&["no-such-subcommand"]).output().expect("starts");
    check_refusal(&output, 2, &["no-such-subcommand"]);
}
