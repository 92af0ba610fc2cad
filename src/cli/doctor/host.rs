//! What the host tells in /proc and in its cgroups: memory, pressure, and the files of limits. All of it
//! may be missing.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Reads a file that holds one number.
pub(super) fn number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Returns `MemTotal` and `MemAvailable`, in bytes.
pub(super) fn memory_of_host() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

/// A limit of the own cgroup, or of one above it.
#[derive(Debug)]
pub(super) struct CgroupLimit {
    pub(super) file: PathBuf,
    pub(super) value: u64,
    pub(super) used: u64,
}

/// Returns the cgroup limit on memory that leaves the least. Cached files that the kernel can drop do not
/// count as used.
pub(super) fn memory_of_cgroup() -> Option<CgroupLimit> {
    let limits = cgroups("memory").into_iter().filter_map(|folder| {
        let (file, current) =
            [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
                .map(|(max, current)| (folder.join(max), folder.join(current)))
                .into_iter()
                .find(|(file, _)| file.exists())?;
        // Version 1 writes a number near 2^63 where there is no limit.
        let value = number(&file).filter(|value| *value < 1 << 62)?;
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let cached = stat.lines().find_map(|line| {
            let line = line.strip_prefix("total_").unwrap_or(line);
            line.strip_prefix("inactive_file ")?.parse().ok()
        });
        let used = number(current)?.saturating_sub(cached.unwrap_or(0));
        Some(CgroupLimit { file, value, used })
    });
    limits.min_by_key(|limit| limit.value.saturating_sub(limit.used))
}

/// Returns the file of the own cgroup, or of one above it, that sets `pids.max` to this value.
pub(super) fn pids_file(value: u64) -> Option<PathBuf> {
    let mut files = cgroups("pids").into_iter().map(|folder| folder.join("pids.max"));
    files.find(|file| number(file) == Some(value))
}

/// Returns the folders of the cgroups that this process is in for a controller, the lowest first, in both
/// versions of cgroups.
pub(super) fn cgroups(controller: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut folders = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (fields.next(), fields.next()) else { continue };
        if !names.is_empty() && names.split(',').all(|name| name != controller) {
            continue;
        }
        let mut points = mounts.lines().filter_map(|mount| mount_of(mount, names, controller));
        let folder = points.find_map(|(root, point)| {
            let below = Path::new(path).strip_prefix(root).ok()?;
            Some((point.join(below), point))
        });
        if let Some((folder, point)) = folder {
            folders.extend(
                folder.ancestors().take_while(|up| up.starts_with(&point)).map(Path::to_path_buf),
            );
        }
    }
    folders
}

/// Returns root and mount point if the line of mountinfo is the hierarchy: version 2 if `names` is empty.
fn mount_of<'a>(line: &'a str, names: &str, controller: &str) -> Option<(&'a str, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1)?);
    let fits = match names {
        "" => name == "cgroup2",
        _ => name == "cgroup" && options.split(',').any(|option| option == controller),
    };
    fits.then(|| (root, PathBuf::from(point)))
}

/// How much of the last seconds tasks of this host waited for a resource (PSI). `None`: the kernel does
/// not tell.
#[derive(Debug, Serialize)]
pub(super) struct Pressure {
    pub(super) cpu: Option<Stall>,
    pub(super) memory: Option<Stall>,
    pub(super) io: Option<Stall>,
}

/// The percentages of time in which some task waited, and in which all did.
#[derive(Debug, Serialize)]
pub(super) struct Stall {
    pub(super) some: Averages,
    pub(super) full: Option<Averages>,
}

/// Percentages of the last 10, 60 and 300 seconds.
#[derive(Debug, Serialize)]
pub(super) struct Averages {
    pub(super) avg10: f64,
    pub(super) avg60: f64,
    pub(super) avg300: f64,
}

pub(super) fn pressure() -> Pressure {
    let read = |name| {
        // A kernel with `psi=0` has the files, and refuses to read them.
        let text = fs::read_to_string(format!("/proc/pressure/{name}")).ok()?;
        let averages = |kind| averages(text.lines().find_map(|line| line.strip_prefix(kind))?);
        Some(Stall { some: averages("some ")?, full: averages("full ") })
    };
    Pressure { cpu: read("cpu"), memory: read("memory"), io: read("io") }
}

/// Parses `avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn averages(text: &str) -> Option<Averages> {
    let field = |name| {
        let mut words = text.split(' ').filter_map(|word| word.split_once('='));
        words.find(|(key, _)| *key == name)?.1.parse().ok()
    };
    Some(Averages { avg10: field("avg10")?, avg60: field("avg60")?, avg300: field("avg300")? })
}
