//! F5, bench: one small record to an agent that sends it back.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use agentpipe::{Agent, Limits};

use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds};
use super::target::{RingUse, Target};
use super::throughput_4k::per_record;

const RECORD: &str = r#"{"type":"ping","id":1}"#;

pub(super) fn open(target: &Target) -> Failed<Box<dyn Rounds + '_>> {
    let mut rounds = Roundtrip {
        target,
        agent: target.spawn(&[], Limits::new())?,
        child: Plain(target.spawn_plain(&[])?),
        before: target.ring_use(),
        records: 0,
    };
    rounds.agentpipe()?;
    (rounds.before, rounds.records) = (target.ring_use(), 0);
    Ok(Box::new(rounds))
}

struct Roundtrip<'a> {
    target: &'a Target,
    agent: Agent,
    child: Plain,
    before: RingUse,
    records: u64,
}

impl Rounds for Roundtrip<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        self.records += 1;
        let there_and_back = || {
            self.agent.send_blocking(RECORD).map_err(|error| error.to_string())?;
            Ok(self.agent.next_record_blocking())
        };
        match timed(there_and_back)? {
            (took, Some(record)) if record.as_bytes() == RECORD.as_bytes() => Ok(took),
            _ => Err("the echo is not what was sent".to_owned()),
        }
    }

    fn limit(&mut self) -> Failed<Duration> {
        let (Some(stdin), Some(stdout)) = (&mut self.child.0.stdin, &mut self.child.0.stdout)
        else {
            return Err("the plain child has no pipes".to_owned());
        };
        let line = format!("{RECORD}\n");
        let mut back = vec![0; line.len()];
        let there_and_back = || {
            let result =
                stdin.write_all(line.as_bytes()).and_then(|()| stdout.read_exact(&mut back));
            result.map_err(|error| error.to_string())
        };
        let (took, ()) = timed(there_and_back)?;
        if back != line.as_bytes() {
            return Err("the echo is not what was sent".to_owned());
        }
        Ok(took)
    }

    fn counts(&mut self) -> BTreeMap<String, f64> {
        per_record(self.before, self.target.ring_use(), self.records)
    }
}
