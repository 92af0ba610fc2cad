//! Floor 0. What of an agent the kernel can limit.

/// A resource of one process, for [`AgentCommand::limit`](crate::AgentCommand::limit).
///
/// The numbers count for each process of the agent by itself, but for
/// [`Processes`](Self::Processes), which counts all of the user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// Address space, bytes (RLIMIT_AS). Runtimes that reserve much of it fail early.
    AddressSpace,
    /// Size of a core dump, bytes (RLIMIT_CORE); 0: none.
    Core,
    /// CPU time, seconds (RLIMIT_CPU): SIGXCPU at the soft limit, SIGKILL at the hard one.
    Cpu,
    /// Heap and data, bytes (RLIMIT_DATA).
    Data,
    /// Size of a file that it writes, bytes (RLIMIT_FSIZE): SIGXFSZ.
    FileSize,
    /// Locked memory, bytes (RLIMIT_MEMLOCK).
    LockedMemory,
    /// Open descriptors (RLIMIT_NOFILE).
    OpenFiles,
    /// Processes and threads of the user (RLIMIT_NPROC). Root is exempt.
    Processes,
    /// Stack, bytes (RLIMIT_STACK). A quarter of it is what arguments and environment may take.
    Stack,
}

impl Resource {
    /// The name of the limit in manuals: `RLIMIT_NOFILE` and so on.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AddressSpace => "RLIMIT_AS",
            Self::Core => "RLIMIT_CORE",
            Self::Cpu => "RLIMIT_CPU",
            Self::Data => "RLIMIT_DATA",
            Self::FileSize => "RLIMIT_FSIZE",
            Self::LockedMemory => "RLIMIT_MEMLOCK",
            Self::OpenFiles => "RLIMIT_NOFILE",
            Self::Processes => "RLIMIT_NPROC",
            Self::Stack => "RLIMIT_STACK",
        }
    }
}
