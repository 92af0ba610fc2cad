//! `agentpipe doctor` as its users see it: the verdict, the limits, the commands that raise them, the keys
//! of its JSON.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::run::launcher::in_container;
use crate::support::own_process::test_name;
use crate::support::{PROGRAM, check_line, gets_ring, skipped};

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("starts")
}

fn doctor(args: &[&str]) -> (Option<i32>, String) {
    text_of(&output(Command::new(PROGRAM).arg("doctor").args(args)))
}

/// `agentpipe doctor` after these commands of a shell.
fn after(commands: &str, args: &str) -> (Option<i32>, String) {
    let script = format!("{commands} && exec \"$0\" doctor {args}");
    text_of(&output(Command::new("/bin/sh").args(["-c", &script, PROGRAM])))
}

/// The exit code and stdout; stderr is empty.
fn text_of(output: &Output) -> (Option<i32>, String) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    (output.status.code(), text)
}

fn json(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(text).expect("JSON")
}

fn limit<'a>(report: &'a Value, name: &str) -> &'a Value {
    let limits = report["limits"].as_array().expect("limits");
    limits.iter().find(|limit| limit["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn doctor_reports_health_and_limits() {
    let (code, text) = doctor(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("agentpipe works here; backend "), "{text}");
    for says in ["RLIMIT_NOFILE = ", "RLIMIT_MEMLOCK", "kernel.io_uring_disabled", "room for "] {
        assert!(text.contains(says), "{text}");
    }
    for name in ["cpu", "memory", "io"] {
        assert!(text.contains(&format!("\n  {name}: ")), "pressure: {text}");
    }
    assert!(!text.contains("agents fit"), "without --agents: {text}");
}

/// The keys of an object.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    list.map(|entry| entry["name"].as_str().expect("a name")).collect()
}

/// Sorted, as `keys` returns them.
const KEYS: &[&str] = &[
    "agents",
    "backend",
    "fallback",
    "features",
    "kernel",
    "limits",
    "multishot",
    "pressure",
    "problem",
    "requested",
    "room",
    "schema",
    "usable",
];
const FEATURE_KEYS: &[&str] = &["name", "present", "since", "without_it"];
const LIMIT_KEYS: &[&str] = &[
    "applies",
    "beyond",
    "command",
    "means",
    "name",
    "needs",
    "per_agent",
    "room",
    "suffices",
    "unit",
    "used",
    "value",
];
const FEATURES: &[&str] = &[
    "io_uring",
    "multishot_reads",
    "deferred_task_work",
    "restricted_ring",
    "min_wait",
    "no_iowait",
    "nosignal_writes",
    "proc_children",
];
const LIMITS: &[&str] = &[
    "RLIMIT_NOFILE",
    "fs.file-max",
    "RLIMIT_NPROC of the user",
    "pids.max of the cgroup",
    "kernel.threads-max",
    "kernel.pid_max",
    "fs.pipe-user-pages-soft",
    "fs.pipe-user-pages-hard",
    "memory.max of the cgroup",
    "memory of the host",
    "RLIMIT_MEMLOCK",
    "fs.pipe-max-size",
    "kernel.io_uring_disabled",
];

