//! The options of the fake. Each is one hazard; docs/guide/fake.md names real programs that show it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::deny::DenyArgs;
use crate::cli::units::{parse_duration, parse_size};

/// A misbehaving agent for tests. Without options it echoes every input line and exits with 0 at the end
/// of input.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct FakeArgs {
    #[command(subcommand)]
    pub(super) command: Option<FakeCommand>,
    #[command(flatten)]
    pub(super) talk: TalkArgs,
    #[command(flatten)]
    pub(super) generate: GenerateArgs,
    #[command(flatten)]
    pub(super) spoil: SpoilArgs,
    #[command(flatten)]
    pub(super) deaf: DeafArgs,
    #[command(flatten)]
    pub(super) ends: EndArgs,
    #[command(flatten)]
    pub(super) claude: ClaudeArgs,
    #[command(flatten)]
    pub(super) replay: ReplayArgs,
    #[command(flatten)]
    pub(super) script: ScriptArgs,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum FakeCommand {
    Deny(DenyArgs),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Framing {
    /// One JSON object per line.
    Ndjson,
    /// `Content-Length` headers, a blank line, the body.
    ContentLength,
    /// Lines in; records without anything between them out.
    Concat,
    /// Lines or headers, as the first byte of the input says; the output follows.
    Auto,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Conversation")]
pub(super) struct TalkArgs {
    /// Echo every input line unchanged (the default).
    #[arg(long, group = "mode")]
    pub(super) echo: bool,
    /// Answer control requests such as `initialize` with a success, and a user message with an assistant
    /// and a result record.
    #[arg(long, group = "mode")]
    pub(super) answer_initialize: bool,
    /// The framing of records, in both directions.
    #[arg(long, value_enum, default_value = "ndjson")]
    pub(super) framing: Framing,
    /// Write this line to stderr at the start; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(super) stderr: Vec<String>,
    /// Write SIZE bytes to stderr before anything else, with blocking writes; without SIZE, write without
    /// end in a second thread.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) flood_stderr: Option<Option<u64>>,
    /// Begin with a record of the arguments after `--`, the environment, the working directory and the
    /// user id.
    #[arg(long)]
    pub(super) tell_command: bool,
    /// Arguments that a host adds: reported by `--tell-command`, otherwise ignored.
    #[arg(last = true, value_name = "ARGS")]
    pub(super) rest: Vec<OsString>,
    /// Write the pids of the agent and of the grandchild to FILE as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) print_pids: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Unsolicited output")]
pub(super) struct GenerateArgs {
    /// Write records with blocking writes, SIZE bytes (rounded up to a whole record) or without end, then
    /// answer input.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = parse_size,
        conflicts_with = "plays",
    )]
    pub(super) flood: Option<Option<u64>>,
    /// Flood this many records.
    #[arg(long, value_name = "N", conflicts_with = "plays")]
    pub(super) records: Option<u64>,
    /// The exact size of a generated record with its newline (of the body with content-length framing), at
    /// least 64 [default: 1k, with --like 1021].
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = parse_record_size,
        conflicts_with_all = ["replay", "replay_builtin", "script", "step", "chat"],
    )]
    pub(super) record_size: Option<u64>,
    /// Flood at most R records per second, by deadlines that do not drift.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: Option<u32>,
    /// Generate output only after the first input line has been answered.
    #[arg(long, conflicts_with_all = ["plays", "never_read_stdin"])]
    pub(super) flood_after_input: bool,
    /// While flooding, check stdin between two records, answer its lines and act on its end.
    #[arg(long, conflicts_with = "plays")]
    pub(super) read_eof_between: bool,
    /// Write one record of this size with a single write(2), so that a signal cuts it short.
    #[arg(
        long,
        value_name = "SIZE",
        num_args = 0..=1,
        default_missing_value = "1m",
        value_parser = parse_record_size,
        conflicts_with = "plays",
    )]
    pub(super) one_write: Option<u64>,
    /// Write one record of this size.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = parse_record_size,
        conflicts_with = "plays",
    )]
    pub(super) huge: Option<u64>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Bad output")]
