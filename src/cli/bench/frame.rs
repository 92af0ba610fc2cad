//! Group `frame`: reads the keys that classify a record from its text, without an agent.
//!
//! The framers are not public; their cost is part of the group `throughput`.

use std::fmt::Write;
use std::hint::black_box;

use agentpipe::Record;

use super::alloc::counted;
use super::counts::{Counts, allocations_per_record};
use super::scenario::{Run, Scenario};
use super::setup::Setup;
use super::stopwatch::Took;
use super::wait::{BenchResult, timed};

pub(super) fn open<'a>(
    _: &'a Setup,
    scenario: &'static Scenario,
) -> BenchResult<Box<dyn Run + 'a>> {
    let text = message(usize::try_from(scenario.record_bytes)?);
    Ok(Box::new(Keys { record: Record::from(text.into_bytes()), times: scenario.records }))
}

struct Keys {
    record: Record,
    times: u64,
}

impl Keys {
    fn repeat(&self, act: impl Fn(&Record) -> BenchResult<()>) -> BenchResult<()> {
        (0..self.times).try_for_each(|_| act(black_box(&self.record)))
    }

    fn envelopes(&self) -> BenchResult<()> {
        self.repeat(|record| {
            let envelope = record.envelope()?;
            match envelope.kind.as_deref() == Some("assistant") && envelope.session_id.is_some() {
                true => Ok(()),
                false => Err("the envelope is not that of the record".into()),
            }
        })
    }
}

impl Run for Keys {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        Ok(timed(|| self.envelopes())?.0)
    }

    fn limit(&mut self) -> BenchResult<Took> {
        let scan = |record: &Record| match memchr::memchr(b'\n', record.as_bytes()) {
            None => Ok(()),
            Some(_) => Err("a record holds a newline".into()),
        };
        Ok(timed(|| self.repeat(scan))?.0)
    }

    fn peer(&mut self) -> BenchResult<Took> {
        let parse = |record: &Record| {
            let value: serde_json::Value = serde_json::from_slice(record.as_bytes())?;
            match value["type"] == "assistant" {
                true => Ok(()),
                false => Err("the value is not that of the record".into()),
            }
        };
        Ok(timed(|| self.repeat(parse))?.0)
    }

    fn counts(&mut self) -> BenchResult<Counts> {
        let (made, done) = counted(|| self.envelopes());
        done?;
        Ok(allocations_per_record(made, self.times, self.times * self.record.len() as u64))
    }
}

/// Returns a message as an agent sends it, an envelope around blocks of content. It is `bytes` long
/// together with its newline, which is not part of the text.
pub(super) fn message(bytes: usize) -> String {
    const BLOCK: &str = r#"{"type":"text","text":"It was a bright cold day in April.","n":13},"#;
    let mut text = String::from(r#"{"type":"assistant","message":{"role":"assistant","content":["#);
    let end = r#"]},"session_id":"0c6f0a2e-7d3b-4f52-9f0e-5b1f2f4b8a11"}"#;
    while text.len() + BLOCK.len() + end.len() + 16 < bytes {
        text.push_str(BLOCK);
    }
    // The last element fills the rest: 2 quotes and the newline are the 3 bytes.
    let room = bytes.saturating_sub(text.len() + end.len() + 3);
    // Writing to a String cannot fail.
    let _written = write!(text, "\"{}\"{end}", "x".repeat(room));
    text
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn message_has_the_wanted_length() {
        for bytes in [256, 1 << 10, 4 << 10, 64 << 10, 1 << 20] {
            let text = message(bytes);
            assert_eq!(text.len() + 1, bytes);
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        }
    }
}
