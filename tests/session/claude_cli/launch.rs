//! The options of the CLI: its command line and the `initialize` request agree.

use std::time::Duration;

use agentpipe::session::claude::{HookMatcher, Permission, PermissionRequest, Session};
use agentpipe::{ErrorKind, ExitStatus};
use serde_json::{Value, json};

use super::{after, arguments, folder, path_of, telling, told, wait};
use crate::support::{check_error, engine};

/// Takes a handshake with exactly these keys.
fn handshake(request: &Value) -> [String; 2] {
    let expected =
        json!({"expect": {"type": "control_request", "request_id": "${id}", "request": request}});
    let answer = json!({"send": {"type": "control_response",
        "response": {"subtype": "success", "request_id": "${id}", "response": {}}}});
    [expected.to_string(), answer.to_string()]
}

// With skills on the command line and none in `initialize` the agent was allowed tools that it did
// not have.
#[test]
fn options_make_arguments_and_handshake() {
    let big = "x".repeat(200 << 10);
    let agents = json!({"reviewer": {"description": "d", "prompt": big}});
    let steps = handshake(&json!({
        "subtype": "initialize", "hooks": {"Stop": "${_}"}, "agents": agents, "skills": ["pdf"],
        "excludeDynamicSections": true, "forwardSubagentText": true, "later": 1,
    }));
    // In a file: it is too long for an argument.
    let folder = folder();
    let dialogue = path_of(&folder, "dialogue");
    std::fs::write(&dialogue, steps.join("\n")).expect("written");
    let options = telling(&["--script", dialogue.to_str().expect("text")])
        .append_system_prompt("And \"this\".\n\u{e9}")
        .resume("--print")
        .agent("reviewer", &agents["reviewer"])
        .skills(["pdf"])
        .exclude_dynamic_sections(false)
        .forward_subagent_text(true);
    let builder = Session::builder()
        .hook(HookMatcher::new("Stop").timeout(Duration::from_secs(1)), |_| async { Ok(json!({})) })
        // The session's own word wins, and what is to come passes.
        .option("excludeDynamicSections", true)
        .option("later", 1);
    wait(async {
        let session = builder.start(&engine(), options).await.expect("starts");
        let told = told(&session).await;
        let args = arguments(&told);
        let wanted = [
            "--output-format",
            "stream-json",
            "--verbose",
            "--append-system-prompt",
            "And \"this\".\n\u{e9}",
            "--allowedTools",
            "Skill(pdf)",
            "--resume=--print",
            "--setting-sources=user,project",
            "--input-format",
            "stream-json",
        ];
        assert_eq!(args, wanted);
        assert_eq!(
            session.close().await.exit(),
            ExitStatus::Code(0),
            "the handshake was as expected"
        );
    });
}

// A key that is not set is not sent; an agent takes `null` for a value.
#[test]
fn empty_options_send_only_hooks() {
    let absent = "${absent}";
    let steps = handshake(&json!({
        "subtype": "initialize", "hooks": null, "agents": absent, "skills": absent,
        "excludeDynamicSections": absent, "forwardSubagentText": absent,
    }));
    for all in [false, true] {
        let options = telling(&["--step", &steps[0], "--step", &steps[1]]);
        let options = if all { options.all_skills() } else { options };
        wait(async {
            let session = Session::builder().start(&engine(), options).await.expect("starts");
            assert_eq!(session.close().await.exit(), ExitStatus::Code(0));
        });
    }
}

// A permission handler was never called, because the CLI did not know of it.
#[test]
fn handlers_are_announced_to_the_cli() {
    let folder = folder();
    let pids = path_of(&folder, "pids");
    let pids = pids.to_str().expect("text");
    let asking = || {
        Session::builder()
            .can_use_tool(|_: PermissionRequest| async { Ok(Permission::allow()) })
            .mcp_server("tools", |_| async { Ok(json!({})) })
            .mcp_server("more", |_| async { Ok(json!({})) })
    };
    wait(async {
        let options = telling(&["--answer-initialize"]);
        let session = asking().start(&engine(), options.clone()).await.expect("starts");
        let told = told(&session).await;
        let args = arguments(&told);
        assert_eq!(after(&args, "--permission-prompt-tool"), "stdio");
        let servers: Value = serde_json::from_str(after(&args, "--mcp-config")).expect("JSON");
        let server = |name: &str| json!({"type": "sdk", "name": name});
        let wanted = json!({"tools": server("tools"), "more": server("more")});
        assert_eq!(servers, json!({"mcpServers": wanted}));
        session.close().await;

        let options = telling(&["--print-pids", pids]).permission_prompt_tool("stdio");
        let error = asking().start(&engine(), options).await.expect_err("two handlers");
        check_error(&error, ErrorKind::InvalidCommand, &["can_use_tool", "`stdio`"]);
        assert!(!std::path::Path::new(pids).exists(), "found before anything was spawned");
    });
}

// The boundary is the kernel's, so the test reads it from the kernel.
#[test]
fn argument_limit_is_the_kernels() {
    let page = rustix::param::page_size();
    let longest = "p".repeat(32 * page - 1);
    wait(async {
        let options = telling(&["--answer-initialize"]).system_prompt(&longest);
        let session = Session::builder().start(&engine(), options).await.expect("it fits");
        assert_eq!(
            after(&arguments(&told(&session).await), "--system-prompt").len(),
            longest.len()
        );
        session.close().await;
        let options = telling(&["--answer-initialize"]).system_prompt(format!("{longest}p"));
        let error = Session::builder().start(&engine(), options).await.expect_err("one byte more");
        check_error(
            &error,
            ErrorKind::InvalidCommand,
            &["system_prompt", "system_prompt_file", "131073"],
        );
    });
}
