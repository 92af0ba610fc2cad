//! F5, fake: output nobody asked for. All of it is written with blocking writes.

use std::time::{Duration, Instant};

use super::ends::Stop;
use super::{Agent, echo, protocol};

/// Writes everything that was asked for, in a fixed order, then lets go of stdout if told to.
pub(super) fn generate(agent: &mut Agent<'_>) -> Result<(), Stop> {
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

fn flood(agent: &mut Agent<'_>) -> Result<(), Stop> {
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
            echo::serve_waiting_input(agent)?;
        }
        protocol::filler("flood", sequence, size, &mut body);
        agent.output.record(&body)?;
    }
    Ok(())
}

/// When record `sequence` is due: counted from the start, so that a late one does not delay the rest.
pub(super) fn deadline(start: Instant, sequence: u64, rate: u32) -> Instant {
    let (seconds, rest) = (sequence / u64::from(rate), sequence % u64::from(rate));
    start
        + Duration::from_secs(seconds)
        + Duration::from_nanos(rest * 1_000_000_000 / u64::from(rate))
}

fn pace(agent: &mut Agent<'_>, due: Instant) -> Result<(), Stop> {
    let watches_input = agent.args.generate.read_eof_between;
    while Instant::now() < due {
        let ready = agent.signals.wait(watches_input, false, Some(due))?;
        if ready.term {
            return Err(Stop::Terminated);
        }
        if ready.input {
            echo::serve_waiting_input(agent)?;
        }
    }
    Ok(())
}
