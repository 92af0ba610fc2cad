//! The options of a spawn as an engine carries them out, from the first system call to the close.

mod admission;
mod shutdown;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, ClosePolicy, CloseReport, Engine, ErrorKind, ExitStatus};
use rustix::process::WaitOptions;

use crate::support::lease::Lease;
use crate::support::own_process::{alone, is_alone, test_name, this_test};
use crate::support::process::{await_end, ends_within, processes, watch};
use crate::support::{CEILING, PROGRAM, check_alive, engine, fake, shell};

// An agent's program lies on a file server that does not answer. Its exec hangs, and with it the
// thread that spawns. All other agents and spawns must go on.
#[test]
fn hanging_exec_blocks_no_other_spawn() {
    let folder = tempfile::tempdir().expect("a folder");
    let programs: Vec<PathBuf> = (0..3).map(|n| folder.path().join(format!("agent{n}"))).collect();
    for program in &programs {
        // By another process: a child of another test could hold our descriptor for writing, and a
        // program that is open for writing cannot be run.
        assert!(Command::new("cp").arg("/bin/cat").arg(program).status().expect("cp").success());
    }
    let engine = engine();
    let mut before = engine.spawn_blocking(fake(&[])).expect("spawns");
    let leases: Vec<Lease> = programs.iter().map(|program| Lease::take(program)).collect();
    let mut hanging: Vec<_> =
        programs.iter().map(|program| Box::pin(engine.spawn(AgentCommand::new(program)))).collect();
    let mut context = Context::from_waker(Waker::noop());
    for spawn in &mut hanging {
        // Under way from here.
        assert!(spawn.as_mut().poll(&mut context).is_pending());
    }

    check_alive(&mut before);
    let mut after = pollster::block_on(engine.spawn(fake(&[]))).expect("spawns");
    check_alive(&mut after);
    let mut aside = engine.spawn_blocking(fake(&[])).expect("spawns");
    check_alive(&mut aside);
    assert_eq!(aside.close_blocking().exit(), ExitStatus::Code(0));
    assert_eq!(before.close_blocking().exit(), ExitStatus::Code(0));
    for spawn in &mut hanging {
        assert!(spawn.as_mut().poll(&mut context).is_pending(), "it still hangs");
    }
    drop(leases);
    for spawn in hanging {
        let mut agent = pollster::block_on(spawn).expect("late, but there");
        check_alive(&mut agent);
        assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
    }
    assert_eq!(after.close_blocking().exit(), ExitStatus::Code(0));
}

/// A host that spawns from a thread that ends, prints the pid of the agent, and waits to be killed.
#[expect(clippy::print_stdout, reason = "the test reads it")]
fn host() {
    let engine = engine();
    let command = shell("trap '' TERM HUP PIPE; exec sleep 1000").die_with_parent(true);
    let agent = thread::scope(|scope| {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");
        let spawning = scope.spawn(move || runtime.block_on(engine.spawn(command)));
        spawning.join().expect("no panic").expect("spawns")
    });
    println!("agent {}", agent.pid());
    // Until the test kills us, or is gone.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("stdin");
    agent.abort_blocking();
}

fn start_host(test: &str) -> (Child, u32) {
    let mut host = this_test(test).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let host_ref = host.as_mut().expect("starts");
    let lines = BufReader::new(host_ref.stdout.take().expect("piped")).lines();
    let said = lines.map_while(Result::ok).find_map(|line| {
        let (_, pid) = line.split_once("agent ")?;
        pid.trim().parse().ok()
    });
    (host.expect("starts"), said.expect("the agent's pid"))
}

