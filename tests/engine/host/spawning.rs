//! What a spawn leaves in the host, and what a host that dies in the middle of one leaves behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::own_process::{alone, is_alone, test_name, this_test};
use crate::support::process::marked;
use crate::support::{CEILING, engine};
use agentpipe::{AgentCommand, ClosePolicy, Engine, ExitStatus};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").expect("proc").lines().count()
}

fn check_one(engine: &Engine) {
    let agent = engine.spawn_blocking(AgentCommand::new("true")).expect("spawns");
    assert_eq!(agent.closed_blocking().exit(), ExitStatus::Code(0));
}

// Each child runs on its own stack until its exec. One left mapped at each spawn costs 128 KiB of
// address space, and after 32 000 spawns mmap fails.
#[test]
fn spawn_leaves_no_stack_behind() {
    const SPAWNS: usize = 200;
    if !alone(test_name!()) {
        return;
    }
    let engine = engine();
    let on_a_thread = || thread::scope(|scope| scope.spawn(|| check_one(&engine)).join());
    let both = || {
        check_one(&engine);
        on_a_thread().expect("no panic");
    };
    // The first ones pay for what threads and allocator keep.
    (0..20).for_each(|_| both());
    let before = mappings();
    (0..SPAWNS).for_each(|_| check_one(&engine));
    let after = mappings();
    assert!(after < before + SPAWNS / 4, "{before} mappings, after {SPAWNS} spawns {after}");
    (0..SPAWNS).for_each(|_| on_a_thread().expect("no panic"));
    let after = mappings();
    assert!(after < before + SPAWNS / 4, "{before} mappings, after {SPAWNS} threads {after}");
}

/// In the environment of a host and of all its agents: one for a host with a guard, one for the other,
/// because both tests run at a time.
const GUARDED: &str = "AGENTPIPE_ORPHAN_TEST_GUARDED";
const UNGUARDED: &str = "AGENTPIPE_ORPHAN_TEST_UNGUARDED";

/// Has very many descriptors open. A child closes its copies of them first thing, so most of a spawn
/// is the part before the child asks for its parent's death.
fn slow_spawns_down() -> Vec<File> {
    const ENOUGH: u64 = 20_000;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: maximum, maximum };
    setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
    let count = maximum.map_or(ENOUGH, |most| ENOUGH.min(most.saturating_sub(200)));
    let null = File::open("/dev/null").expect("open");
    (0..count).map(|_| null.try_clone().expect("within the limit")).collect()
}

/// Spawns without a pause, until it is killed.
#[expect(clippy::print_stdout, reason = "the test reads it")]
fn host() {
    let _open = slow_spawns_down();
    let guarded = std::env::var_os(GUARDED).is_some();
    let engine = Engine::builder().guard(guarded).build().expect("starts");
    let at_once = ClosePolicy::abort().abort_grace(Duration::ZERO);
    let command =
        AgentCommand::new("sleep").arg("1000").die_with_parent(!guarded).close_policy(at_once);
    println!("\nspawns");
    loop {
        engine.spawn_blocking(command.clone()).expect("spawns").abort_blocking();
    }
}

fn start_host(test: &str, mark: &str) -> Child {
    let mut host = this_test(test)
        .env(mark, std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(host.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line == "spawns")), "it spawns");
    host
}

// The host is killed while it spawns. An agent that registers for its parent's death after that
// gets no signal, and lives on.
#[test]
fn host_killed_during_a_spawn_leaves_no_agent() {
    if is_alone() {
        host();
    } else {
        check_no_agent_is_left(test_name!(), UNGUARDED);
    }
}

// An agent in the middle of its exec shows no environment, and one before it has not entered itself.
#[test]
fn guarded_host_killed_during_a_spawn_leaves_no_agent() {
    if is_alone() {
        host();
    } else {
        check_no_agent_is_left(test_name!(), GUARDED);
    }
}

fn check_no_agent_is_left(test: &str, mark: &str) {
    for round in 0..20 {
        let mut host = start_host(test, mark);
        // Another moment of a spawn each time.
        let until = Instant::now() + Duration::from_micros(500 * round);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        host.kill().expect("SIGKILL");
        host.wait().expect("reaped");
    }
    // Those that were told of the death go within a moment; what stays is ended by us.
    let begun = Instant::now();
    while !marked(mark).is_empty() && begun.elapsed() < CEILING {
        thread::sleep(Duration::from_millis(1));
    }
    let left = marked(mark);
    for path in &left {
        let pid = path.file_name().and_then(|name| Pid::from_raw(name.to_str()?.parse().ok()?));
        let _gone = kill_process(pid.expect("a pid"), Signal::KILL);
    }
    assert!(left.is_empty(), "they outlived their host: {left:?}");
}
