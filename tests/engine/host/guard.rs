//! A host with a guard that dies, in every way a process ends: nothing that it has spawned outlives it.
//!
//! The processes of a tree are found by an argument, because some of them have no environment.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::hazards::raw;
use crate::support::own_process::{alone, is_alone, test_name, this_test};
use crate::support::process::{Held, children, processes};
use crate::support::{CEILING, check_echo, check_error, fake, shell, wait_until};
use agentpipe::{AgentCommand, Engine, ErrorKind};
use rustix::process::{Pid, Signal, kill_process};

/// The end of the host, its trees, and whether they have cgroups, in its environment.
const END: &str = "AGENTPIPE_GUARD_TEST_END";
const TREES: &str = "AGENTPIPE_GUARD_TEST_TREES";
const CGROUPS: &str = "AGENTPIPE_GUARD_TEST_CGROUPS";
/// The processes of a tree.
const TREE: usize = 6;

/// An argument of sleep(1) that this process and its hosts share, and no other process has.
fn token() -> String {
    std::env::var("AGENTPIPE_GUARD_TEST_TOKEN").unwrap_or_else(|_| {
        let pid = std::process::id();
        format!("86400.0{pid}")
    })
}

/// An agent that ignores every signal that can be ignored, with a helper in its group, one in a session
/// of its own, and two daemons whose parents have ended: one of them without an environment.
fn hostile_tree() -> AgentCommand {
    let token = token();
    shell(&format!(
        "trap '' HUP INT QUIT PIPE TERM USR1 USR2 ALRM TSTP TTIN TTOU
         sleep {token} & setsid sleep {token} &
         setsid sh -c 'sleep {token} & sleep {token} & exit' &
         env -i $(command -v setsid) sh -c '(sleep {token} &) ; exit' &
         echo '{{}}'; exec sleep {token}"
    ))
}

/// The processes of all trees of this test.
fn trees() -> Vec<Pid> {
    let token = token();
    let has_token = |path: &std::path::PathBuf| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).collect::<Vec<_>>() == [b"sleep", token.as_bytes(), b""]
    };
    let pid = |path: std::path::PathBuf| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?);
    processes().filter(has_token).filter_map(pid).collect()
}

fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
}

/// The guard of this process.
fn own_guard() -> Option<Pid> {
    children().into_iter().find_map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name == "agentpipe-guard\n").then(|| Pid::from_raw(pid.try_into().ok()?)).flatten()
    })
}

/// The host: starts its trees, and ends as it was told to.
#[expect(clippy::print_stdout, reason = "the test reads it")]
fn host() {
    let number = |key| std::env::var(key).expect("set").parse::<usize>().expect("a number");
    let engine = Engine::builder().guard(true).build().expect("a guard");
    let mut agents = Vec::new();
    for _ in 0..number(TREES) {
        let mut agent = match std::env::var_os(CGROUPS) {
            None => engine.spawn_blocking(hostile_tree()).expect("spawns"),
            // Where the host may not make cgroups, there is none that it could leave.
            Some(_) => engine
                .spawn_blocking(hostile_tree().cgroup())
                .or_else(|_| engine.spawn_blocking(hostile_tree()))
                .expect("spawns"),
        };
        agent.next_record_blocking().expect("it is up");
        agents.push(agent);
    }
    let guard = own_guard().expect("it runs");
    println!("\nready {}", guard.as_raw_nonzero());
    match std::env::var(END).expect("set").as_str() {
        // Killed by the test.
        "wait" | "cgroups" => thread::sleep(CEILING),
        // A copy of the host holds the socket of the guard, and lives on for a while.
        "fork" => {
            if raw::fork().is_none() {
                thread::sleep(Duration::from_secs(20));
                raw::exit(0);
            }
            thread::sleep(CEILING);
        }
        "abort" => std::process::abort(),
        "exit" => {
            std::mem::forget((agents, engine));
            raw::exit(0);
        }
        "exec" => {
            use std::os::unix::process::CommandExt;
            let error = std::process::Command::new("sleep").arg("20").exec();
            panic!("no exec: {error}");
        }
        end => panic!("unknown: {end}"),
    }
}

/// Returns the host and its guard.
fn start_host(test: &str, end: &str, trees: usize) -> (Child, Pid) {
    let mut host = this_test(test)
        .env(END, end)
        .env(TREES, trees.to_string())
        .envs((end == "cgroups").then_some((CGROUPS, "1")))
        .env("AGENTPIPE_GUARD_TEST_TOKEN", token())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(host.stdout.take().expect("piped")).lines();
    let guard = lines.find_map(|line| {
        let line = line.expect("text");
        Pid::from_raw(line.strip_prefix("ready ")?.parse().ok()?)
    });
    (host, guard.expect("the host is up"))
}

/// Waits until no process of the trees is left, and returns how long it took. What outlives the guard
/// is ended here.
fn await_no_trees(guard: Pid) -> Duration {
    let begun = Instant::now();
    let is_over = || trees().into_iter().all(|pid| !is_alive(pid));
    while !is_over() && is_alive(guard) && begun.elapsed() < CEILING {
        thread::sleep(Duration::from_millis(1));
    }
    let took = begun.elapsed();
    let left: Vec<_> = trees().into_iter().filter(|pid| is_alive(*pid)).collect();
    for pid in &left {
        let _gone = kill_process(*pid, Signal::KILL);
    }
    assert!(left.is_empty(), "they outlived their host: {left:?}");
    took
}

/// The names of the cgroups of a host.
fn cgroups_of(host: u32) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("proc");
    let points = mounts.lines().filter(|line| line.contains(" cgroup2 "));
    let mut folders: Vec<_> =
        points.filter_map(|line| line.split(' ').nth(1)).map(Into::into).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let folder: std::path::PathBuf = folder;
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