// Engine threads are woken to the nanosecond. Agents that inherited this kept a laptop awake.
#[test]
fn agent_has_the_timer_slack_of_its_host() {
    let engine = engine();
    let script = "read slack < /proc/self/timerslack_ns; echo \"{\\\"slack\\\":$slack}\"";
    let mut agent = engine.spawn_blocking(shell(script)).expect("spawns");
    let said = agent.next_record_blocking().expect("a record");
    let own = rustix::thread::current_timer_slack().expect("prctl");
    assert_eq!(said.as_bytes(), format!(r#"{{"slack":{own}}}"#).as_bytes());
    agent.abort_blocking();
}

// A host lowers the priority of its worker threads. A blocking spawn inherits it; an agent that
// dies with its parent is spawned by another thread, because its caller may end.
#[test]
fn agent_priority_comes_from_the_spawning_thread() {
    let engine = engine();
    let priority = |mut agent: Agent| {
        let said = agent.next_record_blocking().expect("a record");
        agent.abort_blocking();
        let said: [i32; 1] = serde_json::from_slice(said.as_bytes()).expect("a number");
        said[0]
    };
    let command = || shell("echo \"[$(nice)]\"");
    let own = rustix::process::getpriority_process(None).expect("a priority");
    let lowered = own + 3;
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            // Of this thread alone: Linux has it by thread.
            rustix::process::setpriority_process(None, lowered).expect("lower is allowed");
            let blocking = engine.spawn_blocking(command()).expect("spawns");
            let waited = pollster::block_on(engine.spawn(command())).expect("spawns");
            let bound = engine.spawn_blocking(command().die_with_parent(true)).expect("spawns");
            [blocking, waited, bound].map(priority)
        });
        assert_eq!(caller.join().expect("no panic"), [lowered, own, own]);
    });
}

// The host is killed and its agents would go on. But an agent that was spawned from a worker thread
// must not die with that thread.
#[test]
fn agent_dies_with_a_killed_host() {
    if !is_alone() {
        check_it_dies_with_its_host(test_name!());
    } else {
        host();
    }
}

fn check_it_dies_with_its_host(test: &str) {
    let (mut host, pid) = start_host(test);
    let agent = watch(pid);
    let soon = Duration::from_millis(200);
    assert!(!ends_within(&agent, soon), "it died with the thread that asked for it");
    host.kill().expect("SIGKILL");
    await_end(&agent, "the agent");
    host.wait().expect("reaped");
}

// The spawning thread ends with the engine. If it ended first, every agent that dies with its
// parent would be killed in the middle of its last output.
#[test]
fn dropped_engine_gives_agents_their_grace() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut heard = 0;
    for round in 0..10 {
        let last_words = folder.path().join(round.to_string());
        let engine = engine();
        let script = format!("echo '{{}}'; cat; echo bye > {}", last_words.display());
        let command = shell(&script).die_with_parent(true).close_policy(ClosePolicy::abort());
        let mut agent = engine.spawn_blocking(command).expect("spawns");
        agent.next_record_blocking().expect("it is up");
        let pidfd = watch(agent.pid());
        drop(engine);
        // The last handle: an abort, and the end of the engine.
        drop(agent);
        await_end(&pidfd, "the agent");
        heard += usize::from(fs::read_to_string(last_words).is_ok_and(|words| words == "bye\n"));
    }
    // The grace is 50 ms, which a busy machine may well use up; but not every time.
    assert!(heard > 0, "none of them had its grace");
}

// The exec hangs, the engine is shut down meanwhile, and then the exec succeeds. The caller got an
// agent that no thread served.
#[test]
fn spawn_outlasting_a_shutdown_is_refused() {
    if !alone(test_name!()) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    for blocking in [false, true] {
        let program = folder.path().join(format!("agent{blocking}"));
        assert!(Command::new("cp").arg("/bin/cat").arg(&program).status().expect("cp").success());
        let engine = engine();
        let lease = Lease::take(&program);
        let outcome = thread::scope(|scope| {
            let spawning = scope.spawn(|| {
                let command = AgentCommand::new(&program);
                if blocking {
                    engine.spawn_blocking(command)
                } else {
                    pollster::block_on(engine.spawn(command))
                }
            });
            let begun = Instant::now();
            while !lease.is_wanted() {
                assert!(begun.elapsed() < CEILING, "it does not hang");
                thread::yield_now();
            }
            // It waits for agents, of which there are none yet, and not for the exec.
            assert_eq!(engine.shutdown_blocking(CEILING).agents, 0);
            drop(lease);
            spawning.join().expect("no panic")
        });
        let error = outcome.expect_err("its engine was shut down");
        assert_eq!(error.kind(), ErrorKind::EngineStopped, "{error}");
        // This process runs one test, and has no other child.
        let left = rustix::process::wait(WaitOptions::NOHANG);
        assert_eq!(left.expect_err("no child"), rustix::io::Errno::CHILD);
    }
}

