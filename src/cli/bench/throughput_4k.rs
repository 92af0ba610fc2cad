//! F5, bench: records of 4 KiB as fast as the built-in agent can write them.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use agentpipe::{JsonCheck, Limits};

use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds};
use super::target::{RingUse, Target};

/// Records in a sample.
pub(super) const RECORDS: u64 = 2000;
const SIZE: u64 = 4096;
const FAKE: [&str; 4] = ["--flood", "--never-read-stdin", "--record-size", "4096"];

pub(super) fn open(target: &Target) -> Failed<Box<dyn Rounds + '_>> {
    let none = RingUse { enters: 0, completions: 0 };
    Ok(Box::new(Throughput { target, sum: none, records: 0 }))
}

struct Throughput<'a> {
    target: &'a Target,
    /// Of the timed parts only.
    sum: RingUse,
    records: u64,
}

impl Rounds for Throughput<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        // The limit counts lines and nothing else, so records are not parsed here, either.
        let limits = Limits::new().json_check(JsonCheck::Shape);
        let mut agent = self.target.spawn(&FAKE, limits)?;
        agent.next_record_blocking().ok_or("the built-in agent said nothing")?;
        let before = self.target.ring_use();
        let take_all = || {
            for _ in 0..RECORDS {
                match agent.next_record_blocking() {
                    Some(record) if record.len() as u64 + 1 == SIZE => {}
                    _ => return Err("a record is missing or of the wrong size".to_owned()),
                }
            }
            Ok(())
        };
        let (took, ()) = timed(take_all)?;
        let after = self.target.ring_use();
        self.sum.enters += after.enters - before.enters;
        self.sum.completions += after.completions - before.completions;
        self.records += RECORDS;
        agent.abort_blocking();
        Ok(took)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let mut child = Plain(self.target.spawn_plain(&FAKE)?);
        let mut stdout = child.stdout()?;
        let mut buffer = vec![0; 64 << 10];
        let mut read = || match stdout.read(&mut buffer).map_err(|error| error.to_string())? {
            0 => Err("the output ended".to_owned()),
            count => Ok((count as u64, memchr::memchr_iter(b'\n', &buffer[..count]).count())),
        };
        let (mut bytes, _) = read()?;
        let end = bytes + RECORDS * SIZE;
        let read_all = || {
            let mut lines = 0;
            while bytes < end {
                let (count, more) = read()?;
                (bytes, lines) = (bytes + count, lines + more);
            }
            Ok(lines)
        };
        let (took, lines) = timed(read_all)?;
        if (lines as u64) + 1 < RECORDS {
            return Err(format!("{lines} lines of {RECORDS}"));
        }
        Ok(took)
    }

    fn counts(&mut self) -> BTreeMap<String, f64> {
        per_record(RingUse { enters: 0, completions: 0 }, self.sum, self.records)
    }
}

/// What the ring did for each record.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(super) fn per_record(before: RingUse, after: RingUse, records: u64) -> BTreeMap<String, f64> {
    let each = |before: u64, after: u64| (after - before) as f64 / records.max(1) as f64;
    BTreeMap::from([
        ("enters_per_record".to_owned(), each(before.enters, after.enters)),
        ("cqes_per_record".to_owned(), each(before.completions, after.completions)),
    ])
}