/// Kills hosts with trees, and returns a line of figures. `AGENTPIPE_GUARD_ROUNDS` sets how often.
fn check_rounds(test: &str, end: &str, count: usize) -> String {
    let rounds = std::env::var("AGENTPIPE_GUARD_ROUNDS").ok().and_then(|n| n.parse().ok());
    let mut figures = format!("{end}, {count} trees:");
    for _ in 0..rounds.unwrap_or(1) {
        let (mut host, guard) = start_host(test, end, count);
        let is_killed = matches!(end, "wait" | "fork" | "cgroups");
        if is_killed {
            wait_until("all trees are up", || trees().len() == count * TREE);
        }
        if end == "cgroups" {
            let made = cgroups_of(host.id()).len();
            write!(figures, " {made} cgroups").expect("a string");
        }
        if is_killed {
            host.kill().expect("SIGKILL");
        }
        let took = await_no_trees(guard);
        write!(figures, " {} ms", took.as_millis()).expect("a string");
        if end == "exec" {
            assert!(host.try_wait().expect("ours").is_none(), "the new program is no agent");
            host.kill().expect("SIGKILL");
        }
        host.wait().expect("reaped");
        wait_until("the guard ends", || !is_alive(guard));
        assert_eq!(cgroups_of(host.id()), [""; 0]);
    }
    figures
}

#[expect(clippy::print_stdout, reason = "the figures")]
fn check(test: &str, end: &str, trees: usize) {
    if is_alone() { host() } else { println!("{}", check_rounds(test, end, trees)) }
}

// Two thirds of the processes lived on in every setting: only the agent itself dies by a signal of
// the kernel.
#[test]
fn killed_host_leaves_no_process() {
    check(test_name!(), "wait", 100);
}

// The copy holds every descriptor of the host, so none of them reports the end of the host.
#[test]
fn forked_copy_does_not_hide_the_death_of_the_host() {
    check(test_name!(), "fork", 3);
}

#[test]
fn crashed_host_leaves_no_process() {
    check(test_name!(), "abort", 3);
}

#[test]
fn exited_host_leaves_no_process() {
    check(test_name!(), "exit", 3);
}

// The process goes on, as another program that knows nothing of the agents.
#[test]
fn host_that_executes_a_program_leaves_no_process() {
    check(test_name!(), "exec", 3);
}

// A cgroup outlives its processes, and the next host of the same number could not use the name.
#[test]
fn killed_host_leaves_no_cgroup() {
    check(test_name!(), "cgroups", 3);
}

fn guarded() -> Engine {
    Engine::builder().guard(true).build().expect("a guard")
}

// The guard is a child of the host, with descriptors on both sides. A host that waits for any child
// must not find it, and nothing of it is left after the engine.
#[test]
fn guard_ends_with_its_engine() {
    if !alone(test_name!()) {
        return;
    }
    // The first engine pays for what the process keeps.
    guarded().shutdown_blocking(CEILING);
    let before = Held::now();
    assert_eq!(before.children, [0; 0]);
    for _ in 0..5 {
        let engine = guarded();
        let guard = own_guard().expect("it runs");
        let mut agent = engine.spawn_blocking(fake(&[])).expect("spawns");
        check_echo(&mut agent, "{}");
        assert!(agent.close_blocking().exit().success());
        let waited = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
        assert_eq!(waited.expect_err("no child to wait for"), rustix::io::Errno::CHILD);
        assert!(is_alive(guard), "it guards until the engine ends");
        drop(agent);
        engine.shutdown_blocking(CEILING);
        assert_eq!(children(), [0; 0], "nothing is left, although the engine is held");
        drop(engine);
        assert_eq!(Held::now(), before);
    }
    for _ in 0..5 {
        let agent = guarded().spawn_blocking(fake(&["--ignore-eof"])).expect("spawns");
        drop(agent);
        wait_until("an engine without handles ends", || Held::now() == before);
    }
}

// An engine whose guard was killed went on without one, and its operator did not know.
#[test]
fn spawn_without_the_guard_is_refused() {
    if !alone(test_name!()) {
        return;
    }
    let engine = guarded();
    let mut agent = engine.spawn_blocking(fake(&[])).expect("spawns");
    let guard = own_guard().expect("it runs");
    kill_process(guard, Signal::KILL).expect("ours");
    wait_until("it is dead", || !is_alive(guard));
    for error in [
        engine.spawn_blocking(fake(&[])).expect_err("no guard"),
        pollster::block_on(engine.spawn(fake(&[]))).expect_err("no guard"),
    ] {
        check_error(&error, ErrorKind::GuardUnavailable, &["guard process", "has ended"]);
    }
    check_echo(&mut agent, "{\"still\":\"here\"}");
    drop(agent);
    drop(engine);
    wait_until("the dead guard is reaped", || children().is_empty());
}

// A forked copy drops the handles of its parent: that must not end the guard, nor free the agents in it.
#[test]
fn drop_in_a_forked_child_leaves_the_guard_alone() {
    if !alone(test_name!()) {
        return;
    }
    let engine = guarded();
    let mut agent = engine.spawn_blocking(fake(&[])).expect("spawns");
    match raw::fork() {
        None => {
            drop((agent, engine));
            raw::exit(0);
        }
        Some(child) => assert_eq!(raw::wait_for(child, 60_000), Ok(0)),
    }
    let guard = own_guard().expect("it runs");
    assert!(is_alive(guard));
    check_echo(&mut agent, "{}");
    assert!(agent.close_blocking().exit().success());
}
