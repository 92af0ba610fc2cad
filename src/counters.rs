//! Counters of a ring and of an agent, the backend, and the features that the kernel offers.

use std::fmt;

use crate::framing::Framing;

/// The kernel interface that carries the pipes.
///
/// As a setting it says which one an engine may use, as a result which one it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Backend {
    /// io_uring where the host allows it and it passes the self-test, else epoll. Only a setting.
    ///
    /// The variable `AGENTPIPE_BACKEND` of this process decides for every engine with this setting:
    /// `io_uring`, `epoll`, `auto`, or `io_uring_single` for io_uring without multishot reads, as on
    /// Linux before 6.7.
    #[default]
    Auto,
    /// io_uring: reads into a shared buffer ring, exact cancellation. Linux 6.7 has multishot reads.
    IoUring,
    /// epoll and non-blocking calls: the same agents, limits and reports, at one system call more for
    /// each read and write.
    Epoll,
}

impl Backend {
    /// Returns the name used in reports: `io_uring` or `epoll`; `auto` for the setting.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The features that an engine found on this kernel, by a probe and a self-test at its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KernelFeatures {
    /// The backend. With epoll no other feature is used.
    pub backend: Backend,
    /// One read delivers bytes again and again (Linux 6.7).
    pub multishot: bool,
    /// The ring can read, write, poll, cancel and close, and nothing else (Linux 5.10).
    pub restricted: bool,
    /// The setup flags of the ring that the kernel accepted.
    pub setup_flags: &'static str,
    /// Entries of the submission queue, as granted.
    pub sq_entries: u32,
    /// Entries of the completion queue, as granted.
    pub cq_entries: u32,
    /// The number of read buffers of each engine thread.
    pub buffers: u16,
    /// The size of each read buffer in bytes.
    pub buffer_size: u32,
    /// `min_wait`: the kernel can batch completions in one wait (Linux 6.12).
    pub min_wait: bool,
    /// A sleeping engine is not counted as iowait (Linux 6.15).
    pub no_iowait: bool,
    /// Writes to a broken pipe raise no SIGPIPE (Linux 6.18).
    pub nosignal: bool,
}

/// Writes the features in one line.
impl fmt::Display for KernelFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.backend != Backend::IoUring {
            return write!(f, "{}, a buffer of {} bytes", self.backend, self.buffer_size);
        }
        let has = |yes: bool| if yes { "yes" } else { "no" };
        let reads = if self.multishot { "multishot" } else { "single" };
        write!(
            f,
            "io_uring with {reads} reads, flags {}, {}+{} entries, {} buffers of {} bytes, \
             restricted {}, min_wait {}, no_iowait {}, nosignal {}",
            self.setup_flags,
            self.sq_entries,
            self.cq_entries,
            self.buffers,
            self.buffer_size,
            has(self.restricted),
            has(self.min_wait),
            has(self.no_iowait),
            has(self.nosignal)
        )
    }
}

/// Counters of one ring, or of one epoll, since its setup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct IoCounters {
    /// Submissions that are queued but not yet submitted to the kernel.
    pub queued: u64,
    /// Operations whose final completion has not arrived.
    pub in_kernel: u64,
    /// Calls of `io_uring_enter`, or of `epoll_wait`.
    pub enters: u64,
    /// Submission entries that the kernel has taken; with epoll the other system calls.
    pub submitted: u64,
    /// Completion entries taken from the ring; with epoll the results of those calls.
    pub completions: u64,
    /// Completions that belong to no operation. A value other than 0 is a defect: please report it.
    pub stale: u64,
    /// Read buffers of the pool.
    pub buffers: u64,
    /// Read buffers that are free.
    pub buffers_free: u64,
    /// The lowest number of free read buffers so far.
    pub buffers_free_min: u64,
    /// How often a read ended because the pool was empty. The read is submitted again; no byte is lost.
    pub starved: u64,
    /// How often completions waited in the kernel because the completion queue was full. None is lost.
    pub overflows: u64,
}

/// Counters of one agent since its spawn. Sizes are bytes on the pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AgentStats {
    /// Records from the agent, including discarded ones.
    pub records_in: u64,
    /// Bytes read from its stdout, including framing.
    pub bytes_in: u64,
    /// Records written to its stdin in full.
    pub records_out: u64,
    /// Bytes written to its stdin.
    pub bytes_out: u64,
    /// Records that were dropped because the reader was dropped or the drain budget was full.
    pub records_discarded: u64,
    /// The bytes of the discarded records.
    pub bytes_discarded: u64,
    /// Lines that are not records.
    pub noise: u64,
    /// Records that are not valid JSON or UTF-8, or that have a broken header.
    pub malformed: u64,
    /// Records larger than the limit.
    pub oversized: u64,
    /// Records cut off by the end of the output: 0 or 1.
    pub truncated: u64,
    /// Bytes received of the record that was cut off.
    pub truncated_tail_bytes: u64,
    /// The framing of its records: the one that was set, or the one that
    /// [`Framing::Auto`] found. `None` before the first record or header.
    pub output_framing: Option<Framing>,
    /// The framing that the output looks like, if another one is set: then a request may wait for a
    /// record that never comes. `None` again once a record has come.
    pub framing_mismatch: Option<Framing>,
    /// Bytes held of a record whose end has not come. If they stay, the agent may lack the line end
    /// that its framing needs.
    pub unfinished_bytes: u64,
    /// Bytes read from stderr.
    pub stderr_bytes: u64,
    /// Stderr lines that were dropped because the inbox was full.
    pub stderr_lines_dropped: u64,
    /// How often the engine stopped reading stdout because the reader was slow.
    pub pauses: u64,
    /// The size of the stdin pipe in bytes, as the kernel granted it.
    pub stdin_pipe_size: u64,
    /// The size of the stdout pipe in bytes, as the kernel granted it.
    pub stdout_pipe_size: u64,
}
