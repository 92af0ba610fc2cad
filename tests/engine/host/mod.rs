//! The host process around an engine: its signals, its forks, its standard descriptors, its death.
//!
//! A test that changes the process runs in its own, see `alone`.

mod forks;
mod guard;
mod security;
mod signals;
mod spawning;
mod stdio;

use agentpipe::{Agent, ExitStatus};

fn check_close(agent: &Agent) {
    let report = agent.close_blocking();
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
}
