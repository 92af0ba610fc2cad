//! F5, bench: the list of scenarios and what one is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::target::Target;
use super::{blocked_abort, flush_1m, idle_close, roundtrip, spawn, throughput_4k};

/// The error is one line.
pub(super) type Failed<T> = Result<T, String>;

/// A scenario that can be run.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// What it is held against.
    pub(super) limit: &'static str,
    /// Records in a sample.
    pub(super) records: u64,
    /// Whether it can be asked of an agent that agentpipe knows nothing about.
    any_agent: bool,
    pub(super) open: for<'a> fn(&'a Target) -> Failed<Box<dyn Rounds + 'a>>,
}

/// One scenario under way. The two are called in turns.
pub(super) trait Rounds {
    /// One sample of agentpipe.
    fn agentpipe(&mut self) -> Failed<Duration>;
    /// One sample of the limit.
    fn limit(&mut self) -> Failed<Duration>;
    /// What was counted over all samples.
    fn counts(&mut self) -> BTreeMap<String, f64> {
        BTreeMap::new()
    }
}

static ALL: [Scenario; 6] = [
    Scenario {
        name: "close_idle",
        limit: "close stdin, read to the end, waitpid",
        records: 0,
        any_agent: true,
        open: idle_close::open,
    },
    Scenario {
        name: "close_blocked_abort",
        limit: "SIGKILL, waitpid",
        records: 0,
        any_agent: false,
        open: blocked_abort::open,
    },
    Scenario {
        name: "flush_1m",
        limit: "close stdin, read 1 MiB, waitpid",
        records: 0,
        any_agent: false,
        open: flush_1m::open,
    },
    Scenario {
        name: "spawn",
        limit: "std::process::Command",
        records: 0,
        any_agent: true,
        open: spawn::open,
    },
    Scenario {
        name: "roundtrip",
        limit: "write(2), read(2)",
        records: 1,
        any_agent: false,
        open: roundtrip::open,
    },
    Scenario {
        name: "throughput_4k",
        limit: "blocking read(2) loop that counts lines",
        records: throughput_4k::RECORDS,
        any_agent: false,
        open: throughput_4k::open,
    },
];

/// The scenarios that were asked for, in the order of the list.
pub(super) fn choose(names: &[String], own_agent: bool) -> Failed<Vec<&'static Scenario>> {
    for name in names {
        match ALL.iter().find(|scenario| scenario.name == name) {
            None => {
                let known = ALL.each_ref().map(|scenario| scenario.name).join(", ");
                return Err(format!("there is no scenario `{name}`; there are {known}"));
            }
            Some(scenario) if own_agent && !scenario.any_agent => {
                return Err(format!("{name} needs the built-in agent: leave out `-- CMD`"));
            }
            Some(_) => {}
        }
    }
    let wanted = |scenario: &&Scenario| match names.is_empty() {
        true => scenario.any_agent || !own_agent,
        false => names.iter().any(|name| name == scenario.name),
    };
    Ok(ALL.iter().filter(wanted).collect())
}
