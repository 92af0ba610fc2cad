//! A host with a guard that dies, in every way a process ends: nothing that it has spawned outlives it.

use std::fmt::Write as _;
use std::thread;

use crate::hazards::raw;
use crate::support::doomed::{Orders, announce, own_guard, start_host};
use crate::support::own_process::{alone, is_alone, test_name};
use crate::support::process::{Held, cgroups_of, children, threads};
use crate::support::trees::{TREE, Trees, is_alive, rounds};
use crate::support::{CEILING, HANG, check_echo, check_error, fake, shell, wait_until};
use agentpipe::{Engine, ErrorKind};
use rustix::process::{Signal, kill_process};

/// The host: starts its trees, and ends as it was told to.
fn host() {
    let Orders { end, trees, count } = Orders::of_this_host();
    let engine = Engine::builder().guard(true).build().expect("a guard");
    let script = trees.script();
    let mut agents = Vec::new();
    for _ in 0..count {
        let mut agent = if end == "cgroups" {
            // Where the host may not make cgroups, there is none that it could leave.
            engine
                .spawn_blocking(shell(&script).cgroup())
                .or_else(|_| engine.spawn_blocking(shell(&script)))
                .expect("spawns")
        } else {
            engine.spawn_blocking(shell(&script)).expect("spawns")
        };
        agent.next_record_blocking().expect("it is up");
        agents.push(agent);
    }
    // A copy of the host holds the socket of the guard, and lives on.
    let copy = (end == "fork").then(|| {
        raw::fork().unwrap_or_else(|| {
            thread::sleep(2 * HANG);
            raw::exit(0)
        })
    });
    announce(copy);
    match end.as_str() {
        // Killed by the test.
        "wait" | "cgroups" | "fork" => thread::sleep(CEILING),
        "abort" => std::process::abort(),
        "exit" => {
            // Without a drop.
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

/// Kills hosts with trees, and returns a line of figures.
fn check_rounds(test: &str, end: &str, count: usize) -> String {
    let mut figures = format!("{end}, {count} trees:");
    for _ in 0..rounds() {
        let trees = Trees::new();
        let (mut host, guard, copy) = start_host(test, end, &trees, count);
        let is_killed = matches!(end, "wait" | "fork" | "cgroups");
        if is_killed {
            wait_until("all trees are up", || trees.alive().len() == count * TREE);
        }
        if end == "cgroups" {
            let made = cgroups_of(host.id()).len();
            write!(figures, " {made} cgroups").expect("a string");
        }
        if is_killed {
            host.kill().expect("SIGKILL");
        }
        let took = trees.await_none(guard);
        if let Some(copy) = copy {
            kill_process(copy, Signal::KILL).expect("it lives on");
        }
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
    // A shutdown does not wait long for the threads that spawn.
    let spawns = || threads().iter().any(|name| name == "agentpipe-spawn");
    wait_until("its threads end", || !spawns());
    let before = Held::now();
    assert_eq!(before.children, [0; 0]);
    for _ in 0..5 {
        let engine = guarded();
        let guard = own_guard();
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
        assert_eq!(Held::now().descriptors, before.descriptors);
        wait_until("its threads end, too", || Held::now() == before);
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
    let guard = own_guard();
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
