//! What the benches share: the built-in agent, and how it is spawned without agentpipe.

use std::process::{Child, Command, Stdio};

/// The binary under test, which is also the agent.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_agentpipe");

/// The same agent as a plain child with pipes.
pub(crate) fn plain(args: &[String]) -> Child {
    Command::new(AGENT)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the built-in agent starts")
}
