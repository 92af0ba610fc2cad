//! Agents with everything that is hard to kill below them. Their processes are found by an argument,
//! because some of them have neither a parent nor an environment.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::HANG;
use super::process::processes;

/// The processes of a tree.
pub(crate) const TREE: usize = 6;

/// The trees of one test: an argument of sleep(1) that no other test has.
pub(crate) struct Trees(pub(crate) String);

impl Trees {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("86400.0{}0{number}", std::process::id()))
    }

    /// A script for sh: ignores every signal that can be ignored, with a helper in its group, one in a
    /// session of its own, and three daemons whose parents have ended, one without an environment.
    pub(crate) fn script(&self) -> String {
        let token = &self.0;
        format!(
            "trap '' HUP INT QUIT PIPE TERM USR1 USR2 ALRM TSTP TTIN TTOU
             sleep {token} & setsid sleep {token} &
             setsid sh -c 'sleep {token} & sleep {token} & exit' &
             env -i $(command -v setsid) sh -c '(sleep {token} &) ; exit' &
             echo '{{}}'; exec sleep {token}"
        )
    }

    /// The living processes of all trees of this test.
    pub(crate) fn alive(&self) -> Vec<Pid> {
        let words = [b"sleep", self.0.as_bytes(), b""];
        let has_token = |path: &std::path::PathBuf| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).eq(words)
        };
        let pid =
            |path: std::path::PathBuf| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?);
        // A zombie has no command line, unless it dies in between.
        processes().filter(has_token).filter_map(pid).filter(|pid| is_alive(*pid)).collect()
    }

    /// Waits until nothing of the trees lives, for as long as their guard does, which is 10 s at most, and returns how long
    /// that took. What lives on is ended here.
    pub(crate) fn await_none(&self, guard: Pid) -> Duration {
        let begun = Instant::now();
        while is_alive(guard) && !self.alive().is_empty() && begun.elapsed() < HANG {
            thread::sleep(Duration::from_millis(1));
        }
        let took = begun.elapsed();
        let left = self.alive();
        for pid in &left {
            let _gone = kill_process(*pid, Signal::KILL);
        }
        assert!(left.is_empty(), "they outlived their host: {left:?}");
        took
    }
}

/// Returns whether a process runs.
pub(crate) fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// Returns the guard of a host.
pub(crate) fn guard_of(host: u32) -> Option<Pid> {
    let tasks = fs::read_dir(format!("/proc/{host}/task")).ok()?.flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<String> =
        lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    children.into_iter().find_map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name == "agentpipe-guard\n").then(|| Pid::from_raw(pid.parse().ok()?)).flatten()
    })
}

/// How often a test kills its hosts: `AGENTPIPE_GUARD_ROUNDS`, 1 by default.
pub(crate) fn rounds() -> usize {
    std::env::var("AGENTPIPE_GUARD_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}
