//! The ledger: a memfd with the agents of an engine, written by the host and by the agents before their
//! exec, read by the watcher once the host is dead.
//!
//! First come the folders that hold cgroups, then the entries. All numbers have 64 bits in the order of
//! the machine: both sides are the same program. Nothing here allocates.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::process::getpid;
use rustix::time::{ClockId, clock_gettime};

/// The space for the path of a folder.
pub(super) const FOLDER: usize = 4096;
/// Agents usually share one folder; a host with more than this makes each spawn in a further one an error.
pub(super) const FOLDERS_MAX: u64 = 64;
/// The space of an entry.
pub(super) const ENTRY: usize = 32;

/// One agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// 0 until the agent has entered itself.
    pub(super) pid: u64,
    /// The time since the boot in nanoseconds at which the agent was there already: a process that
    /// starts later and has the same number is another one.
    pub(super) born: u64,
    /// The number of the folder of its cgroup, counted from 1; 0 without a cgroup.
    pub(super) folder: u64,
    /// The number in the name of its cgroup.
    pub(super) number: u64,
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let fields = [self.pid, self.born, self.folder, self.number];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|word| {
            let mut number = [0; 8];
            number.copy_from_slice(word);
            u64::from_ne_bytes(number)
        });
        let mut next = || words.next().unwrap_or(0);
        Self { pid: next(), born: next(), folder: next(), number: next() }
    }
}

pub(super) fn folder_at(number: u64) -> u64 {
    number * FOLDER as u64
}

pub(super) fn entry_at(place: u64) -> u64 {
    folder_at(FOLDERS_MAX) + place * ENTRY as u64
}

/// Writes all of `bytes`. A memfd takes a short write in one piece, unless the file size is limited.
pub(super) fn write(ledger: BorrowedFd<'_>, bytes: &[u8], at: u64) -> Result<(), Errno> {
    match rustix::io::pwrite(ledger, bytes, at)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}

/// Enters the calling process in the ledger. Called by the agent between its clone and its exec, in the
/// memory of the host.
pub(super) fn claim(ledger: BorrowedFd<'_>, at: u64) -> Result<(), Errno> {
    let now = clock_gettime(ClockId::Boottime);
    let born = (now.tv_sec.unsigned_abs()).wrapping_mul(1_000_000_000);
    let born = born.wrapping_add(now.tv_nsec.unsigned_abs());
    let mut claim = [0; 16];
    let (pid, time) = claim.split_at_mut(8);
    pid.copy_from_slice(&u64::from(getpid().as_raw_pid().unsigned_abs()).to_ne_bytes());
    time.copy_from_slice(&born.to_ne_bytes());
    // The cgroup, which the host has noted, stays.
    write(ledger, &claim, at)
}
