//! What a full kernel does: no descriptor left, no buffer left. Nothing is lost, nothing hangs.

use std::fs::File;
use std::io::Write;
use std::process::Command;

use agentpipe::{Agent, ClosePolicy, Engine, ErrorKind, ExitStatus};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{HeldThread, close_all, in_its_pipe, spawn};
use crate::support::own_process::{alone, test_name};
use crate::support::process::{children, open_descriptors};
use crate::support::{PROGRAM, check_echo, engine, fake, has_ring, shell, wait_until};

// The descriptor limit is reached at the five hundredth agent. The error must name it, and the 499
// others must not notice.
#[test]
fn agent_above_the_limit_is_refused_alone() {
    if !alone(test_name!()) {
        return;
    }
    let engine = engine();
    let before = open_descriptors();
    // Four an agent, and while one is spawned three more: its own ends of the pipes.
    let room = before + 4 * 499 + 3;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(room as u64), maximum };
    setrlimit(Resource::Nofile, limit).expect("a lower limit");

    let command = fake(&[]);
    let mut agents: Vec<Agent> = Vec::new();
    let refused = loop {
        assert!(agents.len() < 600, "the limit does not bite");
        match engine.spawn_blocking(command.clone()) {
            Ok(agent) => agents.push(agent),
            Err(error) => break error,
        }
    };
    assert!((497..=499).contains(&agents.len()), "{}", agents.len());
    assert_eq!(refused.kind(), ErrorKind::ResourceLimit, "{refused}");
    let text = refused.to_string();
    assert!(text.contains("RLIMIT_NOFILE") && text.contains(&room.to_string()), "{text}");
    for _ in 0..100 {
        engine.spawn_blocking(command.clone()).expect_err("still at the limit");
    }
    assert_eq!(open_descriptors(), before + 4 * agents.len(), "no descriptor lost");
    assert_eq!(children().len(), agents.len(), "no process half-spawned");

    for (number, agent) in agents.iter_mut().enumerate() {
        check_echo(agent, &format!("{{\"agent\":{number}}}"));
    }
    let count = agents.len();
    let leaver = agents.pop().expect("there are many");
    assert_eq!(leaver.close_blocking().exit(), ExitStatus::Code(0));
    agents.push(engine.spawn_blocking(command).expect("room for one again"));
    assert_eq!(agents.len(), count);
    for report in close_all(&agents, ClosePolicy::graceful()) {
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
    }
    assert_eq!((open_descriptors(), children().len()), (before, 0));
}

// All agents have written before the engine thread reads, and the pool is far too small. Each byte must
// come, in order, and no read may be forgotten.
#[test]
fn eight_buffers_carry_a_hundred_bursts() {
    if !has_ring(test_name!()) {
        return;
    }
    let engine = Engine::builder().buffers(8).build().expect("io_uring");
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let begin = format!("read go < {}; exec {PROGRAM} fake --records 200", fifo.display());
    let command = shell(&begin);
    let mut agents: Vec<Agent> = (0..100).map(|_| spawn(&engine, &command)).collect();
    let held = HeldThread::hold(&engine);
    // A line for each shell. Open for reading, too, so that none of them can find it closed.
    let mut go = File::options().read(true).write(true).open(&fifo).expect("ours to open");
    go.write_all(&[b'\n'; 100]).expect("written");
    for agent in &agents {
        wait_until("its pipe has output", || in_its_pipe(agent) >= 32 << 10);
    }
    drop(held);
    for agent in &mut agents {
        for wanted in 0..200 {
            let record = agent.next_record_blocking().expect("a record");
            let record: serde_json::Value = record.json().expect("JSON");
            assert_eq!(record["seq"].as_u64(), Some(wanted));
        }
        assert_eq!(agent.close_blocking().stats().records_in, 200);
        assert!(agent.next_record_blocking().is_none());
    }
    let stats = engine.metrics().total;
    assert_eq!((stats.records_in, stats.records_discarded), (20_000, 0), "{stats}");
    assert_eq!((stats.io.buffers, stats.io.buffers_free_min), (8, 0), "{stats}");
    assert!(stats.io.starved > 0, "the test must empty the pool: {stats}");
    assert_eq!(stats.io.buffers_free, 8, "every buffer is back");
    // Twenty megabytes in buffers of 4 KiB, eight at most an enter, plus what the agents' own
    // pace, their spawns and closes cost.
    assert!(stats.io.enters < stats.bytes_in / 4096 + 100 * 100, "it spins: {stats}");
}
