//! A close on a host that is busy, or that is stopped in the middle of it: what the agent still has to
//! write is not lost because other processes have the processor.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::pin::pin;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use std::{fs, thread};

use agentpipe::{ClosePolicy, CloseStage, Engine, ExitStatus};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::agents::{record_bytes, rest, undisturbed};
use crate::support::{HANG, PROGRAM, assert_sound, fake};

/// Six busy loops for each processor, ended with this value.
struct BusyHost(Vec<Child>);

impl BusyHost {
    fn start() -> Self {
        let processors = thread::available_parallelism().expect("a number").get();
        let busy = || {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            command.process_group(0).spawn().expect("there is a shell")
        };
        Self((0..6 * processors).map(|_| busy()).collect())
    }
}

impl Drop for BusyHost {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().expect("ours");
            child.wait().expect("ours");
        }
    }
}

// With six runnable processes per processor an agent often waits a tenth of a second for one. The
// close took that for silence and ended its input, and a Node program dropped most of its queue.
#[test]
fn busy_host_does_not_look_like_silence() {
    let _alone = undisturbed();
    let busy = BusyHost::start();
    let engine = Engine::new().expect("io_uring");
    let mut whole = 0;
    for size in ["1m", "4m", "13m"] {
        let bytes: usize = size.trim_end_matches('m').parse::<usize>().expect("a number") << 20;
        for like in ["claude-node", "claude-native"] {
            let flags = ["--like", like, "--backlog", size, "--backlog-at-start"];
            let mut agent = engine.spawn_blocking(fake(&flags)).expect("it starts");
            let begun = Instant::now();
            while agent.stats().bytes_in == 0 {
                assert!(begun.elapsed() < HANG, "it never began");
                thread::yield_now();
            }
            let report = agent.close_blocking();
            let read = record_bytes(&rest(&mut agent));
            let is_whole = read >= bytes;
            assert!(is_whole || report.output_may_be_lost(), "{like}: {read} of {bytes}: {report}");
            assert!(report.output_may_be_lost() || is_whole, "{like}: {report:?}");
            whole += usize::from(is_whole);
            assert_sound(&report);
        }
    }
    drop(busy);
    // The limits of a close are there for any host; on this one they are far away.
    assert!(whole >= 4, "only {whole} of 6 were delivered in full");
}

/// `agentpipe run` of the built-in agent, in its own process group, with its traces.
struct Run {
    child: Child,
    stderr: BufReader<ChildStderr>,
    dir: tempfile::TempDir,
}

impl Run {
    fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(PROGRAM)
            .args(["run", "--report", "report", "--", PROGRAM, "fake", "--print-pids", "pids"])
            .args(flags)
            .env("RUST_LOG", "agentpipe::close=debug")
            .current_dir(dir.path())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, stderr, dir }
    }

    /// Waits for a trace of the close.
    fn await_trace(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).expect("text") > 0, "no {words}");
        }
    }

    fn agent(&self) -> Pid {
        let pids = read_json(&self.dir.path().join("pids"));
        let pid = pids["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw).expect("a pid")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it lives");
    }

    /// Reads to the end: bytes of stdout, and the report.
    fn finish(mut self) -> (usize, Value) {
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            self.stderr.read_to_end(&mut text).expect("readable");
        });
        let mut out = Vec::new();
        self.child.stdout.take().expect("piped").read_to_end(&mut out).expect("readable");
        self.child.wait().expect("reapable");
        stderr.join().expect("no panic");
        (out.len(), read_json(&self.dir.path().join("report")))
    }
}

/// A file that may still have to be written.
fn read_json(path: &Path) -> Value {
    let deadline = Instant::now() + HANG;
    loop {
        match fs::read(path).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(value)) => return value,
            _ => assert!(Instant::now() < deadline, "no {}", path.display()),
        }
        thread::yield_now();
    }
}

