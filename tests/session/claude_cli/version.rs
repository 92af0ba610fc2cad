//! The version of the CLI, as the session learns it, and what an older CLI lacks.

use std::fs;
use std::io;
use std::sync::{Mutex, Once};

use agentpipe::session::claude::{
    CliVersion, HookKind, HookMatcher, HookOutput, Session, UserMessage,
};
use agentpipe::{AgentCommand, ErrorKind, ExitStatus};
use serde_json::{Value, json};

use super::{folder, path_of, script, telling, wait};
use crate::support::dialogue::{HANDSHAKE, RESULT, assert_played, dialogue};
use crate::support::process::install;
use crate::support::{check_error, engine};

/// The warnings of this process.
static LINES: Mutex<String> = Mutex::new(String::new());

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().expect("no panic").push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn listen() {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        let warnings = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
        warnings.with_ansi(false).with_writer(|| Lines).init();
    });
}

/// Returns the warnings about one agent.
fn warnings(pid: u32) -> Vec<String> {
    let agent = format!("pid {pid} ");
    let lines = LINES.lock().expect("no panic");
    lines.lines().filter(|line| line.contains(&agent)).map(str::to_owned).collect()
}

/// A handshake whose answer has these keys.
fn answering(keys: &Value) -> String {
    HANDSHAKE.replace(r#"{"commands":[]}"#, &keys.to_string())
}

// The version comes with the handshake, or with the first turn of an older CLI. An old one is a warning,
// once.
#[test]
fn version_comes_from_the_session() {
    listen();
    let init =
        json!({"send": {"type": "system", "subtype": "init", "claude_code_version": "1.0.9"}});
    let init = format!("{init}\n{RESULT}");
    let twice = [HANDSHAKE, &init, &init];
    let told =
        [answering(&json!({"claude_code_version": "2.1.332"})), init.replace("1.0.9", "2.1.332")];
    wait(async {
        let session = Session::builder().start(&engine(), dialogue(&twice)).await.expect("starts");
        for _ in 0..2 {
            session.read_turn(|_| {}).await.expect("a turn");
        }
        let version = session.cli_version().expect("it was said");
        assert_eq!((version.to_string(), version < CliVersion::OLDEST), ("1.0.9".into(), true));
        let said = warnings(session.pid());
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("1.0.9") && said[0].contains("2.0.0"), "{said:?}");
        assert_played(&session.close().await);

        let session = Session::builder().start(&engine(), dialogue(&told)).await.expect("starts");
        assert_eq!(session.cli_version().expect("it was said").to_string(), "2.1.332");
        session.read_turn(|_| {}).await.expect("a turn");
        assert_eq!(session.cli_version().expect("it stays").to_string(), "2.1.332");
        assert_eq!(warnings(session.pid()), Vec::<String>::new());
        assert_played(&session.close().await);

        let plain = Session::builder().start(&engine(), dialogue(&[HANDSHAKE])).await;
        let plain = plain.expect("starts");
        assert_eq!(plain.cli_version(), None, "nothing was said");
        assert_played(&plain.close().await);
    });
}

// One more process for each start doubled the time to start.
#[test]
fn start_runs_no_second_process() {
    let folder = folder();
    let program = path_of(&folder, "claude");
    let asked = path_of(&folder, "asked");
    install(&program, &script(&format!("echo $$ >>'{}'; exit", asked.display())));
    wait(async {
        let options = AgentCommand::claude().cli_path(&program);
        let session = Session::builder().start(&engine(), options).await.expect("starts");
        assert_eq!(session.cli_version(), None);
        assert_eq!(session.close().await.exit(), ExitStatus::Code(0));
        assert!(!fs::exists(&asked).expect("readable"));
    });
}

// A hook that guards a tool does not guard it if its failure lets the tool run. A CLI that ignores the key
// must not get a single prompt.
#[test]
fn blocking_hook_needs_a_cli_that_blocks() {
    let refused = [
        (json!({}), &["block_on_failure", "update Claude Code"]),
        (json!({"hook_on_failure_supported": false}), &["block_on_failure", "update Claude Code"]),
        (
            json!({"hook_on_failure_supported": true, "hooks_applied": false}),
            &["not registered", "start a new CLI"],
        ),
    ];
    let start = async |answer: &Value, on: HookMatcher| {
        let builder = Session::builder().hook(on, |_| async { Ok(HookOutput::new()) });
        builder.start(&engine(), dialogue(&[answering(answer)])).await
    };
    let on = || HookMatcher::new(HookKind::PreToolUse).matching("Bash");
    wait(async {
        for (answer, says) in refused {
            let error = start(&answer, on().block_on_failure()).await.expect_err("refused");
            check_error(&error, ErrorKind::Unsupported, says);
            let session = start(&answer, on()).await.expect("it asks for nothing");
            assert_played(&session.close().await);
        }
        let answer = json!({"hook_on_failure_supported": true, "hooks_applied": true});
        let session = start(&answer, on().block_on_failure()).await.expect("starts");
        assert_eq!(session.server_info().expect("kept").hooks_applied, Some(true));
        assert_played(&session.close().await);
    });
}

// A CLI that does not read the servers or the plugins from the handshake would run without them.
#[test]
fn servers_in_the_handshake_need_an_answer() {
    let start = async |answer: Value| {
        let options = telling(&["--step", &answering(&answer)])
            .mcp_server("docs", json!({"command": "docs"}))
            .plugin_dir("/p")
            .mcp_servers_in_initialize(true)
            .plugins_in_initialize(true);
        Session::builder().start(&engine(), options).await
    };
    wait(async {
        let error = start(json!({})).await.expect_err("nothing was taken");
        check_error(&error, ErrorKind::Unsupported, &["MCP servers", "mcp_servers_in_initialize"]);
        let error = start(json!({"mcp_servers_applied": true})).await.expect_err("no plugins");
        check_error(&error, ErrorKind::Unsupported, &["plugins", "plugins_in_initialize"]);
        let both = json!({"mcp_servers_applied": true, "plugins_applied": true});
        let session = start(both).await.expect("starts");
        assert_eq!(session.close().await.exit(), ExitStatus::Code(0));
    });
}

// Each message of a host that composes its prompts, and no other.
#[test]
fn verbatim_prompts_mark_each_message() {
    listen();
    let prompt = r#"{"expect":{"type":"user","client_composed":true}}"#;
    let plain = r#"{"expect":{"type":"user","client_composed":"${absent}"}}"#;
    let known = answering(&json!({"claude_code_version": "2.1.247"}));
    let steps = [known.as_str(), prompt, RESULT, plain];
    wait(async {
        let flags: Vec<&str> = steps.into_iter().flat_map(|step| ["--step", step]).collect();
        let options = telling(&flags).verbatim_prompts(true);
        let session = Session::builder().start(&engine(), options).await.expect("starts");
        session.send("/as it is").await.expect("sent");
        session.read_turn(|_| {}).await.expect("a turn");
        let typed = UserMessage::text("typed").client_composed(false).should_query(false);
        session.send(typed).await.expect("sent");
        let said = warnings(session.pid());
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("verbatim_prompts") && said[0].contains("2.1.248"), "{said:?}");
        assert_eq!(session.close().await.exit(), ExitStatus::Code(0), "it got what it expects");
    });
}
