//! Sessions over real children: every agent here plays a dialogue, and leaves with 65 if the host
//! says anything that is not in it.

mod blocking;
mod callbacks;
mod causes;
mod chat;
mod claude_cli;
mod client;
mod control;
mod deadlines;
mod ends;
mod input;
mod jsonrpc;
mod lanes;
mod lost;
mod mcp;
mod mcp_input;
mod mcp_listen;
mod mcp_restart;
mod odd_agents;
mod pressure;
mod query;
mod regressions;
mod runtimes;
mod runtimes_die;
mod sentinels;
mod state;
mod stopped;
#[path = "../support/mod.rs"]
mod support;
mod traces;
mod wire;

use std::sync::mpsc;
use std::time::Duration;

use crate::support::dialogue::{HANDSHAKE, assert_played, dialogue};
use crate::support::{block_on_within, engine};
use agentpipe::Engine;
use agentpipe::session::claude;
use serde_json::{Value, json};

/// Every wait here ends long before the default timeout of a request, which is 60 s.
const SOON: Duration = Duration::from_secs(10);

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

/// Returns the full answer of the host to this request of the agent.
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
    block_on_within(SOON, future)
}

async fn start<T: AsRef<str>>(engine: &Engine, steps: &[T]) -> claude::Session {
    claude::Session::builder().start(engine, dialogue(steps)).await.expect("starts")
}

/// Says when it is dropped.
struct Dropped(mpsc::Sender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _nobody_listens = self.0.send("dropped");
    }
}
