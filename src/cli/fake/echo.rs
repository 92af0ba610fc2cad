//! F5, fake: the conversation of the plain modes, one answer per input line.

use super::ends::Stop;
use super::input::Item;
use super::output::Output;
use super::{Agent, flood, protocol};

pub(super) fn run(agent: &mut Agent<'_>) -> Result<Stop, Stop> {
    let after_input = agent.args.generate.flood_after_input;
    if !after_input {
        flood::generate(agent)?;
    }
    if agent.args.deaf.never_read_stdin {
        // Only a signal ends this wait.
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
                flood::generate(agent)?;
            }
            _ => {}
        }
    }
}

/// Answers what stands on stdin now, without waiting; the end of stdin is a stop.
pub(super) fn serve_waiting_input(agent: &mut Agent<'_>) -> Result<(), Stop> {
    let answering = agent.args.talk.answer_initialize;
    while let Some(item) = agent.input.try_next()? {
        reply(answering, &item, &mut agent.output)?;
        if item == Item::End {
            return Err(Stop::Eof);
        }
    }
    Ok(())
}

fn reply(answering: bool, item: &Item<'_>, output: &mut Output) -> Result<(), Stop> {
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
