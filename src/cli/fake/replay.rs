//! The mode `--replay`: plays a recorded trace. Records are written as in the file, without blanks.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Fake;
use super::ends::Stop;
use super::input::Item;

const TEXT_TURN: &str = include_str!("traces/text_turn.ndjson");
const TOOL_USE_TURN: &str = include_str!("traces/tool_use_turn.ndjson");

/// One line of a trace.
#[derive(Deserialize)]
struct TraceLine<'a> {
    #[serde(default)]
    t_ms: f64,
    dir: &'a str,
    code: Option<i32>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
}

/// The ids of control requests, in the trace and from the host.
#[derive(Deserialize)]
struct RequestId<'a> {
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
}

/// The state of the playback.
struct Playback<'a, 'b> {
    agent: &'a mut Fake<'b>,
    /// The last moment with a time of both clocks.
    mark: (Instant, f64),
    ended: bool,
    ids: Vec<(String, String)>,
    body: Vec<u8>,
}

pub(super) fn run(agent: &mut Fake<'_>, path: &Path) -> Result<Stop, Stop> {
    if let Some(name) = path.to_str().and_then(|path| path.strip_prefix("builtin:")) {
        return run_builtin(agent, name);
    }
    let file =
        File::open(path).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))?;
    play(agent, BufReader::new(file).lines())
}

pub(super) fn run_builtin(agent: &mut Fake<'_>, name: &str) -> Result<Stop, Stop> {
    let text = match name {
        "text_turn" => TEXT_TURN,
        "tool_use_turn" => TOOL_USE_TURN,
        _ => {
            let message =
                format!("no built-in trace `{name}`: there are text_turn and tool_use_turn");
            return Err(Stop::Failed(message));
        }
    };
    play(agent, text.lines().map(|line| Ok(line.to_owned())))
}

fn play(
    agent: &mut Fake<'_>,
    lines: impl Iterator<Item = io::Result<String>>,
) -> Result<Stop, Stop> {
    let mark = (Instant::now(), 0.0);
    let mut player = Playback { agent, mark, ended: false, ids: Vec::new(), body: Vec::new() };
    for (number, text) in lines.enumerate() {
        let text = text?;
        if text.trim().is_empty() {
            continue;
        }
        let line: TraceLine<'_> = serde_json::from_str(&text)
            .map_err(|error| Stop::Failed(format!("trace line {}: {error}", number + 1)))?;
        match (line.dir, line.record) {
            ("in", record) => player.await_line(record.map_or("", RawValue::get), line.t_ms)?,
            ("out", Some(record)) => player.write(record.get(), line.t_ms)?,
            ("close-stdin", _) => player.await_end(line.t_ms)?,
            ("exit", _) => return player.exit(line.code.unwrap_or(0), line.t_ms),
            // The exit implies `eof`; a newer trace may hold other lines.
            _ => {}
        }
    }
    player.await_end(0.0)?;
    Ok(Stop::Eof)
}

impl Playback<'_, '_> {
    /// Waits for one line of the host, whatever its content.
    fn await_line(&mut self, recorded: &str, t_ms: f64) -> Result<(), Stop> {
        if !self.ended {
            match self.agent.input.next()? {
                Item::Record(line) | Item::Tail(line) => {
                    if self.agent.args.replay.replay_map_ids {
                        self.ids.extend(pair_ids(recorded, line));
                    }
                }
                Item::End => self.ended = true,
            }
        }
        if self.ended && self.agent.args.replay.replay_strict {
            return Err(Stop::Failed("stdin ended before the trace did".to_owned()));
        }
        self.mark = (Instant::now(), t_ms);
        Ok(())
    }

    fn await_end(&mut self, t_ms: f64) -> Result<(), Stop> {
        while !self.ended {
            self.ended = self.agent.input.next()? == Item::End;
        }
        self.mark = (Instant::now(), t_ms);
        Ok(())
    }

    fn write(&mut self, record: &str, t_ms: f64) -> Result<(), Stop> {
        self.wait_until(t_ms)?;
        self.body.clear();
        compact(record, &mut self.body);
        for (recorded, sent) in &self.ids {
            let from = format!("\"request_id\":{recorded}");
            let to = format!("\"request_id\":{sent}");
            if let Ok(text) = std::str::from_utf8(&self.body)
                && text.contains(&from)
            {
                self.body = text.replacen(&from, &to, 1).into_bytes();
                break;
            }
        }
        self.agent.output.record(&self.body)
    }

    fn exit(&mut self, code: i32, t_ms: f64) -> Result<Stop, Stop> {
        self.wait_until(t_ms)?;
        match u8::try_from(code) {
            Ok(code) => Ok(Stop::Exit { code, clean: true }),
            // A negative code is the signal that ended the process.
            Err(_) => Ok(Stop::Signal(code.saturating_neg())),
        }
    }

    /// Waits for the recorded pause since the last mark.
    fn wait_until(&mut self, t_ms: f64) -> Result<(), Stop> {
        let Some(speed) = self.agent.args.replay.speed else { return Ok(()) };
        let pause = ((t_ms - self.mark.1) / 1000.0 / speed).max(0.0);
        // A pause beyond the range of a duration is an error in the trace.
        let pause = Duration::try_from_secs_f64(pause)
            .map_err(|_| Stop::Failed("a pause in the trace is too long".to_owned()))?;
        let due = self.mark.0 + pause;
        while Instant::now() < due {
            if self.agent.signals.wait(false, false, Some(due))?.term {
                return Err(Stop::Terminated);
            }
        }
        Ok(())
    }
}

fn pair_ids(recorded: &str, line: &[u8]) -> Option<(String, String)> {
    let recorded: RequestId<'_> = serde_json::from_str(recorded).ok()?;
    let sent: RequestId<'_> = serde_json::from_slice(line).ok()?;
    Some((recorded.request_id?.get().to_owned(), sent.request_id?.get().to_owned()))
}

/// Copies JSON text without the blanks between tokens, which keeps the order of keys and all digits.
pub(super) fn compact(text: &str, out: &mut Vec<u8>) {
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        if in_string || !byte.is_ascii_whitespace() {
            out.push(byte);
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
}