// A timeout ends the wait for a spawn whose exec hangs, and then `main` returns. The exec succeeds
// a moment later, in a process without a parent.
#[test]
fn cancelled_spawn_before_exit_leaves_no_agent() {
    const AGENT: &str = "AGENTPIPE_TEST_AGENT";
    match std::env::var_os(AGENT) {
        Some(program) => give_up_a_spawn(&program),
        None => check_given_up_spawn(test_name!(), AGENT),
    }
}

/// The host, as its last act.
#[expect(clippy::print_stdout, reason = "the outer process reads it")]
fn give_up_a_spawn(program: &OsStr) {
    let engine = engine();
    let command = AgentCommand::new(program).args(["fake", "--ignore-eof", "--ignore-sigterm"]);
    let mut spawning = Box::pin(engine.spawn(command));
    assert!(spawning.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // Not before the child is there: it hangs in its exec.
    let begun = Instant::now();
    while children_of(std::process::id()).is_empty() {
        assert!(begun.elapsed() < CEILING, "no child");
        thread::yield_now();
    }
    drop(spawning);
    drop(engine);
    println!("given up");
}

fn check_given_up_spawn(test: &str, agent: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("agent");
    assert!(Command::new("cp").arg(PROGRAM).arg(&program).status().expect("cp").success());
    let lease = Lease::take(&program);
    let mut host =
        this_test(test).env(agent, &program).stdout(Stdio::piped()).spawn().expect("runs");
    let mut lines = BufReader::new(host.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.expect("text").contains("given up")));
    let begun = Instant::now();
    while !lease.is_wanted() {
        assert!(begun.elapsed() < CEILING, "it does not hang");
        thread::yield_now();
    }
    // A host that does not wait has exited before it prints its last line.
    assert!(lines.any(|line| line.expect("text").contains("1 passed")));
    let children = children_of(host.id());
    drop(lease);
    assert!(host.wait().expect("ours").success());
    // The exec may not be over yet, where the host did not wait for it.
    let begun = Instant::now();
    for child in &children {
        while let Ok(exe) = fs::read_link(child.join("exe")) {
            assert_ne!(exe, program, "it outlives its host");
            assert!(begun.elapsed() < CEILING, "{child:?} neither runs nor ends");
        }
    }
    assert_eq!(children.len(), 1, "{children:?}");
}

fn children_of(parent: u32) -> Vec<PathBuf> {
    let is_child = |path: &PathBuf| {
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace());
        fields.and_then(|mut fields| fields.nth(1)?.parse().ok()) == Some(parent)
    };
    processes().filter(is_child).collect()
}

/// A folder in which this process may make cgroups, for one test.
struct Cgroups(PathBuf);

impl Cgroups {
    /// `None` where a cgroup is refused, which is then asserted.
    fn new(engine: &Engine, name: &str) -> Option<Self> {
        let mut agent = match engine.spawn_blocking(shell("cat /proc/self/cgroup").cgroup()) {
            Ok(agent) => agent,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::CgroupUnavailable, "{error}");
                return None;
            }
        };
        let mut path = None;
        while let Some(event) = agent.next_blocking() {
            if let agentpipe::Event::Noise(sample) = event {
                let line = String::from_utf8_lossy(sample.head()).into_owned();
                path = path.or_else(|| line.strip_prefix("0::").map(str::to_owned));
            }
        }
        agent.closed_blocking();
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let root = mounts.lines().find_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            (words[2] == "cgroup2").then(|| PathBuf::from(words[1]))
        });
        let own = path.expect("a line of cgroup2");
        let own = root.expect("it is mounted").join(own.trim().trim_start_matches('/'));
        assert!(!own.exists(), "removed at the close: {}", own.display());
        let parent = own.parent().expect("a parent");
        let folder = parent.join(format!("agentpipe-test-{name}-{}", std::process::id()));
        fs::create_dir(&folder).expect("allowed above");
        Some(Self(folder))
    }

    fn members(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).expect("there").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let _empty = fs::remove_dir(&self.0);
    }
}

