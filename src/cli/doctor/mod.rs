//! `agentpipe doctor`: says whether agentpipe works on this host, which backend carries the pipes and why,
//! what the kernel offers, which limits apply, and whether a number of agents fits.

mod host;
mod limits;
mod raise;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agentpipe::{AgentCommand, Backend, Engine, ErrorKind};
use serde::Serialize;

use super::say_out;
use super::units::parse_size;
use host::Pressure;
use limits::{Demand, Limit};

/// The exit code where agentpipe works and the agents of `--agents` do not fit.
const DO_NOT_FIT: u8 = 3;

/// Says whether agentpipe works on this host, what limits it, and whether a number of agents fits.
///
/// Exit code: 0 it works, and the agents of --agents fit as far as the limits are known; 1 it does not work;
/// 2 the options were not understood; 3 it works, and the agents of --agents do not fit.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    /// Say what this many agents need of each limit, and the command that raises it where it is too low
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    agents: Option<u32>,

    /// The processes and threads of one agent
    #[arg(long, value_name = "N", requires = "agents", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    agent_threads: u32,

    /// The memory that one agent uses itself, such as 170m
    #[arg(long, value_name = "SIZE", requires = "agents", default_value = "0",
          value_parser = parse_size)]
    agent_memory: u64,
}

/// The JSON object. docs/guide/operating.md documents every key.
#[derive(Debug, Serialize)]
struct HostReport {
    schema: u32,
    usable: bool,
    problem: Option<String>,
    kernel: String,
    /// What `AGENTPIPE_BACKEND` asks for.
    requested: Option<String>,
    backend: Option<&'static str>,
    /// `None` without io_uring.
    multishot: Option<bool>,
    /// Why io_uring does not carry the pipes.
    fallback: Option<String>,
    features: Vec<Feature>,
    limits: Vec<Limit>,
    room: Room,
    agents: Option<Wanted>,
    pressure: Pressure,
}

#[derive(Debug, Serialize)]
struct Feature {
    name: &'static str,
    since: &'static str,
    /// `None`: not known, because io_uring was not tried or does not run.
    present: Option<bool>,
    without_it: &'static str,
}

/// How many more agents fit.
#[derive(Debug, Serialize)]
struct Room {
    /// `None` if no limit is known.
    agents: Option<u64>,
    first_limit: Option<&'static str>,
}

/// The answer to `--agents`.
#[derive(Debug, Serialize)]
struct Wanted {
    wanted: u64,
    /// As far as the limits are known.
    fit: bool,
}

pub(crate) fn main(args: &DoctorArgs) -> ExitCode {
    let report = examine(args);
    if args.json {
        say_out(format_args!("{}", serde_json::to_string(&report).unwrap_or_default()));
    } else {
        text::print(&report);
    }
    match &report.agents {
        _ if !report.usable => ExitCode::FAILURE,
        Some(agents) if !agents.fit => ExitCode::from(DO_NOT_FIT),
        _ => ExitCode::SUCCESS,
    }
}

fn examine(args: &DoctorArgs) -> HostReport {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let requested = std::env::var_os("AGENTPIPE_BACKEND");
    let demand = Demand {
        agents: args.agents.map(u64::from),
        threads: args.agent_threads.into(),
        memory: args.agent_memory,
    };
    let started = Engine::new();
    // While the engine lives, so that its descriptors and threads count.
    let limits = limits::all(&Engine::capacity(), demand);
    let engine = started.as_ref().ok();
    let problem = match &started {
        Ok(engine) => try_agent(engine),
        Err(error) => Some(error.to_string()),
    };
    HostReport {
        schema: 1,
        usable: problem.is_none(),
        problem,
        kernel,
        requested: requested.map(|value| value.to_string_lossy().into_owned()),
        backend: engine.map(|engine| engine.backend().as_str()),
        multishot: engine.and_then(multishot),
        fallback: engine.and_then(Engine::fallback).map(str::to_owned),
        features: features(engine),
        room: room(&limits),
        agents: demand.agents.map(|wanted| Wanted { wanted, fit: limits.iter().all(Limit::fits) }),
        limits,
        pressure: host::pressure(),
    }
}

