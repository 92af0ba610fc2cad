//! What a spawn costs in a big process, with each option and with all of them, against what the
//! standard library does. `std` is posix_spawn, `std_pre_exec` its fork.
//!
//! `spawn/itself/OPTION/RSS` is the spawn alone. `spawn/engine/OPTION/RSS` is what the caller of
//! `Engine::spawn_blocking` waits for. With `die_with_parent`, and for a caller that is `async`, the
//! way to a spawning thread of the engine and back is in it.
//!
//! The memory is touched in 4 KiB pages, as a heap of many small objects is: a fork copies the
//! tables of all of them. Each round spawns `true`, and kills and reaps it outside of the time
//! taken.
//!
//! `AGENTPIPE_BENCH_RSS_MIB=1024` (the default) sets the size of the big process.
#![expect(unsafe_code, reason = "pre_exec, the peer, is unsafe; so is madvise")]

mod percentiles;

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentpipe::__bench::spawn_here;
use agentpipe::{AgentCommand, Engine, ErrorKind, ResourceLimit};
use criterion::{Criterion, criterion_group, criterion_main};

use crate::percentiles::{Contest, Contestant, Rounds};

/// Touched memory in pages of 4 KiB.
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

/// Before each round, so that the child before it is gone from its processor: whoever spawns while
/// that one still ends is given the processor it is on, and saves the way to another.
const PAUSE: Duration = Duration::from_millis(1);

/// A contestant whose round is this: the time until the child runs, and the child.
fn rounds<'a, T: 'a>(
    name: &'static str,
    spawn: impl Fn() -> T + 'a,
    reap: impl Fn(T) + 'a,
) -> Contestant<'a> {
    let round = move || {
        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        let child = spawn();
        let took = begin.elapsed();
        reap(child);
        took
    };
    let rounds = move |count: u64| {
        let samples: Vec<Duration> = (0..count).map(|_| round()).collect();
        Rounds { total: samples.iter().sum(), samples }
    };
    (name, Box::new(rounds))
}

fn std_child(prepare: impl Fn(&mut Command)) -> Child {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    prepare(&mut command);
    command.spawn().expect("spawns")
}

/// As an agent is that nobody took over.
fn reap(mut child: Child) {
    child.kill().expect("unreaped");
    child.wait().expect("reaped");
}

fn posix_spawn<'a>() -> Contestant<'a> {
    rounds("std", || std_child(|_| ()), reap)
}

fn fork<'a>() -> Contestant<'a> {
    let prepare = |command: &mut Command| {
        // SAFETY: does nothing at all.
        unsafe { command.pre_exec(|| Ok(())) };
    };
    rounds("std_pre_exec", move || std_child(prepare), reap)
}

/// Said aloud: without root there are neither users nor cgroups to be had.
#[expect(clippy::print_stderr, reason = "an option that is not measured is said aloud")]
fn is_to_be_had(option: &str, command: &AgentCommand) -> bool {
    let Err(error) = spawn_here(command) else { return true };
    let kind = error.kind();
    assert!(matches!(kind, ErrorKind::NotPermitted | ErrorKind::CgroupUnavailable), "{error}");
    eprintln!("spawn/{option}: not measured: {error}");
    false
}

fn spawns(criterion: &mut Criterion) {
    let mib =
        std::env::var("AGENTPIPE_BENCH_RSS_MIB").map_or(1024, |mib| mib.parse().expect("MiB"));
    let memory = touched(mib);
    let engine = Engine::new().expect("io_uring");
    let mut options = options();
    options.retain(|(option, command)| is_to_be_had(option, command));
    let contest = |group| Contest {
        group,
        parameter: format!("{mib}MiB"),
        warm_up: Duration::from_millis(200),
        time: Duration::from_millis(800),
        throughput: None,
    };
    let mut contestants = vec![posix_spawn(), fork()];
    for (option, command) in &options {
        contestants.push(rounds(option, || spawn_here(command).expect("spawned before"), drop));
    }
    contest("spawn/itself").run(criterion, contestants);
    let mut contestants = vec![posix_spawn()];
    for (option, command) in &options {
        let spawn = || engine.spawn_blocking(command.clone()).expect("spawned before");
        contestants.push(rounds(option, spawn, |agent| {
            agent.abort_blocking();
        }));
    }
    let spawn =
        || pollster::block_on(engine.spawn(AgentCommand::new("/bin/true"))).expect("spawns");
    contestants.push(rounds("plain_async", spawn, |agent| {
        agent.abort_blocking();
    }));
    contest("spawn/engine").run(criterion, contestants);
    assert_eq!(memory[0], 1);
}

criterion_group!(benches, spawns);
criterion_main!(benches);
