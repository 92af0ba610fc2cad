//! What a process holds, counted from `/proc`: for the tests that demand the exact start value.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What the process holds. The descriptors by what they are, so that a failure names the leak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) descriptors: BTreeMap<String, usize>,
    pub(crate) children: Vec<String>,
    pub(crate) threads: Vec<String>,
}

impl Held {
    pub(crate) fn now() -> Self {
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/fd").expect("proc").flatten() {
            // The one that this listing uses is gone by now.
            if let Ok(target) = fs::read_link(entry.path()) {
                *descriptors.entry(kind_of(&target)).or_default() += 1;
            }
        }
        let mut threads: Vec<String> = fs::read_dir("/proc/self/task")
            .expect("proc")
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
            .collect();
        threads.sort();
        Self { descriptors, children: children(), threads }
    }
}

/// `pipe:[123]` is a pipe; of the others the number is no matter either.
fn kind_of(target: &Path) -> String {
    let text = target.to_string_lossy();
    text.split(":[").next().unwrap_or_default().to_owned()
}

/// Every process whose parent is this one, zombies too.
fn children() -> Vec<String> {
    let own = std::process::id().to_string();
    let parent = |stat: &str| -> Option<bool> {
        // The name in parentheses may hold anything; state and parent follow the last one.
        Some(stat.rsplit_once(')')?.1.split_whitespace().nth(1)? == own)
    };
    processes()
        .filter_map(|path| fs::read_to_string(path.join("stat")).ok())
        .filter(|stat| parent(stat) == Some(true))
        .collect()
}

/// Their folders in `/proc`, all of the host.
pub(crate) fn processes() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc").expect("proc").flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(|c: char| c.is_ascii_digit())
    })
}
