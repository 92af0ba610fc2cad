//! The plain modes: unsolicited output, all of it with blocking writes, and one answer per input line.

use std::time::{Duration, Instant};

use super::ends::Stop;
use super::input::Item;
use super::output::FakeOutput;
use super::{Fake, protocol};

/// Generates what the options ask for and answers each input line.
pub(super) fn run(agent: &mut Fake<'_>) -> Result<Stop, Stop> {
    let after_input = agent.args.generate.flood_after_input;
    if !after_input {
        generate(agent)?;
    }
    if agent.args.deaf.never_read_stdin {
        // Only a signal ends the wait.
        while !agent.signals.wait(false, false, None)?.term {}
        return Ok(Stop::Terminated);
    }
    let answering = agent.args.talk.answer_initialize;
    let mut generated = !after_input;
    loop {
        let item = agent.input.next()?;
        reply(answering, &item, &mut agent.output)?;
        match item {
            Item::End => return Ok(Stop::Eof),
            _ if !generated => {
                generated = true;
                generate(agent)?;
            }
            _ => {}
        }
    }
}

/// Answers the input that is available, without a wait. The end of stdin is a stop.
fn serve_waiting_input(agent: &mut Fake<'_>) -> Result<(), Stop> {
    let answering = agent.args.talk.answer_initialize;
    while let Some(item) = agent.input.try_next()? {
        reply(answering, &item, &mut agent.output)?;
        if item == Item::End {
            return Err(Stop::Eof);
        }
    }
    Ok(())
}

fn reply(answering: bool, item: &Item<'_>, output: &mut FakeOutput) -> Result<(), Stop> {
    match item {
        Item::Record(line) | Item::Tail(line) if answering => {
            for answer in protocol::answers(line) {
                output.record(answer.as_bytes())?;
            }
            Ok(())
        }
        Item::Record(line) => output.record(line),
        Item::Tail(tail) => output.raw(tail),
        Item::End => Ok(()),
    }
}

/// Writes the unsolicited output in a fixed order, then closes stdout if the options say so.
fn generate(agent: &mut Fake<'_>) -> Result<(), Stop> {
    let args = &agent.args.generate;
    if let Some(size) = args.one_write {
        let mut body = Vec::new();
        protocol::filler("one_write", 0, agent.output.body_size(size), &mut body);
        agent.output.record_in_one_write(&body)?;
    }
    if let Some(size) = args.huge {
        let mut body = Vec::new();
        protocol::filler("huge", 0, agent.output.body_size(size), &mut body);
        agent.output.record(&body)?;
    }
    if agent.args.floods() {
        flood(agent)?;
    }
    if agent.args.ends.close_stdout {
        agent.output.close()?;
    }
    Ok(())
}

fn flood(agent: &mut Fake<'_>) -> Result<(), Stop> {
    let args = &agent.args.generate;
    let record_size = agent.args.record_size();
    let size = agent.output.body_size(record_size);
    let bytes = args.flood.flatten().map(|bytes| bytes.div_ceil(record_size));
    let count = match (bytes, args.records) {
        (Some(bytes), Some(records)) => Some(bytes.min(records)),
        (bytes, records) => bytes.or(records),
    };
    let start = Instant::now();
    let mut body = Vec::new();
    for sequence in 0..count.unwrap_or(u64::MAX) {
        if agent.output.is_closed() {
            break;
        }
        if let Some(rate) = args.rate {
            pace(agent, deadline(start, sequence, rate))?;
        }
        if args.read_eof_between {
            serve_waiting_input(agent)?;
        }
        protocol::filler("flood", sequence, size, &mut body);
        agent.output.record(&body)?;
    }
    Ok(())
}

/// Returns when record `sequence` is due. Counted from the start, so that a late record does not delay
/// the others.
pub(super) fn deadline(start: Instant, sequence: u64, rate: u32) -> Instant {
    let (seconds, rest) = (sequence / u64::from(rate), sequence % u64::from(rate));
    start
        + Duration::from_secs(seconds)
        + Duration::from_nanos(rest * 1_000_000_000 / u64::from(rate))
}

fn pace(agent: &mut Fake<'_>, due: Instant) -> Result<(), Stop> {
    let watches_input = agent.args.generate.read_eof_between;
    while Instant::now() < due {
        let ready = agent.signals.wait(watches_input, false, Some(due))?;
        if ready.term {
            return Err(Stop::Terminated);
        }
        if ready.input {
            serve_waiting_input(agent)?;
        }
    }
    Ok(())
}
