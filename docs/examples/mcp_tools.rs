//! Lists the tools of an MCP server.
//!
//! ```sh
//! cargo run --example mcp_tools                                   # the reference server, by npx
//! cargo run --example mcp_tools -- my-mcp-server --its-flags      # another one
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::time::Duration;

use agentpipe::session::Settings;
use agentpipe::session::jsonrpc::{Cancellation, Session};
use agentpipe::{AgentCommand, Engine};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let server = match args.next() {
        Some(program) => AgentCommand::new(program).args(args),
        None => AgentCommand::new("npx").args(["-y", "@modelcontextprotocol/server-everything"]),
    };
    let engine = Engine::new()?;
    let session = Session::builder()
        // A dropped request is withdrawn as MCP says: `notifications/cancelled`.
        .cancellation(Cancellation::Mcp)
        // A server that is downloaded first needs its time; later requests may say less.
        .settings(Settings::new().request_timeout(Duration::from_secs(120)))
        // What the server may ask its client. Other methods are answered with "no such method".
        .handle("roots/list", |_asked| async { Ok(json!({"roots": []})) })
        .start(&engine, server)
        .await?;

    let hello = json!({
        "protocolVersion": "2025-06-18",
        "capabilities": {"roots": {}},
        "clientInfo": {"name": "mcp_tools", "version": "1"},
    });
    let answer: Value = session.request("initialize", hello).await?.json()?;
    println!("{} {}", text(&answer["serverInfo"]["name"]), text(&answer["serverInfo"]["version"]));
    session.notify("notifications/initialized", ()).await?;

    let answer: Value = session.request("tools/list", ()).await?.json()?;
    for tool in answer["tools"].as_array().into_iter().flatten() {
        println!("  {}: {}", text(&tool["name"]), text(&tool["description"]));
    }
    println!("-- {}", session.close().await);
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("(none)")
}