/// Spawns, asks and closes a real agent, which proves more than any check of features.
fn try_agent(engine: &Engine) -> Option<String> {
    let run = || -> Result<(), String> {
        let spawned = match engine.spawn_blocking(AgentCommand::new("cat")) {
            // An image may hold this program and nothing else.
            Err(error) if error.kind() == ErrorKind::ProgramNotFound => {
                let own = std::env::current_exe().ok();
                // Without `/proc` only the caller has told its path.
                let own = own.or_else(|| std::env::args_os().next().map(PathBuf::from));
                own.map_or(Err(error), |own| {
                    engine.spawn_blocking(AgentCommand::new(own).arg("fake"))
                })
            }
            spawned => spawned,
        };
        let mut agent = spawned.map_err(|error| format!("cannot spawn a test agent: {error}"))?;
        agent.send_blocking(r#"{"doctor":1}"#).map_err(|error| error.to_string())?;
        let answer = agent.next_record_blocking();
        let report = agent.close_blocking();
        match answer {
            Some(record) if record.as_bytes() == br#"{"doctor":1}"# && report.exit().success() => {
                Ok(())
            }
            _ => Err(format!("the test agent did not answer: {report}")),
        }
    };
    run().err()
}

fn multishot(engine: &Engine) -> Option<bool> {
    (engine.backend() == Backend::IoUring).then(|| engine.kernel_features().multishot)
}

fn room(limits: &[Limit]) -> Room {
    let first = limits.iter().filter(|limit| limit.ends_room()).min_by_key(|limit| limit.room);
    Room { agents: first.and_then(|limit| limit.room), first_limit: first.map(|limit| limit.name) }
}

/// Returns every feature that is worth a line. Those of the ring are unknown where no ring runs.
fn features(engine: Option<&Engine>) -> Vec<Feature> {
    let ring = engine.filter(|engine| engine.backend() == Backend::IoUring);
    let found = ring.map(Engine::kernel_features);
    let children = Path::new("/proc/thread-self/children").exists();
    // Where epoll was asked for, io_uring was not tried.
    let tried = engine.is_none_or(|engine| ring.is_some() || engine.fallback().is_some());
    let features = [
        (
            "io_uring",
            "6.4",
            tried.then_some(ring.is_some()),
            "epoll carries the pipes, with a system call more for each read and write",
        ),
        (
            "multishot_reads",
            "6.7",
            found.as_ref().map(|found| found.multishot),
            "every read of a pipe is submitted anew, which costs CPU time for each",
        ),
        (
            "deferred_task_work",
            "6.1",
            found.as_ref().map(|found| found.setup_flags.contains("DEFER_TASKRUN")),
            "completions interrupt the engine thread, which costs CPU time",
        ),
        (
            "restricted_ring",
            "5.10",
            found.as_ref().map(|found| found.restricted),
            "the ring takes every operation from code that has taken over the process",
        ),
        (
            "min_wait",
            "6.12",
            found.as_ref().map(|found| found.min_wait),
            "EngineBuilder::batch_window needs two system calls per window instead of one",
        ),
        (
            "no_iowait",
            "6.15",
            found.as_ref().map(|found| found.no_iowait),
            "monitoring shows an idle engine as one core in iowait; this costs nothing",
        ),
        (
            "nosignal_writes",
            "6.18",
            found.as_ref().map(|found| found.nosignal),
            "the engine threads block SIGPIPE instead, which costs nothing",
        ),
        (
            "proc_children",
            "4.2",
            Some(children),
            "a close does not see whether its agent is idle, and waits for 100 ms of silence",
        ),
    ];
    let feature = |(name, since, present, without_it)| Feature { name, since, present, without_it };
    features.map(feature).into()
}
