//! F5, bench: an agent that still has 1 MiB to write is closed gracefully; no byte is lost.

use std::time::Duration;

use super::blocked_abort::stuck;
use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds};
use super::target::Target;

const BYTES: u64 = 1 << 20;
const FAKE: [&str; 4] = ["--flood", "1m", "--record-size", "4096"];

pub(super) fn open(target: &Target) -> Failed<Box<dyn Rounds + '_>> {
    Ok(Box::new(Flush(target)))
}

struct Flush<'a>(&'a Target);

impl Rounds for Flush<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        let agent = stuck(self.0, &FAKE)?;
        let (took, report) = timed(|| Ok(agent.close_blocking()))?;
        all_came(report.stats().bytes_in)?;
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = Plain(self.0.spawn_plain(&FAKE)?);
        child.await_full()?;
        let (took, bytes) = timed(|| child.end())?;
        all_came(bytes)?;
        Ok(took)
    }
}

fn all_came(bytes: u64) -> Failed<()> {
    if bytes == BYTES { Ok(()) } else { Err(format!("{bytes} of {BYTES} bytes came")) }
}
