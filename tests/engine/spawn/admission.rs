//! How many agents an engine admits, and the error above that.

use std::fs;
use std::sync::Barrier;
use std::task::{Context, Waker};
use std::thread;
use std::time::Instant;

use agentpipe::{
    Agent, AgentCommand, Engine, Error, ErrorKind, ExitStatus, WarmPool, WarmPoolSettings,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::lease::Lease;
use crate::support::own_process::{alone, test_name};
use crate::support::{CEILING, check_alive, check_error, engine, fake};

// There were nine agents at a limit of two, because each spawn looked at the count before any had
// spawned.
#[test]
fn burst_never_exceeds_max_agents() {
    let engine = Engine::builder().max_agents(3).build().expect("io_uring");
    let ready = Barrier::new(16);
    let results: Vec<Result<Agent, Error>> = thread::scope(|scope| {
        let spawns: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    ready.wait();
                    engine.spawn_blocking(fake(&[]))
                })
            })
            .collect();
        spawns.into_iter().map(|spawn| spawn.join().expect("no panic")).collect()
    });
    let (agents, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((agents.len(), refused.len()), (3, 13));
    for error in refused.iter().filter_map(|result| result.as_ref().err()) {
        let says = ["the engine has its 3 agents", "max_agents", "close an agent"];
        check_error(error, ErrorKind::ResourceLimit, &says);
    }
    let mut agents: Vec<Agent> = agents.into_iter().flatten().collect();
    // A close frees its place at once, every time.
    for _ in 0..50 {
        let closed = agents.pop().expect("three of them");
        assert_eq!(closed.abort_blocking().killed_extra(), 0);
        let mut next = engine.spawn_blocking(fake(&[])).expect("its place is free");
        check_alive(&mut next);
        agents.push(next);
        assert!(engine.spawn_blocking(fake(&[])).is_err(), "and no other");
    }
    // A spawn that fails takes none, nor does one that was forgotten.
    agents.pop().expect("three of them").abort_blocking();
    for _ in 0..20 {
        let error = engine.spawn_blocking(AgentCommand::new("/no/such")).expect_err("no program");
        assert_eq!(error.kind(), ErrorKind::ProgramNotFound, "{error}");
    }
    agents.push(engine.spawn_blocking(fake(&[])).expect("still free"));
    for agent in agents {
        assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
    }
}

// The only place is taken by an idle agent whose program lies on a slow file server. It cannot be
// closed yet, and the caller must not be refused.
#[test]
fn spawn_waits_for_a_pending_idle_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("agent");
    // By another process: a program that is open for writing cannot be run.
    let copied = std::process::Command::new("cp").arg("/bin/cat").arg(&program).status();
    assert!(copied.expect("cp").success());
    let engine = Engine::builder().max_agents(1).build().expect("io_uring");
    let lease = Lease::take(&program);
    let warm = WarmPool::new(&engine, AgentCommand::new(&program), WarmPoolSettings::new())
        .expect("a pool");
    let mut spawn = Box::pin(engine.spawn(fake(&[])));
    let mut context = Context::from_waker(Waker::noop());
    // The place is taken once the exec hangs; asked before, we would have it.
    let begun = Instant::now();
    while !lease.is_wanted() {
        assert!(begun.elapsed() < CEILING, "it never hung");
        thread::yield_now();
    }
    for _ in 0..10 {
        assert!(spawn.as_mut().poll(&mut context).is_pending(), "it waits and is not refused");
    }
    assert_eq!(warm.stats().pending, 1);
    drop(lease);
    let mut agent = pollster::block_on(spawn).expect("the spare's place");
    check_alive(&mut agent);
    let stats = warm.stats();
    assert_eq!((stats.spawned, stats.evicted, stats.ready), (1, 1, 0), "{stats}");
    assert!(engine.spawn_blocking(fake(&[])).is_err(), "and there is no other");
}

// The doctor reported 12 agents, and the 12th was refused. An engine that cannot host `max_agents`
// says so when it starts.
#[test]
fn capacity_is_exact() {
    if !alone(test_name!()) {
        return;
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).expect("a lower limit");
    let error = Engine::builder().max_agents(100).build().expect_err("does not fit");
    let says =
        ["max_agents(100) does not fit", "RLIMIT_NOFILE is 64 with ", "room for ", "raise it"];
    check_error(&error, ErrorKind::ResourceLimit, &says);
    let engine = engine();
    let capacity = Engine::capacity();
    assert_eq!(capacity.bottleneck().expect("a limit").name, "RLIMIT_NOFILE");
    let room = capacity.agents().expect("a number");
    let mut agents = Vec::new();
    let error = loop {
        match engine.spawn_blocking(fake(&[])) {
            Ok(agent) => agents.push(agent),
            Err(error) => break error,
        }
    };
    check_error(&error, ErrorKind::ResourceLimit, &["RLIMIT_NOFILE"]);
    assert_eq!(agents.len() as u64, room);
    assert_eq!(Engine::capacity().agents(), Some(0));
    for agent in &mut agents {
        check_alive(agent);
    }
    drop(agents);
}

/// Fills what an unprivileged user may have in pipes, so that new ones are small.
fn fill_pipe_pages() -> Vec<(std::io::PipeReader, std::io::PipeWriter)> {
    let soft = fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").expect("a limit");
    let soft: usize = soft.trim().parse().expect("a number");
    assert!(soft > 0, "this test wants fs.pipe-user-pages-soft to be set");
    let mut pipes = Vec::new();
    for _ in 0..=soft / 16 {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let large = 1 << 20;
        let granted = rustix::pipe::fcntl_setpipe_size(&writer, large).is_ok();
        let size = rustix::pipe::fcntl_getpipe_size(&writer).expect("a size");
        pipes.push((reader, writer));
        if !granted && size < 64 << 10 {
            return pipes;
        }
    }
    panic!("{} pipes, and the limit of {soft} pages does not bite", pipes.len());
}

// From the 342nd agent of a user on, pipes hold 8 KiB instead of 64, every larger record costs more
// wake-ups, and nothing showed why.
#[test]
fn small_pipe_is_reported() {
    if !alone(test_name!()) {
        return;
    }
    if rustix::process::geteuid().is_root() {
        // This thread, and those that it starts from here.
        let unprivileged = rustix::process::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(unprivileged, unprivileged, unprivileged)
            .expect("root may");
    }
    let engine = engine();
    let cat = || AgentCommand::new("/bin/cat");
    let usual = engine.spawn_blocking(cat()).expect("spawns");
    let sizes = |agent: &Agent| {
        let stats = agent.stats();
        (stats.stdin_pipe_size, stats.stdout_pipe_size)
    };
    let mut usual = usual;
    check_alive(&mut usual);
    assert_eq!(sizes(&usual), (64 << 10, 64 << 10));
    let filled = fill_pipe_pages();
    for command in [cat(), cat().pipe_size(256 << 10)] {
        let mut small = engine.spawn_blocking(command).expect("spawns all the same");
        check_alive(&mut small);
        assert_eq!(sizes(&small), (8 << 10, 8 << 10), "as granted, not as asked");
        let report = small.close_blocking();
        assert_eq!(report.stats().stdout_pipe_size, 8 << 10, "and in the report");
    }
    let soft = Engine::capacity();
    let soft = soft.limits().iter().find(|limit| limit.name == "fs.pipe-user-pages-soft");
    assert!(soft.is_some_and(|limit| !limit.refuses), "{soft:?}");
    drop(filled);
    assert_eq!(usual.close_blocking().exit(), ExitStatus::Code(0));
}
