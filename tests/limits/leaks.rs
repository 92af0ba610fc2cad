//! Nothing leaks: hostile agents come and go in every way there is, 50 at a time, and afterwards
//! descriptors, children, threads, pool buffers, kernel operations and cgroups are exactly what they
//! were. `AGENTPIPE_LEAK_CYCLES=10000` makes it a soak.

use std::cell::RefCell;
use std::fs;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::process::Command;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::lease::Lease;
use crate::support::own_process::{alone, test_name};
use crate::support::process::{Held, cgroups_of, marked};
use crate::support::{CEILING, PROGRAM};
use agentpipe::{
    AgentCommand, ClosePolicy, CloseReason, CloseStage, Engine, ErrorKind, Event, ExitStatus,
    Limits,
};

/// In the environment of every agent, and so of whatever it leaves behind.
const MARK: &str = "AGENTPIPE_LEAK_TEST";
/// How many agents come and go, unless this variable says otherwise.
const CYCLES: usize = 500;
const CYCLES_VARIABLE: &str = "AGENTPIPE_LEAK_CYCLES";
/// Agents at a time.
const LANES: usize = 50;

fn marked_command(program: impl AsRef<std::ffi::OsStr>) -> AgentCommand {
    AgentCommand::new(program).env(MARK, std::process::id().to_string())
}

fn fake(args: &[&str]) -> AgentCommand {
    marked_command(PROGRAM).arg("fake").args(args)
}

/// What the cycles share.
struct Stage {
    engine: Engine,
    /// Whether agents may have cgroups here.
    has_cgroups: bool,
    /// Programs of which nothing else has a copy open.
    programs: RefCell<Vec<PathBuf>>,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let engine = Engine::new().expect("a backend");
        let has_cgroups = match engine.spawn_blocking(fake(&["--exit-now"]).cgroup()) {
            Ok(agent) => agent.closed_blocking().exit() == ExitStatus::Code(0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::CgroupUnavailable, "{error}");
                false
            }
        };
        let folder = tempfile::tempdir().expect("a folder");
        // By another process: a program that is open for writing cannot be run.
        let copy = "for i in $(seq \"$1\"); do cp \"$(command -v cat)\" \"$0/cat$i\"; done";
        let mut shell = Command::new("/bin/sh");
        let done = shell.args(["-c", copy]).arg(folder.path()).arg(LANES.to_string()).status();
        assert!(done.expect("sh").success());
        let programs = (1..=LANES).map(|i| folder.path().join(format!("cat{i}"))).collect();
        Self { engine, has_cgroups, programs: RefCell::new(programs), _folder: folder }
    }
}

/// The ways an agent comes and goes.
const WAYS: usize = 17;

async fn cycle(stage: &Stage, number: usize) {
    let engine = &stage.engine;
    match number % WAYS {
        10 => went_mute(engine).await,
        11 => stopped_itself(engine).await,
        12 => left_a_daemon(engine).await,
        13 => exited_at_once(engine).await,
        14 => flooded_stderr(engine).await,
        15 => hung_in_its_exec(stage).await,
        16 => flooded_in_a_cgroup(stage).await,
        0 => closed_idle(engine).await,
        1 => aborted_in_a_flood(engine).await,
        2 => closed_unread(engine).await,
        3 => drop(engine.spawn(fake(&["--flood"])).await.expect("spawns")),
        4 => died_by_itself(engine).await,
        5 => killed(engine).await,
        6 => never_spawned(engine, number).await,
        7 => forgotten_spawn(engine),
        8 => left_a_grandchild(engine).await,
        9 => aborted_with_writes_pending(engine).await,
        way => unreachable!("{way}"),
    }
}

/// Graceful, with all the time that an agent may want on a busy machine.
fn patient() -> ClosePolicy {
    ClosePolicy::graceful().drain(CEILING).drain_total(CEILING)
}

async fn closed_idle(engine: &Engine) {
    let mut agent = engine.spawn(fake(&[])).await.expect("spawns");
    agent.send("{\"a\":1}").await.expect("sent");
    assert_eq!(agent.next_record().await.expect("an echo").as_bytes(), b"{\"a\":1}");
    let report = agent.close_with(patient()).await;
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
}

async fn aborted_in_a_flood(engine: &Engine) {
    let mut agent = engine.spawn(fake(&["--flood"])).await.expect("spawns");
    assert!(agent.next_record().await.is_some());
    // All the time it may want on a busy machine: EPIPE ends it, and no signal.
    let report = agent.close_with(ClosePolicy::abort().abort_grace(CEILING)).await;
    assert_eq!(report.exit(), ExitStatus::Code(1), "{report}");
}

async fn closed_unread(engine: &Engine) {
    let command = fake(&["--flood", "512k"]).limits(Limits::new().inbox_high(32 << 10));
    let agent = engine.spawn(command).await.expect("spawns");
    let report = agent.close_with(patient()).await;
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    assert_eq!(report.stats().records_in, 512, "{report}");
}

