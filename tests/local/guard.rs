//! A local engine with a guard: its host is killed, and nothing that it has spawned outlives it.

use agentpipe::LocalEngine;

use super::runtimes;
use crate::support::doomed::{Orders, announce, start_host};
use crate::support::own_process::{is_alone, test_name};
use crate::support::trees::{TREE, Trees, is_alive};
use crate::support::{shell, wait_until};

/// The host, which the test kills: its trees are up, and it serves its engine.
async fn host(trees: Trees, count: usize) {
    let engine = LocalEngine::builder().guard(true).build().expect("a guard");
    let mut agents = Vec::new();
    for _ in 0..count {
        let mut agent = engine.spawn(shell(&trees.script())).await.expect("spawns");
        agent.next_record().await.expect("it is up");
        agents.push(agent);
    }
    announce(None);
    std::future::pending().await
}

// The setting of the builder must reach the spawns: without it the daemons of the agents lived on.
#[test]
fn killed_local_host_leaves_no_process() {
    const COUNT: usize = 3;
    if is_alone() {
        let Orders { end, trees, count } = Orders::of_this_host();
        let runtime = runtimes()[end.parse::<usize>().expect("an index")];
        return runtime(Box::pin(host(trees, count)));
    }
    for index in 0..runtimes().len() {
        let trees = Trees::new();
        let (mut host, guard, _) = start_host(test_name!(), &index.to_string(), &trees, COUNT);
        wait_until("all trees are up", || trees.alive().len() == COUNT * TREE);
        host.kill().expect("SIGKILL");
        trees.await_none(guard);
        host.wait().expect("reaped");
        wait_until("the guard ends", || !is_alive(guard));
    }
}
