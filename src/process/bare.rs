//! Floor 1. A spawn on the calling thread and without an engine, for benches/spawn.rs.

use crate::command::AgentCommand;
use crate::error::Result;

use super::spawn::{Spawned, spawn};

/// A running agent. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct SpawnedHere(#[expect(dead_code, reason = "held for its drop")] Spawned);

/// What a spawning thread of an engine does.
///
/// # Errors
/// As [`Engine::spawn`](crate::Engine::spawn).
pub fn spawn_here(command: &AgentCommand) -> Result<SpawnedHere> {
    spawn(command).map(SpawnedHere)
}
