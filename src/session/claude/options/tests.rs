//! The arguments and environment that options lead to, without a process.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::table::{TABLE, argument_max};
use super::{HostNeeds, Options, Thinking};
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind};
use crate::record::Record;

fn claude() -> Options {
    AgentCommand::claude()
}

fn text_of(command: &AgentCommand) -> Vec<String> {
    command.args.iter().map(|arg| arg.to_str().expect("text").to_owned()).collect()
}

fn argv(options: &Options) -> Vec<String> {
    text_of(&options.command().expect("good options"))
}

/// Returns the arguments without those that are always there.
fn between(options: &Options) -> Vec<String> {
    let args = argv(options);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let begin = ["--output-format", "stream-json", "--verbose"];
    let end = ["--input-format", "stream-json"];
    let inner = args.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&end));
    inner
        .expect("the arguments that are always there")
        .iter()
        .map(|arg| (*arg).to_owned())
        .collect()
}

/// Returns the arguments that a change adds to the default ones.
fn set_by(change: impl FnOnce(Options) -> Options) -> Vec<String> {
    let args = between(&change(claude()));
    assert_eq!(args[..2], ["--system-prompt", ""], "{args:?}");
    args[2..].to_vec()
}

fn refusal(options: &Options) -> Error {
    let error = options.command().expect_err("refused");
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::InvalidCommand, "options"),
        "{error}"
    );
    error
}

type Case = (fn(Options) -> Options, &'static [&'static str]);

const NO_TEXTS: [&str; 0] = [];

