//! A few hundred agents on one engine: one thread carries all of their pipes.
//!
//! ```sh
//! cargo run --example many_agents -- 300
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::env;
use std::time::{Duration, Instant};

use agentpipe::{Agent, AgentCommand, Engine};
use tokio::task::JoinSet;

/// Records that each agent is sent and answers.
const RECORDS: usize = 10;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = env::args().nth(1).map_or(Ok(200), |count| count.parse())?;
    // Fails here, and names the limit, if the host has no room for that many: an agent needs four
    // descriptors and a process.
    let engine = Engine::builder().max_agents(count).build()?;

    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..count {
        tasks.spawn(converse(engine.clone(), number));
    }
    // The drop of its last handle would abort an agent, so they are kept.
    let mut agents = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        agents.push(done??);
    }
    let answers: u64 = agents.iter().map(|agent| agent.stats().records_in).sum();
    println!("{count} agents answered {answers} records in {:?}", begin.elapsed());

    // All agents are idle now. One call closes them at once; what is left after 10 s is aborted.
    let report = engine.shutdown(Duration::from_secs(10)).await;
    println!("closed {} in {:?}, {} aborted", report.agents, report.total, report.aborted);
    Ok(())
}

/// Spawns an agent, sends it records and waits for each answer.
async fn converse(engine: Engine, number: usize) -> Result<Agent, agentpipe::Error> {
    let mut agent = engine.spawn(AgentCommand::new("cat")).await?;
    for record in 0..RECORDS {
        agent.send(format!(r#"{{"agent":{number},"record":{record}}}"#)).await?;
        agent.next_record().await;
    }
    Ok(agent)
}