/// Longer than `drain`, which is all that an agent has where a stop is charged to it.
const STOPPED: Duration = Duration::from_millis(2500);

// A laptop is closed, a virtual machine is paused, or a user presses Ctrl-Z during a close. When
// the host went on, every limit had passed: the agent got SIGTERM and lost its queue.
#[test]
fn host_stopped_during_a_close_loses_nothing() {
    let _alone = undisturbed();
    for (flags, stop_at) in [
        // While the queue is read out.
        (&["--like", "claude-node", "--backlog", "13m", "--backlog-at-start"][..], "close begins"),
        // While the agent saves what it has.
        (&["--flush-delay", "600ms", "--flood", "2m"][..], "action=EndInput"),
    ] {
        let mut run = Run::start(flags);
        let _up = run.agent();
        drop(run.child.stdin.take());
        run.await_trace(stop_at);
        run.signal(Signal::STOP);
        // Time is what this is about: nothing else happens meanwhile.
        thread::sleep(STOPPED);
        run.signal(Signal::CONT);
        let (bytes, report) = run.finish();
        let least = if flags[0] == "--like" { 13 << 20 } else { 2 << 20 };
        assert!(bytes >= least, "{stop_at}: {bytes}: {report}");
        assert_eq!(report["close"]["stage"], "drain", "{stop_at}: {report}");
        assert_eq!(report["exit"]["code"], 0, "{stop_at}: {report}");
        assert_eq!(report["output_may_be_lost"], false, "{stop_at}: {report}");
        let stalled = report["close"]["stalled_us"].as_u64().expect("a number");
        assert!(stalled > 1_500_000, "{stop_at}: {report}");
    }
}

// A paused container stops the agent with its host and continues it after the host. A stopped agent
// is not silent.
#[test]
fn host_and_agent_stopped_lose_nothing() {
    let _alone = undisturbed();
    let flags = ["--like", "claude-node", "--backlog", "13m", "--backlog-at-start"];
    let mut run = Run::start(&flags);
    let agent = run.agent();
    drop(run.child.stdin.take());
    run.await_trace("close begins");
    run.signal(Signal::STOP);
    kill_process(agent, Signal::STOP).expect("it lives");
    thread::sleep(STOPPED);
    run.signal(Signal::CONT);
    // The agent is still stopped when its host looks at it: for less than `drain`, and longer than
    // any silence that would have been enough.
    thread::sleep(Duration::from_millis(500));
    kill_process(agent, Signal::CONT).expect("it lives");
    let (bytes, report) = run.finish();
    assert!(bytes >= 13 << 20, "{bytes}: {report}");
    assert_eq!(report["close"]["stage"], "drain", "{report}");
    assert_eq!(report["exit"]["code"], 0, "{report}");
    assert_eq!(report["output_may_be_lost"], false, "{report}");
}

