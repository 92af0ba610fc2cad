//! The plain counters that an engine and its agents publish, and what the kernel was found to offer.

use std::fmt;

/// Which kernel interface carries the pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring: multishot reads into a shared buffer ring, exact cancellation.
    IoUring,
    /// epoll, for hosts that deny io_uring. Not in this version; see docs/kernel.md.
    Epoll,
}

impl Backend {
    /// `io_uring` or `epoll`, as in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// What an engine found on this kernel, by probe and self-test at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelFeatures {
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
impl fmt::Display for KernelFeatures {
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

/// What one ring has done since it was set up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IoCounters {
    /// Submissions pushed but not yet given to the kernel.
    pub queued: u64,
    /// Operations whose final completion has not come.
    pub in_kernel: u64,
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Submission entries given to the kernel.
    pub submitted: u64,
    /// Completion entries taken from the kernel.
    pub completions: u64,
    /// Completions whose token was stale. Any but 0 is a defect: please report it.
    pub stale: u64,
    /// Pool buffers there are.
    pub buffers: u64,
    /// Pool buffers free now.
    pub buffers_free: u64,
    /// The fewest there were free.
    pub buffers_free_min: u64,
    /// Times a read ended because the pool was empty. It is re-armed; no byte is lost.
    pub starved: u64,
    /// Times completions had to wait in the kernel because the queue was full. None is lost.
    pub overflows: u64,
}

/// What one agent has done since it was spawned. Sizes are bytes on the pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentStats {
    /// Records that came from the agent, discarded ones included.
    pub records_in: u64,
    /// Bytes read from its stdout, framing included.
    pub bytes_in: u64,
    /// Records written to its stdin in full.
    pub records_out: u64,
    /// Bytes written to its stdin.
    pub bytes_out: u64,
    /// Records that nobody took: the reader was dropped, or the drain budget was full.
    pub records_discarded: u64,
    /// The bytes of those records.
    pub bytes_discarded: u64,
    /// Lines that are not records.
    pub noise: u64,
    /// Records that are not valid JSON or UTF-8, or have a broken header.
    pub malformed: u64,
    /// Records above the limit.
    pub oversized: u64,
    /// Records cut off by the end of the output: 0 or 1.
    pub truncated: u64,
    /// Bytes of that record that came.
    pub truncated_tail_bytes: u64,
    /// Bytes read from stderr.
    pub stderr_bytes: u64,
    /// Stderr lines for which the inbox had no room.
    pub stderr_lines_dropped: u64,
    /// Times reading stdout was paused because the reader was slow.
    pub pauses: u64,
    /// Size of the stdin pipe, as granted.
    pub stdin_pipe_size: u64,
    /// Size of the stdout pipe, as granted.
    pub stdout_pipe_size: u64,
}

/// What all agents of a thread have done together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) records_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) records_out: u64,
    pub(crate) bytes_out: u64,
    pub(crate) records_discarded: u64,
    pub(crate) bytes_discarded: u64,
    pub(crate) pauses: u64,
}

impl Work {
    /// Adds what came between two readings of the same counters.
    pub(crate) fn add_difference(&mut self, before: &Self, after: &Self) {
        self.records_in += after.records_in - before.records_in;
        self.bytes_in += after.bytes_in - before.bytes_in;
        self.records_out += after.records_out - before.records_out;
        self.bytes_out += after.bytes_out - before.bytes_out;
        self.records_discarded += after.records_discarded - before.records_discarded;
        self.bytes_discarded += after.bytes_discarded - before.bytes_discarded;
        self.pauses += after.pauses - before.pauses;
    }

    /// One number for the effort: a record, or a KiB of it.
    pub(crate) fn units(&self) -> u64 {
        self.records_in + self.records_out + (self.bytes_in + self.bytes_out) / 1024
    }
}

impl From<&AgentStats> for Work {
    fn from(stats: &AgentStats) -> Self {
        Self {
            records_in: stats.records_in,
            bytes_in: stats.bytes_in,
            records_out: stats.records_out,
            bytes_out: stats.bytes_out,
            records_discarded: stats.records_discarded,
            bytes_discarded: stats.bytes_discarded,
            pauses: stats.pauses,
        }
    }
}
