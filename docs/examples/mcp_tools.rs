//! Lists the tools of an MCP server, of either era of the protocol.
//!
//! ```sh
//! cargo run --features mcp --example mcp_tools                                # a server, by npx
//! cargo run --features mcp --example mcp_tools -- my-mcp-server --its-flags   # another one
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;

use agentpipe::session::mcp::{Call, Client};
use agentpipe::{AgentCommand, Engine};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let server = match args.next() {
        Some(program) => AgentCommand::new(program).args(args),
        None => AgentCommand::new("npx").args(["-y", "@modelcontextprotocol/server-everything"]),
    };
    let client = Client::builder()
        .client_info("mcp_tools", "1")
        // A request of a legacy server, or a question in a result of a modern one.
        .handle("elicitation/create", |_asked| async { Ok(json!({"action": "decline"})) })
        .connect(&Engine::new()?, server)
        .await?;
    let server = client.server();
    println!("{} {}: MCP {}", or_none(server.name()), or_none(server.release()), server.version());

    // A list may be asked for again if the server ends meanwhile. A list of another page has a cursor.
    let list = Call::new("tools/list", ()).idempotent();
    let answer: Value = client.run(list).await?.json()?;
    for tool in answer["tools"].as_array().into_iter().flatten() {
        println!("  {}: {}", or_none(tool["name"].as_str()), or_none(tool["description"].as_str()));
    }
    println!("-- {}", client.close().await);
    Ok(())
}

fn or_none(text: Option<&str>) -> &str {
    text.unwrap_or("(none)")
}
