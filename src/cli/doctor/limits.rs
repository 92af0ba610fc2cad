//! The limits of this host: what is there, what is in use, what agents need of each, and the command that
//! raises it.

use std::path::Path;

use agentpipe::{Capacity, CapacityLimit};
use rustix::process::{Resource, getrlimit};
use serde::{Serialize, Serializer};

use super::host::{self, number};
use super::raise::Raise;

/// The memory that the transport of one agent needs: three full pipes of 64 KiB, and the 4 KiB of an agent
/// in its host. Unread and unsent records come on top.
const TRANSPORT: u64 = (3 * 64 + 4) << 10;

/// The options about agents.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    pub(super) agents: Option<u64>,
    /// Processes and threads of one agent.
    pub(super) threads: u64,
    /// The memory that one agent uses itself, in bytes.
    pub(super) memory: u64,
}

/// What a limit is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Number(u64),
    Unlimited,
    Unknown,
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(value) => serializer.serialize_u64(*value),
            Self::Unlimited => serializer.serialize_str("unlimited"),
            Self::Unknown => serializer.serialize_none(),
        }
    }
}

/// What happens to agents beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Beyond {
    /// The spawn fails.
    Refused,
    /// Pipes hold 8 KiB.
    SmallPipes,
    /// The kernel kills processes.
    OutOfMemory,
}

/// One limit. Every number is in `unit`.
#[derive(Debug, Serialize)]
pub(super) struct Limit {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) value: Value,
    /// Whether it binds this process, which may be privileged.
    pub(super) applies: bool,
    /// `None`: the kernel does not tell.
    pub(super) used: Option<u64>,
    /// `None`: agents use none of it.
    pub(super) per_agent: Option<u64>,
    /// How many more agents fit.
    pub(super) room: Option<u64>,
    pub(super) beyond: Option<Beyond>,
    /// With `--agents`: what is in use, and what the agents need.
    pub(super) needs: Option<u64>,
    pub(super) suffices: Option<bool>,
    pub(super) means: String,
    /// Sets it to `needs` and an eighth more where it is too low, else to twice its value.
    pub(super) command: Option<String>,
}

impl Limit {
    /// Returns a limit of which agents use nothing, and that no command raises.
    fn new(name: &'static str, unit: &'static str, value: Value, means: &str) -> Self {
        Self {
            name,
            unit,
            value,
            applies: true,
            used: None,
            per_agent: None,
            room: None,
            beyond: None,
            needs: None,
            suffices: None,
            means: means.to_owned(),
            command: None,
        }
    }

    /// Whether the agents of `--agents` can be spawned, as far as this limit is known.
    pub(super) fn fits(&self) -> bool {
        self.suffices != Some(false) || self.beyond == Some(Beyond::SmallPipes)
    }

    /// Whether agents end where the room in this limit does.
    pub(super) fn ends_room(&self) -> bool {
        self.room.is_some() && self.beyond != Some(Beyond::SmallPipes)
    }
}

/// Returns every limit, also those that are unknown here.
pub(super) fn all(capacity: &Capacity, demand: Demand) -> Vec<Limit> {
    let counted = |name, unit, beyond, raise, absent: Value, means: &str| {
        counted(capacity, demand, Spec { name, unit, beyond, raise, absent, means })
    };
    let pids = capacity.limits().iter().find(|limit| limit.name == PIDS);
    let pids_file = pids.and_then(|limit| host::pids_file(limit.value));
    let sysctl = |path: &str| match number(path) {
        Some(0) => Value::Unlimited,
        Some(value) => Value::Number(value),
        None => Value::Unknown,
    };
    let soft = "fs.pipe-user-pages-soft";
    let hard = "fs.pipe-user-pages-hard";
    let mut limits = vec![
        counted(
            "RLIMIT_NOFILE",
            "descriptors",
            Beyond::Refused,
            Raise::Descriptors,
            Value::Unlimited,
            "open files of this process (systemd: LimitNOFILE=); three more during a spawn",
        ),
        counted(
            "fs.file-max",
            "open files",
            Beyond::Refused,
            Raise::Sysctl("fs.file-max"),
            sysctl("/proc/sys/fs/file-max"),
            "open files of the host; root may exceed it",
        ),
        counted(
            "RLIMIT_NPROC of the user",
            "threads",
            Beyond::Refused,
            Raise::Processes,
            getrlimit(Resource::Nproc).current.map_or(Value::Unlimited, Value::Number),
            "processes and threads of this user (systemd: LimitNPROC=); root may exceed it",
        ),
        counted(
            PIDS,
            "threads",
            Beyond::Refused,
            pids_file.map_or(Raise::Never, Raise::File),
            if host::cgroups("pids").is_empty() { Value::Unknown } else { Value::Unlimited },
            "processes and threads of this container or service (docker run --pids-limit, TasksMax=)",
        ),
        counted(
            "kernel.threads-max",
            "threads",
            Beyond::Refused,
            Raise::Sysctl("kernel.threads-max"),
            Value::Unknown,
            "processes and threads of the host",
        ),
        counted(
            "kernel.pid_max",
            "threads",
            Beyond::Refused,
            Raise::Sysctl("kernel.pid_max"),
            Value::Unknown,
            "numbers for processes and threads of the host",
        ),
        counted(
            soft,
            "pages",
            Beyond::SmallPipes,
            Raise::Sysctl(soft),
            sysctl("/proc/sys/fs/pipe-user-pages-soft"),
            "pages of all pipes of an unprivileged user; above it new pipes hold 8 KiB, not 64 KiB",
        ),
        counted(
            hard,
            "pages",
            Beyond::Refused,
            Raise::Sysctl(hard),
            sysctl("/proc/sys/fs/pipe-user-pages-hard"),
            "pages of all pipes of an unprivileged user; above it no pipe can be made",
        ),
    ];
    limits.extend(memory(demand));
    limits.extend(without_agents());
    limits
}

