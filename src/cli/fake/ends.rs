//! Start and end of the fake: stderr, the grandchild, markers, exit status and signals.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};

use super::args::FakeArgs;
use super::{Fake, TermSignal};

/// Why the agent stops.
#[derive(Debug)]
pub(super) enum Stop {
    /// Stdin ended.
    Eof,
    /// The number of records, or the moment, that an option sets.
    Enough,
    /// A SIGTERM was handled.
    Terminated,
    BrokenPipe,
    /// A mode that chooses its exit status; `clean` if nothing was lost.
    Exit {
        code: u8,
        clean: bool,
    },
    /// The trace ended by a signal.
    Signal(i32),
    Failed(String),
    /// The host deviated from the dialogue.
    Mismatch(String),
}

/// The status after a mismatch, which `--exit-code` does not replace.
const MISMATCH: u8 = 65;

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Does what precedes the mode: the grandchild, the pid file, stderr.
pub(super) fn prepare(args: &FakeArgs) -> Result<(), Stop> {
    let grandchild = match args.ends.grandchild_holds_stdout {
        Some(duration) => Some(spawn_holder(args, duration)?),
        None => None,
    };
    if let Some(path) = &args.talk.print_pids {
        let grandchild = grandchild.map_or_else(|| "null".to_owned(), |pid| pid.to_string());
        let pids = format!("{{\"pid\":{},\"grandchild\":{grandchild}}}\n", std::process::id());
        write_whole(path, pids.as_bytes())?;
    }
    for line in &args.talk.stderr {
        // The host may have closed stderr, which does not end the fake.
        let _ = write_stderr(format!("{line}\n").as_bytes());
    }
    match args.talk.flood_stderr {
        Some(Some(size)) => flood_stderr(Some(size)),
        Some(None) => {
            std::thread::Builder::new().spawn(|| flood_stderr(None))?;
        }
        None => {}
    }
    Ok(())
}

/// Does what follows the mode: the tail, the flush, the marker, the status.
pub(super) fn finish(agent: &mut Fake<'_>, stop: Stop) -> ExitCode {
    let args = &agent.args.ends;
    let stop = match stop {
        Stop::Eof if agent.args.deaf.ignore_eof => park(&agent.signals),
        stop => stop,
    };
    let (code, flushes) = match &stop {
        Stop::Eof => (0, true),
        Stop::Enough => (0, false),
        Stop::Terminated => (143, true),
        Stop::BrokenPipe => (1, false),
        Stop::Exit { code, clean } => (*code, *clean),
        Stop::Signal(_) => (1, false),
        Stop::Failed(message) => {
            complain(message);
            (1, false)
        }
        Stop::Mismatch(message) => {
            complain(message);
            return ExitCode::from(MISMATCH);
        }
    };
    if matches!(stop, Stop::Eof | Stop::Enough | Stop::Exit { clean: true, .. }) {
        // A pipe that breaks here has no further effect.
        let _ = agent.output.tail();
    }
    if flushes && let Err(error) = flush(args.flush_delay, args.marker.as_deref()) {
        complain(&format!("marker: {error}"));
        return ExitCode::FAILURE;
    }
    let signal = if let Stop::Signal(signal) = stop { Some(signal) } else { args.die_by_signal };
    if let Some(signal) = signal {
        die(signal);
    }
    ExitCode::from(args.exit_code.unwrap_or(code))
}

/// Writes one line to stderr.
pub(super) fn complain(message: &str) {
    // A failure has nowhere else to go.
    let _ = write_stderr(format!("agentpipe fake: {message}\n").as_bytes());
}

/// Writes a file by rename, so that a test never finds a part of it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, path)
}

/// Runs the grandchild, which holds the inherited descriptors for `duration`.
pub(super) fn hold(args: &FakeArgs, duration: Duration) -> ExitCode {
    let Ok(signals) = TermSignal::install(args) else { return ExitCode::FAILURE };
    if args.ends.setsid_self && rustix::process::setsid().is_err() {
        return ExitCode::FAILURE;
    }
    // The parent waits for this descriptor to close before it goes on.
    let ready = OpenOptions::new().read(true).open("/dev/null");
    if ready.is_err() || ready.is_ok_and(|null| rustix::stdio::dup2_stdin(null).is_err()) {
        return ExitCode::FAILURE;
    }
    let until = Instant::now() + duration;
    while Instant::now() < until && signals.wait(false, false, Some(until)).is_ok() {}
    ExitCode::SUCCESS
}

fn spawn_holder(args: &FakeArgs, duration: Duration) -> Result<u32, Stop> {
    // The child's stdin is the write end, which the child closes once it is set up.
    let (mut ready, writer) = io::pipe()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg0("agentpipe").args(["fake", "--hold", &format!("{}us", duration.as_micros())]);
    if args.ends.setsid {
        command.arg("--setsid-self");
    }
    if args.deaf.ignore_sigterm {
        command.arg("--ignore-sigterm");
    }
    command.stdin(Stdio::from(writer));
    let child = command.spawn()?;
    // The command holds a copy of the write end.
    drop(command);
    ready.read_to_end(&mut Vec::new())?;
    Ok(child.id())
}

fn flood_stderr(size: Option<u64>) {
    const LINE: &[u8] = b"[stderr] a line of noise\n";
    let mut left = size.unwrap_or(u64::MAX);
    while left > 0 {
        let length = LINE.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if write_stderr(&LINE[..length]).is_err() {
            return;
        }
        left -= length as u64;
    }
}

/// Writes to stderr without the lock of `io::stderr`, which a blocked flood would hold.
pub(super) fn write_stderr(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(rustix::stdio::stderr(), bytes) {
            Ok(moved) => bytes = &bytes[moved..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Closes stderr. The descriptor becomes /dev/null.
pub(super) fn close_stderr() -> Result<(), Stop> {
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stderr(null).map_err(io::Error::from)?;
    Ok(())
}

fn flush(delay: Option<Duration>, marker: Option<&Path>) -> io::Result<()> {
    if let Some(delay) = delay {
        // Stands for the time that a transcript takes; no event ends it early.
        std::thread::sleep(delay);
    }
    marker.map_or(Ok(()), |path| write_whole(path, b"flushed\n"))
}

/// Waits for a SIGTERM, without end if there is no handler.
fn park(signals: &TermSignal) -> Stop {
    loop {
        match signals.wait(false, false, None) {
            Ok(ready) if ready.term => return Stop::Terminated,
            Ok(_) => {}
            Err(error) => return error.into(),
        }
    }
}

fn die(signal: i32) {
    // Tests should not leave core files.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = setrlimit(Resource::Core, none);
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}