pub(super) struct SpoilArgs {
    /// Write every byte with a separate write(2).
    #[arg(long)]
    pub(super) split_writes: bool,
    /// End with one more record, valid but without a newline.
    #[arg(long, conflicts_with = "truncated_tail")]
    pub(super) no_final_newline: bool,
    /// End with the first half of one more record.
    #[arg(long)]
    pub(super) truncated_tail: bool,
    /// After each record write one with bytes that are not UTF-8.
    #[arg(long)]
    pub(super) invalid_utf8: bool,
    /// Start with a byte order mark.
    #[arg(long)]
    pub(super) bom: bool,
    /// End lines with CR LF.
    #[arg(long)]
    pub(super) crlf: bool,
    /// After each record write a line of log noise.
    #[arg(long)]
    pub(super) noise: bool,
    /// After each record write one that starts with a brace and is not JSON.
    #[arg(long)]
    pub(super) malformed: bool,
    /// After each record write a blank line.
    #[arg(long)]
    pub(super) blank_lines: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Deafness")]
pub(super) struct DeafArgs {
    /// Never read stdin, and so never notice its end.
    #[arg(long, conflicts_with_all = ["plays", "read_eof_between"])]
    pub(super) never_read_stdin: bool,
    /// Do not exit when stdin ends.
    #[arg(long)]
    pub(super) ignore_eof: bool,
    /// Install a SIGTERM handler (SA_RESTART) that does nothing: a blocked write continues.
    #[arg(long, conflicts_with = "sigterm_restart")]
    pub(super) ignore_sigterm: bool,
    /// Install a SIGTERM handler (SA_RESTART) that sets a flag, which is checked only between records: a
    /// blocked write that has moved nothing is restarted.
    #[arg(long)]
    pub(super) sigterm_restart: bool,
    /// Continue when a write fails with EPIPE, and write nothing further.
    #[arg(long)]
    pub(super) ignore_epipe: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Ends")]
pub(super) struct EndArgs {
    /// Exit after N records, like a crash: no flush delay, no marker.
    #[arg(long, value_name = "N", conflicts_with = "like")]
    pub(super) exit_after: Option<u64>,
    /// The exit status, instead of that of the mode.
    #[arg(long, value_name = "N")]
    pub(super) exit_code: Option<u8>,
    /// Exit at once, before anything is read.
    #[arg(long)]
    pub(super) exit_now: bool,
    /// Die by this signal (a name or a number) instead of an exit with a status.
    #[arg(long, value_name = "SIG", value_parser = parse_signal)]
    pub(super) die_by_signal: Option<i32>,
    /// Close stdout after the generated output, and do not exit.
    #[arg(long, conflicts_with = "plays")]
    pub(super) close_stdout: bool,
    /// Spawn a process that holds stdout and stderr open for DURATION, even if the agent exits.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) grandchild_holds_stdout: Option<Duration>,
    /// Put the grandchild into a new session and process group.
    #[arg(long, requires = "grandchild_holds_stdout")]
    pub(super) setsid: bool,
    /// At the end of input (or at a handled SIGTERM) wait for DURATION before the exit, as if a transcript
    /// were written.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) flush_delay: Option<Duration>,
    /// Write FILE after the flush delay. It is missing if the agent was killed too early or lost its
    /// output.
    #[arg(long, value_name = "FILE")]
    pub(super) marker: Option<PathBuf>,
    /// Write FILE when a write fails with EPIPE.
    #[arg(long, value_name = "FILE")]
    pub(super) epipe_marker: Option<PathBuf>,
    /// The mode of the grandchild.
    #[arg(long, hide = true, value_name = "DURATION", value_parser = parse_duration)]
    pub(super) hold: Option<Duration>,
    /// The grandchild moves itself into a new session.
    #[arg(long, hide = true)]
    pub(super) setsid_self: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Build {
    /// The current CLI, 2.1.330.
    ClaudeNative,
    /// The last JavaScript release, 2.1.112.
    ClaudeNode,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Like a real CLI")]
pub(super) struct ClaudeArgs {
    /// Behave like this build of Claude Code, as measured: it never blocks in write(2), queues in memory,
    /// and has limits for its exit.
    #[arg(long, value_enum, groups = ["mode", "plays"])]
    pub(super) like: Option<Build>,
    /// Queue SIZE bytes of assistant text at the first user message.
    #[arg(
        long,
        value_name = "SIZE",
        value_parser = parse_size,
        default_value = "0",
        requires = "like",
    )]
    pub(super) backlog: u64,
    /// Queue the backlog at once, before any input.
    #[arg(long, requires = "like")]
    pub(super) backlog_at_start: bool,
    /// After a user message, write a record every 10 ms until an `interrupt` request; the end of input
    /// takes effect after that.
    #[arg(long, requires = "like")]
    pub(super) mid_turn: bool,
    /// Write one more record 3 ms after each result.
    #[arg(long, requires = "like")]
    pub(super) session_state: bool,
    /// How long the native build continues to write after the end of input [default: 30s, or 2s with less
    /// than 1 MiB queued].
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "like")]
    pub(super) flush_limit: Option<Duration>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Replay")]
pub(super) struct ReplayArgs {
    /// Play a recorded trace: writes its `out` records in order and waits for an input line at each `in`
    /// record. `builtin:NAME` names a built-in trace.
    #[arg(long, value_name = "FILE", groups = ["mode", "plays"])]
    pub(super) replay: Option<PathBuf>,
    /// Play a built-in trace: `text_turn` or `tool_use_turn`.
    #[arg(long, value_name = "NAME", groups = ["mode", "plays"])]
    pub(super) replay_builtin: Option<String>,
    /// Keep the recorded pauses, divided by X [default: no pauses].
    #[arg(long, value_name = "X", value_parser = parse_speed)]
    pub(super) speed: Option<f64>,
    /// Exit with 1 if stdin ends before all expected lines have arrived.
    #[arg(long)]
    pub(super) replay_strict: bool,
    /// Answer control requests with the ids of the host instead of the recorded ones.
    #[arg(long)]
    pub(super) replay_map_ids: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Dialogue")]
pub(super) struct ScriptArgs {
    /// Play the dialogue in FILE: steps such as expect, send, delay and exit, one JSON object each. A host
    /// that deviates from it ends it with status 65 and one line.
    #[arg(long, value_name = "FILE", groups = ["mode", "plays"])]
    pub(super) script: Option<PathBuf>,
    /// One step of a dialogue, instead of a file; may be given several times.
    #[arg(long, value_name = "JSON", groups = ["mode", "plays"])]
    pub(super) step: Vec<String>,
    /// Send COUNT requests and answer those of the host, at random: late, out of order, with withdrawals.
    /// Counts everything, and exits with 65 if the host owes an answer.
    #[arg(long, value_name = "SEED,COUNT", groups = ["mode", "plays"], value_parser = parse_chat)]
    pub(super) chat: Option<Chat>,
    /// The protocol of the chat.
    #[arg(long, value_enum, default_value = "claude", requires = "chat")]
    pub(super) chat_as: ChatAs,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Chat {
    pub(super) seed: u64,
    pub(super) count: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum ChatAs {
    /// Control requests. The agent can withdraw, the host cannot.
    Claude,
    /// JSON-RPC; a withdrawn request (`notifications/cancelled`) is not answered.
    Mcp,
    /// JSON-RPC; a withdrawn request (`$/cancelRequest`) is answered with -32800.
    Lsp,
}

impl FakeArgs {
    /// Checks what clap cannot express: options that contradict the value of another.
    pub(super) fn check(&self) -> Result<(), String> {
        let framed = self.talk.framing != Framing::Ndjson;
        if framed && (self.spoil.crlf || self.spoil.no_final_newline || self.spoil.blank_lines) {
            return Err("--crlf, --no-final-newline and --blank-lines need --framing ndjson".into());
        }
        if self.generate.rate.is_some() && !self.floods() {
            return Err("--rate needs --flood or --records".into());
        }
        Ok(())
    }

    /// Returns the size of a generated record. With --like it is a prime, so that a full pipe does not end
    /// at the end of a record.
    pub(super) fn record_size(&self) -> u64 {
        let default = if self.claude.like.is_some() { 1021 } else { 1024 };
        self.generate.record_size.unwrap_or(default)
    }

    pub(super) fn floods(&self) -> bool {
        self.generate.flood.is_some() || self.generate.records.is_some()
    }
}

/// The smallest size that holds every generated record with the longest sequence number.
const MIN_RECORD: u64 = 64;
/// The largest record, which is built in memory.
const MAX_RECORD: u64 = 1 << 30;

fn parse_record_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        size @ MIN_RECORD..=MAX_RECORD => Ok(size),
        _ => Err(format!("a record is {MIN_RECORD} to {MAX_RECORD} bytes")),
    }
}

fn parse_chat(text: &str) -> Result<Chat, String> {
    let parts = text.split_once(',').and_then(|(seed, count)| {
        Some(Chat { seed: seed.parse().ok()?, count: count.parse().ok()? })
    });
    parts.ok_or_else(|| "expected two numbers: SEED,COUNT".to_owned())
}

fn parse_speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed > 0.0 => Ok(speed),
        _ => Err("expected a number above 0".to_owned()),
    }
}

/// Parses `TERM`, `SIGTERM` or `15`.
pub(super) fn parse_signal(text: &str) -> Result<i32, String> {
    let wanted = text.to_ascii_uppercase();
    (1..=31)
        .find(|number| {
            let name = signal_hook::low_level::signal_name(*number).unwrap_or_default();
            !name.is_empty()
                && (wanted == name || wanted == name[3..] || wanted == number.to_string())
        })
        .ok_or_else(|| format!("unknown signal `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_is_parsed_by_name_and_number() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(parse_signal(text), Ok(15), "{text}");
        }
        for text in ["", "SIG", "0", "TERMINATE", "64"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
