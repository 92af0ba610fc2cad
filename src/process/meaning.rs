//! Floor 1. What a command means at a moment: which file would be run, and with which environment.

use std::ffi::CString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::credentials::Credentials;
use super::environment::Environment;
use super::resolve;
use crate::command::AgentCommand;
use crate::error::Error;

/// Two that are equal start the same program in the same surroundings. An update in between, a
/// link that was turned, a changed `PATH` make them differ.
///
/// What the file itself loads (an interpreter, libraries, settings) is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meaning {
    program: PathBuf,
    /// Device, number, size, and when its contents last changed; none where only the agent's user
    /// may see it.
    file: Option<(u64, u64, u64, i64, i64)>,
    /// A digest: it may hold secrets.
    environment: u64,
}

impl Meaning {
    /// Searches as a spawn does, and fails where that would.
    pub(crate) fn of(command: &AgentCommand) -> Result<Self, Error> {
        let env = Environment::of(command)?;
        let as_another = Credentials::of(command)?.user.is_some();
        let cwd = command.cwd.as_deref();
        let program = resolve::program(&command.program, env.path(), cwd, as_another)?;
        let file = fs::metadata(resolve::seen_from_here(&program, cwd));
        let file =
            file.map(|file| (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()));
        Ok(Self { program, file: file.ok(), environment: digest(&env.into_strings()?) })
    }
}

fn digest(environment: &[CString]) -> u64 {
    let mut hasher = DefaultHasher::new();
    environment.hash(&mut hasher);
    hasher.finish()
}