// Scripts read the object: a key or a name that changes breaks each of them in silence.
#[test]
fn doctor_json_is_schema_1() {
    for args in [&["--json"][..], &["--json", "--agents", "3"]] {
        let (code, text) = doctor(args);
        assert_eq!(code, Some(0), "{text}");
        let report = json(&text);
        assert_eq!((&report["schema"], &report["usable"]), (&1.into(), &true.into()), "{text}");
        assert_eq!(keys(&report), KEYS);
        assert_eq!(report["problem"], Value::Null);
        assert!(report["kernel"].as_str().is_some_and(|kernel| !kernel.is_empty()));
        assert!(["io_uring", "epoll"].iter().any(|name| report["backend"] == *name), "{text}");
        assert_eq!(names(&report["features"]), FEATURES);
        for feature in report["features"].as_array().expect("features") {
            assert_eq!(keys(feature), FEATURE_KEYS);
            assert!(feature["present"].is_boolean() || report["backend"] == "epoll", "{feature}");
        }
        assert_eq!(names(&report["limits"]), LIMITS);
        for limit in report["limits"].as_array().expect("limits") {
            assert_eq!(keys(limit), LIMIT_KEYS);
            let value = &limit["value"];
            assert!(value.is_u64() || value.is_null() || value == "unlimited", "{limit}");
        }
        assert_eq!(keys(&report["room"]), ["agents", "first_limit"]);
        match args.len() {
            1 => assert_eq!(report["agents"], Value::Null),
            _ => assert_eq!(report["agents"], serde_json::json!({"wanted": 3, "fit": true})),
        }
        assert_eq!(keys(&report["pressure"]), ["cpu", "io", "memory"]);
        for stall in report["pressure"].as_object().expect("an object").values() {
            if !stall.is_null() {
                assert_eq!(keys(stall), ["full", "some"]);
                assert_eq!(keys(&stall["some"]), ["avg10", "avg300", "avg60"]);
            }
        }
    }
}

// A key that the guide does not name is one that its readers have to guess.
#[test]
fn guide_names_every_key_of_doctor() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/operating.md");
    let guide = fs::read_to_string(guide).expect("the guide");
    let section = guide.split("\n## ").find(|part| part.starts_with("`agentpipe doctor`"));
    let section = section.expect("a section on the command");
    let of_features = FEATURE_KEYS.iter().map(|key| format!("`features[].{key}`"));
    let of_limits = LIMIT_KEYS.iter().map(|key| format!("`limits[].{key}`"));
    let others = KEYS.iter().filter(|key| !["features", "limits"].contains(key));
    let others = others.map(|key| match *key {
        "room" | "agents" | "pressure" => format!("`{key}."),
        _ => format!("`{key}`"),
    });
    let missing: BTreeSet<String> =
        of_features.chain(of_limits).chain(others).filter(|key| !section.contains(key)).collect();
    assert_eq!(missing, BTreeSet::new());
    for name in FEATURES.iter().chain(LIMITS) {
        assert!(section.contains(name), "{name}");
    }
}

// The doctor said that 12 agents fit, and the 12th was refused.
#[test]
fn doctor_fits_exactly_what_there_is_room_for() {
    let few = "ulimit -S -n 64";
    let (code, text) = after(few, "--json");
    let report = json(&text);
    assert_eq!(
        (code, &report["room"]["first_limit"]),
        (Some(0), &"RLIMIT_NOFILE".into()),
        "{text}"
    );
    let room = number(&report["room"]["agents"]);
    assert!((1..16).contains(&room), "{text}");
    for (agents, fits) in [(room, true), (room + 1, false)] {
        let (code, text) = after(few, &format!("--json --agents {agents}"));
        let report = json(&text);
        let descriptors = limit(&report, "RLIMIT_NOFILE");
        let needs = number(&descriptors["used"]) + 4 * agents;
        assert_eq!(descriptors["needs"], needs, "{text}");
        assert_eq!((&descriptors["suffices"], needs <= 64), (&fits.into(), fits), "{text}");
        assert_eq!(report["agents"], serde_json::json!({"wanted": agents, "fit": fits}));
        assert_eq!((code, &report["usable"]), (Some(if fits { 0 } else { 3 }), &true.into()));
    }
}

