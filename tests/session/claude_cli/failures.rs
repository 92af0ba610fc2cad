//! A start that fails between its options and its session leaves nothing behind, and can be repeated.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::task::{Context, Waker};

use agentpipe::session::Settings;
use agentpipe::session::claude::{Options, Session};
use agentpipe::{Engine, ErrorKind, ExitStatus};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

use super::{folder, is_alive, path_of, telling, wait};
use crate::support::own_process::{alone_with, test_name};
use crate::support::{check_error, engine, wait_until};

/// The same engine and the same options, once what was wrong is right again.
fn check_starts(engine: &Engine, options: Options) {
    let session = wait(Session::builder().start(engine, options)).expect("starts");
    assert_eq!(wait(session.close()).exit(), ExitStatus::Code(0));
    drop(session);
    // Its reader drops it in a later turn.
    wait_until("the engine forgot it", || engine.agents() == 0);
}

// An error in the host after the spawn left a CLI of 200 MB without an owner.
#[test]
fn failure_before_the_handshake_leaves_no_child() {
    let folder = folder();
    let refuses = [
        r#"{"expect":{"type":"control_request","request_id":"${id}"}}"#,
        concat!(
            r#"{"send":{"type":"control_response","response":{"subtype":"error","#,
            r#""request_id":"${id}","error":"no"}}}"#
        ),
        r#"{"expect":{"never":1}}"#,
    ];
    let silent = [r#"{"expect":{"subtype":"none"},"skip":true}"#];
    let leaves = [r#"{"exit":3}"#];
    let cases: [(&[&str], ErrorKind, &str); 3] = [
        (&refuses, ErrorKind::AgentError, "no"),
        (&silent, ErrorKind::Timeout, "initialize"),
        (&leaves, ErrorKind::Closed, "3"),
    ];
    let engine = engine();
    for (index, (steps, kind, says)) in cases.into_iter().enumerate() {
        let pids = path_of(&folder, &index.to_string());
        let mut flags =
            vec!["--ignore-eof", "--ignore-sigterm", "--print-pids", pids.to_str().expect("text")];
        flags.extend(steps.iter().flat_map(|step| ["--step", step]));
        let limit = std::time::Duration::from_millis(200);
        let builder = Session::builder().settings(Settings::new().request_timeout(limit));
        let error = wait(builder.start(&engine, telling(&flags))).expect_err("no session");
        check_error(&error, kind, &[says]);
        check_gone(&engine, &pids);
    }
    check_starts(&engine, telling(&["--answer-initialize"]));
}

fn check_gone(engine: &Engine, pids: &std::path::Path) {
    let pids: Value = serde_json::from_slice(&fs::read(pids).expect("it ran")).expect("JSON");
    let pid = pids["pid"].to_string();
    wait_until("the child is gone", || !is_alive(&pid));
    wait_until("the engine forgot it", || engine.agents() == 0);
}

#[test]
fn dropped_start_leaves_no_child() {
    let folder = folder();
    let pids = path_of(&folder, "pids");
    let flags =
        ["--never-read-stdin", "--ignore-sigterm", "--print-pids", pids.to_str().expect("text")];
    let engine = engine();
    let mut start = Box::pin(Session::builder().start(&engine, telling(&flags)));
    let mut context = Context::from_waker(Waker::noop());
    // Polled until the agent runs and waits for an answer that will not come.
    wait_until("it runs", || {
        assert!(start.as_mut().poll(&mut context).is_pending());
        pids.exists()
    });
    drop(start);
    check_gone(&engine, &pids);
    check_starts(&engine, telling(&["--answer-initialize"]));
}

// Without a process there is nothing to clean up.
#[test]
fn invalid_options_spawn_no_cli() {
    let folder = folder();
    let pids = path_of(&folder, "pids");
    let options =
        || telling(&["--answer-initialize", "--print-pids", pids.to_str().expect("text")]);
    let no_json = BTreeMap::from([((1, 2), "a key that is not text")]);
    let plain = Session::builder;
    let failures = [
        (plain().option("agents", &no_json), options(), ErrorKind::InvalidRecord, "key"),
        (plain(), options().agent("a", &no_json), ErrorKind::InvalidCommand, "agent"),
        (plain(), options().skills(["a)"]), ErrorKind::InvalidCommand, "skills"),
        (
            plain(),
            options().settings("{").sandbox(&Value::Null),
            ErrorKind::InvalidCommand,
            "settings",
        ),
    ];
    let engine = engine();
    for (builder, options, kind, says) in failures {
        let error = wait(builder.start(&engine, options)).expect_err("refused");
        check_error(&error, kind, &[says]);
    }
    assert_eq!(engine.agents(), 0);
    assert!(!pids.exists(), "one was spawned");
    check_starts(&engine, options());
    assert!(pids.exists());
}

// The kernel's text is only "Argument list too long". The next start works.
#[test]
fn oversized_environment_is_named() {
    let engine = engine();
    let big = telling(&["--answer-initialize"]).env("BIG", "x".repeat(200 << 10));
    for _ in 0..3 {
        let error = wait(Session::builder().start(&engine, big.clone())).expect_err("too big");
        check_error(&error, ErrorKind::InvalidCommand, &["arguments and environment", "128 KiB"]);
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
    }
    check_starts(&engine, big.env("BIG", "small"));
}

// After EMFILE the transport refused every write; the next start must work once there is room.
#[test]
fn start_recovers_from_the_descriptor_limit() {
    if !alone_with(test_name!(), &[]) {
        return;
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).expect("a lower limit");
    let engine = engine();
    let options = telling(&["--answer-initialize"]);
    check_starts(&engine, options.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("one");
    let mut fill = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        fill.push(file);
    }
    for _ in 0..3 {
        let start = Session::builder().start(&engine, options.clone());
        let error = runtime.block_on(start).expect_err("no descriptor");
        check_error(&error, ErrorKind::ResourceLimit, &["RLIMIT_NOFILE", "is 64", "ulimit -n"]);
    }
    drop(fill);
    check_starts(&engine, options);
}
