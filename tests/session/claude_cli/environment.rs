//! The environment and the working directory of the CLI.

use agentpipe::session::claude::{Options, Session};
use agentpipe::{AgentCommand, ErrorKind};
use serde_json::Value;

use super::{folder, path_of, telling, told, wait};
use crate::support::own_process::{alone_with, test_name};
use crate::support::{PROGRAM, check_error, engine};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn start(options: Options) -> Value {
    wait(async {
        let session = Session::builder().start(&engine(), options).await.expect("starts");
        let told = told(&session).await;
        session.close().await;
        told
    })
}

type Case = (fn(Options) -> Options, &'static [(&'static str, Option<&'static str>)]);

const READS_STATE: &str = "CLAUDE_CODE_SDK_READS_SESSION_STATE";

const CLIENT: &str = concat!("agentpipe/", env!("CARGO_PKG_VERSION"));

/// The requested change, and what arrives; the parent has `INHERITED`.
const CASES: &[Case] = &[
    // Defaults: the names of this library, and none of the parent.
    (
        |options| options,
        &[
            ("CLAUDE_CODE_ENTRYPOINT", Some("sdk-cli")),
            ("CLAUDE_AGENT_SDK_CLIENT_APP", Some(CLIENT)),
            ("AGENTPIPE_VERSION", Some(VERSION)),
            ("CLAUDE_AGENT_SDK_VERSION", None),
            ("CLAUDECODE", None),
            ("CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING", None),
            ("MAX_MCP_OUTPUT_TOKENS", None),
            ("MCP_TOOL_TIMEOUT", Some("7")),
            (READS_STATE, Some("1")),
        ],
    ),
    // The caller may have no use for the state, or say so himself.
    (|options| options.env(READS_STATE, "0"), &[(READS_STATE, Some("0"))]),
    (|options| options.process(|command| command.env_remove(READS_STATE)), &[(READS_STATE, None)]),
    // The caller wins over the parent and over the defaults.
    (
        |options| {
            options
                .env("CLAUDE_CODE_ENTRYPOINT", "mine")
                .env("CLAUDE_AGENT_SDK_CLIENT_APP", "app/1")
                .env("CLAUDECODE", "2")
                .env("MCP_TOOL_TIMEOUT", "8")
                .env("MAX_MCP_OUTPUT_TOKENS", "9")
        },
        &[
            ("CLAUDE_CODE_ENTRYPOINT", Some("mine")),
            ("CLAUDE_AGENT_SDK_CLIENT_APP", Some("app/1")),
            ("CLAUDECODE", Some("2")),
            ("MCP_TOOL_TIMEOUT", Some("8")),
            ("MAX_MCP_OUTPUT_TOKENS", Some("9")),
        ],
    ),
    // But for the versions.
    (
        |options| {
            options.env("AGENTPIPE_VERSION", "9.9.9").env("CLAUDE_AGENT_SDK_VERSION", "9.9.9")
        },
        &[("AGENTPIPE_VERSION", Some(VERSION)), ("CLAUDE_AGENT_SDK_VERSION", None)],
    ),
    // A setter wins over what is set otherwise.
    (
        |options| options.client_app("mine/2").question_preview("html"),
        &[
            ("CLAUDE_AGENT_SDK_CLIENT_APP", Some("mine/2")),
            ("CLAUDE_CODE_QUESTION_PREVIEW_FORMAT", Some("html")),
        ],
    ),
    (
        |options| options.file_checkpointing(true),
        &[("CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING", Some("true"))],
    ),
    // An empty environment still identifies this library.
    (
        |options| options.process(|command| command.env_clear().env("ONLY", "this")),
        &[
            ("CLAUDE_CODE_ENTRYPOINT", Some("sdk-cli")),
            ("CLAUDE_AGENT_SDK_CLIENT_APP", Some(CLIENT)),
            ("ONLY", Some("this")),
            ("MCP_TOOL_TIMEOUT", None),
            (READS_STATE, Some("1")),
            ("PATH", None),
        ],
    ),
];

const INHERITED: &[(&str, &str)] = &[
    ("CLAUDECODE", "1"),
    ("CLAUDE_CODE_ENTRYPOINT", "cli"),
    ("CLAUDE_AGENT_SDK_VERSION", "0.1.2"),
    ("AGENTPIPE_VERSION", "0.0.0"),
    ("MCP_TOOL_TIMEOUT", "7"),
];

// A service runs under Claude Code itself. Its agents took themselves for nested ones because of
// one inherited variable. The caller can override every variable.
#[test]
fn environment_identifies_the_caller() {
    if !alone_with(test_name!(), INHERITED) {
        return;
    }
    for (index, (change, wanted)) in CASES.iter().enumerate() {
        let told = start(change(telling(&["--answer-initialize"])));
        for (key, value) in *wanted {
            let found = told["env"].get(key).map(|found| found.as_str().expect("text"));
            assert_eq!(found, *value, "case {index}: {key}");
        }
    }
    let told = start(telling(&["--answer-initialize"]));
    assert_eq!(told["env"]["PATH"], std::env::var("PATH").expect("a path"), "kept");
}

#[test]
fn host_keeps_its_own_entrypoint() {
    let name = ("CLAUDE_AGENT_SDK_CLIENT_APP", "their-app/2");
    if !alone_with(test_name!(), &[name]) {
        return;
    }
    let told = start(telling(&["--answer-initialize"]));
    assert_eq!(told["env"][name.0], name.1);
    let cleared = telling(&["--answer-initialize"]).process(AgentCommand::env_clear);
    assert_eq!(start(cleared)["env"][name.0], CLIENT);
}

/// Returns the variables that an agent of a plain command finds.
fn reads_state(change: fn(AgentCommand) -> AgentCommand) -> Value {
    let flags = ["fake", "--tell-command", "--answer-initialize"];
    let command = change(AgentCommand::new(PROGRAM).args(flags));
    wait(async {
        let session = Session::builder().start(&engine(), command).await.expect("starts");
        let told = told(&session).await;
        session.close().await;
        told["env"][READS_STATE].clone()
    })
}

// The session reads the state of the CLI, however its agent was started.
#[test]
fn every_cli_reports_its_state() {
    assert_eq!(reads_state(|command| command), "1");
    assert_eq!(reads_state(|command| command.env(READS_STATE, "")), "");
}

#[test]
fn parent_can_disable_state() {
    let chosen = (READS_STATE, "0");
    if !alone_with(test_name!(), &[chosen]) {
        return;
    }
    assert_eq!(reads_state(|command| command), "0");
    assert_eq!(reads_state(AgentCommand::env_clear), "1");
}

#[test]
fn missing_working_directory_is_named() {
    let folder = folder();
    let dir = path_of(&folder, "work");
    let options = telling(&["--answer-initialize"]).cwd(&dir);
    let error = wait(Session::builder().start(&engine(), options.clone())).expect_err("not there");
    let dir = dir.to_str().expect("text");
    check_error(&error, ErrorKind::BadWorkingDirectory, &["working directory", dir]);
    // The same options value, once it is there.
    std::fs::create_dir(dir).expect("made");
    let told = start(options);
    assert_eq!((&told["cwd"], &told["env"]["PWD"]), (&dir.into(), &dir.into()));
}
