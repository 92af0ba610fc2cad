//! Many agents on one box: what a crowd costs, who waits for whom, and what a full kernel does.
//!
//! The agents are real processes. What belongs to a process (descriptors, children, threads) is
//! counted in a process of its own, see `alone`. Times are asserted as ratios of one run or
//! against generous ceilings.

mod coalesce;
mod crowd;
mod fairness;
mod full;
mod spin;
mod stats;
mod warm;

use std::future::Future;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::Command;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use std::{fs, thread};

use agentpipe::{Agent, AgentCommand, ClosePolicy, CloseReport, Engine};

const PROGRAM: &str = env!("CARGO_BIN_EXE_agentpipe");
/// No wait in these files is longer.
const CEILING: Duration = Duration::from_secs(120);

fn fake(args: &[&str]) -> AgentCommand {
    AgentCommand::new(PROGRAM).arg("fake").args(args)
}

fn engine() -> Engine {
    Engine::new().expect("io_uring")
}

fn spawn(engine: &Engine, command: &AgentCommand) -> Agent {
    engine.spawn_blocking(command.clone()).expect("spawns")
}

const ALONE: &str = "AGENTPIPE_TEST_ALONE";

/// True in the process of its own. Else runs it there, and asserts that the test ran and passed.
#[expect(clippy::print_stdout, reason = "the figures of the process that ran it")]
fn alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "--nocapture", "--test-threads=1", test])
        .env(ALONE, "1")
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "it did not run: {text}");
    println!("{text}");
    false
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < CEILING, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// One request and its answer.
fn check_echo(agent: &mut Agent, text: &str) {
    agent.send_blocking(text).expect("sent");
    let answer = agent.next_record_blocking().expect("an echo");
    assert_eq!(answer.as_bytes(), text.as_bytes());
}

/// Asks for all closes before it waits for the first.
fn close_all(agents: &[Agent], policy: ClosePolicy) -> Vec<CloseReport> {
    let mut closes: Vec<Pin<Box<dyn Future<Output = CloseReport> + '_>>> = Vec::new();
    for agent in agents {
        let mut close = Box::pin(agent.close_with(policy));
        let _begun = pin!(&mut close).poll(&mut Context::from_waker(Waker::noop()));
        closes.push(close);
    }
    agents.iter().map(Agent::closed_blocking).collect()
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// The names of this process's threads, those of the kernel's workers among them.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("proc").flatten();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let mut names: Vec<String> = tasks.filter_map(name).map(|n| n.trim().to_owned()).collect();
    names.sort();
    names
}

/// The folder of the only engine thread in `/proc`.
fn engine_thread() -> PathBuf {
    let tasks = fs::read_dir("/proc/self/task").expect("proc").flatten().map(|task| task.path());
    let is_engine = |name: std::io::Result<String>| name.is_ok_and(|n| n.trim() == "agentpipe-0");
    let engine = tasks.into_iter().find(|task| is_engine(fs::read_to_string(task.join("comm"))));
    engine.expect("it runs")
}

/// How often the engine thread gave its core up to wait for something.
fn engine_sleeps() -> u64 {
    let status = fs::read_to_string(engine_thread().join("status")).expect("proc");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("in every status").trim().parse().expect("a number")
}

/// Children of this process, zombies too.
fn children() -> usize {
    child_pids().len()
}

fn child_pids() -> Vec<u32> {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1) == Some(&own)
    };
    let mut pids: Vec<u32> = pids.filter(is_ours).collect();
    pids.sort_unstable();
    pids
}