// A remedy that does not work costs its reader an evening: the shell runs the command that was printed.
#[test]
fn command_of_doctor_makes_the_agents_fit() {
    let (code, text) = after("ulimit -S -n 64", "--agents 50");
    assert_eq!(code, Some(3), "{text}");
    let begin = "  no   RLIMIT_NOFILE: needs ";
    let line = text.lines().find(|line| line.starts_with(begin)).expect("the limit");
    let (_, command) = line.split_once("; raise: ").expect("a command");
    assert!(text.contains("\n50 agents do NOT fit:\n"), "{text}");

    let (code, text) = after(&format!("ulimit -S -n 64; {command}"), "--agents 50");
    assert_eq!(code, Some(0), "{command}: {text}");
    assert!(text.contains("\n50 agents fit, as far as the limits are known:\n"), "{text}");
}

#[test]
fn doctor_counts_threads_and_memory_of_agents() {
    let args = ["--json", "--agents", "10", "--agent-threads", "8", "--agent-memory", "170m"];
    let report = json(&doctor(&args).1);
    let threads = limit(&report, "kernel.threads-max");
    assert_eq!(number(&threads["needs"]), number(&threads["used"]) + 80);
    let memory = limit(&report, "memory of the host");
    assert_eq!(number(&memory["needs"]), number(&memory["used"]) + 10 * (170 * 1024 + 196) * 1024);
    // More than any host has: agents that start and are then killed do not fit.
    let (code, text) = doctor(&["--agents", "4000000000", "--agent-memory", "1t", "--json"]);
    let report = json(&text);
    assert_eq!(code, Some(3), "{text}");
    let memory = limit(&report, "memory of the host");
    assert_eq!((&memory["suffices"], &memory["command"]), (&false.into(), &Value::Null));
}

// A user without privileges gets pipes of 8 KiB beyond the limit of the kernel. Agents work with these.
#[test]
fn small_pipes_are_no_refusal() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let program = folder.path().join("agentpipe");
    fs::copy(PROGRAM, &program).expect("copied");
    let mut command = Command::new(program);
    command.args(["doctor", "--json", "--agents", "100000"]).current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let (_, text) = text_of(&output(&mut command));
    let report = json(&text);
    let soft = limit(&report, "fs.pipe-user-pages-soft");
    assert_eq!((&soft["applies"], &soft["used"]), (&true.into(), &Value::Null), "{text}");
    let wanted = 100_000 * 48;
    let raise = format!("sudo sysctl -w fs.pipe-user-pages-soft={}", wanted + wanted / 8);
    assert_eq!((number(&soft["needs"]), &soft["command"]), (wanted, &raise.into()), "{text}");
    assert_eq!((&soft["suffices"], &soft["beyond"]), (&false.into(), &"small_pipes".into()));
    assert_ne!(report["room"]["first_limit"], "fs.pipe-user-pages-soft");
    assert!(limit(&report, "RLIMIT_NPROC of the user")["applies"].as_bool().expect("a boolean"));
}

// A container may hide /proc. What is not known is unknown, and neither 0 nor without a limit.
#[test]
fn doctor_without_proc_says_unknown() {
    let mut probe = Command::new("true");
    if let Err(error) = in_container(&mut probe, &[c"/proc"], true).stdin(Stdio::null()).output() {
        return skipped(test_name!(), &format!("no user namespace: {error}"));
    }
    let mut command = Command::new(PROGRAM);
    let output = output(
        in_container(&mut command, &[c"/proc"], true).args(["doctor", "--json", "--agents", "3"]),
    );
    let (code, text) = text_of(&output);
    let report = json(&text);
    assert_eq!((code, &report["usable"]), (Some(0), &true.into()), "{text}");
    let known = ["RLIMIT_NOFILE", "RLIMIT_NPROC of the user", "RLIMIT_MEMLOCK"];
    for limit in report["limits"].as_array().expect("limits") {
        assert_eq!(limit["used"], Value::Null, "{limit}");
        if !known.contains(&limit["name"].as_str().expect("a name")) {
            assert_eq!(
                (&limit["value"], &limit["suffices"]),
                (&Value::Null, &Value::Null),
                "{limit}"
            );
        }
    }
    for name in ["cpu", "memory", "io"] {
        assert_eq!(report["pressure"][name], Value::Null);
    }
    assert_eq!(report["room"]["first_limit"], "RLIMIT_NOFILE", "{text}");
    let children = report["features"].as_array().expect("a list").last().expect("features");
    assert_eq!((&children["name"], &children["present"]), (&"proc_children".into(), &false.into()));
}

