//! What a spawn costs in a big process, with each option and with all of them, against what the
//! standard library does: `spawn/OPTION/RSS`. `std` is posix_spawn, `std_pre_exec` its fork.
//!
//! The memory is touched in 4 KiB pages, as a heap of many small objects is: a fork copies the
//! tables of all of them. Each round spawns `true` and reaps it outside of the time taken; the
//! agents are aborted by the engine, whose hop to the spawning thread is in the time.
//!
//! `AGENTPIPE_BENCH_RSS_MIB=1024` (the default) sets the size of the big process.
#![expect(unsafe_code, reason = "pre_exec, the peer, is unsafe; so is madvise")]

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agentpipe::{AgentCommand, Engine, ErrorKind, Resource};
use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};

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

fn peer(prepare: impl Fn(&mut Command)) -> Duration {
    let mut command = Command::new("/bin/true");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    prepare(&mut command);
    let begin = Instant::now();
    let mut child = command.spawn().expect("spawns");
    let took = begin.elapsed();
    child.wait().expect("reaped");
    took
}

fn options() -> Vec<(&'static str, AgentCommand)> {
    let plain = || AgentCommand::new("/bin/true");
    let all = AgentCommand::new("true")
        .env("PATH", "/nowhere:/usr/bin:/bin")
        .cwd("/")
        .user(65_534, 65_534)
        .groups([65_534])
        .limit(Resource::OpenFiles, 256, 256)
        .limit(Resource::Core, 0, 0)
        .cgroup()
        .die_with_parent(true);
    vec![
        ("plain", plain()),
        ("user", plain().user(65_534, 65_534)),
        ("limits", plain().limit(Resource::OpenFiles, 256, 256).limit(Resource::Core, 0, 0)),
        ("cwd", plain().cwd("/")),
        ("bare_name", AgentCommand::new("true").env("PATH", "/nowhere:/usr/bin:/bin")),
        ("cgroup", plain().cgroup()),
        ("die_with_parent", plain().die_with_parent(true)),
        ("all", all),
    ]
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    option: &str,
    size: &str,
    one: impl Fn() -> Duration,
) {
    group.bench_function(format!("{option}/{size}"), |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| one()).sum());
    });
}

#[expect(clippy::print_stderr, reason = "an option that is not measured is said aloud")]
fn tell(option: &str, error: &agentpipe::Error) {
    eprintln!("spawn/{option}: not measured: {error}");
}

fn spawns(criterion: &mut Criterion) {
    let mib =
        std::env::var("AGENTPIPE_BENCH_RSS_MIB").map_or(1024, |mib| mib.parse().expect("MiB"));
    let memory = touched(mib);
    let size = format!("{mib}MiB");
    let engine = Engine::new().expect("io_uring");
    let mut group = criterion.benchmark_group("spawn");
    group.sample_size(10);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800));
    measure(&mut group, "std", &size, || peer(|_| {}));
    measure(&mut group, "std_pre_exec", &size, || {
        peer(|command| {
            // SAFETY: does nothing at all.
            unsafe { command.pre_exec(|| Ok(())) };
        })
    });
    for (option, command) in options() {
        let one = || {
            let begin = Instant::now();
            let agent = engine.spawn_blocking(command.clone()).expect("spawned before");
            let took = begin.elapsed();
            agent.abort_blocking();
            took
        };
        match engine.spawn_blocking(command.clone()) {
            Ok(agent) => {
                agent.abort_blocking();
                measure(&mut group, option, &size, one);
            }
            // Said aloud: without root there are neither users nor cgroups to be had.
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, ErrorKind::NotPermitted | ErrorKind::CgroupUnavailable));
                tell(option, &error);
            }
        }
    }
    group.finish();
    assert_eq!(memory[0], 1);
}

criterion_group!(benches, spawns);
criterion_main!(benches);