const PIDS: &str = "pids.max of the cgroup";

/// What is known of a limit beside its numbers.
struct Spec<'a> {
    name: &'static str,
    unit: &'static str,
    beyond: Beyond,
    raise: Raise,
    /// The value if [`Capacity`] does not have the limit. A number does not bind this process.
    absent: Value,
    means: &'a str,
}

/// Takes the numbers of a limit from the capacity of the host.
fn counted(capacity: &Capacity, demand: Demand, spec: Spec<'_>) -> Limit {
    let found = capacity.limits().iter().find(|limit| limit.name == spec.name);
    let mut limit = Limit {
        applies: !matches!(spec.absent, Value::Number(_)),
        beyond: Some(spec.beyond),
        ..Limit::new(spec.name, spec.unit, spec.absent, spec.means)
    };
    if let Some(found) = found {
        let each = if spec.unit == "threads" { demand.threads } else { 1 };
        let CapacityLimit { value, used, per_agent, .. } = *found;
        limit.value = Value::Number(value);
        limit.applies = true;
        // The kernel does not tell what a user's pipes hold, and without /proc it tells nothing.
        let known = spec.unit != "pages" && Path::new("/proc/self/fd").exists();
        limit.used = known.then_some(used);
        limit.per_agent = Some(per_agent.saturating_mul(each));
    }
    judge(limit, demand, &spec.raise)
}

/// Fills in what follows from the numbers of a limit.
fn judge(mut limit: Limit, demand: Demand, raise: &Raise) -> Limit {
    let used = limit.used.unwrap_or(0);
    limit.needs = demand.agents.zip(limit.per_agent).map(|(agents, each)| {
        // Saturated it is above every limit but 2^64 - 1, which is none.
        used.saturating_add(agents.saturating_mul(each))
    });
    match limit.value {
        Value::Number(value) if limit.applies => {
            let free = value.saturating_sub(used);
            limit.room = limit.per_agent.map(|each| free / each.max(1));
            limit.suffices = limit.needs.map(|needs| needs <= value);
            let wanted = match limit.needs {
                Some(needs) if needs > value => needs.saturating_add(needs / 8),
                _ => value.saturating_mul(2),
            };
            limit.command = raise.command(wanted);
        }
        Value::Number(_) | Value::Unlimited => {
            limit.suffices = demand.agents.and(limit.beyond).map(|_| true);
        }
        Value::Unknown => {}
    }
    limit
}

/// The memory of the host and of the cgroup. What an agent needs is a lower bound.
fn memory(demand: Demand) -> [Limit; 2] {
    let limit = |name, numbers: Option<(u64, u64)>, absent, means: &str| {
        let value = numbers.map_or(absent, |(value, _)| Value::Number(value));
        Limit {
            used: numbers.map(|(_, used)| used),
            per_agent: Some(TRANSPORT.saturating_add(demand.memory)),
            beyond: Some(Beyond::OutOfMemory),
            ..Limit::new(name, "bytes", value, means)
        }
    };
    let cgroup = host::memory_of_cgroup();
    let of_cgroup = limit(
        "memory.max of the cgroup",
        cgroup.as_ref().map(|cgroup| (cgroup.value, cgroup.used)),
        if host::cgroups("memory").is_empty() { Value::Unknown } else { Value::Unlimited },
        "memory of this container or service (docker run --memory, MemoryMax=), without cached files",
    );
    let raise = cgroup.map_or(Raise::Never, |cgroup| Raise::File(cgroup.file));
    let of_host = limit(
        "memory of the host",
        host::memory_of_host().map(|(total, free)| (total, total.saturating_sub(free))),
        Value::Unknown,
        "in use is what MemAvailable leaves; an agent needs its pipes and what --agent-memory says",
    );
    [judge(of_cgroup, demand, &raise), judge(of_host, demand, &Raise::Never)]
}

/// The limits of which further agents use nothing.
fn without_agents() -> [Limit; 3] {
    let limit = |name, unit, value, means: &str, command| Limit {
        command,
        ..Limit::new(name, unit, value, means)
    };
    let locked = getrlimit(Resource::Memlock).current;
    let largest = number("/proc/sys/fs/pipe-max-size");
    let disabled = number("/proc/sys/kernel/io_uring_disabled");
    let twice = |value: Option<u64>, raise: Raise| raise.command(value?.saturating_mul(2));
    [
        limit(
            "RLIMIT_MEMLOCK",
            "bytes",
            locked.map_or(Value::Unlimited, Value::Number),
            "locked memory of this user (systemd: LimitMEMLOCK=); the rings of its engines count, if it \
             is unprivileged",
            twice(locked, Raise::LockedMemory),
        ),
        limit(
            "fs.pipe-max-size",
            "bytes",
            largest.map_or(Value::Unknown, Value::Number),
            "the largest pipe of an unprivileged user that AgentCommand::pipe_size can set",
            twice(largest, Raise::Sysctl("fs.pipe-max-size")),
        ),
        limit(
            "kernel.io_uring_disabled",
            "setting",
            disabled.map_or(Value::Unknown, Value::Number),
            match disabled {
                None => "unknown; Linux has it since 6.6",
                Some(0) => "allows io_uring",
                Some(1) => "only privileged processes and kernel.io_uring_group may use io_uring",
                Some(_) => "denies io_uring to every process",
            },
            disabled
                .filter(|value| *value > 0)
                .and_then(|_| Raise::Sysctl("kernel.io_uring_disabled").command(0)),
        ),
    ]
}