async fn died_by_itself(engine: &Engine) {
    let command = fake(&["--records", "3", "--exit-after", "3", "--die-by-signal", "KILL"]);
    let mut agent = engine.spawn(command).await.expect("spawns");
    let mut last = None;
    while let Some(event) = agent.next().await {
        last = Some(event);
    }
    assert_eq!(last, Some(Event::Exit(ExitStatus::Signal(9))));
    assert_eq!(agent.closed().await.stats().records_in, 3);
}

async fn killed(engine: &Engine) {
    let deaf = ["--flood", "--ignore-eof", "--ignore-sigterm", "--ignore-epipe"];
    let mut agent = engine.spawn(fake(&deaf)).await.expect("spawns");
    assert!(agent.next_record().await.is_some());
    let tiny = Duration::from_millis(1);
    let policy = ClosePolicy::graceful().quiet_period(tiny).drain(tiny).min_drain(tiny);
    let report = agent.close_with(policy.terminate(tiny).cut(tiny)).await;
    assert_eq!((report.stage(), report.exit()), (CloseStage::Kill, ExitStatus::Signal(9)));
}

async fn never_spawned(engine: &Engine, number: usize) {
    let (command, kind) = match number % 3 {
        0 => (AgentCommand::new("/no/such/program"), ErrorKind::ProgramNotFound),
        1 => (fake(&[]).cwd("/no/such/folder"), ErrorKind::BadWorkingDirectory),
        _ => (AgentCommand::new("/etc/passwd"), ErrorKind::ProgramNotExecutable),
    };
    assert_eq!(engine.spawn(command).await.expect_err("refused").kind(), kind);
}

/// Polled once, so that it is under way, and dropped.
fn forgotten_spawn(engine: &Engine) {
    let mut spawning = pin!(engine.spawn(fake(&["--flood"])));
    let _under_way = spawning.as_mut().poll(&mut Context::from_waker(Waker::noop()));
}

async fn left_a_grandchild(engine: &Engine) {
    let command = fake(&["--grandchild-holds-stdout", "600s"]);
    let agent = engine.spawn(command).await.expect("spawns");
    agent.send("{}").await.expect("sent");
    let policy = patient().exit_drain(Duration::from_millis(1));
    let report = agent.close_with(policy).await;
    assert_eq!((report.exit(), report.killed_extra()), (ExitStatus::Code(0), 1), "{report}");
}

async fn aborted_with_writes_pending(engine: &Engine) {
    let agent = engine.spawn(fake(&["--never-read-stdin"])).await.expect("spawns");
    let record = format!("\"{}\"", "x".repeat(200 << 10));
    agent.send(&record).await.expect("queued");
    let report = agent.abort().await;
    assert!(report.unsent_bytes() > 64 << 10, "{report}");
}

async fn went_mute(engine: &Engine) {
    let command = fake(&["--close-stdout"])
        .close_policy(ClosePolicy::graceful().exit_drain(Duration::from_millis(5)));
    let agent = engine.spawn(command).await.expect("spawns");
    assert_eq!(agent.closed().await.reason(), CloseReason::OutputEnded);
}

async fn stopped_itself(engine: &Engine) {
    let script = "echo '{}'; kill -STOP $$; exec sleep 1000";
    let command = marked_command("/bin/sh").args(["-c", script]);
    let mut agent = engine.spawn(command).await.expect("spawns");
    assert!(agent.next_record().await.is_some());
    let tiny = Duration::from_millis(1);
    let policy = ClosePolicy::graceful().drain(tiny).min_drain(tiny).terminate(CEILING);
    let report = agent.close_with(policy).await;
    assert_eq!((report.stage(), report.exit()), (CloseStage::Terminate, ExitStatus::Signal(15)));
}

/// It holds the outputs in a session of its own, where no signal to the group reaches it.
async fn left_a_daemon(engine: &Engine) {
    let command = fake(&["--grandchild-holds-stdout", "100ms", "--setsid"]);
    let agent = engine.spawn(command).await.expect("spawns");
    let policy = patient().exit_drain(Duration::from_millis(1));
    let report = agent.close_with(policy).await;
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
}

async fn exited_at_once(engine: &Engine) {
    let agent = engine.spawn(fake(&["--exit-now", "--exit-code", "3"])).await.expect("spawns");
    assert_eq!(agent.closed().await.exit(), ExitStatus::Code(3));
}

async fn flooded_stderr(engine: &Engine) {
    let command = fake(&["--flood-stderr", "--never-read-stdin"]);
    let agent = engine.spawn(command).await.expect("spawns");
    assert_eq!(agent.abort().await.stats().records_in, 0);
}

