//! Responses that come before a deadline, and the cost of an idle session.

use std::fs;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use agentpipe::session::{claude, jsonrpc};
use agentpipe::{AgentCommand, ErrorKind};

use crate::support::dialogue::{HANDSHAKE, assert_played, dialogue};
use crate::support::own_process::{alone, test_name};
use crate::support::{PROGRAM, engine};
use crate::{SOON, wait};

/// Holds the engine thread up that wakes it, until it is let go.
struct Gate {
    shut: mpsc::Sender<()>,
    open: Mutex<mpsc::Receiver<()>>,
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.shut.send(()).expect("the test listens");
        let _open = self.open.lock().expect("one waiter").recv_timeout(SOON);
    }
}

// The host did not read for a while. The deadline passed meanwhile and was handled first; then the
// answer was read and counted as late.
#[test]
fn answer_already_in_the_pipe_is_not_late() {
    let folder = tempfile::tempdir().expect("a folder");
    let (go, written) = (folder.path().join("go"), folder.path().join("written"));
    // It answers when it may, says so, and stays.
    let agent = AgentCommand::new("sh").args([
        "-c",
        concat!(
            r#"read line; until [ -e "$0" ]; do sleep 0.01; done; "#,
            r#"echo '{"jsonrpc":"2.0","id":1,"result":{}}'; : > "$1"; read end"#
        ),
    ]);
    let (shut, is_shut) = mpsc::channel();
    let (open, opens) = mpsc::channel();
    let gate = Arc::new(Gate { shut, open: Mutex::new(opens) });
    wait(async {
        let engine = engine();
        let other = engine.spawn(AgentCommand::new("cat")).await.expect("spawns");
        let (mut reader, writer) = other.split();
        let session = jsonrpc::Session::builder()
            .start(&engine, agent.arg(&go).arg(&written))
            .await
            .expect("starts");
        let limit = Duration::from_millis(300);
        let mut request = Box::pin(session.as_session().request_with_timeout("a", (), limit));
        let mut context = Context::from_waker(Waker::noop());
        // It is with the engine. The thread comes to a stop in what the other agent's echo wakes.
        assert!(request.as_mut().poll(&mut context).is_pending());
        let waker = Waker::from(gate);
        assert!(reader.poll_next(&mut Context::from_waker(&waker)).is_pending());
        writer.send("{}").await.expect("sent");
        is_shut.recv_timeout(SOON).expect("the engine stands");
        fs::write(&go, "").expect("written");
        let begun = std::time::Instant::now();
        while !written.exists() {
            assert!(begun.elapsed() < SOON, "the agent does not answer");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The deadline passes.
        tokio::time::sleep(2 * limit).await;
        assert!(request.as_mut().poll(&mut context).is_pending(), "the pipe was not read yet");
        open.send(()).expect("it waits");
        request.await.expect("the answer was there");
        let stats = session.as_session().metrics();
        assert_eq!((stats.settled, stats.timeouts, stats.late), (1, 0, 0));
        session.abort().await;
    });
}

#[test]
fn endless_writer_delays_no_deadline() {
    wait(async {
        let flood = AgentCommand::new(PROGRAM).args(["fake", "--flood", "--record-size", "64"]);
        let settings = agentpipe::session::Settings::new().discard_data(true);
        let session = claude::Session::builder()
            .settings(settings)
            .attach(engine().spawn(flood).await.expect("spawns"))
            .expect("attached");
        let limit = Duration::from_millis(50);
        let error = session.request_with_timeout("never", (), limit).await.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        session.abort().await;
    });
}

/// Processor time of the thread that all sessions of this process share, in milliseconds.
fn spent() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc");
    let folders = tasks.flatten().map(|task| task.path());
    let named = |folder: &std::path::PathBuf| {
        fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.trim() == "agentpipe-sessi")
    };
    let time = |folder: std::path::PathBuf| {
        let stat = fs::read_to_string(folder.join("schedstat")).expect("its time");
        stat.split_whitespace().next().expect("a number").parse::<u64>().expect("a number")
    };
    folders.filter(named).map(time).sum::<u64>() / 1_000_000
}

// The reader task woke itself at each turn of a close: 0.8 s of processor time for an agent that
// leaves 1 s after the end of its input.
#[test]
fn slow_exit_costs_no_processor_time() {
    if !alone(test_name!()) {
        return;
    }
    wait(async {
        let late = r#"{"delay":1000}"#;
        let steps = [HANDSHAKE, r#"{"expect_end":true}"#, late];
        let engine = engine();
        let claude = claude::Session::builder().start(&engine, dialogue(&steps)).await;
        let claude = claude.expect("starts");
        let rpc = jsonrpc::Session::builder().start(&engine, dialogue(&steps[1..])).await;
        let rpc = rpc.expect("starts");
        let before = spent();
        let (report, second) = tokio::join!(claude.close(), rpc.close());
        let spent = spent() - before;
        assert_played(&report);
        assert_played(&second);
        assert!(report.total() >= Duration::from_millis(900), "it left late: {report}");
        // An idle one spends below a millisecond.
        assert!(spent < 200, "{spent} ms");
    });
}