// SIGTERM alone does not reach an agent that is stopped; SIGCONT does.
#[test]
fn stopped_agent_is_continued_to_save() {
    let engine = Engine::new().expect("io_uring");
    let script = "trap 'echo \"{\\\"saved\\\":true}\"; exit 0' TERM; echo '{}'; kill -STOP $$; \
                  while :; do read line || sleep 0.05; done";
    let command = agentpipe::AgentCommand::new("/bin/sh").args(["-c", script]);
    let mut agent = engine.spawn_blocking(command).expect("it starts");
    agent.next_record_blocking().expect("it is up");
    let quick = Duration::from_millis(300);
    let report = agent.close_with_blocking(ClosePolicy::graceful().drain(quick));
    assert_eq!((report.stage(), report.exit()), (CloseStage::Terminate, ExitStatus::Code(0)));
    assert!(report.stopped(), "{report}");
    assert_eq!(report.input_ended_while_busy(), Some(true), "{report}");
    let saved = agent.next_record_blocking().expect("it could act on SIGTERM");
    assert_eq!(saved.as_bytes(), br#"{"saved":true}"#);
    assert_sound(&report);
}

// An answer that takes longer than any one limit arrives whole while bytes flow.
#[test]
fn answer_longer_than_the_drain_arrives() {
    let engine = Engine::new().expect("io_uring");
    // 100 records, one each 20 ms: 2 s, and 400 ms without a byte would be the end.
    let flags = ["--records", "100", "--rate", "50"];
    let mut agent = engine.spawn_blocking(fake(&flags)).expect("it starts");
    agent.next_record_blocking().expect("it has begun");
    let quick = Duration::from_millis(400);
    let policy = ClosePolicy::graceful().drain(quick).drain_total(Duration::from_secs(60));
    let report = agent.close_with_blocking(policy);
    assert_eq!((report.stage(), report.exit()), (CloseStage::Drain, ExitStatus::Code(0)));
    assert_eq!(report.stats().records_in, 100, "{report}");
    assert!(report.total() > quick, "it was too quick to show anything: {report:?}");
    assert_sound(&report);
}

// An agent that works without writing is not idle; one that works without end is closed by the
// limits.
#[test]
fn endless_work_ends_with_the_limits() {
    let engine = Engine::new().expect("io_uring");
    let command = agentpipe::AgentCommand::new("/bin/sh").args(["-c", "while :; do :; done"]);
    let agent = engine.spawn_blocking(command).expect("it starts");
    let quick = Duration::from_millis(200);
    let report = agent.close_with_blocking(ClosePolicy::graceful().drain(quick));
    assert_eq!((report.stage(), report.exit()), (CloseStage::Terminate, ExitStatus::Signal(15)));
    assert_eq!(report.input_ended_while_busy(), Some(true), "{report}");
    assert!(report.output_may_be_lost(), "{report}");
    let spent = |wanted| report.stages().iter().find(|(stage, _)| *stage == wanted).expect("it").1;
    assert!(spent(CloseStage::EndInput) >= quick, "{report:?}");
    assert!(spent(CloseStage::Drain) >= quick, "{report:?}");
    assert_sound(&report);
    // The group, not the shell: an agent in a test of this file leaves no process behind.
    let group = Pid::from_raw(agent.pid().try_into().expect("a pid")).expect("a pid");
    assert!(kill_process_group(group, Signal::KILL).is_err());
}

/// Keeps the engine thread busy at each wake-up, as a slow executor does.
struct SlowWaker(thread::Thread);

impl Wake for SlowWaker {
    fn wake(self: Arc<Self>) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        self.0.unpark();
    }
}

// The work of a turn counted as a stop of the host, which moves all deadlines. With turns that take
// long, by slow wakers or much output of others, no deadline ever passed.
#[test]
fn long_turns_do_not_put_a_close_off() {
    let engine = Engine::new().expect("it starts");
    let agent = fake(&["--flood", "--ignore-eof", "--ignore-sigterm"]);
    let (mut reader, writer) = engine.spawn_blocking(agent).expect("it starts").split();
    let reading = thread::spawn(move || {
        let waker = Waker::from(Arc::new(SlowWaker(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            let mut next = pin!(reader.next());
            match next.as_mut().poll(&mut context) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => break,
                Poll::Pending => thread::park(),
            }
        }
    });
    let short = Duration::from_millis(200);
    let policy =
        ClosePolicy::graceful().drain(short).drain_total(short).terminate(short).cut(short);
    let (sender, report) = std::sync::mpsc::channel();
    let closing = thread::spawn(move || sender.send(writer.close_with_blocking(policy)));
    let report = report.recv_timeout(HANG).expect("the close has an end");
    assert!(report.stage() >= CloseStage::Cut, "{report}");
    // With all deadlines put off it took 19 s on a quiet machine.
    assert!(report.total() < HANG / 3, "{report}");
    closing.join().expect("no panic").expect("received");
    reading.join().expect("no panic");
}
