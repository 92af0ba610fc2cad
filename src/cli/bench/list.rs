//! All scenarios by name, and the choice of those that are run.

use super::scenario::{Own, Scenario};
use super::setup::Setup;
use super::wait::BenchResult;
use super::{frame, roundtrip, shutdown, spawn, throughput};

static ALL: [Scenario; 19] = [
    envelope("envelope_256", 256, 2000),
    // The framers are not public: benches/frame.rs measures the record path before this point.
    Scenario {
        targets: &[("us_per_record", 0.5), ("allocations_per_1000_records", 0.0)],
        ..envelope("envelope_1k", 1 << 10, 1000)
    },
    envelope("envelope_4k", 4 << 10, 400),
    envelope("envelope_64k", 64 << 10, 40),
    envelope("envelope_1m", 1 << 20, 3),
    throughput("throughput_256", 256, 8000),
    throughput("throughput_1k", 1 << 10, 4000),
    Scenario {
        // 0.8 times the throughput of the read loop, 1.3 times that of the peer.
        targets: &[("ratio", 1.25), ("ratio_to_peer", 0.77)],
        ..throughput("throughput_4k", 4 << 10, 2000)
    },
    // 0.9 times the throughput of the read loop.
    Scenario { targets: &[("ratio", 1.11)], ..throughput("throughput_64k", 64 << 10, 200) },
    throughput("throughput_1m", 1 << 20, 16),
    Scenario {
        peer: Some("tokio's BufReader::lines, serde_json::Value"),
        epoll: false,
        open: throughput::open_pipeline,
        // 5 times the throughput of the peer.
        targets: &[("ratio_to_peer", 0.2)],
        ..throughput("pipeline_1k", 1 << 10, 4000)
    },
    Scenario {
        name: "close_idle",
        round_ms: 30,
        epoll: true,
        group: "shutdown",
        limit: "close stdin, read to the end, waitpid",
        own: Own::Always,
        open: shutdown::open_idle,
        ..DEFAULTS
    },
    Scenario {
        name: "flush_1m",
        round_ms: 50,
        epoll: true,
        limit: "close stdin, read 1 MiB, waitpid",
        peer: Some(
            "close stdin, read nothing, SIGTERM after 20 ms, SIGKILL after 20 ms (loses it)",
        ),
        targets: &[("ratio", 1.5)],
        open: shutdown::open_flush,
        ..DEFAULTS
    },
    Scenario {
        name: "close_blocked_abort",
        epoll: true,
        limit: "SIGKILL, waitpid",
        peer: Some("close(2) of stdout, waitpid"),
        targets: &[("ratio", 1.1), ("p99_us", 5000.0)],
        open: shutdown::open_abort,
        ..DEFAULTS
    },
    Scenario {
        name: "close_blocked_graceful",
        round_ms: 200,
        limit: "close stdin, read for 40 ms, SIGTERM, read to the end, waitpid",
        peer: Some("close stdin, read nothing, SIGTERM after 40 ms, SIGKILL after 40 ms"),
        thin: 5,
        open: shutdown::open_graceful,
        ..DEFAULTS
    },
    Scenario {
        name: "close_100",
        round_ms: 1000,
        epoll: true,
        limit: "100 times SIGKILL, 100 times waitpid",
        peer: Some("100 times close(2) of stdout, 100 times waitpid"),
        thin: 10,
        open: shutdown::open_hundred,
        ..DEFAULTS
    },
    Scenario {
        name: "spawn",
        group: "spawn",
        limit: "std::process::Command, which is posix_spawn",
        peer: Some("std::process::Command with a uid, which forks"),
        own: Own::Always,
        open: spawn::open_spawn,
        ..DEFAULTS
    },
    Scenario {
        name: "first_record",
        group: "spawn",
        limit: "std::process::Command, read(2) up to a newline",
        own: Own::IfNamed,
        open: spawn::open_first_record,
        ..DEFAULTS
    },
    Scenario {
        name: "roundtrip",
        epoll: true,
        group: "roundtrip",
        limit: "write(2), read(2)",
        peer: Some("write(2), a thread that reads lines, a channel"),
        records: 1,
        own: Own::WithPing,
        open: roundtrip::open,
        ..DEFAULTS
    },
];

