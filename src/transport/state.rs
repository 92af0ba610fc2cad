//! Floor 2. One agent: its child, its descriptors, its framer, its queues and its close.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::close::ClosePolicy;
use crate::close::ExitStatus;
use crate::counters::{AgentStats, Backend};
use crate::frame::{Framer, StderrLines};
use crate::io::{EndId, PipeIo, Role};
use crate::process::Child;

use super::adoption::LiveAgent;
use super::channel::Channel;
use super::close::Closing;
use super::read::Intake;
use super::write_queue::WriteQueue;

/// One descriptor of the agent, as far as this end knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open(EndId),
    /// Given to `PipeIo::close`; its `Closed` is awaited.
    Closing,
    Closed,
}

impl End {
    pub(super) fn open(self) -> Option<EndId> {
        match self {
            Self::Open(id) => Some(id),
            Self::Closing | Self::Closed => None,
        }
    }
}

/// The four descriptors that an agent costs this process, and one more while it is closed.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) stdin: End,
    pub(super) stdout: End,
    pub(super) stderr: End,
    pub(super) exit: End,
    /// Open only while its killed cgroup is not empty yet.
    pub(super) cgroup: End,
}

impl Ends {
    pub(super) fn get_mut(&mut self, role: Role) -> Option<&mut End> {
        match role {
            Role::Stdin => Some(&mut self.stdin),
            Role::Stdout => Some(&mut self.stdout),
            Role::Stderr => Some(&mut self.stderr),
            Role::Exit => Some(&mut self.exit),
            Role::Cgroup => Some(&mut self.cgroup),
            Role::Wake => None,
        }
    }

    /// Closes the given descriptors that are open, in one submission.
    pub(super) fn close(&mut self, io: &mut dyn PipeIo, roles: &[Role]) {
        let mut ids = Vec::with_capacity(roles.len());
        for role in roles {
            if let Some(end) = self.get_mut(*role)
                && let Some(id) = end.open()
            {
                ids.push(id);
                *end = End::Closing;
            }
        }
        if !ids.is_empty() {
            io.close(&ids);
        }
    }

    /// The pidfd, lent by the ring that owns it.
    pub(super) fn pidfd<'io>(&self, io: &'io dyn PipeIo) -> Option<BorrowedFd<'io>> {
        io.descriptor(self.exit.open()?)
    }

    pub(super) fn pipes_closed(&self) -> bool {
        [self.stdin, self.stdout, self.stderr].iter().all(|end| *end == End::Closed)
    }

    pub(super) fn all_closed(&self) -> bool {
        self.pipes_closed() && self.exit == End::Closed && self.cgroup == End::Closed
    }
}

/// One agent on an engine thread. Methods live with their verb: `read.rs`, `write.rs`,
/// `close.rs`.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(super) channel: Arc<Channel>,
    pub(super) child: Child,
    pub(super) program: String,
    pub(super) backend: Backend,
    pub(super) ends: Ends,
    pub(super) policy: ClosePolicy,

    pub(super) framer: Framer,
    pub(super) stderr: StderrLines,
    pub(super) intake: Intake,
    /// What of its counters is in the sums of its thread already.
    pub(super) tallied: AgentStats,
    /// Reading stdout is stopped until the reader catches up.
    pub(super) paused: bool,
    pub(super) last_output: Instant,
    pub(super) stdout_ended: bool,
    pub(super) stderr_ended: bool,
    /// Stdout ended and the agent lives: when that is taken for the end of the session.
    pub(super) mute_deadline: Option<Instant>,

    pub(super) queue: WriteQueue,
    /// How much of the buffer in flight is on the pipe. `Some` while a write is in the kernel.
    pub(super) write_offset: Option<usize>,
    pub(super) end_when_flushed: bool,

    /// The inodes of its stdout and stderr pipes, by which `/proc` shows who holds them.
    pub(super) outputs: [u64; 2],

    pub(super) exited: bool,
    /// Boxed: most agents are open for most of their life.
    pub(super) close: Option<Box<Closing>>,
    /// How it ended, and why that is unknown, where its engine went without closing it.
    pub(super) exit_at_destroy: Option<(ExitStatus, Option<String>)>,
    /// Counts it among the living agents until its report is there.
    pub(super) live: Option<LiveAgent>,
}

impl Transport {
    /// When this agent wants a tick.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.close {
            Some(closing) => closing.plan.deadline().or_else(|| self.late_reap_at()),
            None => self.mute_deadline,
        }
    }

    /// The engine thread did not run for this long: it is not charged to the agent.
    pub(super) fn postpone(&mut self, gap: Duration) {
        if let Some(closing) = &mut self.close {
            closing.plan.postpone(gap);
            closing.stalled += gap;
        }
        if let Some(deadline) = &mut self.mute_deadline {
            *deadline += gap;
        }
    }

    pub(super) fn outputs_ended(&self) -> bool {
        self.stdout_ended && self.stderr_ended
    }
}
