//! Close, floor 2: fills the report in from what the transport counted.

use std::sync::Arc;

use crate::close_report::{CloseReason, CloseReport, CloseStage, Closing as Content};
use crate::exit_status::ExitStatus;

use super::state::Transport;

/// The report of a finished close.
pub(super) fn write_report(transport: &Transport) -> CloseReport {
    let closing = transport.close.as_ref();
    CloseReport(Arc::new(Content {
        backend: transport.backend,
        pid: transport.shared.pid,
        command: transport.program.clone(),
        mode: closing.map(|c| c.plan.mode()).unwrap_or_default(),
        reason: closing.map_or(CloseReason::Exited, |c| c.reason),
        ended_by: closing.map_or(CloseStage::Refuse, |c| c.plan.ended_by()),
        stages: closing.map(|c| c.plan.spent().to_vec()).unwrap_or_default(),
        exit: closing.and_then(|c| c.exit).unwrap_or(ExitStatus::Unknown),
        stats: transport.intake.stats,
        unsent_bytes: transport.queue.unsent_bytes() as u64,
        unsent_records: transport.queue.unsent_records() as u64,
        killed_extra: closing.map_or(0, |c| c.killed_extra),
        outputs_held: closing.is_some_and(|c| c.outputs_held),
        stderr_tail: transport.stderr.tail(),
    }))
}
