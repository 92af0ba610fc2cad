//! F5, bench: one small record to an agent, and the record that it answers with.

use std::io::{BufRead, BufReader, Write};
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use agentpipe::{Agent, Limits};

use super::alloc::counted;
use super::counts::{Counts, asked_per_record, middle};
use super::patience::PATIENCE;
use super::plain::{Plain, timed};
use super::scenario::{Failed, Rounds, Scenario};
use super::target::{Target, next_record};

const RECORD: &str = r#"{"type":"ping","id":1}"#;

/// What is counted is counted so often, over this many records each time.
const COUNTING_ROUNDS: usize = 5;
const COUNTED: u64 = 200;

pub(super) fn open<'a>(target: &'a Target, _: &'static Scenario) -> Failed<Box<dyn Rounds + 'a>> {
    let ping = target.ping.as_deref().unwrap_or(RECORD);
    Ok(Box::new(Roundtrip {
        target,
        ping,
        agent: target.spawn(&[], Limits::new())?,
        child: target.spawn_plain(&[])?,
        threaded: Threaded::start(target)?,
        line: Vec::new(),
    }))
}

struct Roundtrip<'a> {
    target: &'a Target,
    ping: &'a str,
    agent: Agent,
    child: Plain,
    threaded: Threaded,
    line: Vec<u8>,
}

impl Roundtrip<'_> {
    fn there_and_back(&mut self) -> Failed<Duration> {
        let agent = &mut self.agent;
        let ask = || {
            agent.send_blocking(self.ping).map_err(|error| error.to_string())?;
            next_record(agent)
        };
        let (took, record) = timed(ask)?;
        self.check(record.as_bytes())?;
        Ok(took)
    }

    /// What an own agent answers is its own matter.
    fn check(&self, answer: &[u8]) -> Failed<()> {
        match self.target.own().is_some() || answer == self.ping.as_bytes() {
            true => Ok(()),
            false => Err("the echo is not what was sent".to_owned()),
        }
    }
}

impl Rounds for Roundtrip<'_> {
    fn agentpipe(&mut self) -> Failed<Duration> {
        self.there_and_back()
    }

    fn limit(&mut self) -> Failed<Duration> {
        let (child, line, ping) = (&mut self.child, &mut self.line, self.ping);
        let ask = || {
            let stdin = child.0.stdin.as_mut().ok_or("the plain child has no stdin")?;
            stdin.write_all(format!("{ping}\n").as_bytes()).map_err(|error| error.to_string())?;
            child.read_line(line)
        };
        let (took, ()) = timed(ask)?;
        self.check(self.line.trim_ascii_end())?;
        Ok(took)
    }

    fn peer(&mut self) -> Failed<Duration> {
        let (took, line) = timed(|| self.threaded.ask(self.ping))?;
        self.check(line.trim_ascii_end())?;
        Ok(took)
    }

    fn counts(&mut self) -> Failed<Counts> {
        let mut rounds = Vec::new();
        for _ in 0..COUNTING_ROUNDS {
            let before = self.target.ring_use();
            let (asked, done) =
                counted(|| (0..COUNTED).try_for_each(|_| self.there_and_back().map(drop)));
            done?;
            let ring = self.target.ring_use().per_record(before, COUNTED);
            let mut counts = asked_per_record(asked, COUNTED, 1);
            // Of a record that goes both ways it says nothing.
            counts.remove("allocated_bytes_per_byte");
            counts.extend(ring);
            rounds.push(counts);
        }
        Ok(middle(rounds))
    }
}

/// The peer: a thread that reads lines, and a channel to whoever asked.
struct Threaded {
    stdin: ChildStdin,
    lines: Receiver<Vec<u8>>,
    /// Dropped, it ends the thread: its output is at an end then.
    _child: Plain,
}

impl Threaded {
    fn start(target: &Target) -> Failed<Self> {
        let mut child = target.spawn_plain(&[])?;
        let mut stdout = BufReader::new(child.stdout()?);
        let stdin = child.0.stdin.take().ok_or("the plain child has no stdin")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            loop {
                let mut line = Vec::new();
                match stdout.read_until(b'\n', &mut line) {
                    Ok(1..) if sender.send(line).is_ok() => {}
                    _ => break,
                }
            }
        });
        Ok(Self { stdin, lines, _child: child })
    }

    fn ask(&mut self, ping: &str) -> Failed<Vec<u8>> {
        let line = format!("{ping}\n");
        self.stdin.write_all(line.as_bytes()).map_err(|error| error.to_string())?;
        self.lines.recv_timeout(PATIENCE).map_err(|error| format!("no answer came: {error}"))
    }
}
