//! Every recorded conversation of a real CLI, played by a child to a session, record by record.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use agentpipe::session::claude::{HookMatcher, Message, Permission, PermissionRequest, Session};
use agentpipe::{AgentCommand, Error, Event, ExitStatus, Record};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{PROGRAM, engine};
use crate::wait;

/// Files in tests/traces. One more is played by itself, and this number says that it was meant.
const TRACES: usize = 21;

/// One line of a trace.
struct Line {
    dir: String,
    /// As it went over the wire: without blanks between tokens.
    text: String,
    record: Value,
    code: i32,
}

fn read(path: &Path) -> Vec<Line> {
    #[derive(Deserialize)]
    struct Written<'a> {
        dir: String,
        #[serde(borrow)]
        record: Option<&'a RawValue>,
        code: Option<i32>,
    }
    let text = fs::read_to_string(path).expect("a trace");
    let line = |line: &str| {
        let Written { dir, record, code } = serde_json::from_str(line).expect("a line");
        let text = record.map(|raw| compact(raw.get())).unwrap_or_default();
        let record = serde_json::from_str(&text).unwrap_or_default();
        Line { dir, text, record, code: code.unwrap_or_default() }
    };
    text.lines().map(line).collect()
}

fn compact(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        let blank = !in_string && c.is_ascii_whitespace();
        in_string ^= *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        !blank
    };
    text.chars().filter(keep).collect()
}

impl Line {
    fn kind(&self) -> &str {
        self.record["type"].as_str().unwrap_or_default()
    }

    fn is_data(&self) -> bool {
        self.dir == "out" && !self.kind().starts_with("control_") && !self.is_for_host()
    }

    /// The state that the session asked for; its reader did not.
    fn is_for_host(&self) -> bool {
        self.record["sdk_host_only"] == true
    }

    /// The id of the request that this record answers, or is.
    fn id(&self) -> &Value {
        let inner = &self.record["response"]["request_id"];
        if inner.is_null() { &self.record["request_id"] } else { inner }
    }

    /// What the child does about it. It compares all that the host says with the trace; the ids
    /// of the host's requests are the host's own, and come back in the answers.
    fn step(&self) -> String {
        match (self.dir.as_str(), self.kind()) {
            ("in", "control_request") => {
                let mut pattern = self.record.clone();
                pattern["request_id"] = format!("${{{}}}", text(self.id())).into();
                json!({"expect": pattern}).to_string()
            }
            ("in", _) => format!("{{\"expect\":{}}}", self.text),
            ("out", "control_response") => format!("{{\"send\":{}}}", self.answered_to("${", "}")),
            ("out", _) => format!("{{\"send\":{}}}", self.text),
            ("close-stdin", _) => json!({"expect_end": true}).to_string(),
            ("exit", _) => json!({"exit": self.code}).to_string(),
            _ => "# eof".to_owned(),
        }
    }

