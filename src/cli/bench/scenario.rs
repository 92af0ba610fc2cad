//! F5, bench: what a scenario is, and which are run.

use std::time::Duration;

use super::counts::Counts;
use super::list::ALL;
use super::target::Target;

/// The error is one line.
pub(super) type Failed<T> = Result<T, String>;

/// A scenario that can be run.
#[derive(Debug)]
pub(super) struct Scenario {
    /// Stable: limits files name it.
    pub(super) name: &'static str,
    /// `frame`, `throughput`, `shutdown`, `spawn` or `roundtrip`; asks for all of it.
    pub(super) group: &'static str,
    /// The least that the kernel needs for the same.
    pub(super) limit: &'static str,
    /// What others do, where that needs nothing but this program.
    pub(super) peer: Option<&'static str>,
    /// Records in a sample; 0 where records are not what is measured.
    pub(super) records: u64,
    /// Bytes of each on the pipe; 0 where bytes are not.
    pub(super) record_bytes: u64,
    /// A slow one is measured once where others are measured so often.
    pub(super) thin: u32,
    pub(super) own: Own,
    /// What the project aims at: metrics and the most that each should be.
    pub(super) targets: &'static [(&'static str, f64)],
    pub(super) open: for<'a> fn(&'a Target, &'static Self) -> Failed<Box<dyn Rounds + 'a>>,
}

/// Whether it can be asked of an agent that agentpipe knows nothing about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Never,
    Always,
    /// If there is a record that it answers.
    WithPing,
    /// With a ping by itself, and without one where it is named.
    IfNamed,
}

/// One scenario under way. The first three are called in turns.
pub(super) trait Rounds {
    /// One sample of agentpipe.
    fn agentpipe(&mut self) -> Failed<Duration>;
    /// One sample of the limit.
    fn limit(&mut self) -> Failed<Duration>;
    /// One sample of the peer; asked for only where the scenario names one.
    fn peer(&mut self) -> Failed<Duration> {
        Err("it has no peer".to_owned())
    }
    /// What was counted, over the samples or in rounds of its own.
    fn counts(&mut self) -> Failed<Counts> {
        Ok(Counts::new())
    }
}

/// The scenarios that were asked for, in the order of the list.
pub(super) fn choose(names: &[String], own: bool, ping: bool) -> Failed<Vec<&'static Scenario>> {
    let called = |scenario: &Scenario, name: &str| scenario.name == name || scenario.group == name;
    let answers = |scenario: &Scenario, named: bool| match scenario.own {
        Own::Always => true,
        Own::Never => !own,
        Own::WithPing => !own || ping,
        Own::IfNamed => !own || ping || named,
    };
    for name in names {
        let meant: Vec<&Scenario> = ALL.iter().filter(|it| called(it, name)).collect();
        if meant.is_empty() {
            return Err(format!("there is no scenario `{name}`; there are {}", known()));
        }
        if !meant.iter().any(|scenario| answers(scenario, true)) {
            let with_ping = meant.iter().any(|scenario| scenario.own == Own::WithPing);
            return Err(match with_ping {
                true => format!("{name} needs a record that your agent answers: --ping RECORD"),
                false => format!("{name} needs the built-in agent: leave out `-- CMD`"),
            });
        }
    }
    let wanted = |scenario: &&Scenario| {
        let by_name = names.iter().any(|name| scenario.name == name);
        let by_group = names.is_empty() || names.iter().any(|name| scenario.group == name);
        (by_name || by_group) && answers(scenario, by_name)
    };
    Ok(ALL.iter().filter(wanted).collect())
}

/// All names, groups first.
fn known() -> String {
    let mut names: Vec<&str> = ALL.iter().map(|scenario| scenario.group).collect();
    names.dedup();
    let scenarios = ALL.iter().map(|scenario| scenario.name);
    names.extend(scenarios.filter(|name| ALL.iter().all(|other| other.group != *name)));
    names.join(", ")
}