/// On a file server that does not answer for a while.
async fn hung_in_its_exec(stage: &Stage) {
    let program = stage.programs.borrow_mut().pop().expect("one for each lane");
    let lease = Lease::take(&program);
    let mut spawning = pin!(stage.engine.spawn(marked_command(&program)));
    while !lease.is_wanted() {
        let pending = spawning.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        assert!(pending, "its exec hangs");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(lease);
    let agent = spawning.await.expect("spawns");
    assert_eq!(agent.close_with(patient()).await.exit(), ExitStatus::Code(0));
    stage.programs.borrow_mut().push(program);
}

async fn flooded_in_a_cgroup(stage: &Stage) {
    let mut command = fake(&["--flood", "--grandchild-holds-stdout", "600s", "--setsid"]);
    if stage.has_cgroups {
        command = command.cgroup();
    } else {
        command = fake(&["--flood"]);
    }
    let mut agent = stage.engine.spawn(command).await.expect("spawns");
    assert!(agent.next_record().await.is_some());
    agent.abort().await;
}

/// Runs the cycles, some at a time, on one thread.
fn run_cycles(stage: &Rc<Stage>, cycles: std::ops::Range<usize>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut next = cycles;
        let mut running = tokio::task::JoinSet::new();
        loop {
            while running.len() < LANES
                && let Some(number) = next.next()
            {
                let stage = Rc::clone(stage);
                running.spawn_local(async move { cycle(&stage, number).await });
            }
            let Some(done) = running.join_next().await else { break };
            done.expect("a cycle holds what it says");
        }
    });
}

/// What this process holds, without the spawn threads: their number depends on how many spawns were
/// under way at once. The comparison after the engine's end includes them.
fn held_by_the_engine() -> Held {
    let mut held = Held::now();
    let all = held.threads.len();
    held.threads.retain(|name| name != "agentpipe-spawn");
    assert!(all - held.threads.len() <= 8, "the limit of spawn threads");
    held
}

/// Dropped agents are aborted in the background. Waits until nothing of them is left.
fn in_kernel_when_idle(engine: &Engine) -> Vec<(u64, u64, u64)> {
    let begun = Instant::now();
    loop {
        let counters = engine.counters_blocking();
        let idle = counters.iter().all(|ring| ring.in_kernel == 1);
        if idle || begun.elapsed() > CEILING {
            assert!(counters.iter().all(|ring| ring.stale == 0), "{counters:?}");
            let what = counters.iter();
            return what.map(|ring| (ring.in_kernel, ring.buffers, ring.buffers_free)).collect();
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn await_equal<T: PartialEq + std::fmt::Debug>(look: impl Fn() -> T, wanted: &T, what: &str) {
    let begun = Instant::now();
    while look() != *wanted {
        if begun.elapsed() > CEILING {
            assert_eq!(look(), *wanted, "{what}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The resident memory of this process in KiB: `VmRSS:` now, `VmHWM:` at the most.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("proc");
    let size = status.lines().find_map(|line| line.strip_prefix(field)).expect("a size");
    size.trim().trim_end_matches(" kB").parse().expect("a number")
}

// A server hosts agents for weeks. One descriptor, zombie, thread, buffer or kernel operation lost
// in ten thousand closes ends in an outage.
#[test]
fn hostile_agents_leave_nothing_behind() {
    if !alone(test_name!()) {
        return;
    }
    let cycles = std::env::var(CYCLES_VARIABLE).map_or(CYCLES, |n| n.parse().expect("a number"));
    let before_engine = Held::now();
    let stage = Rc::new(Stage::new());
    // The first of each way pays for what is set up once.
    run_cycles(&stage, 0..WAYS);
    let idle = in_kernel_when_idle(&stage.engine);
    // The wake-up eventfd is watched; a pool at rest has every buffer.
    assert!(idle.iter().all(|(in_kernel, all, free)| *in_kernel == 1 && all == free), "{idle:?}");
    let with_engine = held_by_the_engine();
    assert_eq!(with_engine.children, Vec::<u32>::new());

    let (begun, warm) = (Instant::now(), memory("VmRSS:"));
    run_cycles(&stage, WAYS..WAYS + cycles);
    let (took, peak, resident) = (begun.elapsed(), memory("VmHWM:"), memory("VmRSS:"));
    await_equal(held_by_the_engine, &with_engine, "after all closes, with the engine alive");
    assert_eq!(in_kernel_when_idle(&stage.engine), idle, "operations in the kernel, pool buffers");
    assert_eq!(held_by_the_engine(), with_engine, "nothing was still on its way");
    assert_eq!(cgroups_of(std::process::id()), Vec::<String>::new());
    assert_eq!(stage.engine.agents(), 0);
    let count = |way| (0..WAYS + cycles).filter(|number| number % WAYS == way).count() as u64;
    let (dropped, forgotten) = (count(3), count(7));
    // A forgotten spawn is dropped without a close as well, unless it never got that far.
    let abandoned = stage.engine.abandoned();
    assert!((dropped..=dropped + forgotten).contains(&abandoned), "{abandoned}");
    println!(
        "{cycles} cycles on {}, {LANES} at a time, cgroups {}: {took:.1?}; memory {warm} KiB before, \
         {resident} KiB after, {peak} KiB at the most",
        stage.engine.backend(),
        stage.has_cgroups,
    );

    drop(stage);
    await_equal(Held::now, &before_engine, "after the engine");
    await_equal(|| marked(MARK), &Vec::new(), "no grandchild of any agent is left");
}
