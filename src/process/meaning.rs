//! Floor 1. What a command means at a moment: which file would be run, and with which environment.

use std::ffi::CString;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::credentials::Credentials;
use super::environment::Environment;
use super::program::Program;
use crate::command::AgentCommand;
use crate::error::Error;

/// Two that are equal start the same program in the same surroundings. An update in between, a
/// link that was turned, a changed `PATH` make them differ.
///
/// What the file itself loads (an interpreter, libraries, settings) is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    program: Program,
    /// A digest: it may hold secrets.
    environment: u64,
}

impl Meaning {
    /// Searches as a spawn does, and fails where that would.
    pub(crate) fn of(command: &AgentCommand) -> Result<Self, Error> {
        let env = Environment::of(command)?;
        let as_another = Credentials::of(command)?.user.is_some();
        let (_, program) = Program::find(command, env.path(), as_another)?;
        Ok(Self { program, environment: digest(&env.into_strings()?) })
    }
}

fn digest(environment: &[CString]) -> u64 {
    let mut hasher = DefaultHasher::new();
    environment.hash(&mut hasher);
    hasher.finish()
}
