//! The members of process groups, as `/proc` shows them.

use std::fs;

use super::proc_stat::{self, Stat};

/// A process by its number and its start, which no later process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pid: u32,
    started: u64,
}

impl Member {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs: a zombie does not.
    pub(crate) fn is_alive(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && !stat.is_dead())
    }
}

/// The living processes of each group, in one pass over `/proc` for all of them. Zombies are not
/// among them. Where `/proc` cannot be read, or hides the processes of others, fewer are seen.
pub(crate) fn living_members<const N: usize>(groups: [u32; N]) -> [Vec<Member>; N] {
    let mut found = [const { Vec::new() }; N];
    find_members(&groups, |index, member| found[index].push(member));
    found
}

/// The same for any number of groups: calls `found` with the index of the group.
pub(crate) fn find_members(groups: &[u32], mut found: impl FnMut(usize, Member)) {
    if groups.is_empty() || !proc_stat::is_usable() {
        return;
    }
    let processes = match fs::read_dir("/proc") {
        Ok(processes) => processes,
        Err(error) => {
            crate::trace::warn!(%error, "/proc cannot be read: processes left in a group go uncounted");
            return;
        }
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(stat) = Stat::read(&process.path()).filter(|stat| !stat.is_dead()) else {
            continue;
        };
        for (index, _) in groups.iter().enumerate().filter(|(_, group)| **group == stat.group) {
            found(index, Member { pid, started: stat.started });
        }
    }
}

/// The living descendants of a process that are in the group, as the kernel lists the children of
/// each thread. One whose parent has ended is not among them.
pub(crate) fn descendants(pid: u32, group: u32) -> Vec<Member> {
    let mut found: Vec<Member> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            let Some(stat) = Stat::of(child) else { continue };
            let member = Member { pid: child, started: stat.started };
            if stat.group == group && !stat.is_dead() && !found.contains(&member) {
                found.push(member);
                parents.push(child);
            }
        }
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    if !proc_stat::is_usable() {
        return Vec::new();
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().flat_map(str::parse).collect::<Vec<u32>>())
        .collect()
}