/// `agentpipe doctor --json` where the kernel answers io_uring_setup with an error.
fn denied(errno: &str, backend: Option<&str>) -> (Option<i32>, Value) {
    let mut command = Command::new(PROGRAM);
    command.args(["fake", "deny", &format!("io_uring_setup={errno}"), "--", PROGRAM]);
    command.args(["doctor", "--json"]).env_remove("AGENTPIPE_BACKEND");
    if let Some(backend) = backend {
        command.env("AGENTPIPE_BACKEND", backend);
    }
    let (code, text) = text_of(&output(&mut command));
    (code, json(&text))
}

fn feature<'a>(report: &'a Value, name: &str) -> &'a Value {
    let features = report["features"].as_array().expect("features");
    let found = features.iter().find(|feature| feature["name"] == name);
    &found.unwrap_or_else(|| panic!("{name}: {report}"))["present"]
}

// Most containers deny io_uring. The host works there with epoll, and its owner has to learn why, and
// what would change it.
#[test]
fn doctor_says_why_the_backend_is_epoll() {
    for errno in ["EPERM", "ENOSYS"] {
        let (code, report) = denied(errno, None);
        assert_eq!((code, &report["backend"]), (Some(0), &"epoll".into()), "{report}");
        check_line(report["fallback"].as_str().expect("a reason"), &["io_uring_setup", "seccomp"]);
        assert_eq!((&report["multishot"], &report["problem"]), (&Value::Null, &Value::Null));
        assert_eq!(feature(&report, "io_uring"), false, "{report}");
        assert_eq!(feature(&report, "min_wait"), &Value::Null, "{report}");

        let (code, report) = denied(errno, Some("io_uring"));
        assert_eq!((code, &report["usable"]), (Some(1), &false.into()), "{report}");
        assert_eq!((&report["backend"], &report["fallback"]), (&Value::Null, &Value::Null));
        check_line(report["problem"].as_str().expect("a problem"), &["io_uring_setup", "seccomp"]);
        assert_eq!(report["requested"], "io_uring");
    }
}

#[test]
fn doctor_names_the_tier_that_was_asked_for() {
    let asked = |backend: &str| {
        let mut command = Command::new(PROGRAM);
        let command = command.args(["doctor", "--json"]).env("AGENTPIPE_BACKEND", backend);
        let (code, text) = text_of(&output(command));
        (code, json(&text))
    };
    let (code, report) = asked("epoll");
    assert_eq!((code, &report["backend"]), (Some(0), &"epoll".into()), "{report}");
    assert_eq!((&report["requested"], &report["fallback"]), (&"epoll".into(), &Value::Null));
    assert_eq!(feature(&report, "io_uring"), &Value::Null, "it was not tried");
    if gets_ring() {
        let (code, report) = asked("io_uring_single");
        assert_eq!((code, &report["multishot"]), (Some(0), &false.into()), "{report}");
        assert_eq!(feature(&report, "multishot_reads"), false);
    }
    let (code, report) = asked("kqueue");
    assert_eq!(code, Some(1), "{report}");
    check_line(report["problem"].as_str().expect("a problem"), &["AGENTPIPE_BACKEND", "kqueue"]);
}

#[test]
fn odd_options_of_doctor_are_refused() {
    for args in [&["--agents", "0"][..], &["--agents", "-1"], &["--agent-memory", "1g"], &["x"]] {
        let output = output(Command::new(PROGRAM).arg("doctor").args(args));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), errors.lines().count()), (Some(2), 1), "{errors}");
        assert!(output.stdout.is_empty());
    }
}
