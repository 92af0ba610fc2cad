//! Floor 0. What the kernel was found to offer.

use std::fmt;

/// What an engine found on this kernel, by probe and self-test at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// The ring's setup flags that the kernel took.
    pub setup_flags: &'static str,
    /// Entries of the submission queue, as granted.
    pub sq_entries: u32,
    /// Entries of the completion queue, as granted.
    pub cq_entries: u32,
    /// Pool buffers of each engine thread.
    pub buffers: u16,
    /// Bytes in each of them.
    pub buffer_size: u32,
    /// `min_wait`: a coalescing window in the kernel (Linux 6.12).
    pub min_wait: bool,
    /// A sleeping engine is not counted as iowait (Linux 6.15).
    pub no_iowait: bool,
    /// Writes to a broken pipe raise no SIGPIPE (Linux 6.18).
    pub nosignal: bool,
}

/// The tier in one line.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |yes: bool| if yes { "yes" } else { "no" };
        write!(
            f,
            "io_uring with multishot reads, flags {}, {}+{} entries, {} buffers of {} bytes, \
             min_wait {}, no_iowait {}, nosignal {}",
            self.setup_flags,
            self.sq_entries,
            self.cq_entries,
            self.buffers,
            self.buffer_size,
            has(self.min_wait),
            has(self.no_iowait),
            has(self.nosignal)
        )
    }
}