/// Options, and the arguments that they add.
const CASES: &[Case] = &[
    (|o| o.tools(["Read", "Bash"]), &["--tools", "Read,Bash"]),
    (|o| o.tools(NO_TEXTS), &["--tools", ""]),
    (|o| o.no_tools(), &["--tools", ""]),
    (|o| o.default_tools(), &["--tools", "default"]),
    (|o| o.allowed_tools(["Read", "Bash(git log:*)"]), &["--allowedTools", "Read,Bash(git log:*)"]),
    (|o| o.allowed_tools(NO_TEXTS), &[]),
    (|o| o.max_turns(5), &["--max-turns", "5"]),
    (|o| o.max_turns(0), &[]),
    (|o| o.max_budget_usd(0.5), &["--max-budget-usd", "0.5"]),
    (|o| o.max_budget_usd(0.0), &["--max-budget-usd", "0"]),
    (|o| o.disallowed_tools(["Bash", "Edit"]), &["--disallowedTools", "Bash,Edit"]),
    (|o| o.task_budget(100_000), &["--task-budget", "100000"]),
    (|o| o.model("opus"), &["--model", "opus"]),
    (|o| o.fallback_model("sonnet"), &["--fallback-model", "sonnet"]),
    (|o| o.betas(["a-2025", "b-2025"]), &["--betas", "a-2025,b-2025"]),
    (
        |o| o.permission_prompt_tool("mcp__auth__ask"),
        &["--permission-prompt-tool", "mcp__auth__ask"],
    ),
    (|o| o.permission_mode("dontAsk"), &["--permission-mode", "dontAsk"]),
    (|o| o.continue_conversation(true), &["--continue"]),
    (|o| o.continue_conversation(false), &[]),
    (|o| o.resume("8a7b"), &["--resume=8a7b"]),
    (|o| o.session_id("9c0d"), &["--session-id=9c0d"]),
    (|o| o.settings("/etc/s.json"), &["--settings", "/etc/s.json"]),
    (|o| o.settings(r#"{"a": 1}"#), &["--settings", r#"{"a": 1}"#]),
    (|o| o.add_dir("/a").add_dir("b"), &["--add-dir", "/a", "--add-dir", "b"]),
    (
        |o| o.mcp_server("files", json!({"command": "mcp-files"})),
        &["--mcp-config", r#"{"mcpServers":{"files":{"command":"mcp-files"}}}"#],
    ),
    (|o| o.mcp_config("/etc/mcp.json"), &["--mcp-config", "/etc/mcp.json"]),
    (|o| o.mcp_config(r#"{"mcpServers": {}}"#), &["--mcp-config", r#"{"mcpServers": {}}"#]),
    (|o| o.include_partial_messages(true), &["--include-partial-messages"]),
    (|o| o.include_hook_events(true), &["--include-hook-events"]),
    (|o| o.strict_mcp_config(true), &["--strict-mcp-config"]),
    (|o| o.fork_session(true), &["--fork-session"]),
    (|o| o.resume_session_at("m-1"), &["--resume-session-at=m-1"]),
    (|o| o.resume_drops_turn("t-1"), &["--resume-drops-turn=t-1"]),
    (|o| o.resume_drops_turn(""), &["--resume-drops-turn="]),
    (|o| o.session_mirror(true), &["--session-mirror"]),
    (|o| o.setting_sources(["user", "local"]), &["--setting-sources=user,local"]),
    (|o| o.setting_sources(NO_TEXTS), &["--setting-sources="]),
    (|o| o.plugin_dir("/p").plugin_dir("/q"), &["--plugin-dir", "/p", "--plugin-dir", "/q"]),
    (|o| o.effort("xhigh"), &["--effort", "xhigh"]),
    (|o| o.json_schema(json!({"type": "object"})), &["--json-schema", r#"{"type":"object"}"#]),
    // Thinking: its four forms, which of them wins, and when a display is not sent.
    (|o| o.thinking(Thinking::Adaptive), &["--thinking", "adaptive"]),
    (|o| o.thinking(Thinking::Disabled), &["--thinking", "disabled"]),
    (|o| o.thinking(Thinking::Enabled { budget_tokens: 9 }), &["--max-thinking-tokens", "9"]),
    (|o| o.max_thinking_tokens(7), &["--max-thinking-tokens", "7"]),
    (|o| o.thinking(Thinking::Adaptive).max_thinking_tokens(7), &["--thinking", "adaptive"]),
    (|o| o.thinking(Thinking::Disabled).max_thinking_tokens(7), &["--thinking", "disabled"]),
    (
        |o| o.max_thinking_tokens(7).thinking(Thinking::Enabled { budget_tokens: 9 }),
        &["--max-thinking-tokens", "9"],
    ),
    (
        |o| o.thinking(Thinking::Adaptive).thinking_display("summarized"),
        &["--thinking", "adaptive", "--thinking-display", "summarized"],
    ),
    (
        |o| o.thinking(Thinking::Enabled { budget_tokens: 9 }).thinking_display("omitted"),
        &["--max-thinking-tokens", "9", "--thinking-display", "omitted"],
    ),
    (|o| o.thinking(Thinking::Disabled).thinking_display("omitted"), &["--thinking", "disabled"]),
    (|o| o.thinking_display("omitted"), &[]),
    // Flags without a setter.
    (|o| o.extra_arg("debug", None), &["--debug"]),
    (|o| o.extra_arg("debug-file", "/tmp/log"), &["--debug-file", "/tmp/log"]),
    (|o| o.extra_arg("name", "-x"), &["--name=-x"]),
    (|o| o.extra_arg("name", ""), &["--name", ""]),
    (|o| o.extra_arg("b", "1").extra_arg("a", None), &["--b", "1", "--a"]),
    // Options that add no argument.
    (|o| o.agent("reviewer", json!({"prompt": "p"})), &[]),
    (|o| o.exclude_dynamic_sections(true), &[]),
    (|o| o.forward_subagent_text(true), &[]),
    (|o| o.file_checkpointing(true), &[]),
    (|o| o.cwd("/").env("A", "b").cli_path("/bin/claude"), &[]),
    (|o| o.client_app("a/1").question_preview("html").verbatim_prompts(true), &[]),
    (|o| o.title("t").prompt_suggestions(true).tool_aliases(json!({})), &[]),
    (|o| o.mcp_servers_in_initialize(true).plugins_in_initialize(true), &[]),
    // The others, with a flag of their own.
    (|o| o.permission_prompts("none"), &["--permission-prompts=none"]),
    (|o| o.allow_dangerously_skip_permissions(true), &["--allow-dangerously-skip-permissions"]),
    (|o| o.managed_settings(json!({"a": 1})), &["--managed-settings", r#"{"a":1}"#]),
    (|o| o.project_config_root("/r"), &["--project-config-root=/r"]),
    (|o| o.persist_session(false), &["--no-session-persistence"]),
    (|o| o.persist_session(true), &[]),
    (|o| o.debug(true), &["--debug"]),
    (|o| o.debug_file("/tmp/log"), &["--debug-file=/tmp/log"]),
    (|o| o.plugin_dir("/p").plugins_in_initialize(true), &["--await-initialize"]),
];

#[test]
fn each_option_adds_its_flag_and_no_other() {
    // A flag in the wrong place or form gives a session other permissions than its host believes.
    let mut seen = BTreeSet::new();
    for (index, (change, wanted)) in CASES.iter().enumerate() {
        let args = set_by(change);
        assert_eq!(args, *wanted, "case {index}");
        seen.extend(wanted.iter().map(|arg| arg.split('=').next().unwrap_or(arg).to_owned()));
    }
    let frame = ["--output-format", "--verbose", "--input-format"];
    let prompts = ["--system-prompt", "--system-prompt-file", "--append-system-prompt"];
    let tried =
        |flag: &str| seen.contains(flag) || frame.contains(&flag) || prompts.contains(&flag);
    let missing: Vec<&str> =
        TABLE.iter().map(|row| row.flag).filter(|flag| !flag.is_empty()).collect();
    assert_eq!(missing.iter().find(|flag| !tried(flag)), None, "a row without a case");
}

#[test]
fn guide_lists_every_flag() {
    // The page is the reference of the options, and goes stale silently.
    let page = include_str!("../../../../docs/guide/claude.md");
    let missing = |flag: &&str| !page.contains(&format!("`{flag}"));
    assert_eq!(TABLE.iter().map(|row| row.flag).filter(missing).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn default_arguments_are_json_streams_and_empty_prompt() {
    // The prompt goes over stdin. `--print` would end the session with its first turn.
    let plain = ["--output-format", "stream-json", "--verbose", "--system-prompt", ""];
    assert_eq!(argv(&claude()), [&plain[..], &["--input-format", "stream-json"]].concat());
    let prompt = |change: fn(Options) -> Options| between(&change(claude()));
    assert_eq!(prompt(|o| o.system_prompt("Be kind.")), ["--system-prompt", "Be kind."]);
    assert_eq!(prompt(|o| o.system_prompt("- a list")), ["--system-prompt=- a list"]);
    assert_eq!(prompt(|o| o.system_prompt_file("/p.md")), ["--system-prompt-file", "/p.md"]);
    assert_eq!(prompt(|o| o.append_system_prompt("And.")), ["--append-system-prompt", "And."]);
    assert_eq!(prompt(Options::claude_code_prompt), Vec::<String>::new());
    assert_eq!(prompt(|o| o.append_system_prompt("")), Vec::<String>::new());
    // The last setter counts.
    assert_eq!(prompt(|o| o.system_prompt("a").claude_code_prompt()), Vec::<String>::new());
}

/// Returns options in which each text has the same value.
fn all_texts(value: &str) -> Options {
    claude()
        .system_prompt(value)
        .tools([value])
        .allowed_tools([value])
        .disallowed_tools([value])
        .model(value)
        .fallback_model(value)
        .betas([value])
        .permission_prompt_tool(value)
        .permission_mode(value)
        .resume(value)
        .session_id(value)
        .settings(value)
        .add_dir(value)
        .mcp_config(value)
        .resume_session_at(value)
        .resume_drops_turn(value)
        .setting_sources([value])
        .plugin_dir(value)
        .extra_arg("extra", value)
        .thinking(Thinking::Adaptive)
        .thinking_display(value)
        .effort(value)
}

#[test]
fn value_with_leading_dash_is_joined_to_its_flag() {
    // A session id that comes from a request may be `--dangerously-skip-permissions`.
    for value in ["--dangerously-skip-permissions", "-p", "-", "--", "--resume=x y"] {
        let args = between(&all_texts(value));
        let joined = args.iter().filter(|arg| arg.ends_with(&format!("={value}"))).count();
        assert_eq!(joined, 21, "{value}: {args:?}");
        let rest: Vec<_> = args.iter().filter(|arg| !arg.contains('=')).collect();
        assert_eq!(rest, ["--thinking", "adaptive"], "{value}");
    }
}

#[test]
fn resume_options_are_one_argument() {
    // A bare `--resume` opens a menu and waits for a person.
    for value in ["8a7b", "two words", "a=b", "a\nb", "\u{e9}"] {
        let args = between(&all_texts(value));
        for flag in ["resume", "session-id", "resume-session-at", "resume-drops-turn"] {
            assert!(args.contains(&format!("--{flag}={value}")), "{flag}: {args:?}");
            assert!(!args.contains(&format!("--{flag}")), "{flag} is bare: {args:?}");
        }
    }
    let args = between(&all_texts(""));
    assert!(args.contains(&"--resume-drops-turn=".to_owned()), "{args:?}");
    for flag in ["--resume", "--session-id", "--resume-session-at", "--model", "--settings"] {
        let sent = args.iter().any(|arg| arg.split('=').next() == Some(flag));
        assert!(!sent, "{flag} without a value: {args:?}");
    }
}

#[test]
fn arguments_are_in_the_order_of_the_table() {
    // The order is part of what the tests of the launch compare.
    let all = all_texts("v")
        .max_turns(1)
        .max_budget_usd(1.5)
        .task_budget(1)
        .continue_conversation(true)
        .include_partial_messages(true)
        .include_hook_events(true)
        .strict_mcp_config(true)
        .fork_session(true)
        .session_mirror(true)
        .json_schema(json!({}));
    let sent: Vec<String> = argv(&all)
        .into_iter()
        .filter(|arg| arg.starts_with("--"))
        .map(|arg| arg.split('=').next().unwrap_or_default().to_owned())
        .filter(|flag| flag != "--extra")
        .collect();
    let in_order: Vec<&str> = TABLE
        .iter()
        .map(|row| row.flag)
        .filter(|flag| sent.iter().any(|other| other == flag))
        .collect();
    assert_eq!(sent, in_order);
    assert!(sent.len() > 30, "{sent:?}");
}

#[test]
fn extra_flag_name_with_dashes_is_refused() {
    // `--debug` would become `----debug`, and a name with `=` would smuggle a value in.
    for name in ["", "-x", "--debug", "a b", "a=b", "a\nb", "\u{e9}"] {
        let error = refusal(&claude().extra_arg(name, None));
        assert!(error.to_string().contains("extra_arg"), "{error}");
    }
}

#[test]
fn skills_imply_tools_and_setting_sources() {
    // Explicit options win, no rule is sent twice, and a second call returns the same arguments.
    type Row = (fn(Options) -> Options, &'static [&'static str], Option<Value>);
    let rows: [Row; 7] = [
        (|o| o, &[], None),
        (Options::all_skills, &["--allowedTools", "Skill", "--setting-sources=user,project"], None),
        (
            |o| o.skills(["pdf", "a:b"]),
            &["--allowedTools", "Skill(pdf),Skill(a:b)", "--setting-sources=user,project"],
            Some(json!(["pdf", "a:b"])),
        ),
        (|o| o.skills(NO_TEXTS), &["--setting-sources=user,project"], Some(json!([]))),
        (
            |o| o.skills(["pdf"]).allowed_tools(["Read", "Skill(pdf)"]),
            &["--allowedTools", "Read,Skill(pdf)", "--setting-sources=user,project"],
            Some(json!(["pdf"])),
        ),
        (
            |o| o.all_skills().allowed_tools(["Skill", "Read"]).setting_sources(NO_TEXTS),
            &["--allowedTools", "Skill,Read", "--setting-sources="],
            None,
        ),
        (
            |o| o.skills(["pdf", "pdf"]).setting_sources(["local"]),
            &["--allowedTools", "Skill(pdf)", "--setting-sources=local"],
            Some(json!(["pdf", "pdf"])),
        ),
    ];
    for (index, (change, wanted, skills)) in rows.into_iter().enumerate() {
        let options = change(claude());
        let before = options.clone();
        for _ in 0..2 {
            assert_eq!(between(&options)[2..], *wanted, "row {index}");
        }
        assert_eq!(options, before, "row {index}");
        let sent = options.initialize(&[]).expect("good options");
        let sent = sent.into_iter().find(|(key, _)| *key == "skills");
        assert_eq!(sent.map(|(_, value)| value.json::<Value>().expect("JSON")), skills);
    }
}

#[test]
fn skill_name_cannot_escape_its_rule() {
    // A skill named `x),Bash(rm:*` would allow a shell.
    let bad = [
        "",
        " ",
        "\t",
        "x),Bash(rm:*",
        "(",
        ")",
        "a,b",
        " pdf",
        "pdf ",
        "\u{a0}pdf",
        "\u{3000}pdf",
        "*",
        "pdf:*",
        "pdf *",
        "p*f",
        "/pdf",
        "a\\b",
        "pdf\\",
        "a\\\\b",
        "a\nb",
        "a\0b",
        "a\u{7f}b",
        "a\u{85}b",
        "a\u{9f}b",
        "\u{feff}pdf",
        "pdf\u{feff}",
    ];
    for name in bad {
        let error = refusal(&claude().skills(["fine", name]));
        let text = error.to_string();
        assert!(text.contains("skills: the name"), "{name:?}: {text}");
        assert!(text.contains(&name.escape_debug().to_string()), "{name:?}: {text}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    for name in
        ["pdf", "my-plugin:pdf", "two words", "\u{e9}t\u{e9}", "\u{6587}", "a.b_c", "a/b", "a:b"]
    {
        let args = set_by(|options| options.skills([name]));
        assert_eq!(args[1], format!("Skill({name})"));
    }
}

fn settings(options: &Options) -> Value {
    let args = between(options);
    assert_eq!(args[2], "--settings", "{args:?}");
    serde_json::from_str(&args[3]).expect("JSON")
}

#[test]
fn sandbox_is_merged_into_the_settings() {
    // Alone, into JSON, and into a file. A path without a sandbox is passed on unchanged.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("settings.json");
    fs::write(&file, r#"{"model": "opus", "sandbox": {"enabled": false}}"#).expect("written");
    let path = file.to_str().expect("text");
    let network = json!({"allowUnixSockets": ["/run/x"], "httpProxyPort": 8080});
    let sandbox = json!({"enabled": true, "network": network});

    assert_eq!(
        settings(&claude().sandbox(json!({"enabled": true}))),
        json!({"sandbox": {"enabled": true}})
    );
    let merged = claude().settings(r#" {"a": [1, 2], "b": null}"#).sandbox(&sandbox);
    assert_eq!(settings(&merged), json!({"a": [1, 2], "b": null, "sandbox": sandbox}));
    let merged = claude().settings(path).sandbox(&sandbox);
    assert_eq!(settings(&merged), json!({"model": "opus", "sandbox": sandbox}));
    assert_eq!(set_by(|options| options.settings(path)), ["--settings", path]);

    // Settings that cannot be merged are refused: the session would run without its sandbox.
    let gone = folder.path().join("gone.json");
    let error = refusal(&claude().settings(gone.to_str().expect("text")).sandbox(&sandbox));
    assert!(error.to_string().contains("gone.json"), "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    for text in ["{\"a\":", "{} {}"] {
        assert!(
            refusal(&claude().settings(text).sandbox(&sandbox)).to_string().contains("settings")
        );
    }
    assert!(refusal(&claude().sandbox("on")).to_string().contains("sandbox"));
}

fn mcp(options: &Options, servers: &[&str]) -> Value {
    let needs = HostNeeds { permission: false, servers };
    let args = text_of(&options.command_for(needs).expect("good options"));
    let at = args.iter().position(|arg| arg == "--mcp-config").expect("a configuration");
    serde_json::from_str(&args[at + 1]).expect("JSON")
}

#[test]
fn own_mcp_servers_are_sent_without_instance() {
    // `instance` holds data of this process, which may be secret.
    let sdk = json!({"type": "sdk", "name": "own", "instance": {"secret": 1}});
    let files = json!({"command": "mcp-files", "args": ["-x"], "instance": "kept"});
    let options = claude().mcp_server("own", &sdk).mcp_server("files", &files);
    let wanted = json!({"mcpServers": {"own": {"type": "sdk", "name": "own"}, "files": files}});
    assert_eq!(mcp(&options, &[]), wanted);
    // Servers of the session need no entry, and an entry that exists stays as it is.
    let wanted = json!({"mcpServers": {"own": {"type": "sdk", "name": "own"}, "files": files,
        "tools": {"type": "sdk", "name": "tools"}}});
    assert_eq!(mcp(&options, &["own", "tools"]), wanted);

    let needs = HostNeeds { permission: false, servers: &["files"] };
    let error = options.command_for(needs).expect_err("two servers of one name");
    assert!(error.to_string().contains("`files`"), "{error}");
    let error = refusal(&claude().mcp_config("/etc/mcp.json").mcp_server("files", &files));
    assert!(error.to_string().contains("mcp_config"), "{error}");
    let needs = HostNeeds { permission: false, servers: &["tools"] };
    let error = claude().mcp_config("/etc/mcp.json").command_for(needs).expect_err("no room");
    assert!(error.to_string().contains("mcp_config"), "{error}");
}

#[test]
fn agents_are_sent_in_initialize() {
    // An argument of 300 KiB would fail the spawn with E2BIG.
    let prompt = "x".repeat(300 << 10);
    let options = claude()
        .agent("big", json!({"description": "d", "prompt": prompt, "tools": null}))
        .agent("other", json!({"prompt": "old"}))
        .agent("other", json!({"prompt": "p"}))
        .exclude_dynamic_sections(false)
        .forward_subagent_text(true);
    assert!(argv(&options).iter().all(|arg| arg.len() < 100));
    let sent: Vec<(&str, Value)> = options
        .initialize(&[])
        .expect("good options")
        .into_iter()
        .map(|(key, value): (&str, Record)| (key, value.json().expect("JSON")))
        .collect();
    let agents = json!({"big": {"description": "d", "prompt": prompt}, "other": {"prompt": "p"}});
    let wanted = [
        ("agents", agents),
        ("excludeDynamicSections", json!(false)),
        ("forwardSubagentText", json!(true)),
    ];
    assert_eq!(sent, wanted);
    assert_eq!(claude().initialize(&[]).expect("good").len(), 0);
}

#[test]
fn handshake_keys_are_sent_once_and_as_named() {
    // A key in another case is ignored, and the CLI takes the last of two.
    let options = claude()
        .system_prompt_parts(["a", "b"])
        .system_prompt_snapshot(true)
        .plan_mode_instructions("p")
        .tool_aliases(json!({"Bash": "mcp__x__bash"}))
        .title("old")
        .title("t")
        .prompt_suggestions(true)
        .agent_progress_summaries(false)
        .per_task_stop(true)
        .json_schema_in_initialize(json!({"type": "object"}))
        .append_system_prompt_in_initialize("more")
        .own_mcp_server_configs(json!({"own": {"timeout": 5000}}))
        .own_mcp_server_manifests(json!({}));
    let sent: Vec<(&str, Value)> = options
        .initialize(&["own"])
        .expect("good options")
        .into_iter()
        .map(|(key, value): (&str, Record)| (key, value.json().expect("JSON")))
        .collect();
    let wanted = [
        ("systemPrompt", json!(["a", "b"])),
        ("systemPromptSnapshot", json!(true)),
        ("planModeInstructions", json!("p")),
        ("toolAliases", json!({"Bash": "mcp__x__bash"})),
        ("title", json!("t")),
        ("promptSuggestions", json!(true)),
        ("agentProgressSummaries", json!(false)),
        ("perTaskStopAffordance", json!(true)),
        ("jsonSchema", json!({"type": "object"})),
        ("appendSystemPrompt", json!("more")),
        ("sdkMcpServerConfigs", json!({"own": {"timeout": 5000}})),
        ("sdkMcpServerManifests", json!({})),
        ("sdkMcpServers", json!(["own"])),
    ];
    assert_eq!(sent, wanted);
    assert!(!argv(&options).iter().any(|arg| arg.starts_with("--system-prompt")));
    let needs: Vec<_> = options.verbatim_prompts(true).version_needs();
    let needs: Vec<_> = needs.iter().map(|need| (need.what, need.since.patch)).collect();
    assert_eq!(needs, [("verbatim_prompts", 248), ("system_prompt_snapshot", 257)]);
}

#[test]
fn secrets_of_mcp_servers_can_leave_the_arguments() {
    // The environment of a server often holds a token, and other users can read the arguments.
    let options = claude()
        .mcp_server("docs", json!({"command": "docs", "env": {"TOKEN": "secret"}}))
        .mcp_server("own", json!({"type": "sdk", "name": "own"}))
        .plugin_dir("/p")
        .mcp_servers_in_initialize(true)
        .plugins_in_initialize(true);
    let needs = HostNeeds { permission: false, servers: &["own"] };
    let args = text_of(&options.command_for(needs).expect("good options"));
    assert!(!args.iter().any(|arg| arg.contains("secret")), "{args:?}");
    assert_eq!(args.iter().filter(|arg| *arg == "--await-initialize").count(), 1);
    let at = args.iter().position(|arg| arg == "--mcp-config").expect("the server of this process");
    let own: Value = serde_json::from_str(&args[at + 1]).expect("JSON");
    assert_eq!(own, json!({"mcpServers": {"own": {"type": "sdk", "name": "own"}}}));
    let sent = options.initialize(&["own"]).expect("good options");
    let sent: Vec<(&str, Value)> =
        sent.iter().map(|(key, value)| (*key, value.json().expect("JSON"))).collect();
    let wanted = [
        ("mcpServers", json!({"docs": {"command": "docs", "env": {"TOKEN": "secret"}}})),
        ("plugins", json!([{"type": "local", "path": "/p"}])),
    ];
    assert_eq!(sent, wanted);
    let needed = options.needed_answers();
    assert!(needed.mcp_servers && needed.plugins);
}

#[test]
fn permission_handler_excludes_a_prompt_tool() {
    // With both, it would be unclear which of them decides.
    let needs = HostNeeds { permission: true, servers: &[] };
    let args = text_of(&claude().command_for(needs).expect("good options"));
    let at = args.iter().position(|arg| arg == "--permission-prompt-tool").expect("asked");
    assert_eq!(args[at + 1], "stdio");
    for tool in ["mcp__auth__ask", "stdio"] {
        let options = claude().permission_prompt_tool(tool);
        let error = options.command_for(needs).expect_err("two of them");
        assert_eq!(error.kind(), ErrorKind::InvalidCommand);
        let text = error.to_string();
        assert!(text.contains(tool) && text.contains("can_use_tool"), "{text}");
    }
}

#[test]
fn too_long_argument_is_refused_by_name() {
    // The kernel says only "Argument list too long", for example after a prompt grew.
    let room = |flag: &str| argument_max() - 1 - flag.len();
    let longest = "x".repeat(room(""));
    assert_eq!(between(&claude().system_prompt(&longest))[1].len(), argument_max() - 1);
    type Row = (fn(Options, String) -> Options, &'static str, &'static str);
    let rows: [Row; 6] = [
        (|o, v| o.system_prompt(v), "--system-prompt", "system_prompt_file"),
        (|o, v| o.append_system_prompt(v), "--append-system-prompt", "append-system-prompt-file"),
        (|o, v| o.settings(v), "--settings", "file"),
        (|o, v| o.mcp_server("s", json!({"command": v})), "--mcp-config", "mcp_config"),
        (|o, v| o.resume(v), "--resume", "shorten"),
        (|o, v| o.extra_arg("name", v.as_str()), "extra_arg", "shorten"),
    ];
    for (change, named, remedy) in rows {
        let error = refusal(&change(claude(), format!("{longest}x")));
        let text = error.to_string();
        assert!(text.contains(named) && text.contains(remedy), "{text}");
        assert!(text.contains(&argument_max().to_string()) && text.len() < 300, "{text}");
    }
    // A value that is joined to its flag is longer.
    assert!(argv(&claude().resume("x".repeat(room("--resume=")))).len() > 4);
    refusal(&claude().resume("x".repeat(room("--resume=") + 1)));
}

#[test]
fn invalid_value_is_refused_before_the_spawn() {
    // A setter cannot fail, so the error has to name the option.
    let no_json = std::collections::BTreeMap::from([((1, 2), "a key that is no text")]);
    for (name, options) in [
        ("agent", claude().agent("a", &no_json)),
        ("mcp_server", claude().mcp_server("a", &no_json)),
        ("sandbox", claude().sandbox(&no_json)),
        ("json_schema", claude().json_schema(&no_json)),
        ("max_budget_usd", claude().max_budget_usd(f64::NAN)),
        ("max_budget_usd", claude().max_budget_usd(-1.0)),
    ] {
        let text = refusal(&options).to_string();
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[test]
fn command_needs_no_file() {
    // Options may be made before the CLI is installed.
    let options = claude()
        .cli_path("/nowhere/claude")
        .cwd("/nowhere")
        .process(|command| command.arg("first").user(1234, 567))
        .model("opus");
    let command = options.command().expect("no file is read");
    assert_eq!(command.get_program(), "/nowhere/claude");
    assert_eq!(text_of(&command)[..2], ["first", "--output-format"]);
    assert_eq!(command.user, Some((1234, 567)));
    assert_eq!(command.cwd.as_deref(), Some("/nowhere".as_ref()));
    assert_eq!(claude().command().expect("good").get_program(), "claude");
}

#[test]
fn background_wait_is_read_as_the_cli_reads_it() {
    // A shorter wait than that of the CLI would end its input too early.
    const KEY: &str = "CLAUDE_CODE_PRINT_BG_WAIT_CEILING_MS";
    let wait = |command: AgentCommand| super::background_wait(Some(&command));
    let clean = || AgentCommand::new("claude").env_clear();
    let default = Some(std::time::Duration::from_secs(600));
    assert_eq!(wait(clean()), default);
    for (value, wanted) in [
        ("1500", Some(std::time::Duration::from_millis(1500))),
        (" 7 ", Some(std::time::Duration::from_millis(7))),
        ("0", None),
        ("-1", default),
        ("soon", default),
        ("", default),
    ] {
        assert_eq!(wait(clean().env(KEY, "9").env(KEY, value)), wanted, "{value:?}");
    }
    assert_eq!(wait(clean().env(KEY, "9").env_remove(KEY)), default, "as the CLI finds it");
}
