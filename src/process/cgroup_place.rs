//! Floor 1. Where on this host an agent's cgroup can be made.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::failure::SPAWN;
use crate::command::CgroupPlace;
use crate::error::{Error, ErrorKind};

/// The folder to make it in.
pub(super) fn place_of(place: &CgroupPlace) -> Result<PathBuf, Error> {
    match place {
        CgroupPlace::Beneath(folder) => Ok(folder.clone()),
        CgroupPlace::Own => own().ok_or_else(|| {
            Error::new(
                ErrorKind::CgroupUnavailable,
                SPAWN,
                "no cgroup2 file system that holds this process is mounted here",
            )
            .remedy("mount one, or do without AgentCommand::cgroup")
        }),
    }
}

/// The folder of this process's own cgroup. Looked up each time: a manager may move us.
pub(super) fn own() -> Option<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    folder_in(&cgroups, &mounts, "")
}

/// The folder that `/proc/self/cgroup` and `/proc/self/mountinfo` together say. With `controller`
/// that of the version 1 hierarchy which has it.
pub(super) fn folder_in(cgroups: &str, mounts: &[u8], controller: &str) -> Option<PathBuf> {
    let path = cgroups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })?;
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let mount = Mount::parse(line)?;
        let fits = if controller.is_empty() {
            mount.kind == b"cgroup2"
        } else {
            mount.kind == b"cgroup"
                && mount
                    .options
                    .split(|byte| *byte == b',')
                    .any(|name| name == controller.as_bytes())
        };
        // A container may see a part of the tree only; what is outside has no path here.
        let below = Path::new(path).strip_prefix(&mount.root).ok()?;
        fits.then(|| mount.point.join(below))
    })
}

/// A line of mountinfo.
struct Mount<'a> {
    root: PathBuf,
    point: PathBuf,
    kind: &'a [u8],
    options: &'a [u8],
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let root = unescaped(fields.nth(3)?);
        let point = unescaped(fields.next()?);
        // Optional fields end with a dash.
        fields.find(|field| *field == b"-")?;
        let kind = fields.next()?;
        let options = fields.nth(1)?;
        Some(Self { root, point, kind, options })
    }
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| str::from_utf8(digits).ok());
        let byte = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte.filter(|_| *first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(plain))
}