/// An agent with a grandchild in its own session; the grandchild's process id.
fn with_runaway(engine: &Engine, folder: &Path) -> (Agent, u32) {
    let script =
        "setsid sh -c 'trap \"\" TERM; echo \"{\\\"pid\\\":$$}\"; exec sleep 1000' & cat; wait";
    let command = shell(script).cgroup_beneath(folder);
    let mut agent = engine.spawn_blocking(command).expect("spawns");
    let said = agent.next_record_blocking().expect("a record");
    let said: serde_json::Value = said.json().expect("JSON");
    (agent, u32::try_from(said["pid"].as_u64().expect("a pid")).expect("a pid"))
}

// The agent's tool calls setsid, so no signal to the group reaches it; it holds the output and a
// port.
#[test]
fn cgroup_close_leaves_no_process() {
    let engine = engine();
    // Where a cgroup is refused, `new` asserts how.
    if let Some(cgroups) = Cgroups::new(&engine, "runaway") {
        check_runaways(&engine, &cgroups);
    }
}

fn check_runaways(engine: &Engine, cgroups: &Cgroups) {
    let quick = Duration::from_millis(20);
    let graceful = ClosePolicy::graceful().drain(quick).terminate(quick).cut(quick);
    for policy in [graceful, ClosePolicy::abort()] {
        let (agent, runaway) = with_runaway(engine, &cgroups.0);
        assert_eq!(cgroups.members().len(), 1);
        let pidfd = watch(runaway);
        let report: CloseReport = agent.close_with_blocking(policy);
        assert!(report.killed_extra() >= 1, "{report}");
        await_end(&pidfd, "the runaway");
        assert_eq!(cgroups.members(), Vec::<PathBuf>::new(), "gone when the close is done");
    }
    // Many at once, and one that leaves by itself.
    let many: Vec<(Agent, u32)> = (0..20).map(|_| with_runaway(engine, &cgroups.0)).collect();
    let pidfds: Vec<OwnedFd> = many.iter().map(|(_, runaway)| watch(*runaway)).collect();
    engine.shutdown_blocking(Duration::ZERO);
    pidfds.iter().for_each(|pidfd| await_end(pidfd, "a runaway"));
    assert_eq!(cgroups.members(), Vec::<PathBuf>::new());
}

#[test]
fn unswept_cgroup_is_left_to_its_processes() {
    let engine = engine();
    if let Some(cgroups) = Cgroups::new(&engine, "left") {
        check_left(engine, &cgroups);
    }
}

fn check_left(engine: Engine, cgroups: &Cgroups) {
    let command =
        shell("setsid sh -c 'echo \"{\\\"pid\\\":$$}\"; exec sleep 1000 >/dev/null' & cat")
            .cgroup_beneath(&cgroups.0);
    let mut agent = engine.spawn_blocking(command).expect("spawns");
    let said: serde_json::Value =
        agent.next_record_blocking().expect("a record").json().expect("JSON");
    let pid = u32::try_from(said["pid"].as_u64().expect("a pid")).expect("a pid");
    let daemon = watch(pid);
    let report = agent.close_with_blocking(ClosePolicy::graceful().kill_group(false));
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    drop(agent);
    drop(engine);
    assert!(!ends_within(&daemon, Duration::ZERO), "it was to be left alone");
    let left = cgroups.members();
    assert_eq!(left.len(), 1);
    fs::write(left[0].join("cgroup.kill"), "1").expect("ours");
    await_end(&daemon, "the daemon");
    let begun = Instant::now();
    while fs::remove_dir(&left[0]).is_err() {
        assert!(begun.elapsed() < CEILING, "it is not empty");
        thread::yield_now();
    }
}
