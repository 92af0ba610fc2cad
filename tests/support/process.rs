//! Processes as `/proc` and pidfds show them: what this one holds, and whether another is gone.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentpipe::Agent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::CEILING;

/// The resources that this process holds. Descriptors are listed by kind, so that a failure names the leak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) descriptors: BTreeMap<String, usize>,
    pub(crate) children: Vec<u32>,
    pub(crate) threads: Vec<String>,
}

impl Held {
    pub(crate) fn now() -> Self {
        let mut descriptors = BTreeMap::new();
        for entry in fs::read_dir("/proc/self/fd").expect("proc").flatten() {
            // The descriptor of this listing is closed when its link is read.
            if let Ok(target) = fs::read_link(entry.path()) {
                *descriptors.entry(kind_of(&target)).or_default() += 1;
            }
        }
        Self { descriptors, children: children(), threads: threads() }
    }
}

/// `pipe:[123]` is a pipe; the number of any other kind does not matter either.
fn kind_of(target: &Path) -> String {
    let text = target.to_string_lossy();
    text.split(":[").next().unwrap_or_default().to_owned()
}

pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// The names of this process's threads, sorted; workers of the kernel are among them.
pub(crate) fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("proc").flatten();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let mut names: Vec<String> = tasks.filter_map(name).map(|n| n.trim().to_owned()).collect();
    names.sort();
    names
}

/// The folder in `/proc` of this process's only engine thread.
pub(crate) fn engine_thread() -> PathBuf {
    let tasks = fs::read_dir("/proc/self/task").expect("proc").flatten().map(|task| task.path());
    let is_engine = |name: std::io::Result<String>| name.is_ok_and(|n| n.trim() == "agentpipe-0");
    let engine = tasks.into_iter().find(|task| is_engine(fs::read_to_string(task.join("comm"))));
    engine.expect("it runs")
}

/// How often the task of this folder in `/proc` gave its core up to wait for something.
pub(crate) fn sleeps_of(task: &Path) -> u64 {
    let status = fs::read_to_string(task.join("status")).expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("in every status").trim().parse().expect("a number")
}

/// The children of this process, zombies too, sorted.
pub(crate) fn children() -> Vec<u32> {
    let own = std::process::id().to_string();
    let is_ours = |path: &PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        // The name in parentheses may hold anything; state and parent follow the last one.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1) == Some(&own)
    };
    let pid = |path: PathBuf| path.file_name()?.to_str()?.parse().ok();
    let mut pids: Vec<u32> = processes().filter(is_ours).filter_map(pid).collect();
    pids.sort_unstable();
    pids
}

/// The folders in `/proc` of all processes of the host.
pub(crate) fn processes() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc").expect("proc").flatten().map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// The processes that have this process's id in their environment under `key`, whatever their parent
/// is. A child before its exec shows the environment of its parent.
pub(crate) fn marked(key: &str) -> Vec<PathBuf> {
    let mark = format!("{key}={}", std::process::id());
    let has_mark = |path: &PathBuf| {
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    };
    processes().filter(has_mark).collect()
}

/// The names of the cgroups of a host.
pub(crate) fn cgroups_of(host: u32) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("proc");
    let points = mounts.lines().filter(|line| line.contains(" cgroup2 "));
    let mut folders: Vec<PathBuf> =
        points.filter_map(|line| line.split(' ').nth(1)).map(Into::into).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("agentpipe-{host}-")) {
                found.push(name);
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

pub(crate) fn pid(agent: &Agent) -> Pid {
    Pid::from_raw(i32::try_from(agent.pid()).expect("a pid")).expect("not zero")
}

/// Neither running nor a zombie.
pub(crate) fn is_gone(pid: impl Display) -> bool {
    !fs::exists(format!("/proc/{pid}")).expect("readable")
}

/// Waits until the process is dead and reaped.
pub(crate) fn assert_gone(pid: u32) {
    let begun = Instant::now();
    if let Some(pid) = Pid::from_raw(pid.try_into().expect("a pid"))
        && let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
    {
        ends_within(&pidfd, CEILING);
    }
    while !is_gone(pid) {
        assert!(begun.elapsed() < CEILING, "process {pid} is still there");
        std::thread::yield_now();
    }
}

/// A process that is none of our children, or not ours to reap.
pub(crate) fn watch(pid: u32) -> OwnedFd {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not zero");
    pidfd_open(pid, PidfdFlags::empty()).expect("it is there")
}

/// Whether the process ends within this time.
pub(crate) fn ends_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).expect("a short time");
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)).expect("poll") == 1
}

pub(crate) fn await_end(pidfd: &OwnedFd, what: &str) {
    assert!(ends_within(pidfd, CEILING), "{what} lives on");
}

/// Writes a program by another process: a child that another test spawns could inherit a descriptor
/// of this one, and a program that is open for writing cannot be run.
pub(crate) fn install(path: &Path, script: &str) {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).expect("folders");
    }
    let mut child = Command::new("/bin/sh")
        .args(["-c", r#"cat >"$0.new" && chmod +x "$0.new" && mv "$0.new" "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh");
    child.stdin.take().expect("piped").write_all(script.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success());
}
