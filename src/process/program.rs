//! Floor 1. The file that was executed, and whether it is still the same.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::resolve;
use crate::command::AgentCommand;
use crate::error::Error;

/// A file as it was when it was found. Another file at the same path is not equal to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    path: PathBuf,
    /// `None` for one that only the agent's user can see.
    stamp: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// When its contents last changed, in seconds and nanoseconds.
    changed: (i64, i64),
}

impl Program {
    /// Looks for it as [`resolve::program`] does: the path to exec, and what is there.
    pub(super) fn find(
        command: &AgentCommand,
        path: Option<&OsStr>,
        as_another: bool,
    ) -> Result<(PathBuf, Self), Error> {
        let (to_exec, found) = resolve::program(command, path, as_another)?;
        let seen = resolve::seen_from_here(&to_exec, command.cwd.as_deref());
        Ok((to_exec, Self::new(seen, found.as_ref())))
    }

    fn new(path: PathBuf, found: Option<&Metadata>) -> Self {
        let stamp = found.map(|file| Stamp {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.mtime(), file.mtime_nsec()),
        });
        Self { path, stamp }
    }

    /// As this process sees it.
    #[cfg(feature = "claude")]
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }
}
