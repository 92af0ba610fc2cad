//! `agentpipe gate` as a CI job sees it: exit codes, the one line of an error, the page.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const LIMITS: &str = "schema = 1\n[scenario.close_idle]\np99_us = 500\n";

/// The two files of a run, in a folder that goes with it.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new(limits: &str, report: &str) -> Self {
        let case = Self { dir: tempfile::tempdir().expect("a folder") };
        case.write("limits.toml", limits.as_bytes());
        case.write("report.json", report.as_bytes());
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("written");
    }

    fn gate(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_agentpipe"))
            .current_dir(self.dir.path())
            .args(["gate", "--limits", "limits.toml", "--report", "report.json"])
            .args(more)
            .env_remove("GITHUB_ACTIONS")
            .output()
            .expect("the program runs")
    }

    /// The same without limits and report.
    fn gate_only(&self, args: &[&str]) -> Command {
        let mut gate = Command::new(env!("CARGO_BIN_EXE_agentpipe"));
        gate.current_dir(self.dir.path()).arg("gate").args(args).env_remove("GITHUB_ACTIONS");
        gate
    }
}

/// A report whose p99 is this.
fn report(p99: f64) -> Value {
    let figures = json!({"n": 50, "p50_us": 10.5, "p90_us": 20.0, "p99_us": p99, "max_us": 9e9});
    json!({
        "schema": 1, "version": "0.1.0", "profile": "release", "kernel": "6.18.5",
        "arch": "x86_64", "cpu": "a | cpu", "cores": 2, "backend": "io_uring",
        "tier": "FLAGS",
        "scenarios": [{"name": "close_idle", "group": "shutdown", "figures": figures,
            "counts": {"enters_per_record": 2.0}}],
    })
}

