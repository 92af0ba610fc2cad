//! `agentpipe bench`, quick: its report is one that the gate judges, and a slow agent is caught.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_agentpipe");

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM).current_dir(dir).args(args).output().expect("the program runs")
}

#[test]
fn a_quick_run_of_all_scenarios_makes_a_report_that_the_gate_accepts() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = run(dir.path(), &["bench", "--samples", "2", "--json", "report.json"]);
    assert!(output.status.success(), "{output:?}");
    let text = fs::read(dir.path().join("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&text).expect("JSON");
    let names: Vec<&str> = report["scenarios"]
        .as_array()
        .expect("scenarios")
        .iter()
        .filter_map(|scenario| scenario["name"].as_str())
        .collect();
    let all =
        ["close_idle", "close_blocked_abort", "flush_1m", "spawn", "roundtrip", "throughput_4k"];
    assert_eq!(names, all);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(all.iter().all(|name| table.contains(&format!("| {name} | 2 |"))), "{table}");

    let mut limits = "schema = 1\n".to_owned();
    for name in all {
        limits += &format!("[scenario.{name}]\nmax_us = 60000000\nratio = 100000\n");
    }
    limits += "[scenario.throughput_4k.counts]\nenters_per_record = 3\ncqes_per_record = 3\n";
    fs::write(dir.path().join("limits.toml"), limits).expect("written");
    let gate = ["gate", "--limits", "limits.toml", "--report", "report.json"];
    let output = run(dir.path(), &gate);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = run(dir.path(), &[&gate[..], &["--baseline", "report.json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

// An agent that takes 300 ms to leave: what the gate is for.
#[test]
fn an_own_agent_that_leaves_300_ms_late_breaches_its_ceiling() {
    let dir = tempfile::tempdir().expect("a folder");
    let bench = ["bench", "close_idle", "--samples", "2", "--json", "report.json", "--"];
    let own = [PROGRAM, "fake", "--flush-delay", "300ms"];
    let output = run(dir.path(), &[&bench[..], &own[..]].concat());
    assert!(output.status.success(), "{output:?}");
    fs::write(
        dir.path().join("limits.toml"),
        "schema = 1\n[scenario.close_idle]\np50_us = 250000\n",
    )
    .expect("written");
    let output = run(dir.path(), &["gate", "--limits", "limits.toml", "--report", "report.json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(page.contains("**close_idle p50_us: 3"), "{page}");
}

#[test]
fn an_unknown_scenario_or_one_that_needs_the_built_in_agent_is_a_usage_error() {
    let dir = tempfile::tempdir().expect("a folder");
    for args in [&["bench", "close_idel"][..], &["bench", "roundtrip", "--", "cat"]] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    let output = run(dir.path(), &["bench", "--", "/no/such/agent"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
