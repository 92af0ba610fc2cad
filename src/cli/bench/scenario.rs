//! What a scenario is, and what one run of it can do.

use super::counts::Counts;
use super::setup::Setup;
use super::stopwatch::Took;
use super::wait::BenchResult;

/// A scenario that can be run.
#[derive(Debug)]
pub(super) struct Scenario {
    /// Stable: limits files name it.
    pub(super) name: &'static str,
    /// `frame`, `throughput`, `shutdown`, `spawn` or `roundtrip`. Selects all scenarios of the group.
    pub(super) group: &'static str,
    /// The least work that the kernel allows for the same result.
    pub(super) limit: &'static str,
    /// What other hosts do, if this program can do it too.
    pub(super) peer: Option<&'static str>,
    /// Records in a sample; 0 if the scenario does not measure records.
    pub(super) records: u64,
    /// Bytes of each record on the pipe; 0 if the scenario does not measure bytes.
    pub(super) record_bytes: u64,
    /// Divides the number of samples, for a scenario that is slow.
    pub(super) thin: u32,
    /// The time of one sample of all contestants together on two idle cores, for the announced duration.
    pub(super) round_ms: u32,
    pub(super) own: Own,
    /// Whether the epoll backend is measured beside io_uring.
    pub(super) epoll: bool,
    /// The project's goals: each metric with the highest value that meets it.
    pub(super) targets: &'static [(&'static str, f64)],
    pub(super) open: for<'a> fn(&'a Setup, &'static Self) -> BenchResult<Box<dyn Run + 'a>>,
}

/// Whether a scenario can run with the user's agent, of which agentpipe knows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Never,
    Always,
    /// Only with a record that the agent answers.
    WithPing,
    /// With such a record, or without one if the user names the scenario.
    IfNamed,
}

/// A scenario that is being run. The samples are taken in turn.
pub(super) trait Run {
    /// Takes one sample of agentpipe.
    fn agentpipe(&mut self) -> BenchResult<Took>;
    /// Takes one sample of the limit.
    fn limit(&mut self) -> BenchResult<Took>;
    /// Takes one sample of the peer. Called only if the scenario names one.
    fn peer(&mut self) -> BenchResult<Took> {
        Err("it has no peer".into())
    }
    /// Returns what was counted during the samples, or in further rounds.
    fn counts(&mut self) -> BenchResult<Counts> {
        Ok(Counts::new())
    }
}
