//! Hosts that deny clone3, as container filters do so that the C library uses clone(2): an agent is
//! not born in its cgroup, and joins it by itself.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use agentpipe::{AgentCommand, Engine, ErrorKind};

use super::seccomp;
use crate::support::own_process::{alone, check_passed, is_alone, test_name, this_test};
use crate::support::{CEILING, engine};

// Without that the agent starts in the host's cgroup, and its stray processes outlive the close.
#[test]
fn denied_clone3_still_joins_the_cgroup() {
    if is_alone() {
        check_joined(&engine());
        return;
    }
    let mut command = this_test(test_name!());
    let output = seccomp::deny(&mut command, libc::SYS_clone3, libc::ENOSYS).output();
    check_passed(&output.expect("runs"));
}

// Under such a filter a C library may not start threads, but some hosts have no such library.
#[test]
fn forbidden_clone3_still_joins_the_cgroup() {
    if alone(test_name!()) {
        let engine = engine();
        let born = engine.spawn_blocking(AgentCommand::new("cat").cgroup());
        seccomp::deny_from_now_on(libc::SYS_clone3, libc::EPERM);
        match born {
            Ok(agent) => {
                assert!(check_joined(&engine), "one born in a cgroup, none joined one");
                agent.close_blocking();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::CgroupUnavailable, "{error}"),
        }
    }
}

/// Returns false if this process can make no cgroup.
fn check_joined(engine: &Engine) -> bool {
    // A grandchild in another session: no signal to the group reaches it.
    let script = "setsid sh -c 'trap \"\" TERM; \
        echo \"{\\\"pid\\\":$$,\\\"cgroup\\\":\\\"$(sed -n s/^0:://p /proc/self/cgroup)\\\"}\"; \
        exec sleep 1000' & cat; wait";
    let spawned = engine.spawn_blocking(AgentCommand::new("/bin/sh").args(["-c", script]).cgroup());
    let mut agent = match spawned {
        Ok(agent) => agent,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::CgroupUnavailable, "{error}");
            return false;
        }
    };
    let said = agent.next_record_blocking().expect("a record");
    let said: serde_json::Value = said.json().expect("JSON");
    let own = fs::read_to_string("/proc/self/cgroup").expect("proc");
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).expect("a line of cgroup2");
    let its = said["cgroup"].as_str().expect("a path");
    assert_ne!(its, own, "it has another cgroup");
    let report = agent.abort_blocking();
    assert!(report.killed_extra() >= 1, "{report}");
    let runaway = PathBuf::from(format!("/proc/{}", said["pid"]));
    let begun = Instant::now();
    while runaway.exists() {
        assert!(begun.elapsed() < CEILING, "the runaway lives on");
        std::thread::yield_now();
    }
    true
}
