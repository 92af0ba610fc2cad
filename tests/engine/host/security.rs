//! What one agent can reach of another, as docs/guide/security.md says.

use agentpipe::{AgentCommand, ErrorKind, Event};
use rustix::process::geteuid;

use crate::support::{engine, shell};

/// An agent that writes a record into the output of the agent `victim`.
fn forger(victim: u32) -> AgentCommand {
    shell(&format!("(echo '{{\"forged\":1}}' >/proc/{victim}/fd/1) 2>/dev/null; echo '{{}}'; cat"))
}

// Agents of one user can write records in each other's name. Those of two users cannot.
#[test]
fn other_user_cannot_forge_records() {
    let engine = engine();
    let quiet = AgentCommand::new("cat");
    let forged = |victim: AgentCommand, forger: fn(u32) -> AgentCommand| {
        let mut victim = engine.spawn_blocking(victim).expect("spawns");
        let mut other = engine.spawn_blocking(forger(victim.pid())).expect("spawns");
        other.next_record_blocking().expect("it has tried");
        victim.close_blocking();
        let forged = std::iter::from_fn(|| victim.next_blocking());
        forged.filter(|event| matches!(event, Event::Record(_))).count()
    };
    assert_eq!(forged(quiet.clone(), forger), 1, "the same user may");
    let other_user = |victim| forger(victim).user(65_534, 65_534);
    if geteuid().is_root() {
        assert_eq!(forged(quiet.user(65_533, 65_533), other_user), 0);
    } else {
        let refused = engine.spawn_blocking(other_user(1)).expect_err("needs CAP_SETUID");
        assert_eq!(refused.kind(), ErrorKind::NotPermitted);
    }
}
