//! Hosts with a guard that a test starts in a process of their own, and that die there.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use rustix::process::Pid;

use super::own_process::this_test;
use super::trees::{Trees, guard_of};

/// The orders of a host, in its environment.
const END: &str = "AGENTPIPE_GUARD_TEST_END";
const COUNT: &str = "AGENTPIPE_GUARD_TEST_TREES";
const TOKEN: &str = "AGENTPIPE_GUARD_TEST_TOKEN";

/// What a host is to do: start trees, and end.
pub(crate) struct Orders {
    pub(crate) end: String,
    pub(crate) trees: Trees,
    pub(crate) count: usize,
}

impl Orders {
    pub(crate) fn of_this_host() -> Self {
        let text = |key| std::env::var(key).expect("set");
        let count = text(COUNT).parse().expect("a number");
        Self { end: text(END), trees: Trees(text(TOKEN)), count }
    }
}

pub(crate) fn own_guard() -> Pid {
    guard_of(std::process::id()).expect("it runs")
}

/// Reports that this host is up, with its guard and its forked copy.
#[expect(clippy::print_stdout, reason = "the test reads it")]
pub(crate) fn announce(copy: Option<i32>) {
    println!("\nready {} {}", own_guard().as_raw_nonzero(), copy.unwrap_or_default());
}

/// Starts the test again as a host, and returns it, its guard, and its forked copy once it is up.
pub(crate) fn start_host(
    test: &str,
    end: &str,
    trees: &Trees,
    count: usize,
) -> (Child, Pid, Option<Pid>) {
    let mut host = this_test(test)
        .env(END, end)
        .env(COUNT, count.to_string())
        .env(TOKEN, &trees.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(host.stdout.take().expect("piped")).lines();
    let pids = lines.find_map(|line| {
        let line = line.expect("text");
        let (guard, copy) = line.strip_prefix("ready ")?.split_once(' ')?;
        Some((Pid::from_raw(guard.parse().ok()?)?, Pid::from_raw(copy.parse().ok()?)))
    });
    let (guard, copy) = pids.expect("the host is up");
    (host, guard, copy)
}
