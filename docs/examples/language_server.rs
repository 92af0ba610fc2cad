//! Starts a language server, asks what it can do, and shuts it down as the protocol wants.
//!
//! ```sh
//! cargo run --example language_server                             # rust-analyzer
//! cargo run --example language_server -- clangd --log=error       # another one
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;

use agentpipe::session::jsonrpc::{Cancellation, Session};
use agentpipe::{AgentCommand, Engine, Framing};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let program = args.next().unwrap_or_else(|| "rust-analyzer".to_owned());
    // Language servers frame their records by `Content-Length` headers, not by lines.
    let server = AgentCommand::new(program).args(args).framing(Framing::ContentLength);

    let engine = Engine::new()?;
    // A close says goodbye as the protocol has it: a request, then a notification.
    let builder = Session::builder().cancellation(Cancellation::Lsp);
    let session = builder.farewell("shutdown", &["exit"]).start(&engine, server).await?;

    let hello = json!({"processId": std::process::id(), "rootUri": null, "capabilities": {}});
    let answer: Value = session.request("initialize", hello).await?.json()?;
    session.notify("initialized", json!({})).await?;
    println!("{}", answer["serverInfo"]["name"].as_str().unwrap_or("a server without a name"));
    for name in answer["capabilities"].as_object().into_iter().flatten().map(|(name, _)| name) {
        println!("  {name}");
    }

    println!("-- {}", session.close().await);
    Ok(())
}
