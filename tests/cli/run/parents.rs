//! Parents that do not read: `agentpipe run` ends all the same, in time, and says what was lost.
//!
//! More rounds, and the times that are promised in place of the ceilings of a busy machine:
//! `AGENTPIPE_ROUNDS=4 AGENTPIPE_STRICT=1 cargo test --release --test run never_read`.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agentpipe::ClosePolicy;
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Run, fake, pass};
use crate::support::process::is_gone;
use crate::support::{PROGRAM, wait_until};

/// One end of a pipe, read by a thread or not at all.
struct End {
    lines: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    unread: Option<File>,
    reader: Option<JoinHandle<()>>,
}

impl End {
    fn new(pipe: impl Into<OwnedFd>, is_read: bool) -> Self {
        let pipe = File::from(pipe.into());
        let mut end =
            Self { lines: Arc::default(), bytes: Arc::default(), unread: Some(pipe), reader: None };
        if is_read {
            end.read();
        }
        end
    }

    /// Counts what comes, and keeps nothing of it.
    fn read(&mut self) {
        let Some(mut pipe) = self.unread.take() else { return };
        let (lines, bytes) = (Arc::clone(&self.lines), Arc::clone(&self.bytes));
        self.reader = Some(thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            while let Ok(len) = pipe.read(&mut chunk)
                && len > 0
            {
                let ends = chunk[..len].iter().filter(|byte| **byte == b'\n').count();
                lines.fetch_add(ends as u64, Ordering::SeqCst);
                bytes.fetch_add(len as u64, Ordering::SeqCst);
            }
        }));
    }

    fn holds(&self) -> u64 {
        let unread = self.unread.as_ref().map(|pipe| ioctl_fionread(pipe).expect("a pipe"));
        unread.unwrap_or(0) + self.bytes.load(Ordering::SeqCst)
    }

    /// Whole lines that ever came out, once the writer is gone.
    fn finish(mut self) -> u64 {
        self.read();
        self.reader.take().expect("started").join().expect("no panic");
        self.lines.load(Ordering::SeqCst)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    EndInput,
    Signal,
    /// The second as soon as the first is taken.
    TwoSignals,
}

struct Case {
    unread: &'static str,
    agent: &'static [&'static str],
    /// What fills an unread pipe; a silent agent says one record.
    floods: bool,
    act: Act,
    /// The limit on a quiet machine.
    promised: Duration,
}

/// SIGTERM is pending and not yet taken.
fn has_pending_sigterm(child: &Child) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = u64::from_str_radix(pending.unwrap_or("0").trim(), 16).expect("hexadecimal");
    pending & (1 << (libc::SIGTERM - 1)) != 0
}

