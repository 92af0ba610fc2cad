//! Which processes belong to the agents: a table of all processes, and the rules by which a mark spreads.
//!
//! Pure, and without an allocation: the watcher fills it in memory that it has mapped before.

use super::super::procfs::ProcStat;

/// One process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    parent: u32,
    session: u32,
    /// In clock ticks since the boot.
    pub(super) started: u64,
    pub(super) is_dead: bool,
    pub(super) is_stopped: bool,
    pub(super) is_ours: bool,
    /// Its children and its session were marked.
    is_followed: bool,
}

/// All processes of one pass over `/proc`, in the order of their numbers.
#[derive(Debug)]
pub(super) struct Census<'a> {
    table: &'a mut [Process],
    len: usize,
    /// The session of the host, whose members are never ours by it.
    host_session: u32,
}

impl<'a> Census<'a> {
    pub(super) fn new(table: &'a mut [Process], host_session: u32) -> Self {
        Self { table, len: 0, host_session }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a process. `/proc` lists them by number; one out of order is left out, as is one for which
    /// the table has no room.
    pub(super) fn add(&mut self, pid: u32, stat: &ProcStat, is_ours: bool) {
        if self.all().last().is_some_and(|last| last.pid >= pid) {
            return;
        }
        let Some(place) = self.table.get_mut(self.len) else { return };
        *place = Process {
            pid,
            parent: stat.parent,
            session: stat.session,
            started: stat.started,
            is_dead: stat.is_dead(),
            is_stopped: matches!(stat.state, b'T' | b't'),
            is_ours,
            is_followed: false,
        };
        self.len += 1;
    }

    pub(super) fn all(&self) -> &[Process] {
        self.table.get(..self.len).unwrap_or_default()
    }

    /// Returns the living processes that belong to the agents.
    pub(super) fn ours(&self) -> impl Iterator<Item = &Process> {
        self.all().iter().filter(|process| process.is_ours && !process.is_dead)
    }

    fn find(&mut self, pid: u64) -> Option<&mut Process> {
        let table = self.table.get_mut(..self.len)?;
        let at = table.binary_search_by_key(&pid, |process| u64::from(process.pid)).ok()?;
        table.get_mut(at)
    }

    /// Marks the descendants of marked processes, and the members of their sessions: a session holds
    /// only descendants of the process that began it, and each agent begins one.
    pub(super) fn spread(&mut self) {
        while let Some((pid, session)) = self.next_unfollowed() {
            let by_session = self.is_session_ours(session);
            let table = self.table.get_mut(..self.len).unwrap_or_default();
            for process in table {
                let is_child = process.parent == pid;
                process.is_ours |= is_child || (by_session && process.session == session);
            }
        }
    }

    fn next_unfollowed(&mut self) -> Option<(u32, u32)> {
        let table = self.table.get_mut(..self.len)?;
        let process = table.iter_mut().find(|process| process.is_ours && !process.is_followed)?;
        process.is_followed = true;
        Some((process.pid, process.session))
    }

    /// A marked process may be in a session of others: one that took the tag of an agent over.
    /// Then the leader of that session is not marked.
    fn is_session_ours(&mut self, session: u32) -> bool {
        session > 1
            && session != self.host_session
            && self.find(u64::from(session)).is_none_or(|leader| leader.is_ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST_SESSION: u32 = 5;

    /// Returns the numbers of those processes that are ours. The processes are `(pid, parent, session)`; 7,
    /// 10 and 70 have a tag.
    fn ours(processes: &[(u32, u32, u32)]) -> Vec<u32> {
        let mut table = [Process::default(); 16];
        let mut census = Census::new(&mut table, HOST_SESSION);
        for (pid, parent, session) in processes {
            let line =
                format!("{pid} (x) S {parent} 1 {session} 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 100");
            let stat = ProcStat::parse(line.as_bytes()).expect("a line");
            census.add(*pid, &stat, matches!(pid, 7 | 10 | 70));
        }
        census.spread();
        census.ours().map(|process| process.pid).collect()
    }

    #[test]
    fn descendants_without_a_tag_are_found() {
        // A daemon whose parent has ended, a helper in the session of the agent, and their children.
        let agent =
            [(10, 1, 10), (11, 10, 10), (12, 11, 12), (13, 1, 12), (14, 1, 10), (15, 14, 15)];
        assert_eq!(ours(&[&agent[..], &[(20, 1, 20)]].concat()), [10, 11, 12, 13, 14, 15]);
        // The leader of the session has ended.
        assert_eq!(ours(&[(7, 1, 9), (12, 1, 9)]), [7, 12]);
        assert_eq!(ours(&agent[1..]), [0_u32; 0]);
    }

    #[test]
    fn session_of_the_user_is_no_session_of_an_agent() {
        // A shell of the user, with a child that has taken the tag of an agent over (prlimit(1)).
        assert_eq!(ours(&[(60, 1, 60), (61, 60, 60), (70, 60, 60), (71, 70, 60)]), [70, 71]);
        assert_eq!(ours(&[(6, 1, 5), (7, 6, 5)]), [7]);
    }

    #[test]
    fn full_table_leaves_processes_out() {
        let processes: Vec<_> = (1..40).map(|pid| (pid * 10, 1, pid * 10)).collect();
        assert_eq!(ours(&processes), [10, 70]);
    }
}
