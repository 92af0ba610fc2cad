//! Spawn: the cost in a process with much memory, with each option and with all of them, compared with the
//! standard library. `std` is posix_spawn, `std_pre_exec` is fork.
//!
//! The time is that for which the caller of `Engine::spawn_blocking` waits. With `die_with_parent`, and
//! for `plain_async`, it includes the way to a spawn thread of the engine and back.
//!
//! The memory is touched in 4 KiB pages, like a heap of many small objects: a fork copies the page tables
//! of all of them. Each round spawns `true`; killing and reaping it are not timed.
//!
//! `AGENTPIPE_BENCH_RSS_MIB=1024` (the default) sets the size of the big process.
#![expect(unsafe_code, reason = "pre_exec, the peer, is unsafe; so is madvise")]

mod support;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agentpipe::{AgentCommand, Engine, ErrorKind, ResourceLimit};
use criterion::{Criterion, criterion_group, criterion_main};

use crate::support::contest::{Contest, Contestant, rounds};
use crate::support::stopwatch::Stopwatch;

/// Returns touched memory in pages of 4 KiB.
fn touched(mib: usize) -> Vec<u8> {
    let size = mib << 20;
    let mut memory = vec![0_u8; size];
    let page = 4096;
    let begin = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(page));
    // SAFETY: whole pages inside of `memory`; the advice changes no contents.
    let advised = unsafe { libc::madvise(begin.cast(), size - 2 * page, libc::MADV_NOHUGEPAGE) };
    assert_eq!(advised, 0, "madvise: {}", std::io::Error::last_os_error());
    memory.iter_mut().step_by(page).for_each(|byte| *byte = 1);
    memory
}

fn options() -> Vec<(&'static str, AgentCommand)> {
    let plain = || AgentCommand::new("/bin/true");
    let all = AgentCommand::new("true")
        .env("PATH", "/nowhere:/usr/bin:/bin")
        .cwd("/")
        .user(65_534, 65_534)
        .groups([65_534])
        .limit(ResourceLimit::OpenFiles, 256, 256)
        .limit(ResourceLimit::Core, 0, 0)
        .cgroup()
        .die_with_parent(true);
    vec![
        ("plain", plain()),
        ("user", plain().user(65_534, 65_534)),
        (
            "limits",
            plain().limit(ResourceLimit::OpenFiles, 256, 256).limit(ResourceLimit::Core, 0, 0),
        ),
        ("cwd", plain().cwd("/")),
        ("bare_name", AgentCommand::new("true").env("PATH", "/nowhere:/usr/bin:/bin")),
        ("cgroup", plain().cgroup()),
        ("die_with_parent", plain().die_with_parent(true)),
        ("all", all),
    ]
}

/// The pause before each round, until the last child has left its CPU: a spawn during that exit gets the
/// same CPU and saves a migration.
const PAUSE: Duration = Duration::from_millis(1);

/// Returns a contestant that times `spawn`, the time until the child runs, but not `reap`.
fn spawns_of<'a, T: 'a>(
    name: &'static str,
    spawn: impl Fn() -> T + 'a,
    reap: impl Fn(T) + 'a,
) -> Contestant<'a> {
    rounds(name, move || {
        std::thread::sleep(PAUSE);
        let watch = Stopwatch::start();
        let child = spawn();
        let took = watch.stop();
        reap(child);
        took
    })
}

fn std_child(prepare: impl Fn(&mut Command)) -> Child {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    prepare(&mut command);
    command.spawn().expect("spawns")
}

fn reap(mut child: Child) {
    child.kill().expect("unreaped");
    child.wait().expect("reaped");
}

fn posix_spawn<'a>() -> Contestant<'a> {
    spawns_of("std", || std_child(|_| ()), reap)
}

fn fork<'a>() -> Contestant<'a> {
    let prepare = |command: &mut Command| {
        // SAFETY: does nothing at all.
        unsafe { command.pre_exec(|| Ok(())) };
    };
    spawns_of("std_pre_exec", move || std_child(prepare), reap)
}

/// Whether the host allows the option: without root it may allow neither users nor cgroups.
#[expect(clippy::print_stderr, reason = "names an option that is not measured")]
fn is_available(engine: &Engine, option: &str, command: &AgentCommand) -> bool {
    let error = match engine.spawn_blocking(command.clone()) {
        Ok(agent) => {
            agent.abort_blocking();
            return true;
        }
        Err(error) => error,
    };
    let kind = error.kind();
    assert!(matches!(kind, ErrorKind::NotPermitted | ErrorKind::CgroupUnavailable), "{error}");
    eprintln!("spawn/{option}: not measured: {error}");
    false
}

fn spawn(criterion: &mut Criterion) {
    let mib =
        std::env::var("AGENTPIPE_BENCH_RSS_MIB").map_or(1024, |mib| mib.parse().expect("MiB"));
    let memory = touched(mib);
    let engine = Engine::new().expect("io_uring");
    let mut options = options();
    options.retain(|(option, command)| is_available(&engine, option, command));
    let contest = Contest {
        group: "spawn",
        parameter: format!("{mib}MiB"),
        slice: Duration::from_millis(80),
        throughput: None,
    };
    let mut contestants = vec![posix_spawn(), fork()];
    for (option, command) in &options {
        let spawn = || engine.spawn_blocking(command.clone()).expect("spawned before");
        contestants.push(spawns_of(option, spawn, |agent| {
            agent.abort_blocking();
        }));
    }
    let spawn =
        || pollster::block_on(engine.spawn(AgentCommand::new("/bin/true"))).expect("spawns");
    contestants.push(spawns_of("plain_async", spawn, |agent| {
        agent.abort_blocking();
    }));
    contest.run(criterion, contestants);
    assert_eq!(memory[0], 1);
}

criterion_group!(benches, spawn);
criterion_main!(benches);