/// This number of scenarios, each with its own name.
fn many(count: usize) -> Value {
    let figures = json!({"n": 1, "p50_us": 1, "p90_us": 1, "p99_us": 1, "max_us": 1});
    let one = |index| json!({"name": format!("s{index}"), "group": "g", "figures": figures});
    (0..count).map(one).collect()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The single line on stderr.
fn assert_one_line(output: &Output, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    assert!(text.starts_with("agentpipe: ") && text.len() < 400, "{text:?}");
    assert!(text.contains(says), "{text:?} does not say {says:?}");
}

#[test]
fn report_below_its_ceilings_passes() {
    let output = Case::new(LIMITS, &report(500.0).to_string()).gate(&[]);
    assert_eq!(code(&output), Some(0));
    assert!(stdout(&output).starts_with("### agentpipe gate: pass\n"), "{}", stdout(&output));
    assert!(stdout(&output).contains("| close_idle p99_us | 500 | 500 | ok |"));
    assert_eq!(output.stderr, b"");
}

#[test]
fn regression_exits_3_and_names_both_figures() {
    let output = Case::new(LIMITS, &report(312_000.0).to_string()).gate(&[]);
    assert_eq!(code(&output), Some(3));
    let breach = "close_idle p99_us: 312000 is above the limit of 500";
    assert!(stdout(&output).contains(breach), "{}", stdout(&output));
    assert!(stdout(&output).contains("| 312000 | 500 | **breach** |"));
    // A sign of a table in the CPU's name makes no column.
    assert!(stdout(&output).contains("a   cpu"), "{}", stdout(&output));
    assert_one_line(&output, breach);
}

#[test]
fn another_machine_exits_4_and_is_named() {
    let mut fallback = report(1.0);
    fallback["backend"] = json!("epoll");
    fallback["scenarios"][0]["figures"]["p50_us"] = json!(0.5);
    fallback["scenarios"][0]["figures"]["p90_us"] = json!(0.5);
    let output = Case::new(LIMITS, &fallback.to_string()).gate(&[]);
    assert_eq!(code(&output), Some(4));
    assert_one_line(&output, "backend epoll; the limits are for io_uring");

    let case = Case::new(LIMITS, &report(500.0).to_string());
    let mut baseline = report(500.0);
    baseline["kernel"] = json!("6.12.1");
    case.write("baseline.json", baseline.to_string().as_bytes());
    let output = case.gate(&["--baseline", "baseline.json"]);
    assert_eq!(code(&output), Some(4));
    assert_one_line(&output, "kernel 6.18; the baseline has 6.12");
    baseline["kernel"] = json!("6.18.99");
    case.write("baseline.json", baseline.to_string().as_bytes());
    assert_eq!(code(&case.gate(&["--baseline", "baseline.json"])), Some(0));
}

// A job must not pass, hang or print a page because a file was truncated or replaced.
#[test]
fn hostile_report_exits_1_with_one_line() {
    let whole = report(1.0).to_string();
    let with = |key: &str, value: Value| {
        let mut report = report(600.0);
        report[key] = value;
        report.to_string()
    };
    let aim = |aim: Value| {
        let mut report = report(600.0);
        report["scenarios"][0]["targets"] = json!([aim]);
        report.to_string()
    };
    let p50 = |value: &str| report(600.0).to_string().replace("10.5", value);
    let cases = [
        (whole[..whole.len() / 2].to_owned(), "EOF"),
        (String::new(), "EOF"),
        ("[".repeat(100_000), "not a bench report"),
        ("null".to_owned(), "not a bench report"),
        (with("schema", json!(2)), "schema 2"),
        (with("schema", json!("1")), "not a bench report"),
        (with("extra", json!(1)), "unknown field `extra`"),
        (with(&"long\n".repeat(10_000), json!(1)), "unknown field `long"),
        (with("scenarios", json!([])), "no scenario"),
        (with("cpu", json!("x".repeat(100_000))), "longer than"),
        (p50("NaN"), "not a bench report"),
        (p50("null"), "not a bench report"),
        (p50("1e999"), "not a bench report"),
        (p50("-1"), "no number from 0"),
        (p50("1e300"), "no number from 0"),
        (p50(&"9".repeat(3_000_000)), "not a bench report"),
        (whole.replacen("10.5", "10.5,\"p50_us\":1", 1), "duplicate field `p50_us`"),
        (whole.replacen(":2.0}", ":2.0,\"enters_per_record\":0}", 1), "duplicate field `enters_"),
        (whole.replacen("\"io_uring\"", &format!("{}1", "[".repeat(1_000_000)), 1), "not a bench"),
        (with("ignored", json!(null)), "unknown field `ignored`"),
        (with("schema", json!(u64::MAX)), "schema 18446744073709551615"),
        (with("cores", json!(-2)), "not a bench report"),
        (with("scenarios", many(40_000)), "more than 256 scenarios"),
        (with("command", json!(vec!["x"; 100_000])), "more than 256"),
        (p50("50"), "do not ascend"),
        (aim(json!({"metric": "ratio", "target": 1, "found": 2, "met": true})), "not met as it"),
        (aim(json!({"metric": "ratio", "target": -1, "found": 2, "met": false})), "no number"),
        (aim(json!({"metric": "a | b", "target": 1, "found": 2, "met": false})), "a name"),
        (whole.replace("close_idle", "a | b"), "a name"),
        ("{}".to_owned(), "missing field `schema`"),
    ];
    for (text, says) in cases {
        let output = Case::new(LIMITS, &text).gate(&[]);
        assert_eq!(code(&output), Some(1), "{says}");
        assert_one_line(&output, says);
    }
}

#[test]
fn hostile_limits_exit_1_with_one_line() {
    let cases = [
        ("schema = 1\n[scenario.close_idle", "line 2"),
        ("", "missing field `schema`"),
        ("schema = 2\n[scenario.close_idle]\np50_us = 1\n", "schema 2"),
        ("schema = 1\n", "no figure that the limits"),
        ("schema = 1\n[scenario.close_idle]\n", "no ceiling"),
        ("schema = 1\n[scenario.close_idle]\np50_us = nan\n", "no number from 0"),
        ("schema = 1\n[scenario.close_idle]\np50_us = inf\n", "no number from 0"),
        ("schema = 1\n[scenario.close_idle]\np50_us = 1e300\n", "no number from 0"),
        ("schema = 1\n[scenario.close_idle]\np50_us = -1\n", "no number from 0"),
        ("schema = 1\n[scenario.close_idle]\np50_us = 1\np50_us = 2\n", "line 4: duplicate"),
        ("schema = 99999999999999999999\n", "not a limits file"),
        ("schema = 1\nbackend = 'iouring'\n", "backend is not io_uring"),
        ("schema = 1\n[scenario.close_idle]\nratio_to_peer = 1\n", "no peer"),
        ("schema = 1\n[scenario.close_idle]\np51_us = 1\n", "unknown field `p51_us`"),
        ("schema = 1\n[scenario.close_idel]\np50_us = 1\n", "no such scenario"),
        ("schema = 1\n[scenario.close_idle]\nratio = 1\n", "no in-run limit"),
        ("schema = 1\n[scenario.close_idle]\np50_us = 1\n[baseline]\np50 = 0.5\n", "baseline"),
    ];
    for (text, says) in cases {
        let output = Case::new(text, &report(1e3).to_string()).gate(&[]);
        assert_eq!(code(&output), Some(1), "{says}");
        assert_one_line(&output, says);
    }
    let deep = [
        format!("schema = {}1", "[".repeat(1_000_000)),
        format!("{} = 1", ["a"; 500_000].join(".")),
        format!("schema = 1\n[{}]\nx = 1\n", ["scenario"; 300_000].join(".")),
        format!("schema = 1\n[scenario.{}]\np50_us = 1\n", "x".repeat(3_000_000)),
    ];
    for text in deep {
        let start = Instant::now();
        let output = Case::new(&text, &report(1e3).to_string()).gate(&[]);
        assert_eq!(code(&output), Some(1), "{}", &text[..40]);
        assert_one_line(&output, "limits.toml: ");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}

// The gate runs in a process that cannot have more memory.
#[test]
fn hostile_report_is_refused_in_64_mib() {
    let whole = report(500.0).to_string();
    let large = [
        "[".repeat(4 << 20),
        whole.replacen("10.5", &"9".repeat(4_000_000), 1),
        whole.replacen("\"a | cpu\"", &format!("\"{}\"", "x".repeat(4_000_000)), 1),
        whole.replacen('{', &format!("{{\"x\":{}1,", "[".repeat(3_000_000)), 1),
        json!({"schema": 1, "scenarios": many(40_000)}).to_string(),
    ];
    for text in large {
        assert_ne!(text, whole, "it is not hostile");
        let case = Case::new(LIMITS, &text);
        let limit = format!("ulimit -v {} && exec \"$0\" \"$@\"", 64 << 10);
        let output = Command::new("sh")
            .args(["-c", &limit, env!("CARGO_BIN_EXE_agentpipe"), "gate"])
            .args(["--limits", "limits.toml", "--report", "report.json"])
            .current_dir(case.dir.path())
            .output()
            .expect("the shell runs");
        assert_eq!(code(&output), Some(1), "{}: {output:?}", &text[..40]);
        assert_one_line(&output, "report.json: ");
    }
}

#[test]
fn huge_missing_and_endless_files_exit_1() {
    let case = Case::new(LIMITS, "");
    let file = fs::File::create(case.path("report.json")).expect("created");
    file.set_len(100_000_000).expect("a sparse file");
    let output = case.gate(&[]);
    assert_eq!(code(&output), Some(1));
    assert_one_line(&output, "report.json: larger than the 4 MiB allowed");
    case.write("report.json", report(1e3).to_string().as_bytes());
    let made = Command::new("mkfifo").arg(case.path("fifo")).status().expect("mkfifo runs");
    assert!(made.success());
    for (path, says) in [
        ("none.json", "No such file"),
        ("/dev/zero", "not a regular file"),
        // It has no writer: a plain open would wait without end.
        ("fifo", "not a regular file"),
        (".", "a directory"),
    ] {
        let output = case.gate(&["--baseline", path]);
        assert_eq!(code(&output), Some(1), "{path}");
        assert_one_line(&output, says);
    }
}

#[test]
fn dashboard_formats_keep_the_exit_code() {
    let case = Case::new(LIMITS, &report(600.0).to_string());
    let output = case.gate(&["--format", "github-action-benchmark"]);
    assert_eq!(code(&output), Some(3));
    let entries: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(entries[2]["name"], json!("close_idle/p99"));
    assert_eq!((&entries[2]["unit"], &entries[2]["value"]), (&json!("us"), &json!(600.0)));
    let output = case.gate(&["--format", "bencher"]);
    assert_eq!(code(&output), Some(3));
    let page: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(page["close_idle"]["latency"]["value"], json!(10_500.0));
    assert_eq!(page["close_idle"]["enters-per-record"]["value"], json!(2.0));
}

// The page of the run shows such a line; `%` and line breaks would end it.
#[test]
fn breach_is_an_annotation_in_github_actions() {
    let case = Case::new(LIMITS, &report(600.0).to_string());
    let mut gate = case.gate_only(&["--limits", "limits.toml", "--report", "report.json"]);
    let output = gate.env("GITHUB_ACTIONS", "true").output().expect("the program runs");
    assert_eq!(code(&output), Some(3));
    let said = String::from_utf8_lossy(&output.stderr);
    let line =
        "::error title=agentpipe regression::close_idle p99_us: 600 is above the limit of 500\n";
    assert_eq!(said, line);
}

#[test]
fn baseline_needs_no_limits() {
    let with_kills = |kills: f64| {
        let mut report = report(500.0);
        report["scenarios"][0]["counts"] = json!({"kills_per_close": kills});
        report.to_string()
    };
    let case = Case::new("", &with_kills(0.0));
    let args = ["--baseline", "report.json", "--report", "head.json"];
    for (kills, status) in [(0.0, 0), (1.0, 3)] {
        case.write("head.json", with_kills(kills).as_bytes());
        let output = case.gate_only(&args).output().expect("the program runs");
        assert_eq!(code(&output), Some(status), "{output:?}");
    }
}

// The limits hold for each run they are made from, and name the worst of each figure.
#[test]
fn limits_from_runs_pass_those_runs() {
    let case = Case::new("", "");
    let mut usual = report(500.0);
    usual["scenarios"][0]["counts"]["kills_per_close"] = json!(0.0);
    let mut worse = usual.clone();
    worse["scenarios"][0]["figures"]["p50_us"] = json!(19.0);
    worse["scenarios"][0]["counts"]["kills_per_close"] = json!(0.2);
    case.write("run-1.json", usual.to_string().as_bytes());
    case.write("run-2.json", worse.to_string().as_bytes());
    let made = case.gate_only(&["--limits-from", "run-1.json", "run-2.json"]).output();
    let made = made.expect("the program runs");
    assert_eq!(code(&made), Some(0), "{made:?}");
    let text = stdout(&made);
    assert!(text.contains("[scenario.close_idle]\np50_us = 190\n"), "{text}");
    assert!(text.contains("counts = { kills_per_close = 0.500 }\n"), "{text}");
    for report in [usual, worse] {
        let output = Case::new(&text, &report.to_string()).gate(&[]);
        assert_eq!(code(&output), Some(0), "{output:?}");
    }
    let mut other = report(500.0);
    other["kernel"] = json!("6.12.1");
    case.write("other.json", other.to_string().as_bytes());
    let output = case.gate_only(&["--limits-from", "run-1.json", "other.json"]).output();
    let output = output.expect("the program runs");
    assert_eq!(code(&output), Some(1));
    assert_one_line(&output, "other.json: kernel 6.12; run-1.json has 6.18");
}

#[test]
fn report_comes_from_stdin_by_default() {
    let case = Case::new(LIMITS, "");
    for (p99, status) in [(500.0, 0), (501.0, 3)] {
        let mut gate = Command::new(env!("CARGO_BIN_EXE_agentpipe"))
            .current_dir(case.dir.path())
            .args(["gate", "--limits", "limits.toml"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let mut stdin = gate.stdin.take().expect("piped");
        stdin.write_all(report(p99).to_string().as_bytes()).expect("written");
        drop(stdin);
        assert_eq!(gate.wait().expect("it ends").code(), Some(status));
    }
}

// A ratio to the peer above its ceiling is a regression like any other.
#[test]
fn ratio_to_the_peer_can_breach() {
    let mut slow = report(500.0);
    let figures = slow["scenarios"][0]["figures"].clone();
    slow["scenarios"][0]["peer"] = json!({"what": "others", "figures": figures});
    slow["scenarios"][0]["ratio_to_peer"] = json!(1.0);
    let limits = "schema = 1\n[scenario.close_idle]\nratio_to_peer = 0.5\n";
    let output = Case::new(limits, &slow.to_string()).gate(&[]);
    assert_eq!(code(&output), Some(3));
    assert_one_line(&output, "close_idle ratio_to_peer: 1.00 is above the limit of 0.50");
    // One that does not follow from the medians was not measured.
    slow["scenarios"][0]["ratio_to_peer"] = json!(0.4);
    let output = Case::new(limits, &slow.to_string()).gate(&[]);
    assert_eq!(code(&output), Some(1));
    assert_one_line(&output, "the ratio to its peer does not follow");
}

#[test]
fn printed_and_documented_limits_are_valid() {
    let page = include_str!("../../docs/guide/latency-gate.md");
    let (_, rest) = page.split_once("```toml\n").expect("a sample");
    let (sample, _) = rest.split_once("```").expect("it ends");
    assert!(sample.contains("[scenario.close_idle]"), "{sample}");
    let printed = Command::new(env!("CARGO_BIN_EXE_agentpipe"))
        .args(["gate", "--print-limits"])
        .output()
        .expect("the program runs");
    assert_eq!(code(&printed), Some(0));
    for text in [sample, &stdout(&printed)] {
        // Each name in it is known, and the scenario that was run is judged.
        let mut report = report(1e3);
        report["scenarios"][0]["counts"] = json!({"kills_per_close": 0.0});
        let output = Case::new(text, &report.to_string()).gate(&[]);
        assert_eq!(code(&output), Some(0), "{output:?}");
        assert!(stdout(&output).contains("\n- not run: close_"), "{output:?}");
    }
}

/// A report that is well below each of the starting limits, but for what `spoil` does.
fn healthy_but(spoil: impl FnOnce(&mut Value)) -> (String, String) {
    let printed = Command::new(env!("CARGO_BIN_EXE_agentpipe"))
        .args(["gate", "--print-limits"])
        .output()
        .expect("the program runs");
    let limits = stdout(&printed);
    let parsed: toml::Table = limits.parse().expect("TOML");
    let figures = |p50: f64| {
        let [p90, p99, max] = [1.5, 2.0, 3.0].map(|factor| p50 * factor);
        json!({"n": 20, "p50_us": p50, "p90_us": p90, "p99_us": p99, "max_us": max})
    };
    let scenario = |(name, ceilings): (&String, &toml::Value)| {
        let counts = ceilings.get("counts").and_then(toml::Value::as_table);
        let half = |ceiling: &toml::Value| {
            let whole = ceiling.as_integer().map(|whole| whole as f64);
            ceiling.as_float().or(whole).expect("a number") / 2.0
        };
        let counts = counts.into_iter().flatten().map(|(name, ceiling)| (name, half(ceiling)));
        json!({"name": name, "group": "any", "figures": figures(500.0), "ratio": 1.0,
            "limit": {"what": "the least", "figures": figures(500.0)}, "ratio_to_peer": 0.5,
            "peer": {"what": "others", "figures": figures(1000.0)},
            "counts": counts.collect::<std::collections::BTreeMap<_, _>>()})
    };
    let scenarios = parsed["scenario"].as_table().expect("scenarios").iter().map(scenario);
    let mut whole = report(0.0);
    whole["scenarios"] = scenarios.collect();
    spoil(&mut whole);
    (limits, whole.to_string())
}

/// A scenario of such a report.
fn scenario<'a>(report: &'a mut Value, name: &str) -> &'a mut Value {
    let all = report["scenarios"].as_array_mut().expect("scenarios");
    all.iter_mut().find(|it| it["name"] == name).expect("the starting limits name it")
}

/// Adds these microseconds to each sample.
fn delay(report: &mut Value, name: &str, us: f64) {
    let it = scenario(report, name);
    for figure in ["p50_us", "p90_us", "p99_us", "max_us"] {
        it["figures"][figure] = json!(it["figures"][figure].as_f64().expect("a time") + us);
    }
    for (ratio, beside) in [("ratio", "limit"), ("ratio_to_peer", "peer")] {
        let ours = it["figures"]["p50_us"].as_f64().expect("a time");
        it[ratio] = json!(ours / it[beside]["figures"]["p50_us"].as_f64().expect("a time"));
    }
}

// The report of a healthy run is altered in the way each defect alters it.
#[test]
fn starting_limits_catch_their_defects() {
    let (limits, report) = healthy_but(|_| ());
    let output = Case::new(&limits, &report).gate(&[]);
    assert_eq!(code(&output), Some(0), "{output:?}");
    type Spoil = fn(&mut Value);
    let defects: [(&str, Spoil, &[&str]); 4] = [
        (
            "a sleep of 300 ms before the cut of an abort",
            |report| delay(report, "close_blocked_abort", 300_000.0),
            &["close_blocked_abort p50_us: 300500 is above the limit of 25000"],
        ),
        (
            "the same before that of a graceful close",
            |report| {
                for name in ["close_idle", "flush_1m"] {
                    delay(report, name, 300_000.0);
                }
            },
            &["close_idle p50_us: 300500", "flush_1m p50_us: 300500"],
        ),
        (
            "one allocation more for each record",
            |report| {
                for name in ["throughput_256", "throughput_4k"] {
                    let counts = &mut scenario(report, name)["counts"];
                    let count = counts["allocations_per_1000_records"].as_f64().expect("counted");
                    counts["allocations_per_1000_records"] = json!(count + 1000.0);
                }
            },
            &[
                "throughput_256 allocations_per_1000_records: 1300 is above the limit of 600",
                "throughput_4k allocations_per_1000_records: 1400 is above the limit of 800",
            ],
        ),
        (
            "stdout closed after the wait for the exit: the agent stays blocked and is killed",
            |report| {
                delay(report, "close_blocked_abort", 50_000.0);
                scenario(report, "close_blocked_abort")["counts"]["kills_per_close"] = json!(1.0);
            },
            &["close_blocked_abort kills_per_close: 1.00 is above the limit of 0.10"],
        ),
    ];
    for (defect, spoil, breaches) in defects {
        let (limits, report) = healthy_but(spoil);
        let output = Case::new(&limits, &report).gate(&[]);
        assert_eq!(code(&output), Some(3), "{defect}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        for breach in breaches {
            assert!(said.contains(breach), "{defect}: {said}");
        }
    }
}
