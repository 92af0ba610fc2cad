//! Sessions over real children: every agent here plays a dialogue, and leaves with 65 if the host
//! says anything that is not in it.

mod accept_k;
mod accept_q;
mod accept_q_end;
mod accept_q_input;
mod accept_s;
mod chat;
mod deadlines;
mod ends;
mod jsonrpc;
mod lanes;
mod lost;
mod pressure;
mod runtimes;
mod runtimes_die;
mod sentinels;
mod state;
mod traces;
mod weak;

use std::sync::mpsc;
use std::time::Duration;

use agentpipe::session::claude;
use agentpipe::{AgentCommand, CloseReport, Engine, ExitStatus};
use serde_json::{Value, json};

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
fn dialogue<T: AsRef<str>>(steps: &[T]) -> AgentCommand {
    let steps = steps.iter().flat_map(|step| ["--step", step.as_ref()]);
    AgentCommand::new(PROGRAM).arg("fake").args(steps)
}

/// Two steps: the agent asks, and expects this answer or one with more keys.
fn asks(id: &str, request: Value, answer: Value) -> String {
    let asked = json!({"type": "control_request", "request_id": id, "request": request});
    let answer = json!({"subtype": "success", "request_id": id, "response": answer});
    let answer = json!({"type": "control_response", "response": answer});
    format!("{}\n{}", json!({"send": asked}), json!({"expect": answer}))
}

/// The agent sends a message.
fn says(message: Value) -> String {
    json!({"send": message}).to_string()
}

/// What the host answers to this request of the agent, in full.
fn answer_to(builder: claude::Builder, request: Value) -> Value {
    let asked = json!({"type": "control_request", "request_id": "a", "request": request});
    let steps = [
        HANDSHAKE.to_owned(),
        says(asked),
        json!({"expect": {"type": "control_response", "response": "${answer}"}}).to_string(),
        says(json!({"type": "seen", "answer": "${answer}"})),
    ];
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        let seen: Value =
            session.next_record().await.expect("it was answered").json().expect("JSON");
        assert_played(&session.close().await);
        assert_eq!(seen["answer"]["request_id"], "a");
        seen["answer"].clone()
    })
}

/// The same, where it is a success.
fn success(builder: claude::Builder, request: Value) -> Value {
    let answer = answer_to(builder, request);
    assert_eq!(answer["subtype"], "success", "{answer}");
    answer["response"].clone()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    // A timer of its own; the sessions do not use it, and are woken from their own thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let limited = async { tokio::time::timeout(SOON, future).await };
    runtime.expect("a runtime").block_on(limited).expect("it hangs")
}

async fn start<T: AsRef<str>>(engine: &Engine, steps: &[T]) -> claude::Session {
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
