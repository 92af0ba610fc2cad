//! Fills the close report in from what the transport counted.

use std::sync::Arc;

use crate::close::CloseMode;
use crate::close::ExitStatus;
use crate::close::{CloseReason, CloseReport, CloseStage, ReportData};

use super::state::Transport;

/// The report of a finished close.
pub(super) fn write_report(transport: &Transport) -> CloseReport {
    let closing = transport.close.as_ref();
    // Without a close the engine went, or failed, and the agent with it.
    let (exit, exit_note) = match (closing.and_then(|c| c.exit), &transport.exit_at_destroy) {
        (Some(exit), _) => (exit, closing.and_then(|c| c.exit_note.clone())),
        (None, Some((exit, note))) => (*exit, note.clone()),
        (None, None) => (ExitStatus::Unknown, None),
    };
    CloseReport(Arc::new(ReportData {
        backend: transport.backend,
        pid: transport.channel.pid,
        command: transport.program.clone(),
        mode: closing.map_or(CloseMode::Abort, |c| c.plan.mode()),
        reason: closing.map_or(CloseReason::Shutdown, |c| c.reason),
        ended_by: closing.map_or(CloseStage::Refuse, |c| c.plan.ended_by()),
        stages: closing.map(|c| c.plan.spent().to_vec()).unwrap_or_default(),
        stalled: closing.map(|c| c.stalled).unwrap_or_default(),
        exit,
        exit_note,
        stopped: closing.is_some_and(|c| c.plan.was_stopped()),
        input_ended_while_busy: closing.and_then(|c| c.plan.input_ended_while_busy()),
        output_may_be_lost: closing.is_none_or(|c| c.cut_unread || c.plan.was_cut_short()),
        stats: transport.intake.stats,
        unsent_bytes: transport.queue.unsent_bytes() as u64,
        unsent_records: transport.queue.unsent_records() as u64,
        killed_extra: closing.map_or(0, |c| c.killed_extra),
        outputs_held: closing.and_then(|c| c.outputs_held),
        stderr_tail: transport.stderr.tail(),
    }))
}
