//! The limits of this process, and the cost of a spawn. A limit applies to the whole process, so each
//! test runs alone in a process: this test binary with one test selected.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{run, shell};
use crate::command::AgentCommand;
use crate::command::ResourceLimit as Limited;
use crate::error::ErrorKind;
use crate::process::spawn::spawn;

const ALONE: &str = "AGENTPIPE_TEST_ALONE";

/// Returns true in the separate process. Otherwise runs it, and asserts that the test passed there.
pub(super) fn alone(file: &str, test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg(format!("process::tests::{file}::{test}"))
        .env(ALONE, "1")
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "it did not run: {text}");
    false
}

fn set_limit(resource: Resource, soft: u64) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(soft), maximum }).expect("a lower limit");
}

fn open_descriptors() -> usize {
    // Minus the descriptor that reads the directory.
    fs::read_dir("/proc/self/fd").expect("fd").count() - 1
}

/// The error must name the limit, and nothing may leak at whichever of the seven descriptors of a spawn
/// the limit is reached.
#[test]
fn descriptor_limit_is_reported_without_a_leak() {
    if !alone("limits", "descriptor_limit_is_reported_without_a_leak") {
        return;
    }
    let command = AgentCommand::new("/bin/cat");
    set_limit(Resource::Nofile, 64);
    let mut held = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        held.push(file);
    }
    for free in 0..7 {
        let error = spawn(&command).expect_err("no descriptor left");
        assert_eq!(error.kind(), ErrorKind::ResourceLimit, "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        let text = error.to_string();
        assert!(text.contains("RLIMIT_NOFILE of this process is 64 "), "{text}");
        assert!(text.contains("4 descriptors per agent"), "{text}");
        // Counted by filling up: exactly the free ones are free again.
        let fill: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        assert_eq!(fill.len(), free);
        held.pop();
    }
    let spawned = spawn(&command).expect("seven will do");
    drop(spawned);
    let fill: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert_eq!(fill.len(), 7);
}

/// No descriptor may be left of an agent, whether it ran or could not be spawned.
#[test]
fn spawns_leak_no_descriptor() {
    if !alone("limits", "spawns_leak_no_descriptor") {
        return;
    }
    let before = open_descriptors();
    for _ in 0..10 {
        run(&shell("exit 3"));
        drop(spawn(&AgentCommand::new("/bin/cat")).expect("spawns"));
        let long = AgentCommand::new("/bin/cat").arg("x".repeat(200_000));
        spawn(&long).expect_err("too long");
        // Nor at each step before the exec, nor with a cgroup if the host allows one.
        let all = AgentCommand::new("/bin/cat").user(65_534, 65_534).die_with_parent(true);
        spawn(&all.clone().cwd("/root/no")).expect_err("no directory");
        spawn(&all.clone().limit(Limited::OpenFiles, 1 << 40, 1 << 40)).expect_err("no such limit");
        spawn(&all.clone().cgroup().arg("x".repeat(200_000))).expect_err("too long");
        spawn(&all.clone().cgroup_beneath("/proc")).expect_err("no cgroup");
        drop(spawn(&all.cgroup()));
    }
    assert_eq!(open_descriptors(), before);
}

/// clone(2) fails with EAGAIN.
#[test]
fn process_limit_is_reported() {
    if !alone("limits", "process_limit_is_reported") {
        return;
    }
    set_limit(Resource::Nproc, 0);
    // Root is exempt.
    super::become_nobody();
    let before = open_descriptors();
    let error = spawn(&AgentCommand::new("/bin/cat")).expect_err("no process left");
    assert_eq!(error.kind(), ErrorKind::ResourceLimit, "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    let text = error.to_string();
    assert!(text.contains("RLIMIT_NPROC of the user is 0, and is reached"), "{text}");
    assert!(text.contains("ulimit -u"), "{text}");
    assert_eq!(open_descriptors(), before);
}

/// A fork copies page tables: 11 ms at 256 MiB, 45 ms at 1 GiB. The standard library forks for most of
/// these options.
#[test]
fn spawn_cost_does_not_grow_with_memory() {
    if !alone("limits", "spawn_cost_does_not_grow_with_memory") {
        return;
    }
    let fastest = |command: &AgentCommand| -> Duration {
        let one = || {
            let begin = Instant::now();
            let spawned = spawn(command).expect("spawns");
            let took = begin.elapsed();
            drop(spawned);
            took
        };
        (0..20).map(|_| one()).min().expect("some")
    };
    let plain = AgentCommand::new("true");
    let small = fastest(&plain);
    let touched = vec![1_u8; 256 << 20];
    let big = fastest(&plain);
    assert_eq!(touched[touched.len() - 1], 1);
    println!("fastest spawn: {small:?}, with 256 MiB: {big:?}");
    // A fork takes more than twice this; a busy machine may cause less.
    let most_of = |usual: Duration| (usual * 5).max(Duration::from_millis(5));
    assert!(big <= most_of(small), "{small:?} became {big:?}");
    let most = plain
        .clone()
        .env("PATH", "/nowhere:/usr/bin:/bin")
        .cwd("/")
        .limit(Limited::Core, 0, 0)
        .die_with_parent(true);
    let whole = most.clone().user(65_534, 65_534).groups([65_534]).cgroup();
    // Without root there are neither users nor cgroups; which those tests hold.
    let options = if spawn(&whole).is_ok() { [most, whole] } else { [most.clone(), most] };
    for command in options {
        let took = fastest(&command);
        println!("{took:?}: {command:?}");
        assert!(took <= most_of(big), "{big:?} became {took:?} with {command:?}");
    }
    assert_eq!(touched[touched.len() / 2], 1);
}