/// Until it is over; how long that took from the last act of the parent.
fn check(case: &Case, strict: bool) -> Duration {
    let shown = format!("{} unread, {:?}, {:?}", case.unread, case.agent, case.act);
    let quick: &[&str] = &["--drain", "300ms", "--terminate", "200ms"];
    let flags: &[&str] = match case.act {
        Act::TwoSignals => &["--drain", "60m"],
        _ if strict => &[],
        _ => quick,
    };
    let mut run = Run::start(flags, &fake(case.agent));
    let reads = |name| case.unread != name && case.unread != "both";
    let stdout = End::new(run.child.stdout.take().expect("piped"), reads("stdout"));
    let stderr = End::new(run.child.stderr.take().expect("piped"), reads("stderr"));
    run.send(b"{}\n");
    // A full stdout holds up the lines behind it. The pages of a full pipe need not be full, but no
    // two side by side could be one.
    let full = match (case.floods, reads("stdout")) {
        (false, _) => (1, 0),
        (true, false) => (32_000, 0),
        (true, true) => (32_000, 32_000),
    };
    wait_until(&shown, || stdout.holds() >= full.0 && stderr.holds() >= full.1);

    let mut stdin = run.child.stdin.take();
    match case.act {
        Act::EndInput => drop(stdin.take()),
        Act::Signal => run.signal(Signal::TERM),
        Act::TwoSignals => {
            run.signal(Signal::TERM);
            wait_until("the first is taken", || !has_pending_sigterm(&run.child));
            run.signal(Signal::TERM);
        }
    }
    let begun = Instant::now();
    let mut status = None;
    wait_until(&shown, || {
        status = run.child.try_wait().expect("our child");
        status.is_some()
    });
    let took = begun.elapsed();
    let code = status.and_then(|status| status.code()).expect("no signal ends it");
    drop(stdin);

    let report = fs::read(run.folder.path().join("report")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let count = |field: &str| report[field].as_u64().unwrap_or_else(|| panic!("{field}: {report}"));
    let lines = stdout.finish();
    let mut known = report.clone();
    known["stderr_tail"] = Value::Null;
    let shown = format!("{shown}, exit code {code} after {took:?}, {lines} lines: {known}");
    assert!(is_gone(count("pid")), "{shown}");
    let kept = count("records_in") - count("records_discarded");
    assert_eq!(lines + count("undelivered_records"), kept, "{shown}");
    let lost = count("records_discarded") + count("undelivered_records");
    let must_lose = case.floods && !reads("stdout") && case.act != Act::TwoSignals;
    assert!(lost > 0 || !must_lose, "{shown}");
    assert!(lost == 0 || code != 0, "a loss is not success: {shown}");
    assert!(count("undelivered_bytes") >= count("undelivered_records"), "{shown}");
    let told = stderr.finish();
    assert!(told > 0, "{shown}");
    let ceiling = if strict { case.promised } else { 3 * bound() };
    assert!(took < ceiling, "{shown}");
    took
}

/// The end of the input takes no longer, with default settings.
fn bound() -> Duration {
    let policy = ClosePolicy::graceful().flush(Duration::from_secs(2));
    policy.max_duration() + Duration::from_secs(1)
}

const ENDLESS: &[&str] = &["--flood", "--flood-stderr", "--ignore-sigterm"];
const FINITE: &[&str] = &["--flood", "1m", "--flood-stderr", "1m"];

// The host that is to end stuck agents must not be stuck itself.
#[test]
fn parent_that_never_reads_does_not_delay_the_end() {
    let setting = |name| std::env::var(name).ok();
    let strict = setting("AGENTPIPE_STRICT").is_some();
    let rounds = setting("AGENTPIPE_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"));
    let agents = [(ENDLESS, true, 7000), (FINITE, true, 3000), (&[] as &[&str], false, 3000)];
    let one = |unread: &'static str| {
        let mut slowest = Vec::new();
        for (agent, floods, promised) in agents {
            for act in [Act::EndInput, Act::Signal, Act::TwoSignals] {
                let promised = if act == Act::TwoSignals { 1200 } else { promised };
                let promised = Duration::from_millis(promised);
                let case = Case { unread, agent, floods, act, promised };
                let took = (0..rounds).map(|_| check(&case, strict)).max();
                slowest.push((unread, agent.first().copied(), act, took));
            }
        }
        slowest
    };
    let slowest: Vec<_> = thread::scope(|scope| {
        let threads = ["stdout", "stderr", "both"].map(|unread| scope.spawn(move || one(unread)));
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(slowest.len(), 27);
    println!("{rounds} rounds, the slowest of each: {slowest:#?}");
}

#[test]
fn full_stdout_holds_the_agent_back() {
    let mut run = Run::start(&[], &fake(&["--records", "40000", "--exit-after", "40000"]));
    let mut stdout = End::new(run.child.stdout.take().expect("piped"), false);
    wait_until("stdout is full", || stdout.holds() >= 32_000);
    pass(Duration::from_millis(500));
    let report = fs::read(run.folder.path().join("report")).expect("opened at the start");
    assert_eq!(report, b"", "the agent lives: it cannot have said all");
    let status = fs::read_to_string(format!("/proc/{}/status", run.child.id())).expect("proc");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    assert!(peak < 24 << 10, "40 MB were said, and {peak} kB are held");
    stdout.read();
    drop(run.child.stdin.take());
    let done = run.collect();
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 40_000), "{}", done.report);
    assert_eq!(stdout.finish(), 40_000);
}