    /// The record, its id between these.
    fn answered_to(&self, before: &str, after: &str) -> String {
        let id = text(self.id());
        let from = format!("\"request_id\":\"{id}\"");
        assert!(self.text.contains(&from), "{id}");
        self.text.replacen(&from, &format!("\"request_id\":\"{before}{id}{after}\""), 1)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// A session that sends and expects the records of a trace.
struct Host {
    session: Session,
    requests: HashMap<String, JoinHandle<Result<Record, Error>>>,
    /// Bytes of data that came, and of control records, newlines excluded.
    data: u64,
    control: u64,
    asked: u64,
}

impl Host {
    /// The host says what it said when the trace was made.
    async fn say(&mut self, line: &Line) {
        match line.kind() {
            "user" => {
                let content = text(&line.record["message"]["content"]);
                self.session.send(content).await.expect("sent");
            }
            "control_request" => {
                let session = self.session.clone();
                let mut body = line.record["request"].clone();
                let fields = body.as_object_mut().expect("an object");
                let subtype = fields.remove("subtype").expect("a subtype");
                let request = tokio::spawn(async move {
                    match text(&subtype) {
                        "initialize" => session.initialize().await.map(|answer| answer.record),
                        subtype => session.request(subtype, body).await,
                    }
                });
                // It goes out before anything else does.
                tokio::task::yield_now().await;
                self.requests.insert(text(line.id()).to_owned(), request);
            }
            // The handlers answer by themselves; the child says if it is something else.
            "control_response" => {}
            other => panic!("a host that says {other}"),
        }
    }

    /// The agent answers one of our requests.
    async fn settle(&mut self, line: &Line) {
        let request = self.requests.remove(text(line.id())).expect("a request of ours");
        let own_id = format!("req_{}", self.asked + FIRST_ID);
        self.asked += 1;
        self.control += (line.text.len() - text(line.id()).len() + own_id.len()) as u64;
        let response = &line.record["response"];
        match request.await.expect("no panic") {
            Ok(reply) => {
                let wanted =
                    if response["response"].is_null() { &json!({}) } else { &response["response"] };
                assert_eq!(&reply.json::<Value>().expect("JSON"), wanted);
                let inside = line.text.contains(reply.as_str().expect("text"));
                assert!(inside || response["response"].is_null(), "byte for byte");
            }
            Err(error) => {
                assert_eq!(response["subtype"], "error", "{error}");
                assert!(error.to_string().contains(text(&response["error"])), "{error}");
            }
        }
    }

    /// The session gives this record to its reader, byte for byte, and it has a view.
    fn take(&mut self, record: &Record, line: &Line) {
        assert_eq!(record.as_str().expect("text"), line.text);
        let message = Message::of(record).expect("a view");
        assert!(!matches!(message, Message::Other(_)), "{message:?}");
        let ends_a_turn = matches!(message, Message::Result(_));
        assert_eq!(ends_a_turn, line.kind() == "result");
        self.data += record.len() as u64;
    }
}

/// Our ids count from here: the first is for the interrupt that a close may have to send.
const FIRST_ID: u64 = 2;

async fn play(path: &Path) {
    let lines = read(path);
    let mut script = tempfile::NamedTempFile::new().expect("a file");
    let steps: Vec<String> = lines.iter().map(Line::step).collect();
    script.write_all(steps.join("\n").as_bytes()).expect("written");

    let name = path.file_name().expect("a file").to_string_lossy();
    let denied = name.contains("deny");
    let mut builder = Session::builder().can_use_tool(move |_: PermissionRequest| async move {
        Ok(if denied { Permission::deny("not today") } else { Permission::allow() })
    });
    if path.ends_with("hook_callback.ndjson") {
        builder = builder
            .hook(HookMatcher::new("PreToolUse").matching("Bash"), |_| async { Ok(json!({})) });
    }
    let command = AgentCommand::new(PROGRAM).args(["fake", "--script"]).arg(script.path());
    let agent = engine().spawn(command).await.expect("spawns");
    let session = builder.attach(agent).expect("attaches");
    let mut host =
        Host { session: session.clone(), requests: HashMap::new(), data: 0, control: 0, asked: 0 };

    let mut at = 0;
    let mut served = 0;
    while at < lines.len() {
        let line = &lines[at];
        let data = lines[at..].iter().take_while(|line| line.is_data()).count();
        let result = lines[at..at + data].iter().position(|line| line.kind() == "result");
        at += 1;
        match (line.dir.as_str(), line.kind()) {
            ("in", _) => host.say(line).await,
            ("out", "control_response") => host.settle(line).await,
            ("out", "control_request") => {
                served += 1;
                host.control += line.text.len() as u64;
            }
            ("out", _) if line.is_for_host() => host.control += line.text.len() as u64,
            ("out", _) => match result {
                // To the end of a turn: the session says itself where that is.
                Some(result) => {
                    let mut seen = Vec::new();
                    let last = session.read_turn(|record| seen.push(record.clone())).await;
                    seen.extend(last);
                    assert_eq!(seen.len(), result + 1, "the turn ends with its result");
                    for (record, line) in seen.iter().zip(&lines[at - 1..]) {
                        host.take(record, line);
                    }
                    at += result;
                }
                None => {
                    let record = session.next_record().await.expect("a record");
                    host.take(&record, line);
                }
            },
            ("close-stdin", _) if lines[at..].iter().any(|line| line.dir == "out") => {
                session.end_input();
            }
            // No turn is open: a close that thinks otherwise sends an interrupt first, and the
            // child does not expect it.
            ("close-stdin", _) => drop(session.close().await),
            ("exit", _) => {
                let exit = session.next().await;
                assert_eq!(exit, Some(Event::Exit(ExitStatus::Code(line.code))));
                let report = session.as_session().closed().await;
                assert_eq!(report.stderr_tail(), "", "{report}");
            }
            _ => {}
        }
    }
    assert!(host.requests.is_empty());
    let (stats, pipes) = (session.as_session().metrics(), session.as_session().metrics().agent);
    let out = lines.iter().filter(|line| line.dir == "out").count() as u64;
    let spoken = lines.iter().filter(|line| line.dir == "in").count() as u64;
    let data = lines.iter().filter(|line| line.is_data()).count() as u64;
    assert_eq!((stats.data_records, stats.data_bytes), (data, host.data), "data");
    assert_eq!((pipes.records_in, pipes.records_out), (out, spoken), "records");
    // What came is data, control records and a newline for each: not a byte is unaccounted for.
    assert_eq!(pipes.bytes_in, host.data + host.control + out, "bytes");
    assert_eq!((stats.answered, stats.pending, stats.serving), (served, 0, 0), "requests");
    assert_eq!((stats.late, stats.unknown, stats.duplicate, stats.refused), (0, 0, 0, 0));
    assert_eq!((pipes.noise, pipes.malformed, pipes.records_discarded), (0, 0, 0));
}

#[test]
fn recorded_traces_pass_without_loss() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let mut traces: Vec<PathBuf> =
        fs::read_dir(folder).expect("traces").flatten().map(|entry| entry.path()).collect();
    traces.retain(|path| path.extension().is_some_and(|extension| extension == "ndjson"));
    traces.sort();
    let mut failed = Vec::new();
    for path in &traces {
        let played = std::panic::catch_unwind(|| wait(play(path)));
        if played.is_err() {
            failed.push(path.file_name().expect("a name"));
        }
    }
    assert!(failed.is_empty(), "what failed is printed above; the traces: {failed:?}");
    assert_eq!(traces.len(), TRACES, "every file was played");
}
