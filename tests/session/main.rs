//! Sessions over real children: every agent here plays a dialogue, and leaves with 65 if the host
//! says anything that is not in it.

mod chat;
mod ends;
mod jsonrpc;
mod lanes;
mod sentinels;
mod traces;

use std::sync::mpsc;
use std::time::Duration;

use agentpipe::session::claude;
use agentpipe::{AgentCommand, CloseReport, Engine, ExitStatus};

const PROGRAM: &str = env!("CARGO_BIN_EXE_agentpipe");
/// What the reference takes 60 s for has to be over long before this.
const SOON: Duration = Duration::from_secs(10);

/// A control request of the host is answered with an empty success.
const ANSWER_ALL: &str = concat!(
    r#"{"on":{"type":"control_request","request_id":"${id}"},"#,
    r#""send":{"type":"control_response","response":{"subtype":"success","#,
    r#""request_id":"${id}","response":{}}}}"#
);
/// The handshake, as two steps.
const HANDSHAKE: &str = concat!(
    r#"{"expect":{"type":"control_request","request_id":"${handshake}","request":{"subtype":"initialize"}}}"#,
    "\n",
    r#"{"send":{"type":"control_response","response":{"subtype":"success","#,
    r#""request_id":"${handshake}","response":{"commands":[]}}}}"#
);
const RESULT: &str =
    r#"{"send":{"type":"result","subtype":"success","is_error":false,"session_id":"s"}}"#;

fn engine() -> Engine {
    Engine::new().expect("io_uring")
}

/// An agent that plays these steps.
fn dialogue(steps: &[&str]) -> AgentCommand {
    let steps = steps.iter().flat_map(|step| ["--step", step]);
    AgentCommand::new(PROGRAM).arg("fake").args(steps)
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    // A timer of its own; the sessions do not use it, and are woken from their own thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let limited = async { tokio::time::timeout(SOON, future).await };
    runtime.expect("a runtime").block_on(limited).expect("it hangs")
}

async fn start(engine: &Engine, steps: &[&str]) -> claude::Session {
    claude::Session::builder().start(engine, dialogue(steps)).await.expect("starts")
}

/// The dialogue went as written.
fn assert_played(report: &CloseReport) {
    assert_eq!(report.exit(), ExitStatus::Code(0), "{report}: {}", report.stderr_tail());
}

/// Says when it is dropped.
struct Dropped(mpsc::Sender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _nobody_listens = self.0.send("dropped");
    }
}
