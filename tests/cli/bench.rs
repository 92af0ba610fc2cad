//! `agentpipe bench`, quick: its report is one that the gate judges, and a slow agent is caught.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::own_process::test_name;
use crate::support::{PROGRAM, has_ring};
use serde_json::Value;

const ALL: [&str; 19] = [
    "envelope_256",
    "envelope_1k",
    "envelope_4k",
    "envelope_64k",
    "envelope_1m",
    "throughput_256",
    "throughput_1k",
    "throughput_4k",
    "throughput_64k",
    "throughput_1m",
    "pipeline_1k",
    "close_idle",
    "flush_1m",
    "close_blocked_abort",
    "close_blocked_graceful",
    "close_100",
    "spawn",
    "first_record",
    "roundtrip",
];

/// What the project aims at: scenario and metric.
const TARGETS: [(&str, &str); 9] = [
    ("envelope_1k", "us_per_record"),
    ("envelope_1k", "allocations_per_1000_records"),
    ("throughput_4k", "ratio"),
    ("throughput_4k", "ratio_to_peer"),
    ("throughput_64k", "ratio"),
    ("pipeline_1k", "ratio_to_peer"),
    ("flush_1m", "ratio"),
    ("close_blocked_abort", "ratio"),
    ("close_blocked_abort", "p99_us"),
];

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(PROGRAM).current_dir(dir).args(args).output().expect("the program runs")
}

fn report(dir: &Path, name: &str) -> Value {
    let text = fs::read(dir.join(name)).expect("a report");
    serde_json::from_slice(&text).expect("JSON")
}

fn names(report: &Value) -> Vec<&str> {
    let scenarios = report["scenarios"].as_array().expect("scenarios");
    scenarios.iter().filter_map(|scenario| scenario["name"].as_str()).collect()
}

