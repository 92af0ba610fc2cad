//! The close of one agent, without I/O: the policy a caller chooses, the plan that turns events and
//! time into actions, and the report of what happened. `transport::close` carries the actions out.
//!
//! To add a stage, touch `CloseStage` in `report.rs`, `plan.rs`, the match in `transport::close`, and
//! the table in docs/guide/close.md.

mod exit_status;
mod plan;
mod policy;
mod report;

pub use exit_status::ExitStatus;
#[cfg(fuzzing)]
pub(crate) use plan::fuzz;
pub(crate) use plan::{Activity, CloseAction, CloseEvent, ClosePlan, CloseStart, Holders};
pub use policy::{CloseMode, ClosePolicy};
pub use report::{CloseReason, CloseReport, CloseStage, ShutdownReport};
pub(crate) use report::{ContainerEnd, ReportData};