/// The values that most scenarios share.
const DEFAULTS: Scenario = Scenario {
    name: "",
    group: "shutdown",
    limit: "",
    peer: None,
    records: 0,
    record_bytes: 0,
    thin: 1,
    round_ms: 20,
    own: Own::Never,
    epoll: false,
    targets: &[],
    open: shutdown::open_idle,
};

const fn envelope(name: &'static str, record_bytes: u64, records: u64) -> Scenario {
    Scenario {
        name,
        group: "frame",
        limit: "memchr for a newline",
        peer: Some("serde_json::Value"),
        records,
        record_bytes,
        open: frame::open,
        ..DEFAULTS
    }
}

const fn throughput(name: &'static str, record_bytes: u64, records: u64) -> Scenario {
    Scenario {
        name,
        group: "throughput",
        limit: "blocking read(2) loop that counts lines",
        peer: Some("tokio's BufReader::lines on one thread"),
        records,
        record_bytes,
        epoll: matches!(record_bytes, 0x400 | 0x1000 | 0x10000),
        // One sample of the largest record takes as long as several others.
        thin: if record_bytes >= 1 << 20 { 3 } else { 1 },
        round_ms: 35,
        open: throughput::open_flood,
        ..DEFAULTS
    }
}

/// Whether there is a scenario of this name.
pub(crate) fn is_scenario(name: &str) -> bool {
    ALL.iter().any(|scenario| scenario.name == name)
}

/// Returns how long the scenarios take, in seconds, on an idle machine. An own agent starts twice in each
/// round of its close, and waits for its warm-up.
pub(super) fn expected(chosen: &[&Scenario], setup: &Setup, samples: u32) -> f64 {
    let warm_up = if setup.is_own() { 2.0 * setup.warm_up.as_secs_f64() } else { 0.0 };
    let each = |scenario: &&Scenario| {
        // The first round is not counted.
        let rounds = f64::from((samples / scenario.thin).max(1) + 1);
        let waits = if scenario.group == "shutdown" { warm_up } else { 0.0 };
        rounds * (f64::from(scenario.round_ms) / 1e3 + waits)
    };
    chosen.iter().map(each).sum()
}

/// Returns the scenarios that `names` select, in the order of the list. `own` says whether the user
/// named an agent, `ping` whether there is a record that it answers.
pub(super) fn choose(
    names: &[String],
    own: bool,
    ping: bool,
) -> BenchResult<Vec<&'static Scenario>> {
    let called = |scenario: &Scenario, name: &str| scenario.name == name || scenario.group == name;
    let can_run = |scenario: &Scenario, named: bool| match scenario.own {
        Own::Always => true,
        Own::Never => !own,
        Own::WithPing => !own || ping,
        Own::IfNamed => !own || ping || named,
    };
    for name in names {
        let meant: Vec<&Scenario> = ALL.iter().filter(|it| called(it, name)).collect();
        if meant.is_empty() {
            return Err(format!("there is no scenario `{name}`; there are {}", known()).into());
        }
        if !meant.iter().any(|scenario| can_run(scenario, true)) {
            let with_ping = meant.iter().any(|scenario| scenario.own == Own::WithPing);
            return Err(match with_ping {
                true => format!("{name} needs a record that your agent answers: --ping RECORD"),
                false => format!("{name} needs the built-in agent: leave out `-- CMD`"),
            }
            .into());
        }
    }
    let is_wanted = |scenario: &&Scenario| {
        let by_name = names.iter().any(|name| scenario.name == name);
        let by_group = names.is_empty() || names.iter().any(|name| scenario.group == name);
        (by_name || by_group) && can_run(scenario, by_name)
    };
    Ok(ALL.iter().filter(is_wanted).collect())
}

/// Returns all names, groups first.
fn known() -> String {
    let mut names: Vec<&str> = ALL.iter().map(|scenario| scenario.group).collect();
    names.dedup();
    let scenarios = ALL.iter().map(|scenario| scenario.name);
    names.extend(scenarios.filter(|name| ALL.iter().all(|other| other.group != *name)));
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;

    #[test]
    fn scenario_names_are_unique() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|it| !it.name.is_empty() && !it.limit.is_empty() && it.thin > 0));
    }
}
