//! The ledger: a memfd with the cgroups of an engine, written by the host, read by the watcher once the
//! host is dead. A queue of messages could be full by then.
//!
//! First come the folders that hold cgroups, then one entry for each cgroup. All numbers have 64 bits in the order of
//! the machine: both sides are the same program. Nothing here allocates.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// The space for the path of a folder.
pub(super) const FOLDER: usize = 4096;
/// Agents usually share one folder; a host with more than this makes each spawn in a further one an error.
pub(super) const FOLDERS_MAX: u64 = 64;
/// The space of an entry.
pub(super) const ENTRY: usize = 24;

/// One cgroup. All zero is a free place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The number of its folder, counted from 1.
    pub(super) folder: u64,
    /// The number in its name.
    pub(super) number: u64,
    /// 1 once the host has made it. Before that the name may be that of a cgroup of another host.
    pub(super) is_made: u64,
}

impl Entry {
    pub(super) fn encode(&self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let fields = [self.folder, self.number, self.is_made];
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
        Self { folder: next(), number: next(), is_made: next() }
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
