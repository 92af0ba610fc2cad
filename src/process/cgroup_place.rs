//! Floor 1. Where on this host an agent's cgroup can be made.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::failure::{SPAWN, quoted};
use super::refusal::of_cgroup;
use crate::command::CgroupPlace;
use crate::error::{Error, ErrorKind};

/// The magic number of the file system.
const CGROUP2: rustix::fs::FsWord = 0x6367_7270;

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
    static LAST: Mutex<Option<Mounted>> = Mutex::new(None);
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    let is_there = |folder: &Path| must_be_cgroups(folder).is_ok();
    own_in(&cgroups, &mut last, is_there, || fs::read("/proc/self/mountinfo").ok())
}

/// Where the cgroups of version 2 are mounted is read once, and again where it is not true any
/// more: a host with a thousand mounts lists them all, in milliseconds.
fn own_in(
    cgroups: &str,
    last: &mut Option<Mounted>,
    is_there: impl Fn(&Path) -> bool,
    mounts: impl FnOnce() -> Option<Vec<u8>>,
) -> Option<PathBuf> {
    let path = path_in(cgroups, "")?;
    let known = last.as_ref().and_then(|mounted| mounted.folder(path));
    known.filter(|folder| is_there(folder)).or_else(|| {
        let mounted = find_mount(path, &mounts()?, "")?;
        let folder = mounted.folder(path);
        *last = Some(mounted);
        folder
    })
}

/// A folder that somebody named may be anywhere, and one where cgroups were may be something else.
pub(super) fn must_be_cgroups(folder: &Path) -> Result<(), Error> {
    let kind =
        rustix::fs::statfs(folder).map_err(|errno| of_cgroup("made", folder, errno.into()))?;
    if kind.f_type == CGROUP2 {
        return Ok(());
    }
    let what = format!("{} is on no cgroup2 file system", quoted(folder));
    Err(Error::new(ErrorKind::CgroupUnavailable, SPAWN, what)
        .remedy("give a folder of the cgroup2 mount (`findmnt -t cgroup2`)"))
}

/// The folder that `/proc/self/cgroup` and `/proc/self/mountinfo` together say. With `controller`
/// that of the version 1 hierarchy which has it.
pub(super) fn folder_in(cgroups: &str, mounts: &[u8], controller: &str) -> Option<PathBuf> {
    let path = path_in(cgroups, controller)?;
    find_mount(path, mounts, controller)?.folder(path)
}

fn path_in<'a>(cgroups: &'a str, controller: &str) -> Option<&'a str> {
    cgroups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

/// Where a hierarchy is mounted.
#[derive(Debug)]
struct Mounted {
    root: PathBuf,
    point: PathBuf,
}

impl Mounted {
    /// A container may see a part of the tree only; what is outside has no path here.
    fn folder(&self, path: &str) -> Option<PathBuf> {
        Some(self.point.join(Path::new(path).strip_prefix(&self.root).ok()?))
    }
}

/// The first mount of the hierarchy in which `path` can be seen.
fn find_mount(path: &str, mounts: &[u8], controller: &str) -> Option<Mounted> {
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
        let mounted = Mounted { root: mount.root, point: mount.point };
        (fits && mounted.folder(path).is_some()).then_some(mounted)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The story: a host of containers has a thousand mounts, and every spawn listed them all.
    #[test]
    fn the_mounts_are_listed_once_and_again_where_the_cgroups_have_moved() {
        let at = |point: &str| {
            let line = format!("24 1 0:22 / {point} rw - cgroup2 cgroup2 rw\n");
            move || Some(line.clone().into_bytes())
        };
        let is = |path: &str| Some(PathBuf::from(path));
        let unread = || -> Option<Vec<u8>> { panic!("listed again") };
        let mut last = None;
        assert_eq!(own_in("0::/a\n", &mut last, |_| true, at("/one")), is("/one/a"));
        assert_eq!(own_in("0::/b\n", &mut last, |_| true, unread), is("/one/b"));
        let moved = |folder: &Path| folder.starts_with("/two");
        assert_eq!(own_in("0::/b\n", &mut last, moved, at("/two")), is("/two/b"));
        assert_eq!(own_in("0::/c\n", &mut last, moved, unread), is("/two/c"));
        // What cannot be seen in the mount that is known may be seen in another.
        let mut part = Some(Mounted { root: "/docker".into(), point: "/part".into() });
        assert_eq!(own_in("0::/x\n", &mut part, |_| true, at("/all")), is("/all/x"));
    }
}
