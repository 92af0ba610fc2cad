//! Containers as agents: the container is a process of another service, which survives its client.
//!
//! The client is a shell script that behaves as `docker` does: the container that it starts runs in a
//! session of its own and ends by `rm -f` only.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use agentpipe::{
    Agent, AgentCommand, ClosePolicy, CloseReason, CloseReport, CloseStage, Engine, ErrorKind,
    ExitStatus,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::is_gone;
use crate::support::{PROGRAM, check_error, engine, wait_until};

const CLIENT: &str = r#"#!/bin/sh
dir=${0%/*}
echo "$@" >>$dir/calls
while [ $# -gt 0 ] && [ $1 != run ] && [ $1 != rm ]; do shift; done
if [ "$1" = rm ]; then
    case $MODE in
        rm-hangs) exec sleep 1000 ;;
        rm-fails) echo "Error response from daemon: busy" >&2; exit 1 ;;
        rm-late) echo "Error response from daemon: No such container: $3" >&2; exit 1 ;;
    esac
    kill -9 ${3#c0ffee} && echo $3
    exit
fi
while [ $# -gt 0 ]; do [ $1 = --cidfile ] && cid=$2; shift; done
echo $cid >$dir/cidfile
[ $MODE = dies-early ] && exit 125
setsid sh -c 'trap "" TERM INT HUP; echo $$ >$0/container; while :; do sleep 0.05; done' $dir \
    </dev/null >/dev/null 2>&1 &
until [ -s $dir/container ]; do sleep 0.01; done
printf c0ffee$(cat $dir/container) >$cid
echo '{"up":true}'
[ $MODE = leaves ] && read line && exit 3
[ $MODE = deaf ] && trap '' TERM && while :; do sleep 0.05; done
exec cat
"#;

struct Docker {
    dir: TempDir,
    engine: Engine,
}

impl Docker {
    fn new(name: &str) -> (Self, PathBuf) {
        let dir = tempfile::tempdir().expect("a folder");
        let program = dir.path().join(name);
        fs::write(&program, CLIENT).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        (Self { dir, engine: engine() }, program)
    }

    fn command(program: &PathBuf, mode: &str) -> AgentCommand {
        let args = ["--context", "here", "run", "-i", "--rm", "image", "run"];
        AgentCommand::new(program).args(args).env("MODE", mode).container()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default().trim().to_owned()
    }

    fn container(&self) -> u32 {
        self.read("container").parse().expect("it was started")
    }

    /// The folder of the id is gone, and `rm` was called for the right container of the right service.
    fn check_removed(&self, report: &CloseReport) {
        assert_eq!(report.container_removed(), Some(true), "{report}");
        assert_eq!(report.container_note(), None, "{report}");
        let container = self.container();
        wait_until("the container is gone", || is_gone(container));
        let calls = self.read("calls");
        let rm = format!("--context here rm -f c0ffee{container}");
        assert_eq!(calls.lines().last(), Some(&*rm), "{calls}");
        self.check_folder();
        assert!(
            report.stages().iter().any(|(stage, _)| *stage == CloseStage::Remove),
            "{report:?}"
        );
        let json: Value = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!(json["container_removed"], true, "{json}");
    }

    fn check_folder(&self) {
        let file = PathBuf::from(self.read("cidfile"));
        let folder = file.parent().expect("a folder");
        wait_until("the folder of the id is gone", || !folder.exists());
    }
}

fn up(docker: &Docker, command: AgentCommand) -> Agent {
    let mut agent = docker.engine.spawn_blocking(command).expect("spawns");
    let record = agent.next_record_blocking().expect("it is up");
    assert_eq!(record.as_bytes(), br#"{"up":true}"#);
    agent
}

// The client leaves at the end of its input, by SIGKILL, by itself or in an abort; the container lived
// on each time.
#[test]
fn container_is_removed_however_its_client_ends() {
    let quick = Duration::from_millis(100);
    let short = ClosePolicy::graceful().drain(quick).terminate(quick).cut(quick);
    for (name, mode, stage) in [
        ("docker", "ordinary", CloseStage::Drain),
        ("podman", "deaf", CloseStage::Kill),
        ("docker", "leaves", CloseStage::Refuse),
        ("docker", "ordinary", CloseStage::Cut),
    ] {
        let (docker, program) = Docker::new(name);
        let agent = up(&docker, Docker::command(&program, mode).close_policy(short));
        let report = match stage {
            CloseStage::Refuse => {
                agent.send_blocking("{}").expect("sent");
                agent.closed_blocking()
            }
            CloseStage::Cut => agent.abort_blocking(),
            // The policy of the call says nothing of containers.
            _ => agent.close_with_blocking(short),
        };
        docker.check_removed(&report);
        assert_eq!(report.reason() == CloseReason::Exited, mode == "leaves", "{report}");
        assert!(stage == CloseStage::Cut || report.stage() == stage, "{report}");
    }
}

// A daemon that hangs, refuses, or has removed the container itself; a client that died before it had
// the id.
#[test]
fn failed_removal_is_said() {
    for (mode, removed, note) in [
        ("rm-hangs", None, "did not end in time"),
        ("rm-fails", Some(false), "exit code 1: Error response from daemon: busy"),
        ("rm-late", Some(true), ""),
        ("dies-early", None, "wrote no container id"),
    ] {
        let (docker, program) = Docker::new("docker");
        let policy = ClosePolicy::graceful().remove(Duration::from_millis(500));
        let command = Docker::command(&program, mode).close_policy(policy);
        assert_eq!(
            command.get_close_policy().max_duration(),
            policy.max_duration() + policy.get_remove()
        );
        let report = if mode == "dies-early" {
            docker.engine.spawn_blocking(command).expect("spawns").closed_blocking()
        } else {
            up(&docker, command).close_blocking()
        };
        assert_eq!(report.container_removed(), removed, "{report}");
        assert!(report.container_note().unwrap_or_default().contains(note), "{report}");
        assert_eq!(report.container_note().is_none(), note.is_empty(), "{report}");
        assert_eq!(report.to_string().contains("may be left"), !note.is_empty(), "{report}");
        let json: Value = serde_json::from_str(&report.to_json()).expect("JSON");
        assert_eq!(json.get("container_removed"), Some(&removed.into()), "{json}");
        docker.check_folder();
        if mode != "dies-early" {
            // The script has no daemon that would end it.
            let container = docker.container().to_string();
            assert!(
                Command::new("kill").args(["-9", &container]).status().expect("runs").success()
            );
        }
    }
}

// A spawned agent that no handle takes, and an engine that is dropped.
#[test]
fn dropped_client_leaves_no_container() {
    let (docker, program) = Docker::new("docker");
    let agent = up(&docker, Docker::command(&program, "ordinary"));
    drop(agent);
    let container = docker.container();
    wait_until("the container is gone", || is_gone(container));
    docker.check_folder();
}

#[test]
fn command_that_is_no_container_client_is_refused() {
    let engine = engine();
    let refused = |args: &[&str], says: &str| {
        let command = AgentCommand::new("cat").args(args).container();
        let error = engine.spawn_blocking(command).expect_err("refused");
        check_error(&error, ErrorKind::InvalidCommand, &[says]);
    };
    refused(&["exec", "-i", "x", "cat"], "no argument `run`");
    refused(&["run", "--cidfile=/tmp/x", "image"], "leave yours out");
    // Other agents have no such key.
    let report = engine.spawn_blocking(AgentCommand::new("cat")).expect("spawns").close_blocking();
    assert_eq!((report.exit(), report.container_removed()), (ExitStatus::Code(0), None));
    assert!(!report.to_json().contains("\"container"), "{}", report.to_json());
}

#[test]
fn run_removes_the_container() {
    let (docker, program) = Docker::new("docker");
    let output = Command::new(PROGRAM)
        // The guard would find this container: it is a descendant of the script, not of a daemon.
        .args(["run", "-q", "--no-guard", "--container", "--report", "-", "--"])
        .arg(&program)
        .args(["--context", "here", "run", "-i", "image"])
        .env("MODE", "ordinary")
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    let report: Value = serde_json::from_str(stderr.trim()).expect(&stderr);
    assert_eq!(report["container_removed"], true, "{report}");
    wait_until("the container is gone", || is_gone(docker.container()));
}
