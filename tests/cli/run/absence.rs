//! `--reader-timeout`: parents that end stdin early and read on, and parents that stop reading with
//! stdout open, as agent SDKs do.

use std::io::Read;
use std::process::ChildStdout;
use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::process::Signal;

use super::{Done, Run, fake, pass};
use crate::support::{PROGRAM, wait_until};

const SHORT: [&str; 2] = ["--reader-timeout", "100ms"];

/// Starts a run and waits until its unread stdout is full.
fn unread(flags: &[&str], agent: &[&str]) -> (Run, ChildStdout) {
    let mut run = Run::start(flags, agent);
    run.send(b"{\"type\":\"user\"}\n");
    let stdout = run.child.stdout.take().expect("piped");
    wait_until("stdout is full", || ioctl_fionread(&stdout).expect("a pipe") >= 32_000);
    (run, stdout)
}

/// Waits for the end without reading, then checks that each record is either in the pipe or counted.
fn end_unread(mut run: Run, mut stdout: ChildStdout) -> Done {
    drop(run.child.stdin.take());
    let done = run.collect();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    let delivered = rest.matches('\n').count() as u64;
    let kept = done.count("records_in") - done.count("records_discarded");
    assert_eq!(delivered + done.count("undelivered_records"), kept, "{}", done.report);
    let bytes = done.count("undelivered_bytes");
    assert!(bytes >= done.count("undelivered_records"), "{}", done.report);
    done
}

// The SDK has stopped reading, and the agent is blocked in write(2): it never sees its input end. The
// drain of an hour shows that no other limit ends it.
#[test]
fn unread_flood_ends_without_a_signal() {
    let flags = [&SHORT[..], &["--drain", "60m"]].concat();
    let (run, stdout) = unread(&flags, &fake(&["--flood"]));
    let done = end_unread(run, stdout);
    assert_eq!((done.code(), &done.report["close"]["stage"]), (Some(143), &"terminate".into()));
}

// The answer is finished and the parent does not read it. The agent leaves by itself once `run` has taken its
// output.
#[test]
fn unread_answer_lets_the_agent_leave() {
    // Long enough for the 4 MiB on a busy machine.
    let flags = ["--reader-timeout", "2s", "--drain", "60m"];
    let agent = fake(&["--like", "claude-native", "--backlog", "4m"]);
    let (run, stdout) = unread(&flags, &agent);
    let done = end_unread(run, stdout);
    assert_eq!(done.report["exit"], serde_json::json!({ "code": 0 }), "{}", done.report);
    assert_eq!(done.report["close"]["reason"], "exited", "{}", done.report);
    assert_eq!(done.code(), Some(125), "a loss is no success: {done:?}");
    assert!(done.stderr[0].contains("not taken by stdout"), "{:?}", done.stderr);
}

// An SDK ends stdin right after the only prompt, and the turn takes minutes of silence.
#[test]
fn early_end_of_input_leaves_a_turn_its_time() {
    let turn = ["sh", "-c", "cat >/dev/null; sleep 1; echo '{\"type\":\"result\"}'"];
    let limits = ["--drain", "50ms", "--terminate", "50ms"];
    let done = Run::start(&[&SHORT[..], &limits].concat(), &turn).finish(b"{}\n");
    assert_eq!((done.code(), done.count("records_in")), (Some(0), 1), "{}", done.report);
    let done = Run::start(&limits, &turn).finish(b"{}\n");
    assert_eq!(done.count("records_in"), 0, "the turn would have been cut: {}", done.report);
}

// A consumer that pauses for longer than the limit is slow, not gone.
#[test]
fn reader_that_reads_after_the_end_loses_nothing() {
    // The output begins when the moment in which a buffer may still fill is over.
    let turn = "cat >/dev/null; sleep 0.7; exec \"$0\" fake --records 4000 </dev/null";
    let flags = ["--reader-timeout", "1s", "--drain", "50ms"];
    let mut run = Run::start(&flags, &["sh", "-c", turn, PROGRAM]);
    drop(run.child.stdin.take());
    let mut stdout = run.child.stdout.take().expect("piped");
    let mut first = [0; 4096];
    stdout.read_exact(&mut first).expect("a pipe full");
    pass(Duration::from_millis(2500));
    assert!(run.child.try_wait().expect("our child").is_none(), "its records are not read");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).expect("a pipe");
    let done = run.collect();
    let lines = first.iter().chain(&rest).filter(|byte| **byte == b'\n').count();
    assert_eq!((done.code(), lines), (Some(0), 4000), "{}", done.report);
    assert_eq!(done.count("undelivered_records"), 0);
}

// An SDK sends SIGTERM a few seconds after the end of stdin, and SIGKILL after that.
#[test]
fn signal_after_the_end_terminates_at_once() {
    for agent in [&["--flood"][..], &["--ignore-eof"]] {
        let limits = ["--reader-timeout", "60m", "--drain", "60m", "--terminate", "60m"];
        let mut run = Run::start(&limits, &fake(agent));
        run.send(b"{}\n");
        let mut stdout = run.child.stdout.take().expect("piped");
        let mut first = [0; 3];
        stdout.read_exact(&mut first).expect("a record");
        drop(run.child.stdin.take());
        pass(Duration::from_millis(300));
        assert!(run.child.try_wait().expect("our child").is_none(), "it has an hour: {agent:?}");
        run.signal(Signal::TERM);
        // Read by `collect` is nothing, so a stdout that is full must not hold up the end.
        let done = run.collect();
        assert_eq!(done.code(), Some(143), "{agent:?}: {done:?}");
        assert_eq!(done.report["close"]["stage"], "terminate", "{agent:?}");
        drop(stdout);
    }
}

// The host was killed while the agent was at work in silence: no write would find out.
#[test]
fn silent_agent_ends_with_its_host() {
    let flags = ["--reader-timeout", "60m", "--drain", "200ms"];
    let mut run = Run::start(&flags, &fake(&["--ignore-eof"]));
    run.send(b"{}\n");
    let mut stdout = run.child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 3]).expect("a record");
    drop(run.child.stdin.take());
    pass(Duration::from_millis(500));
    assert!(run.child.try_wait().expect("our child").is_none(), "its reader is there");
    drop(stdout);
    let done = run.collect();
    assert_eq!((done.code(), &done.report["close"]["stage"]), (Some(143), &"terminate".into()));
}