// The parent reads the records and not the log. After the first 64 KiB of log the run stood still.
#[test]
fn full_stderr_blocks_neither_records_nor_end() {
    let mut run = Run::start(&[], &fake(&["--flood-stderr", "1m", "--noise"]));
    let stdout = End::new(run.child.stdout.take().expect("piped"), true);
    let stderr = End::new(run.child.stderr.take().expect("piped"), false);
    for answered in 1..=500 {
        run.send(b"{\"a\":1}\n");
        wait_until("an answer", || stdout.lines.load(Ordering::SeqCst) == answered);
    }
    drop(run.child.stdin.take());
    let status = run.child.wait().expect("our child");
    assert_eq!(status.code(), Some(0), "no record is lost");
    let report = fs::read(run.folder.path().join("report")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    let told = stderr.finish();
    let lost = report["undelivered_stderr_lines"].as_u64().expect("a number");
    assert!(lost > 500 && report["noise"] == 500, "{told} and {lost}: {report}");
    // What was dropped was dropped in whole lines, and nothing is counted twice: the agent's lines
    // and those about its noise, none of them a summary.
    let run = Run::start(&[], &fake(&["--flood-stderr", "1m"])).finish(b"");
    let all = run.stderr.len() as u64 + run.count("undelivered_stderr_lines");
    assert_eq!(told + lost, all + 500);
}

// The parent dies while the agent reads nothing. A wait for the agent hides the end of the input,
// and both live on.
#[test]
fn deaf_agent_ends_with_its_parent() {
    let mut run = Run::start(
        &["--drain", "300ms", "--terminate", "200ms"],
        &fake(&["--never-read-stdin", "--ignore-eof"]),
    );
    let stdin = run.child.stdin.take().expect("piped");
    let record = format!("{{\"pad\":\"{}\"}}\n", "x".repeat(10_000));
    rustix::io::ioctl_fionbio(&stdin, true).expect("settable");
    let mut sent = 0;
    let mut quiet = Instant::now();
    // Until nothing more is taken: the queue of the agent is full, and so are both pipes.
    while quiet.elapsed() < Duration::from_millis(500) {
        let at = sent % record.len();
        match rustix::io::write(&stdin, &record.as_bytes()[at..]) {
            Ok(len) => {
                sent += len;
                quiet = Instant::now();
            }
            Err(_) => thread::yield_now(),
        }
        assert!(sent < 16 << 20, "it is held back");
    }
    drop(stdin);
    let done = run.collect();
    let count = |field| done.count(field);
    assert!(count("stdin_unsent_bytes") > 0, "{}", done.report);
    let framing = count("records_out") + count("unsent_records");
    let all = count("bytes_out") + count("unsent_bytes") + count("stdin_unsent_bytes");
    // Where a record waited to be accepted, its line end is no part of it.
    assert!((sent as u64 - 1..=sent as u64).contains(&all), "{sent} and {all}, {framing}");
}

// A file ends at once and does not hang up: an agent may read it slowly.
#[test]
fn slow_reader_of_a_file_is_not_cut_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let questions = folder.path().join("questions");
    let record = format!("{{\"pad\":\"{}\"}}\n", "x".repeat(90_000));
    fs::write(&questions, record.repeat(40)).expect("written");
    let mut child = Command::new(PROGRAM)
        .args(["run", "--quiet", "--", PROGRAM, "fake"])
        .stdin(File::open(&questions).expect("there"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdout = End::new(child.stdout.take().expect("piped"), false);
    wait_until("the agent waits for its reader", || stdout.holds() >= 32_000);
    // Longer than --drain. The 3.6 MB are more than what is on its way to the agent and back.
    pass(Duration::from_millis(2500));
    assert!(child.try_wait().expect("our child").is_none(), "its input has not ended");
    stdout.read();
    assert_eq!(child.wait().expect("our child").code(), Some(0));
    assert_eq!(stdout.finish(), 40);
}

// The agent has left, the input is open, and its last records wait for their reader.
#[test]
fn signal_ends_a_wait_for_the_reader() {
    let mut run = Run::start(&[], &fake(&["--flood", "1m", "--exit-after", "1024"]));
    let stdout = End::new(run.child.stdout.take().expect("piped"), false);
    let report = run.folder.path().join("report");
    wait_until("the report", || fs::read_to_string(&report).is_ok_and(|text| text.ends_with('\n')));
    pass(Duration::from_millis(2500));
    assert!(run.child.try_wait().expect("our child").is_none(), "a reader may still come");
    kill_process(Pid::from_child(&run.child), Signal::TERM).expect("it lives");
    let done = run.collect();
    let lines = stdout.finish();
    assert_eq!(lines + done.count("undelivered_records"), 1024, "{}", done.report);
    assert_eq!(done.report["close"]["reason"], "exited");
}
