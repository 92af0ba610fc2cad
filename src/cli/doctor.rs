//! `agentpipe doctor`: says whether agentpipe works on this host, what the kernel offers, and which limits
//! apply.

use std::fs;
use std::process::ExitCode;

use agentpipe::{AgentCommand, Engine};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::say_out;

/// Says whether agentpipe works on this host, and what limits it.
///
/// Exit code: 0 it works, 1 it does not.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct HostReport {
    schema: u32,
    usable: bool,
    backend: Option<&'static str>,
    problem: Option<String>,
    kernel: String,
    features: Vec<Feature>,
    limits: Vec<Limit>,
    capacity: Room,
}

/// How many more agents the limits of this host allow.
#[derive(Debug, Serialize)]
struct Room {
    /// `None` if no limit is known.
    agents: Option<u64>,
    first_limit: Option<&'static str>,
    limits: Vec<RoomLimit>,
}

#[derive(Debug, Serialize)]
struct RoomLimit {
    name: &'static str,
    value: u64,
    used: u64,
    per_agent: u64,
    agents: u64,
    refuses: bool,
}

#[derive(Debug, Serialize)]
struct Feature {
    name: &'static str,
    present: bool,
    without_it: &'static str,
}

#[derive(Debug, Serialize)]
struct Limit {
    name: &'static str,
    value: Option<u64>,
    means: String,
}

pub(crate) fn main(args: &DoctorArgs) -> ExitCode {
    let report = examine();
    if args.json {
        say_out(format_args!("{}", serde_json::to_string(&report).unwrap_or_default()));
    } else {
        print(&report);
    }
    if report.usable { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn examine() -> HostReport {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let (backend, features, problem) = match Engine::new() {
        Ok(engine) => (Some(engine.backend().as_str()), features(&engine), try_agent(&engine)),
        Err(error) => (None, Vec::new(), Some(error.to_string())),
    };
    let usable = backend.is_some() && problem.is_none();
    let (limits, capacity) = (limits(), room());
    HostReport { schema: 1, usable, backend, problem, kernel, features, limits, capacity }
}

fn room() -> Room {
    let capacity = Engine::capacity();
    let limits = capacity.limits().iter().map(|limit| RoomLimit {
        name: limit.name,
        value: limit.value,
        used: limit.used,
        per_agent: limit.per_agent,
        agents: limit.agents(),
        refuses: limit.refuses,
    });
    Room {
        agents: capacity.agents(),
        first_limit: capacity.bottleneck().map(|limit| limit.name),
        limits: limits.collect(),
    }
}

/// Spawns, asks and closes a real agent, which proves more than any check of features.
fn try_agent(engine: &Engine) -> Option<String> {
    let run = || -> Result<(), String> {
        let mut agent = engine
            .spawn_blocking(AgentCommand::new("cat"))
            .map_err(|error| format!("cannot spawn a test agent: {error}"))?;
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

fn features(engine: &Engine) -> Vec<Feature> {
    let found = engine.kernel_features();
    vec![
        Feature {
            name: "deferred task work (Linux 6.1)",
            present: found.setup_flags.contains("DEFER_TASKRUN"),
            without_it: "completions interrupt the engine thread, which costs CPU time",
        },
        Feature {
            name: "minimum wait (Linux 6.12)",
            present: found.min_wait,
            without_it: "EngineBuilder::batch_window needs two system calls per window instead of one",
        },
        Feature {
            name: "waiting without iowait (Linux 6.15)",
            present: found.no_iowait,
            without_it: "monitoring shows an idle engine as one core in iowait; this costs nothing",
        },
        Feature {
            name: "writes without SIGPIPE (Linux 6.18)",
            present: found.nosignal,
            without_it: "the engine threads block SIGPIPE instead",
        },
    ]
}

fn limits() -> Vec<Limit> {
    let soft = |resource| getrlimit(resource).current;
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let nofile = soft(Resource::Nofile);
    let memlock = soft(Resource::Memlock);
    let soft_pages = number("/proc/sys/fs/pipe-user-pages-soft");
    let disabled = number("/proc/sys/kernel/io_uring_disabled");
    let pids = own_cgroup().and_then(|dir| number(&format!("{dir}/pids.max")));
    vec![
        Limit {
            name: "RLIMIT_NOFILE",
            value: nofile,
            means: "open files of this process; an agent needs 4".to_owned(),
        },
        Limit {
            name: "RLIMIT_NPROC",
            value: soft(Resource::Nproc),
            means: "processes and threads of this user; an agent may have several".to_owned(),
        },
        Limit {
            name: "pids.max of the own cgroup",
            value: pids,
            means: "processes and threads of this container".to_owned(),
        },
        Limit {
            name: "RLIMIT_MEMLOCK",
            value: memlock,
            means: "locked memory of this user; the rings of unprivileged users count towards it"
                .to_owned(),
        },
        Limit {
            name: "fs.pipe-user-pages-soft",
            value: soft_pages,
            means: match soft_pages {
                Some(pages) => format!(
                    "above about {} agents of an unprivileged user, new pipes hold 8 KiB instead of 64 KiB",
                    pages / (3 * 16)
                ),
                None => "unknown".to_owned(),
            },
        },
        Limit {
            name: "fs.pipe-max-size",
            value: number("/proc/sys/fs/pipe-max-size"),
            means: "the largest pipe, in bytes, that AgentCommand::pipe_size can set".to_owned(),
        },
        Limit {
            name: "kernel.io_uring_disabled",
            value: disabled,
            means: match disabled {
                Some(0) | None => "this setting allows io_uring".to_owned(),
                Some(1) => {
                    "only privileged processes and the group kernel.io_uring_group may use io_uring"
                        .to_owned()
                }
                Some(_) => "this setting denies io_uring to every process".to_owned(),
            },
        },
    ]
}

/// Returns the folder of this process's cgroup, version 2.
fn own_cgroup() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(format!("/sys/fs/cgroup{path}"))
}

fn print(report: &HostReport) {
    let verdict = if report.usable { "works here" } else { "does NOT work here" };
    say_out(format_args!(
        "agentpipe {verdict}; backend {}; Linux {}",
        report.backend.unwrap_or("none"),
        report.kernel
    ));
    if let Some(problem) = &report.problem {
        say_out(format_args!("problem: {problem}"));
    }
    if !report.features.is_empty() {
        say_out(format_args!("kernel features:"));
    }
    for feature in &report.features {
        match feature.present {
            true => say_out(format_args!("  yes  {}", feature.name)),
            false => say_out(format_args!("  no   {}: {}", feature.name, feature.without_it)),
        }
    }
    say_out(format_args!("limits:"));
    for limit in &report.limits {
        let value =
            limit.value.map_or_else(|| "unlimited or unknown".to_owned(), |n| n.to_string());
        say_out(format_args!("  {} = {value}: {}", limit.name, limit.means));
    }
    print_room(&report.capacity);
}

fn print_room(room: &Room) {
    match (room.agents, room.first_limit) {
        (Some(agents), Some(limit)) => {
            say_out(format_args!("room for {agents} more agents; {limit} is the first limit:"));
        }
        _ => say_out(format_args!("room for more agents: no limit is known")),
    }
    for limit in &room.limits {
        let after = if limit.refuses { "" } else { "; above that, pipes get smaller" };
        say_out(format_args!(
            "  {} = {}, {} in use, {} per agent: room for {}{after}",
            limit.name, limit.value, limit.used, limit.per_agent, limit.agents
        ));
    }
}
