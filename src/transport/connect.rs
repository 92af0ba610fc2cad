//! Floor 2. A spawned child becomes a transport: descriptors adopted, reads and exit watch armed.

use std::sync::Arc;
use std::time::Instant;

use crate::command::AgentCommand;
use crate::counters::AgentStats;
use crate::frame::{Framer, StderrLines};
use crate::io::{PipeIo, Role, Tag};
use crate::process::Spawned;

use super::channel::Channel;
use super::read::Intake;
use super::state::{End, Ends, Transport};
use super::write_queue::WriteQueue;

/// How an agent is named in errors and traces.
pub(super) fn label(spawned: &Spawned) -> String {
    let program = spawned.program();
    let name = program.file_name().unwrap_or(program.as_os_str());
    format!("pid {} ({})", spawned.pid(), name.to_string_lossy())
}

impl Transport {
    pub(super) fn connect(
        io: &mut dyn PipeIo,
        slot: u32,
        spawned: Spawned,
        command: &AgentCommand,
        channel: Arc<Channel>,
        now: Instant,
    ) -> Self {
        let parts = spawned.into_parts();
        let program = parts.program.to_string_lossy().into_owned();
        let stats = AgentStats {
            stdin_pipe_size: parts.stdin_pipe_size as u64,
            stdout_pipe_size: parts.stdout_pipe_size as u64,
            ..AgentStats::default()
        };
        let outputs = [&parts.stdout, &parts.stderr]
            .map(|pipe| rustix::fs::fstat(pipe).map_or(0, |stat| stat.st_ino));
        let tag = |role| Tag { agent: slot, role };
        let stdin = io.adopt(parts.stdin, tag(Role::Stdin));
        let stdout = io.adopt(parts.stdout, tag(Role::Stdout));
        let stderr = io.adopt(parts.stderr, tag(Role::Stderr));
        let exit = io.adopt(parts.pidfd, tag(Role::Exit));
        io.read(stdout);
        io.read(stderr);
        io.watch(exit);
        let limits = command.limits;
        let intake = Intake::new(Arc::clone(&channel), stats, command.stderr_events);
        Self {
            channel,
            child: parts.child,
            program,
            backend: io.backend(),
            ends: Ends {
                stdin: End::Open(stdin),
                stdout: End::Open(stdout),
                stderr: End::Open(stderr),
                exit: End::Open(exit),
                cgroup: End::Closed,
            },
            policy: command.close,
            framer: Framer::new(command.framing, &limits),
            stderr: StderrLines::new(&limits),
            intake,
            tallied: AgentStats::default(),
            paused: false,
            last_output: now,
            stdout_ended: false,
            stderr_ended: false,
            mute_deadline: None,
            queue: WriteQueue::default(),
            write_offset: None,
            end_when_flushed: false,
            outputs,
            exited: false,
            close: None,
            exit_at_destroy: None,
            live: None,
        }
    }
}
