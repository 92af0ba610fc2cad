//! A stand-in for the API of the CLI, on this machine: it answers as the prompt says, and keeps count.
//!
//! The last line of the newest text that begins with `say`, `long`, `drip`, `tool` or `background` decides.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

/// The prompt of the background agent, and what its parent is told when that is done.
const SUBAGENT: &str = "work in the background";
const NOTIFICATION: &str = "task-notification";

/// One running stand-in. It ends with the process.
pub(crate) struct Api {
    pub(crate) url: String,
    /// The requests to the model: the newest text of each.
    asked: Arc<Mutex<Vec<String>>>,
}

/// One block of an answer, and how long to wait after each piece of it.
enum Block {
    Text(Vec<String>, Duration),
    Tool(String, Value),
}

impl Api {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = Arc::clone(&heard);
                // A client that goes away in the middle of an answer is what some tests are about.
                std::thread::spawn(move || drop(serve(stream, &heard)));
            }
        });
        Self { url, asked }
    }

    /// How often the model was asked with a text that holds this.
    pub(crate) fn asked(&self, text: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|asked| asked.contains(text)).count()
    }
}

fn serve(stream: TcpStream, heard: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or_default();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = first.split_whitespace().nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let mut out = stream;
    match path {
        "/v1/messages" => {
            let (newest, blocks) = answer(&body);
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(newest);
            stream_out(&mut out, &body, &blocks)
        }
        "/v1/messages/count_tokens" => whole(&mut out, "200 OK", &json!({"input_tokens": 10})),
        _ => {
            let error = json!({"type": "not_found_error", "message": "no such path"});
            whole(&mut out, "404 Not Found", &json!({"type": "error", "error": error}))
        }
    }
}

fn whole(out: &mut TcpStream, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(
        out,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The texts of a message, one a line.
fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        content => {
            let blocks = content.as_array().into_iter().flatten();
            let texts: Vec<&str> = blocks.filter_map(|block| block["text"].as_str()).collect();
            texts.join("\n")
        }
    }
}

/// Returns the answer to the newest message.
fn answer(body: &Value) -> (String, Vec<Block>) {
    let messages: Vec<&Value> = body["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|one| one["role"] == "user")
        .collect();
    let newest = messages.last().copied().unwrap_or(&Value::Null);
    let text = text_of(newest);
    let holds = |what: &str| newest.to_string().contains(what);
    let said = |text: &str| vec![Block::Text(vec![text.to_owned()], Duration::ZERO)];
    let line = text.lines().rev().find(|line| {
        ["say ", "long ", "drip ", "tool ", "background"].iter().any(|verb| line.starts_with(verb))
    });
    let mut words = line.unwrap_or("say nothing").split_whitespace();
    let (verb, number) = (words.next(), words.next());
    let size = number.and_then(|number| number.parse().ok());
    if messages.iter().any(|message| text_of(message).contains(SUBAGENT)) && verb != Some("drip") {
        return (text, said("Done in the background."));
    }
    if holds("toolu_Bash") || holds("toolu_") && !holds("toolu_Agent") {
        return (text, said("That was all."));
    }
    if holds(NOTIFICATION) {
        let command = json!({"command": "touch woken", "description": "Makes a file"});
        return (text, vec![Block::Tool("Bash".to_owned(), command)]);
    }
    if holds("tool_result") {
        // The background agent is done before this is.
        return (text, vec![Block::Text(vec!["word ".to_owned(); 30], Duration::from_millis(50))]);
    }
    let blocks = match (verb, size) {
        // `tool NAME INPUT`
        (Some("tool"), _) => {
            let input: String = words.collect::<Vec<_>>().join(" ");
            let input = serde_json::from_str(&input).expect("the prompt has the input as JSON");
            vec![Block::Tool(number.expect("the prompt names the tool").to_owned(), input)]
        }
        (Some("long"), Some(bytes)) => {
            let piece = "the quick brown fox jumps over the lazy dog\n".repeat(100);
            let pieces = vec![piece.clone(); bytes / piece.len()];
            vec![Block::Text(pieces, Duration::ZERO)]
        }
        (Some("drip"), Some(words)) => {
            vec![Block::Text(vec!["word ".to_owned(); words], Duration::from_millis(20))]
        }
        (Some("background"), _) => {
            let slow = number == Some("slow");
            let prompt = if slow { format!("{SUBAGENT}\ndrip 2000") } else { SUBAGENT.to_owned() };
            let input = json!({
                "description": "works", "prompt": prompt, "subagent_type": "general-purpose",
                "run_in_background": true,
            });
            vec![Block::Tool("Agent".to_owned(), input)]
        }
        _ => said("That was all."),
    };
    (text, blocks)
}

fn stream_out(out: &mut TcpStream, body: &Value, blocks: &[Block]) -> std::io::Result<()> {
    let tool = blocks.iter().any(|block| matches!(block, Block::Tool(..)));
    let stop = if tool { "tool_use" } else { "end_turn" };
    let usage = json!({"input_tokens": 10, "output_tokens": 10});
    // The CLI takes two messages of one id for one, and runs no second call with the same id.
    let count = body["messages"].as_array().map_or(0, Vec::len);
    let message = json!({
        "id": format!("msg_{count}"), "type": "message", "role": "assistant", "model": body["model"],
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    if body["stream"] != true {
        let mut message = message;
        message["content"] = json!([{"type": "text", "text": "That was all."}]);
        message["stop_reason"] = "end_turn".into();
        return whole(out, "200 OK", &message);
    }
    write!(out, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
    let mut event = |data: Value| {
        write!(out, "event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
    };
    event(json!({"type": "message_start", "message": message}))?;
    for (index, block) in blocks.iter().enumerate() {
        let begin = |block: Value| {
            let kind = "content_block_start";
            json!({"type": kind, "index": index, "content_block": block})
        };
        let delta =
            |delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
        match block {
            Block::Text(pieces, pause) => {
                event(begin(json!({"type": "text", "text": ""})))?;
                for piece in pieces {
                    event(delta(json!({"type": "text_delta", "text": piece})))?;
                    std::thread::sleep(*pause);
                }
            }
            Block::Tool(name, input) => {
                let id = format!("toolu_{name}_{count}");
                event(begin(json!({"type": "tool_use", "id": id, "name": name, "input": {}})))?;
                let input = input.to_string();
                event(delta(json!({"type": "input_json_delta", "partial_json": input})))?;
            }
        }
        event(json!({"type": "content_block_stop", "index": index}))?;
    }
    let end = json!({"stop_reason": stop, "stop_sequence": null});
    event(json!({"type": "message_delta", "delta": end, "usage": usage}))?;
    event(json!({"type": "message_stop"}))
}
