//! Floor 1. A spawn on the calling thread and without an engine, for benches/spawn.rs.

use crate::command::AgentCommand;
use crate::error::Result;

use super::spawn::spawn;

/// What a spawning thread of an engine does. What it returns is a running agent: dropped, it is
/// killed and reaped.
///
/// # Errors
/// As [`Engine::spawn`](crate::Engine::spawn).
pub fn spawn_here(command: &AgentCommand) -> Result<impl Sized + use<>> {
    spawn(command)
}
