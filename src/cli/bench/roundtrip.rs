//! Group `roundtrip`: one small record to an agent, and the record that it answers with.

use std::io::{BufRead, BufReader, Write};
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, channel};

use agentpipe::{Agent, Limits};

use super::alloc::counted;
use super::child::PlainChild;
use super::counts::{Counts, RingUse, allocations_per_record, median};
use super::scenario::{Run, Scenario};
use super::setup::{Setup, next_record};
use super::stopwatch::Took;
use super::wait::{BenchResult, PATIENCE, timed};

const RECORD: &str = r#"{"type":"ping","id":1}"#;

/// Rounds of counting; the median of each count is reported.
const COUNTING_ROUNDS: usize = 5;
/// Records in a round of counting.
const COUNTED: u64 = 200;

pub(super) fn open<'a>(setup: &'a Setup, _: &'static Scenario) -> BenchResult<Box<dyn Run + 'a>> {
    Ok(Box::new(Roundtrip {
        setup,
        ping: setup.ping.as_deref().unwrap_or(RECORD),
        agent: setup.spawn(&[], Limits::new())?,
        child: setup.spawn_plain(&[])?,
        threaded: Threaded::start(setup)?,
        line: Vec::new(),
    }))
}

struct Roundtrip<'a> {
    setup: &'a Setup,
    ping: &'a str,
    agent: Agent,
    child: PlainChild,
    threaded: Threaded,
    line: Vec<u8>,
}

impl Roundtrip<'_> {
    fn ping_agent(&mut self) -> BenchResult<Took> {
        let agent = &mut self.agent;
        let ask = || {
            agent.send_blocking(self.ping)?;
            next_record(agent)
        };
        let (took, record) = timed(ask)?;
        self.check(record.as_bytes())?;
        Ok(took)
    }

    /// Compares the echo of the built-in agent. Any answer of the user's agent will do.
    fn check(&self, answer: &[u8]) -> BenchResult<()> {
        match self.setup.is_own() || answer == self.ping.as_bytes() {
            true => Ok(()),
            false => Err("the echo is not what was sent".into()),
        }
    }
}

impl Run for Roundtrip<'_> {
    fn agentpipe(&mut self) -> BenchResult<Took> {
        self.ping_agent()
    }

    fn limit(&mut self) -> BenchResult<Took> {
        let (child, line, ping) = (&mut self.child, &mut self.line, self.ping);
        let ask = || {
            let stdin = child.0.stdin.as_mut().ok_or("the plain child has no stdin")?;
            stdin.write_all(format!("{ping}\n").as_bytes())?;
            child.read_line(line)
        };
        let (took, ()) = timed(ask)?;
        self.check(self.line.trim_ascii_end())?;
        Ok(took)
    }

    fn peer(&mut self) -> BenchResult<Took> {
        let (took, line) = timed(|| self.threaded.ask(self.ping))?;
        self.check(line.trim_ascii_end())?;
        Ok(took)
    }

    fn counts(&mut self) -> BenchResult<Counts> {
        let mut rounds = Vec::new();
        for _ in 0..COUNTING_ROUNDS {
            let before = RingUse::of(&self.setup.engine);
            let (made, done) =
                counted(|| (0..COUNTED).try_for_each(|_| self.ping_agent().map(drop)));
            done?;
            let ring = RingUse::of(&self.setup.engine).per_record(before, COUNTED);
            let mut counts = allocations_per_record(made, COUNTED, 1);
            // Meaningless for a record that goes both ways.
            counts.remove("allocated_bytes_per_byte");
            counts.extend(ring);
            rounds.push(counts);
        }
        Ok(median(rounds))
    }
}

/// The peer: a thread that reads lines, and a channel to the thread that sent the record.
struct Threaded {
    stdin: ChildStdin,
    lines: Receiver<Vec<u8>>,
    /// Killed on drop, which ends its output and so the thread.
    _child: PlainChild,
}

impl Threaded {
    fn start(setup: &Setup) -> BenchResult<Self> {
        let mut child = setup.spawn_plain(&[])?;
        let mut stdout = BufReader::new(child.take_stdout()?);
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

    fn ask(&mut self, ping: &str) -> BenchResult<Vec<u8>> {
        let line = format!("{ping}\n");
        self.stdin.write_all(line.as_bytes())?;
        let answer = self.lines.recv_timeout(PATIENCE);
        Ok(answer.map_err(|error| format!("no answer came: {error}"))?)
    }
}
