//! Floor 1. The file that was executed, and whether it is still the same.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file as it was when it was found. Another file at the same path is not equal to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    path: PathBuf,
    /// Time of the last change in seconds and nanoseconds, and the size; `None` for one that only
    /// the agent's user can see.
    stamp: Option<(i64, i64, u64)>,
}

impl Program {
    pub(super) fn new(path: PathBuf, found: Option<&Metadata>) -> Self {
        let stamp = found.map(|file| (file.mtime(), file.mtime_nsec(), file.size()));
        Self { path, stamp }
    }

    /// As this process sees it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
