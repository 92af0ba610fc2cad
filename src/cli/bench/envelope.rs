//! F5, bench: the keys that say what a record is, taken from its text; no agent.
//!
//! The framers are not public: what they cost is part of `throughput`.

use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

use agentpipe::Record;

use super::alloc::counted;
use super::counts::{Counts, asked_per_record};
use super::plain::timed;
use super::scenario::{Failed, Rounds, Scenario};
use super::target::Target;

pub(super) fn open<'a>(_: &'a Target, scenario: &'static Scenario) -> Failed<Box<dyn Rounds + 'a>> {
    let text = message(usize::try_from(scenario.record_bytes).map_err(|e| e.to_string())?);
    Ok(Box::new(Keys { record: Record::from(text.into_bytes()), times: scenario.records }))
}

struct Keys {
    record: Record,
    times: u64,
}

impl Keys {
    fn each(&self, act: impl Fn(&Record) -> Failed<()>) -> Failed<()> {
        (0..self.times).try_for_each(|_| act(black_box(&self.record)))
    }

    fn envelopes(&self) -> Failed<()> {
        self.each(|record| {
            let envelope = record.envelope().map_err(|error| error.to_string())?;
            match envelope.kind.as_deref() == Some("assistant") && envelope.session_id.is_some() {
                true => Ok(()),
                false => Err("the envelope is not that of the record".to_owned()),
            }
        })
    }
}

impl Rounds for Keys {
    fn agentpipe(&mut self) -> Failed<Duration> {
        Ok(timed(|| self.envelopes())?.0)
    }

    fn limit(&mut self) -> Failed<Duration> {
        let scan = |record: &Record| match memchr::memchr(b'\n', record.as_bytes()) {
            None => Ok(()),
            Some(_) => Err("a record holds a newline".to_owned()),
        };
        Ok(timed(|| self.each(scan))?.0)
    }

    fn peer(&mut self) -> Failed<Duration> {
        let parse = |record: &Record| {
            let value: serde_json::Value =
                serde_json::from_slice(record.as_bytes()).map_err(|error| error.to_string())?;
            match value["type"] == "assistant" {
                true => Ok(()),
                false => Err("the value is not that of the record".to_owned()),
            }
        };
        Ok(timed(|| self.each(parse))?.0)
    }

    fn counts(&mut self) -> Failed<Counts> {
        let (asked, done) = counted(|| self.envelopes());
        done?;
        Ok(asked_per_record(asked, self.times, self.times * self.record.len() as u64))
    }
}

/// Such as an agent sends: an envelope around blocks of content, `bytes` long with its newline.
pub(super) fn message(bytes: usize) -> String {
    const BLOCK: &str = r#"{"type":"text","text":"It was a bright cold day in April.","n":13},"#;
    let mut text = String::from(r#"{"type":"assistant","message":{"role":"assistant","content":["#);
    let end = r#"]},"session_id":"0c6f0a2e-7d3b-4f52-9f0e-5b1f2f4b8a11"}"#;
    while text.len() + BLOCK.len() + end.len() + 16 < bytes {
        text.push_str(BLOCK);
    }
    // The last element takes what is left; the newline is not in the record.
    let room = bytes.saturating_sub(text.len() + end.len() + 3);
    // Writing to a String cannot fail.
    let _written = write!(text, "\"{}\"{end}", "x".repeat(room));
    text
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn a_message_has_the_length_asked_for_and_is_json() {
        for bytes in [256, 1 << 10, 4 << 10, 64 << 10, 1 << 20] {
            let text = message(bytes);
            assert_eq!(text.len() + 1, bytes);
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        }
    }
}
