//! The last descriptor of the process.

use std::fs;
use std::process::Command;

use agentpipe::{Agent, Engine, ErrorKind, ExitStatus};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{check_no_zombie, check_refusal};
use crate::support::own_process::{alone, test_name};
use crate::support::process::open_descriptors;
use crate::support::{PROGRAM, check_alive, check_error, engine, fake};

fn spawn_until_refused(engine: &Engine, agents: &mut Vec<Agent>) {
    loop {
        assert!(agents.len() < 64, "the limit does not bite");
        match engine.spawn_blocking(fake(&[])) {
            Ok(agent) => agents.push(agent),
            Err(error) => {
                let says = ["spawn", "RLIMIT_NOFILE", "is 64", "ulimit -n", "4 descriptors"];
                check_error(&error, ErrorKind::ResourceLimit, &says);
                break;
            }
        }
    }
}

// The server must report the agent that does not fit, and go on with the others; a descriptor
// leaked at each try would take those down, too.
#[test]
fn descriptor_limit_spares_running_agents() {
    if !alone(test_name!()) {
        return;
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).expect("a lower limit");
    let engine = engine();
    let before = open_descriptors();
    let mut agents = Vec::new();
    spawn_until_refused(&engine, &mut agents);
    assert!(agents.len() >= 8, "{}", agents.len());
    // Four an agent: stdin, stdout, stderr, pidfd.
    assert_eq!(open_descriptors(), before + 4 * agents.len());
    for _ in 0..50 {
        let refused = engine.spawn_blocking(fake(&[])).expect_err("still at the limit");
        assert_eq!(refused.kind(), ErrorKind::ResourceLimit);
    }
    assert_eq!(open_descriptors(), before + 4 * agents.len(), "no descriptor lost");
    check_no_zombie();
    for agent in &mut agents {
        check_alive(agent);
    }

    // Another engine is refused by the same name. The gap is filled first.
    let mut fill = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        fill.push(file);
    }
    let error = Engine::new().expect_err("no descriptor for it");
    check_error(&error, ErrorKind::ResourceLimit, &["start", "RLIMIT_NOFILE"]);
    drop(fill);

    // One leaves, and there is room again for one.
    let left = agents.pop().expect("there are some");
    assert_eq!(left.close_blocking().exit(), ExitStatus::Code(0));
    let count = agents.len();
    spawn_until_refused(&engine, &mut agents);
    assert_eq!(agents.len(), count + 1);
    for agent in &mut agents {
        check_alive(agent);
        assert_eq!(agent.close_blocking().exit(), ExitStatus::Code(0));
    }
    assert_eq!(open_descriptors(), before);
}

// From too few for an engine to one too few for its agent.
#[test]
fn run_names_the_descriptor_limit() {
    for limit in [6, 9, 12] {
        let mut command = Command::new("/bin/sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" run -- cat");
        command.args(["-c", &script, PROGRAM]).stdin(std::process::Stdio::null());
        let output = command.output().expect("starts");
        check_refusal(&output, 125, &["RLIMIT_NOFILE", &format!("is {limit}"), "ulimit -n"]);
    }
}
