//! What the handles of an agent are told where no core serves it: none took it over, or
//! this process is a fork of the one that has it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::close::CloseMode;
use crate::close::ExitStatus;
use crate::close::{CloseReason, CloseReport, CloseStage, ReportData};
use crate::counters::{AgentStats, Backend};
use crate::error::{Error, ErrorKind};
use crate::record::Event;

use super::channel::Channel;

impl Channel {
    /// The engine ended before a core took the child over. It was killed and reaped; `alive` says
    /// whether it had not ended by itself before.
    pub(super) fn never_adopted(&self, exit: ExitStatus, alive: bool) {
        let error = Error::new(ErrorKind::EngineStopped, "write", "the engine was shut down");
        self.refuse_writes(error.on_agent(self.label.as_str()));
        self.lose_writes();
        self.closing.set(CloseReason::Shutdown);
        let exited = Event::Exit(exit);
        let weight = exited.weight();
        self.deliver(&mut VecDeque::from([exited]), weight, &AgentStats::default());
        self.end_inbox();
        let mut unsent = Vec::new();
        self.take_frames(&mut unsent);
        self.outcome.set(CloseReport(Arc::new(ReportData {
            ended_by: if alive { CloseStage::Kill } else { CloseStage::Refuse },
            exit,
            unsent_bytes: unsent.iter().map(|frame| frame.len() as u64).sum(),
            unsent_records: unsent.len() as u64,
            ..self.nothing_done(CloseReason::Shutdown)
        })));
    }

    /// The answer to a close in a forked child, where nothing was done.
    pub(super) fn foreign_report(&self) -> CloseReport {
        let exit_note = Some("the agent is another process's".to_owned());
        CloseReport(Arc::new(ReportData { exit_note, ..self.nothing_done(CloseReason::Forked) }))
    }

    fn nothing_done(&self, reason: CloseReason) -> ReportData {
        ReportData {
            backend: Backend::IoUring,
            pid: self.pid,
            command: self.label.clone(),
            mode: CloseMode::Abort,
            reason,
            ended_by: CloseStage::Refuse,
            stages: Vec::new(),
            stalled: Duration::ZERO,
            exit: ExitStatus::Unknown,
            exit_note: None,
            stopped: false,
            input_ended_while_busy: None,
            output_may_be_lost: true,
            stats: AgentStats::default(),
            unsent_bytes: 0,
            unsent_records: 0,
            killed_extra: 0,
            outputs_held: None,
            stderr_tail: String::new(),
        }
    }
}
