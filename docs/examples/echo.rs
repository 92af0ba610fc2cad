//! The smallest host: one agent, one record, one close. No async runtime.
//!
//! ```sh
//! cargo run --example echo
//! ```
//!
//! The agent is `cat`, which writes back what it reads. Any program that reads and writes lines of
//! JSON can take its place.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use agentpipe::{AgentCommand, Engine};

fn main() -> Result<(), agentpipe::Error> {
    // An engine owns one thread and one io_uring. A program needs one engine, however many agents.
    let engine = Engine::new()?;
    let mut agent = engine.spawn_blocking(AgentCommand::new("cat"))?;

    // A record is one JSON value. It is checked here: `cat` never sees half of one.
    agent.send_blocking(r#"{"type":"greeting","text":"hello"}"#)?;
    if let Some(record) = agent.next_record_blocking() {
        println!("{}", record.as_str()?);
    }

    // Ends the input of `cat`, reads on until it has left, and reports how it went.
    let report = agent.close_blocking();
    println!("{report}");
    Ok(())
}
