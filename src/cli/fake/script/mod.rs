//! The mode `--script`: plays a dialogue. docs/guide/fake.md describes the steps. A host that deviates ends it.

#[cfg(any(test, fuzzing))]
pub(in crate::cli) mod fuzz;
mod pattern;
mod steps;

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ends::{self, Stop};
use super::input::Item;
use super::{Fake, protocol};
use crate::cli::input_file;
use pattern::{Names, compare, fill, shown};
use steps::{Act, Rule, Step, Stream};

/// The largest script, in bytes.
const SCRIPT_MAX: u64 = 64 << 20;

/// The state of the dialogue.
struct ScriptPlayer<'a, 'b> {
    agent: &'a mut Fake<'b>,
    names: Names,
    rules: Vec<Rule>,
    /// Answers of rules that are not due yet.
    due: Vec<DueSteps>,
    /// Records that arrived during a delay and matched no rule.
    kept: VecDeque<Vec<u8>>,
    ended: bool,
}

/// The steps of a rule that are due later, with the names that its record bound.
struct DueSteps {
    at: Instant,
    steps: Vec<Step>,
    names: Names,
}

/// The result of a wait.
enum Wake {
    Record(Vec<u8>),
    End,
    /// The time is over.
    Nothing,
}

pub(super) fn run(agent: &mut Fake<'_>, path: &Path) -> Result<Stop, Stop> {
    let failed = |why: String| Stop::Failed(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let text = input_file::text(file, path, SCRIPT_MAX).map_err(Stop::Failed)?;
    let steps = steps::parse(&text).map_err(failed)?;
    play(agent, &steps)
}

pub(super) fn run_steps(agent: &mut Fake<'_>, steps: &[String]) -> Result<Stop, Stop> {
    let steps = steps::parse(&steps.join("\n")).map_err(Stop::Failed)?;
    play(agent, &steps)
}

fn play(agent: &mut Fake<'_>, steps: &[Step]) -> Result<Stop, Stop> {
    let mut player = ScriptPlayer {
        agent,
        names: Names::from([("pid".to_owned(), std::process::id().into())]),
        rules: Vec::new(),
        due: Vec::new(),
        kept: VecDeque::new(),
        ended: false,
    };
    player.steps(steps)?;
    player.finish()
}

impl ScriptPlayer<'_, '_> {
    fn steps(&mut self, steps: &[Step]) -> Result<(), Stop> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &Step) -> Result<(), Stop> {
        match &step.act {
            Act::Expect { pattern, skip } => self.expect(pattern, *skip, &step.place),
            Act::ExpectEnd => match self.next(None, true)? {
                Wake::Record(line) => Err(self.mismatch(&step.place, "the end of input", &line)),
                _ => Ok(()),
            },
            Act::Quiet(time) => self.quiet(*time, &step.place),
            Act::Delay(time) => self.delay(*time),
            Act::On(rule) => {
                self.rules.push(rule.clone());
                Ok(())
            }
            Act::Repeat { times, steps } => {
                for turn in 0..times.unwrap_or(u64::MAX) {
                    if times.is_none() && self.input_is_over(steps)? {
                        break;
                    }
                    self.names.insert("i".to_owned(), turn.into());
                    self.steps(steps)?;
                }
                Ok(())
            }
            _ => {
                let names = std::mem::take(&mut self.names);
                let done = act(self.agent, step, &names);
                self.names = names;
                done
            }
        }
    }

    /// Whether an endless block that begins with `expect` ends, because the input has ended.
    fn input_is_over(&mut self, steps: &[Step]) -> Result<bool, Stop> {
        if !matches!(steps, [Step { act: Act::Expect { .. }, .. }, ..]) {
            return Ok(false);
        }
        match self.next(None, true)? {
            Wake::Record(line) => {
                self.kept.push_front(line);
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Waits for a matching record. Rules answer others.
    fn expect(&mut self, pattern: &Value, skip: bool, place: &str) -> Result<(), Stop> {
        loop {
            let Wake::Record(line) = self.next(None, true)? else {
                let what = format!("{place}: stdin ended, expected {}", json(pattern));
                return Err(Stop::Mismatch(what));
            };
            let fits = parse(&line).and_then(|value| compare(pattern, &value, &self.names));
            match fits {
                Ok(found) => {
                    self.names.extend(found);
                    return Ok(());
                }
                Err(_) if self.rule_takes(&line)? || skip => {}
                Err(why) => {
                    let what = format!("{place}: {why}; the record: {}", shown(&line));
                    return Err(Stop::Mismatch(what));
                }
            }
        }
    }

    fn quiet(&mut self, time: Duration, place: &str) -> Result<(), Stop> {
        let until = Instant::now() + time;
        loop {
            match self.next(Some(until), true)? {
                Wake::Nothing => return Ok(()),
                Wake::End => {
                    return Err(Stop::Mismatch(format!("{place}: stdin ended, expected silence")));
                }
                Wake::Record(line) => {
                    if !self.rule_takes(&line)? {
                        return Err(self.mismatch(place, "silence", &line));
                    }
                }
            }
        }
    }

    /// Waits. Without rules nothing is read meanwhile, so that the pipe of the host may fill.
    fn delay(&mut self, time: Duration) -> Result<(), Stop> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            if self.rules.is_empty() || self.ended {
                self.pause(until)?;
            } else if let Wake::Record(line) = self.next(Some(until), false)?
                && !self.rule_takes(&line)?
            {
                self.kept.push_back(line);
            }
        }
        Ok(())
    }

    /// Applies the rules after the last step until the end of input, and sends the answers that are due.
    fn finish(&mut self) -> Result<Stop, Stop> {
        while let Wake::Record(line) = self.next(None, true)? {
            if !self.rule_takes(&line)? {
                return Err(self.mismatch("after the last step", "the end of input", &line));
            }
        }
        while let Some(at) = self.next_due() {
            self.pause(at)?;
        }
        Ok(Stop::Eof)
    }

    /// Waits for the next record and sends due answers meanwhile. `kept` says whether to return records that
    /// arrived during a delay.
    fn next(&mut self, until: Option<Instant>, kept: bool) -> Result<Wake, Stop> {
        if kept && let Some(line) = self.kept.pop_front() {
            return Ok(Wake::Record(line));
        }
        loop {
            self.send_due()?;
            let wake = [until, self.next_due()].into_iter().flatten().min();
            match self.agent.input.next_before(wake)? {
                Some(Item::Record(line) | Item::Tail(line)) => {
                    return Ok(Wake::Record(line.to_vec()));
                }
                Some(Item::End) => {
                    self.ended = true;
                    return Ok(Wake::End);
                }
                None if until.is_some_and(|until| until <= Instant::now()) => {
                    return Ok(Wake::Nothing);
                }
                None => {}
            }
        }
    }

    /// Waits without reading, and sends due answers.
    fn pause(&mut self, until: Instant) -> Result<(), Stop> {
        loop {
            self.send_due()?;
            if Instant::now() >= until {
                return Ok(());
            }
            let wake = self.next_due().map_or(until, |due| due.min(until));
            if self.agent.signals.wait(false, false, Some(wake))?.term {
                return Err(Stop::Terminated);
            }
        }
    }

    /// Lets the first matching rule answer. Returns false if none matches.
    fn rule_takes(&mut self, line: &[u8]) -> Result<bool, Stop> {
        let Ok(value) = parse(line) else { return Ok(false) };
        for rule in &mut self.rules {
            if rule.times == Some(0) {
                continue;
            }
            let Ok(found) = compare(&rule.pattern, &value, &self.names) else { continue };
            rule.times = rule.times.map(|times| times - 1);
            // The names that a rule binds must not change those of the dialogue.
            let mut names = self.names.clone();
            names.extend(found);
            let at = Instant::now() + rule.after;
            self.due.push(DueSteps { at, steps: rule.steps.clone(), names });
            self.send_due()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.iter().map(|due| due.at).min()
    }

    fn send_due(&mut self) -> Result<(), Stop> {
        while let Some(at) = self.next_due().filter(|at| *at <= Instant::now()) {
            let Some(first) = self.due.iter().position(|due| due.at == at) else { break };
            let due = self.due.remove(first);
            due.steps.iter().try_for_each(|step| act(self.agent, step, &due.names))?;
        }
        Ok(())
    }

    fn mismatch(&self, place: &str, wanted: &str, line: &[u8]) -> Stop {
        Stop::Mismatch(format!("{place}: expected {wanted}, got {}", shown(line)))
    }
}

/// Carries out a step that does not wait.
fn act(agent: &mut Fake<'_>, step: &Step, names: &Names) -> Result<(), Stop> {
    let filled = |template: &str, json: bool| {
        fill(template, names, json)
            .map_err(|error| Stop::Failed(format!("{}: {error}", step.place)))
    };
    match &step.act {
        Act::Send(template) => agent.output.record(filled(template, true)?.as_bytes()),
        Act::Raw(template) => agent.output.raw(filled(template, false)?.as_bytes()),
        Act::RawHex(bytes) => agent.output.raw(bytes),
        Act::Stderr(template) => {
            let line = filled(template, false)? + "\n";
            // The host may have closed stderr, which does not end the dialogue.
            let _ = ends::write_stderr(line.as_bytes());
            Ok(())
        }
        Act::Close(Stream::Stdin) => agent.input.close(),
        Act::Close(Stream::Stdout) => agent.output.close(),
        Act::Close(Stream::Stderr) => ends::close_stderr(),
        Act::Exit(code) => Err(Stop::Exit { code: *code, clean: true }),
        Act::Die(signal) => Err(Stop::Signal(*signal)),
        Act::Flood { count, size, kind } => {
            let size = agent.output.body_size(*size);
            let mut body = Vec::new();
            for sequence in 0..count.unwrap_or(u64::MAX) {
                protocol::filler(kind, sequence, size, &mut body);
                agent.output.record(&body)?;
            }
            Ok(())
        }
        // These wait. The parser does not accept them in rules.
        Act::Expect { .. }
        | Act::ExpectEnd
        | Act::Quiet(_)
        | Act::Delay(_)
        | Act::Repeat { .. }
        | Act::On(_) => Ok(()),
    }
}

fn parse(line: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))
}

fn json(pattern: &Value) -> String {
    shown(pattern.to_string().as_bytes())
}
