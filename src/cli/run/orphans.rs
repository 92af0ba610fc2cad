//! Processes that the agent left to this one: it is their subreaper, as an init is for a container.
//!
//! The orphans of an agent become children of this process. Dead ones are reaped, or they would stay zombies
//! if this is the first process of a container. Live ones have outlived the close, and can be named.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use super::descriptor::poll_for;
use super::signals::Signals;

/// How long killed processes of the agent's group may take to be gone.
const DYING: Duration = Duration::from_millis(200);

/// The children of this process that others left to it.
#[derive(Debug)]
pub(super) struct Orphans {
    /// Children that other code reaps.
    spared: BTreeSet<u32>,
    /// Children that were there at the start, from before an exec. They are reaped, and are not the agent's.
    older: BTreeSet<u32>,
}

impl Orphans {
    /// Makes this process the subreaper of its descendants.
    pub(super) fn adopt() -> Self {
        // The kernel does not refuse the call.
        let _always = set_child_subreaper(Some(getpid()));
        let older = own_children().unwrap_or_default();
        Self { spared: BTreeSet::new(), older }
    }

    /// Leaves a child alone: its exit status belongs to other code, as that of the agent to the engine.
    pub(super) fn spare(&mut self, pid: u32) {
        self.spared.insert(pid);
    }

    /// Reaps the orphans that are dead. Not to be called before all children that others wait for
    /// are [spared](Self::spare).
    pub(super) fn reap(&mut self) {
        for pid in self.children().unwrap_or_default() {
            if reap_dead(pid) {
                self.older.remove(&pid);
            }
        }
    }

    /// Returns the live orphans of the agent and their descendants, in ascending order. `None` if `/proc`
    /// does not list them.
    pub(super) fn alive(&self) -> Option<BTreeSet<u32>> {
        let mut open: Vec<u32> = self.children()?.difference(&self.older).copied().collect();
        let mut found = BTreeSet::new();
        while let Some(pid) = open.pop() {
            if is_alive(pid) && found.insert(pid) {
                open.extend(children_of(pid).unwrap_or_default());
            }
        }
        Some(found)
    }

    /// Returns the [live ones](Self::alive) once the processes of a group are gone that a close has
    /// killed, or after a short time.
    pub(super) fn settled(&mut self, group: u32, signals: &Signals) -> Option<BTreeSet<u32>> {
        let begun = Instant::now();
        loop {
            self.reap();
            let alive = self.alive()?;
            let left = DYING.saturating_sub(begun.elapsed());
            if left.is_zero() || !alive.iter().any(|pid| group_of(*pid) == Some(group)) {
                return Some(alive);
            }
            poll_for(&mut [signals.poll_fd()], Some(left.min(Duration::from_millis(10))));
            while signals.next().is_some() {}
        }
    }

    fn children(&self) -> Option<BTreeSet<u32>> {
        Some(own_children()?.difference(&self.spared).copied().collect())
    }
}

/// Returns the children of this process. `None` if `/proc` does not list them, or is that of another pid
/// namespace, whose numbers belong to other processes.
fn own_children() -> Option<BTreeSet<u32>> {
    let own = std::process::id();
    let shown = fs::read_link("/proc/self").ok()?;
    (shown == Path::new(&own.to_string())).then(|| children_of(own)).flatten()
}

/// Returns the children of a process, zombies included. `None` if `/proc` does not list them.
fn children_of(pid: u32) -> Option<BTreeSet<u32>> {
    // A child belongs to the thread that cloned it.
    let threads = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).ok()?;
    let lists: Vec<String> = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .collect();
    // A kernel without the lists has no such file in any thread.
    let pids = lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|p| p.parse().ok());
    (!lists.is_empty()).then(|| pids.collect())
}

/// Reaps a child if it is dead. Returns whether it was.
fn reap_dead(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    waitid(WaitId::Pid(pid), options).is_ok_and(|status| status.is_some())
}

/// Returns whether a process exists and is no zombie.
fn is_alive(pid: u32) -> bool {
    stat_field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

/// Returns the process group; 0 if its leader is outside of the pid namespace.
fn group_of(pid: u32) -> Option<u32> {
    stat_field(pid, 2)?.parse().ok()
}

/// Returns a field of `/proc/PID/stat` after the name: 0 state, 1 parent, 2 group.
fn stat_field(pid: u32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(index).map(str::to_owned)
}