#[test]
fn report_of_all_scenarios_passes_the_gate() {
    if !has_ring(test_name!()) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let bench = ["bench", "--targets", "--samples", "2", "--json", "report.json"];
    let output = run(dir.path(), &[&bench[..], &["--markdown", "report.md"]].concat());
    assert!(output.status.success(), "{output:?}");
    // Both reports go to files, so stdout has nothing; stderr has the duration and a line for each scenario.
    assert_eq!(output.stdout, b"");
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines = said.lines();
    let first = lines.next().unwrap_or_default();
    assert!(first.starts_with("agentpipe: bench: 19 scenarios, about "), "{said}");
    for (index, (name, line)) in ALL.iter().zip(lines.by_ref()).enumerate() {
        let begins = format!("agentpipe: bench: {} of 19, {name}, ", index + 1);
        assert!(line.starts_with(&begins), "{said}");
    }
    assert_eq!(lines.next(), None, "{said}");
    let report = report(dir.path(), "report.json");
    assert_eq!(names(&report), ALL);
    for key in ["kernel", "cpu", "arch", "backend", "tier", "features", "profile", "version"] {
        assert_ne!(report[key].as_str(), None, "{key}");
    }
    for scenario in report["scenarios"].as_array().expect("scenarios") {
        let name = scenario["name"].as_str().expect("a name");
        let n = scenario["figures"]["n"].as_u64();
        // The slow ones run less often; each has its limit, and the peer runs as often.
        assert!(matches!(n, Some(1 | 2)), "{scenario}");
        assert_eq!(scenario["limit"]["figures"]["n"].as_u64(), n, "{name}");
        let without_peer = ["close_idle", "first_record"].contains(&name);
        assert_eq!(scenario["peer"].is_null(), without_peer, "{name}");
        if !without_peer {
            assert_eq!(scenario["peer"]["figures"]["n"].as_u64(), n, "{name}");
        }
    }

    // Every target of the project is named, with what was found and whether that is enough.
    let scenarios = report["scenarios"].as_array().expect("scenarios");
    let aims = scenarios.iter().flat_map(|scenario| {
        let aims = scenario["targets"].as_array().into_iter().flatten();
        aims.map(move |aim| (scenario["name"].as_str().expect("a name"), aim))
    });
    let aims: Vec<_> = aims.collect();
    let named = aims.iter().map(|(name, aim)| (*name, aim["metric"].as_str().expect("named")));
    assert_eq!(named.collect::<Vec<_>>(), TARGETS);
    for (name, aim) in &aims {
        let met = aim["found"].as_f64().expect("found") <= aim["target"].as_f64().expect("set");
        assert_eq!(aim["met"].as_bool(), Some(met), "{name}: {aim}");
    }

    let table = fs::read_to_string(dir.path().join("report.md")).expect("a table");
    let rows = TARGETS.map(|(name, metric)| format!("\n| {name} {metric} | "));
    assert!(rows.iter().all(|row| table.contains(row)), "{table}");
    assert!(ALL.iter().all(|name| table.contains(&format!("\n| {name} | "))), "{table}");
    // The verdict and the date come first, and no table is wider than a phone.
    assert!(
        table.starts_with("### agentpipe bench: ") && table.contains(" targets met\n\n20"),
        "{table}"
    );
    let rows = table.lines().filter(|line| line.starts_with('|'));
    assert!({ rows }.all(|row| row.matches('|').count() <= 7), "{table}");
    let mut limits = "schema = 1\n".to_owned();
    for name in ALL {
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

// A gate can trust these numbers on a busy machine: descriptors per agent, what is left, kills, and
// allocations per record.
#[test]
fn counts_do_not_depend_on_load() {
    let dir = tempfile::tempdir().expect("a folder");
    let wanted = ["bench", "close_100", "close_blocked_abort", "roundtrip", "throughput_4k"];
    let output = run(dir.path(), &[&wanted[..], &["--samples", "2", "--json", "a.json"]].concat());
    assert!(output.status.success(), "{output:?}");
    let report = report(dir.path(), "a.json");
    let count = |name: &str, count: &str| {
        let scenarios = report["scenarios"].as_array().expect("scenarios");
        let scenario = scenarios.iter().find(|it| it["name"] == name).expect("it ran");
        scenario["counts"][count].as_f64().expect("it is counted")
    };
    assert_eq!(count("close_100", "fds_per_agent"), 4.0);
    assert_eq!(count("close_100", "threads_per_agent"), 0.0);
    assert_eq!(count("close_100", "fds_left"), 0.0);
    assert!(count("close_100", "kills_per_close") < 0.1);
    assert!(count("close_blocked_abort", "kills_per_close") < 0.5);
    // A record of 4 KiB is a slice of shared memory: well below one allocation each.
    assert!(count("throughput_4k", "allocations_per_1000_records") < 800.0);
    // A record that is sent is one.
    assert!(count("roundtrip", "allocations_per_1000_records") >= 1000.0);
}

// The gate exists for an agent that takes 300 ms to leave.
#[test]
fn late_exit_breaches_its_ceiling() {
    if !has_ring(test_name!()) {
        return;
    }
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
fn own_agent_runs_the_scenarios_it_can() {
    let dir = tempfile::tempdir().expect("a folder");
    let ran = |args: &[&str], own: &[&str]| {
        let bench = ["bench", "--samples", "1", "--json", "own.json"];
        let output = run(dir.path(), &[&bench[..], args, &["--"], own].concat());
        assert!(output.status.success(), "{output:?}");
        let report = report(dir.path(), "own.json");
        let command = report["command"].as_array().expect("a command");
        assert_eq!(command.len(), own.len());
        names(&report).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ran(&[], &["cat"]), ["close_idle", "spawn"]);
    let all = ["close_idle", "spawn", "first_record", "roundtrip"];
    assert_eq!(ran(&["--ping", r#"{"a":1}"#], &["cat"]), all);
    // It speaks unasked: named, that can be measured.
    assert_eq!(ran(&["first_record"], &[PROGRAM, "fake", "--records", "1"]), ["first_record"]);
}

#[test]
fn failing_agent_is_reported_in_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let cases: [(&[&str], &[&str], &str); 3] = [
        (&["first_record"], &["true"], "give it a --ping RECORD"),
        (&["close_idle"], &["true"], "the agent left before it was closed"),
        (&["spawn"], &["/no/such/agent"], "/no/such/agent"),
    ];
    for (args, own, says) in cases {
        let bench = ["bench", "--samples", "1"];
        let output = run(dir.path(), &[&bench[..], args, &["--"], own].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        let progress = lines.iter().filter(|line| line.starts_with("agentpipe: bench: ")).count();
        assert_eq!(lines.len(), progress + 1, "{said}");
        assert!(lines[progress].starts_with("agentpipe: ") && said.contains(says), "{said}");
    }
}

// An old report under the name of a failed run would be judged as new.
#[test]
fn failed_run_leaves_no_older_report() {
    let dir = tempfile::tempdir().expect("a folder");
    let bench = ["bench", "spawn", "--samples", "1", "--json", "report.json"];
    assert!(run(dir.path(), &bench).status.success());
    let output = run(dir.path(), &[&bench[..], &["--", "/no/such/agent"]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(fs::read(dir.path().join("report.json")).expect("a file"), b"");
    let output = run(dir.path(), &["bench", "spawn", "--markdown", "no/such/folder.md"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write no/such/folder.md"));
}

#[test]
fn impossible_scenarios_are_usage_errors() {
    let dir = tempfile::tempdir().expect("a folder");
    let cases: [(&[&str], &str); 6] = [
        (&["bench", "close_idel"], "there are frame, throughput, shutdown, spawn, roundtrip,"),
        (&["bench", "roundtrip", "--", "cat"], "--ping RECORD"),
        (&["bench", "throughput_4k", "--", "cat"], "leave out `-- CMD`"),
        (&["bench", "--ping", "{}"], "CMD"),
        (&["bench", "--ping", "no json", "--", "cat"], "not one line of JSON"),
        (&["bench", "--samples", "0"], "0 is not in 1..=1000000"),
    ];
    for (args, says) in cases {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(says), "{said}");
    }
}

/// The commands of a page: its blocks for a shell, and the one-line steps of its workflow.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (language, after) = after.split_once('\n').expect("a block");
        let (block, after) = after.split_once("```").expect("it ends");
        match language {
            "sh" => found.push(block.to_owned()),
            "yaml" => {
                let steps = block.lines().filter_map(|line| line.trim().strip_prefix("- run: "));
                found.push(steps.collect::<Vec<_>>().join("\n"));
            }
            _ => {}
        }
        rest = after;
    }
    found
}

// Users copy these commands. The test replaces `cargo install`, reduces samples and runs, and takes
// the times and ratios out of the starting limits: one sample on a busy machine says nothing about
// those.
#[test]
fn documented_commands_work() {
    if !has_ring(test_name!()) {
        return;
    }
    let page = include_str!("../../docs/guide/latency-gate.md");
    let dir = tempfile::tempdir().expect("a folder");
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).expect("created");
    let quick = format!(
        "if [ \"$1\" = bench ]; then shift; exec '{PROGRAM}' bench --samples 1 \"$@\"; fi\n\
         if [ \"$2\" = --print-limits ] || [ \"$2\" = --limits-from ]; then\n\
         exec '{PROGRAM}' \"$@\" | sed -E '/^ratio/d; s/^(p[0-9]+_us) = .*/\\1 = 60_000_000/'; exit\n\
         fi\n\
         exec '{PROGRAM}' \"$@\""
    );
    for (name, script) in [
        ("agentpipe", quick.as_str()),
        ("my-agent", "[ \"$1\" = --its-flags ] && exec cat"),
        ("cargo", "[ \"$*\" = 'install --locked agentpipe --features bench' ]"),
        ("seq", "[ \"$*\" = 10 ] && echo 1"),
    ] {
        fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).expect("allowed");
    }
    let few = "schema = 1\n[scenario.roundtrip]\nmax_us = 60000000\n";
    fs::write(dir.path().join("roundtrip-limits.toml"), few).expect("written");

    let found = commands(page);
    assert_eq!(found.len(), 6, "{found:?}");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    for script in found {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(dir.path())
            .env("PATH", &path)
            .env("GITHUB_STEP_SUMMARY", dir.path().join("summary.md"))
            .output()
            .expect("bash runs");
        assert!(output.status.success(), "{script}\n{output:?}");
    }
    let summary = fs::read_to_string(dir.path().join("summary.md")).expect("a summary");
    assert!(summary.starts_with("### agentpipe gate: pass"), "{summary}");
    for (name, begins) in [("benchmark.json", "[{"), ("bencher.json", "{\"close_100\":{")] {
        let text = fs::read_to_string(dir.path().join(name)).expect("written");
        assert!(text.starts_with(begins), "{text}");
    }
}
