//! F5, bench: an agent that still has 1 MiB to write is closed gracefully; no byte is lost.

use std::time::Duration;

use super::blocked_abort::{full, stuck};
use super::counts::{Counts, Ends};
use super::plain::timed;
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, ended};

const BYTES: u64 = 1 << 20;
const FAKE: [&str; 5] = ["--flood", "1m", "--sigterm-restart", "--record-size", "4096"];

/// The peer's; other programs take seconds.
const RUNG: Duration = Duration::from_millis(20);

pub(super) fn open<'a>(target: &'a Target, _: &'static Scenario) -> Failed<Box<dyn Rounds + 'a>> {
    Ok(Box::new(Flush { target, ends: Ends::default() }))
}

struct Flush<'a> {
    target: &'a Target,
    ends: Ends,
}

impl Rounds for Flush<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let agent = stuck(self.target, &FAKE)?;
        let (took, report) = timed(|| ended(agent.close_blocking()))?;
        all_came(report.stats().bytes_in)?;
        self.ends.add(&report);
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = full(self.target, &FAKE)?;
        let (took, bytes) = timed(|| child.end())?;
        all_came(bytes)?;
        Ok(took)
    }

    fn peer(&mut self) -> Failed<Duration> {
        let mut child = full(self.target, &FAKE)?;
        Ok(timed(|| child.end_unread(RUNG))?.0)
    }

    fn counts(&mut self) -> Failed<Counts> {
        Ok(self.ends.counts())
    }
}

fn all_came(bytes: u64) -> Failed<()> {
    if bytes == BYTES { Ok(()) } else { Err(format!("{bytes} of {BYTES} bytes came")) }
}
