//! Many agents in one process: what they cost, how they share a thread, and what a full kernel does.
//!
//! A test that counts descriptors, children or threads runs in its own process, see `alone`. Times are
//! asserted as ratios of one run or against generous ceilings.

mod busy_poll;
mod coalesce;
mod crowd;
mod fairness;
mod full;
mod pool;
mod stats;

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use agentpipe::{Agent, AgentCommand, ClosePolicy, CloseReport, Engine};

fn spawn(engine: &Engine, command: &AgentCommand) -> Agent {
    engine.spawn_blocking(command.clone()).expect("spawns")
}

/// Asks for all closes before it waits for the first.
fn close_all(agents: &[Agent], policy: ClosePolicy) -> Vec<CloseReport> {
    let mut closes: Vec<Pin<Box<dyn Future<Output = CloseReport> + '_>>> = Vec::new();
    for agent in agents {
        let mut close = Box::pin(agent.close_with(policy));
        let _begun = pin!(&mut close).poll(&mut Context::from_waker(Waker::noop()));
        closes.push(close);
    }
    agents.iter().map(Agent::closed_blocking).collect()
}
