//! Fingerprints of the executable that a command runs, and of the whole command: they tell whether a
//! spawn now would run the same file in the same environment as a spawn before.

use std::ffi::{CString, OsStr};
use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::credentials::Credentials;
use super::environment::Environment;
use super::resolve;
use crate::command::AgentCommand;
use crate::error::Error;

/// The file that a command runs, as it was when it was found. Another file at the same path, or a
/// changed one, is not equal to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Executable {
    path: PathBuf,
    /// `None` for a file that only the agent's user can see.
    stamp: Option<FileStamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// When its contents last changed, in seconds and nanoseconds.
    modified: (i64, i64),
}

impl Executable {
    /// Searches as [`resolve::program`] does. Returns the path to exec as well, which is relative to
    /// the working directory of the agent.
    pub(super) fn find(
        command: &AgentCommand,
        path: Option<&OsStr>,
        as_other_user: bool,
    ) -> Result<(PathBuf, Self), Error> {
        let (to_exec, found) = resolve::program(command, path, as_other_user)?;
        let seen = resolve::seen_from_here(&to_exec, command.cwd.as_deref());
        Ok((to_exec, Self::new(seen, found.as_ref())))
    }

    fn new(path: PathBuf, found: Option<&Metadata>) -> Self {
        let stamp = found.map(|file| FileStamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        });
        Self { path, stamp }
    }

    /// Returns the path as this process sees it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// What a spawn of a command would run now: two that are equal run the same file in the same
/// environment. An update, a symbolic link that was turned or a changed `PATH` make them differ.
///
/// Files that the executable itself loads (an interpreter, libraries, settings) are not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandFingerprint {
    executable: Executable,
    /// A digest, because the environment may hold secrets.
    environment: u64,
}

impl CommandFingerprint {
    /// Searches as a spawn does, and fails where a spawn would.
    pub(crate) fn of(command: &AgentCommand) -> Result<Self, Error> {
        let env = Environment::of(command)?;
        let as_other_user = Credentials::of(command)?.user.is_some();
        let (_, executable) = Executable::find(command, env.path(), as_other_user)?;
        Ok(Self { executable, environment: digest(&env.into_strings()?) })
    }
}

fn digest(environment: &[CString]) -> u64 {
    // `DefaultHasher::new` has fixed keys, so digests can be compared within this process.
    let mut hasher = DefaultHasher::new();
    environment.hash(&mut hasher);
    hasher.finish()
}
