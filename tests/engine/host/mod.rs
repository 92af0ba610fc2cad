//! The host process around an engine: its signals, its forks, its standard descriptors, its death.
//!
//! What belongs to a process is tried in a process of its own, see `alone`. Times are asserted
//! against generous ceilings only.

mod forks;
mod signals;
mod spawning;
mod stdio;

use agentpipe::{Agent, ExitStatus};

fn check_close(agent: &Agent) {
    let report = agent.close_blocking();
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
}
