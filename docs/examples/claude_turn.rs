//! One turn with Claude Code: a prompt, the messages, the result, the close.
//!
//! ```sh
//! cargo run --features claude --example claude_turn -- "What is in this folder?"
//! ```
//!
//! Arguments after the prompt run another program in place of the CLI. `agentpipe fake` plays one that
//! needs no login:
//!
//! ```sh
//! cargo run --features claude --example claude_turn -- "Hello" agentpipe fake --like claude-native
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;

use agentpipe::session::claude::message::{Block, Message};
use agentpipe::session::claude::{Permission, PermissionRequest, Session};
use agentpipe::{AgentCommand, Engine, Record};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let prompt = args.next().unwrap_or_else(|| "Say hello in one word.".to_owned());
    let engine = Engine::new()?;

    // Asked when the CLI wants to use a tool that is not allowed yet.
    let builder = Session::builder().can_use_tool(|asked: PermissionRequest| async move {
        Ok(match asked.tool_name() {
            "Read" | "Glob" => Permission::allow(),
            tool => Permission::deny(format!("{tool} is not allowed here")),
        })
    });
    // Spawns the CLI and waits for its handshake. Options become arguments and `initialize`.
    let session = match args.next() {
        None => builder.start(&engine, AgentCommand::claude().max_turns(5)).await?,
        Some(program) => builder.start(&engine, AgentCommand::new(program).args(args)).await?,
    };

    session.send(prompt.as_str()).await?;
    // Every message of the turn passes by; the last one, the result, is returned.
    let result = session.read_turn(show).await?;
    if let Message::Result(result) = Message::of(&result)? {
        println!("-- {} turns, error: {}", result.num_turns.unwrap_or(0), result.failed());
    }

    // A bounded close: the CLI may write its transcript, and nothing it still says is lost.
    println!("-- {}", session.close().await);
    Ok(())
}

/// Prints the text of the assistant. A view borrows from the record and is made on request only.
fn show(record: &Record) {
    if let Ok(Message::Assistant(assistant)) = Message::of(record) {
        for block in assistant.message.content.blocks() {
            if let Block::Text(text) = block {
                println!("{}", text.text);
            }
        }
    }
}
