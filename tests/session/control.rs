//! The control requests of the CLI by their types, the questions that are no permissions, and the keys of
//! one object: each once.

use agentpipe::session::claude::control::{self, ControlRequest};
use agentpipe::session::claude::{
    Builder, DialogAnswer, Elicitation, ElicitationAnswer, HookKind, HookOutput, McpRequest,
    Permission, PermissionBehavior, PermissionDestination, PermissionMode, PermissionRequest,
    PermissionRule, PermissionUpdate, Session, UserDialog,
};
use agentpipe::{ErrorKind, Record};
use serde_json::{Value, json};

use crate::support::dialogue::{HANDSHAKE, assert_played, dialogue};
use crate::support::{check_error, engine};
use crate::{answer_to, says, start, success, wait};

/// The agent answers each request with that request, under `got`.
const ECHO: &str = concat!(
    r#"{"on":{"type":"control_request","request_id":"${id}","request":"${request}"},"#,
    r#""send":{"type":"control_response","response":{"subtype":"success","#,
    r#""request_id":"${id}","response":{"got":"${request}"}}}}"#
);

async fn got<R: ControlRequest<Answer = Record>>(session: &Session, request: R) -> Value {
    session.control(request).await.expect("answered").json::<Value>().expect("JSON")["got"].clone()
}

// The CLI ignores a key in the wrong case, and a `null` is not the same as no key.
#[test]
fn control_requests_have_the_cli_keys() {
    use control::*;
    let object = || json!({"a": [1, null]});
    wait(async {
        let s = start(&engine(), &[HANDSHAKE, ECHO]).await;
        let plain = |subtype: &str| json!({"subtype": subtype});
        for (got, subtype) in [
            (got(&s, BackgroundTasks::new()).await, "background_tasks"),
            (got(&s, GetBinaryVersion::new()).await, "get_binary_version"),
            (got(&s, GetContextUsage::new()).await, "get_context_usage"),
            (got(&s, GetHooksListing::new()).await, "get_hooks_listing"),
            (got(&s, GetSessionCost::new()).await, "get_session_cost"),
            (got(&s, GetSettings::new()).await, "get_settings"),
            (got(&s, GetUsage::new()).await, "get_usage"),
            (got(&s, ListModels::new()).await, "list_models"),
            (got(&s, ListPermissionRules::new()).await, "list_permission_rules"),
            (got(&s, McpStatus::new()).await, "mcp_status"),
            (got(&s, ReloadPlugins::new()).await, "reload_plugins"),
            (got(&s, ReloadSkills::new()).await, "reload_skills"),
        ] {
            assert_eq!(got, plain(subtype));
        }
        let call = McpCall::new("mcp__a__b")
            .arguments(object())
            .timeout_ms(5000)
            .check_permissions(true)
            .soft_error_result(true)
            .result_not_for_model(true)
            .expires_at("t")
            .input_files([1])
            .output_files([2]);
        let root = RegisterRepoRoot::new("/r")
            .reload_claude_md(true)
            .reload_plugins(false)
            .reload_skills(true);
        let plugins = ReloadPlugins::new()
            .hold_on_cache_impact(true)
            .add_plugins([object()])
            .refuse_if_busy(true);
        let title = RenameSession::new("t").source("host").session_id("s");
        let tokens = SetMaxThinkingTokens::new(None).thinking_display("omitted");
        for (got, wanted) in [
            (
                got(&s, ApplyFlagSettings::new(object())).await,
                json!({"subtype": "apply_flag_settings", "settings": object()}),
            ),
            (
                got(&s, BackgroundTasks::new().tool_use_id("x")).await,
                json!({"subtype": "background_tasks", "tool_use_id": "x"}),
            ),
            (
                got(&s, CancelAsyncMessage::new("u")).await,
                json!({"subtype": "cancel_async_message", "message_uuid": "u"}),
            ),
            (
                got(&s, FileSuggestions::new("src/")).await,
                json!({"subtype": "file_suggestions", "query": "src/"}),
            ),
            (
                got(&s, GetContextUsage::new().detail("summary")).await,
                json!({"subtype": "get_context_usage", "detail": "summary"}),
            ),
            (
                got(&s, GetUsage::new().skip_behaviors(true)).await,
                json!({"subtype": "get_usage", "skip_behaviors": true}),
            ),
            (
                got(&s, call).await,
                json!({"subtype": "mcp_call", "tool": "mcp__a__b", "arguments": object(),
                    "timeout_ms": 5000, "check_permissions": true, "soft_error_result": true,
                    "result_not_for_model": true, "expires_at": "t", "input_files": [1],
                    "output_files": [2]}),
            ),
            (
                got(&s, McpMessage::new("tools", object())).await,
                json!({"subtype": "mcp_message", "server_name": "tools", "message": object()}),
            ),
            (
                got(&s, McpReadResource::new("docs", "ui://x")).await,
                json!({"subtype": "mcp_read_resource", "serverName": "docs", "uri": "ui://x"}),
            ),
            (
                got(&s, McpStatus::new().live_reply(true)).await,
                json!({"subtype": "mcp_status", "liveReply": true}),
            ),
            (
                got(&s, root).await,
                json!({"subtype": "register_repo_root", "directory": "/r",
                    "reload_claude_md": true, "reload_plugins": false, "reload_skills": true}),
            ),
            (
                got(&s, plugins).await,
                json!({"subtype": "reload_plugins", "hold_on_cache_impact": true,
                    "add_plugins": [object()], "refuse_if_busy": true}),
            ),
            (
                got(&s, title).await,
                json!({"subtype": "rename_session", "title": "t", "source": "host",
                    "session_id": "s"}),
            ),
            (
                got(&s, SeedReadState::new("/f", 7)).await,
                json!({"subtype": "seed_read_state", "path": "/f", "mtime": 7}),
            ),
            (got(&s, SetColor::new("red")).await, json!({"subtype": "set_color", "color": "red"})),
            (
                got(&s, SetHasSubscribers::new(None)).await,
                json!({"subtype": "set_has_subscribers", "has_subscribers": null}),
            ),
            (
                got(&s, tokens).await,
                json!({"subtype": "set_max_thinking_tokens", "max_thinking_tokens": null,
                    "thinking_display": "omitted"}),
            ),
            (
                got(&s, UpdateSettings::new("userSettings", object())).await,
                json!({"subtype": "update_settings", "source": "userSettings",
                    "settings": object()}),
            ),
        ] {
            assert_eq!(got, wanted);
        }
        // Those with an answer of their own keep the whole of it.
        let echoed = |record: Record| record.json::<Value>().expect("JSON")["got"].clone();
        let interrupt = Interrupt::new().cancel_queued(true);
        let rewind = RewindFiles::new("u").dry_run(true);
        let read = ReadFile::new("/f").max_bytes(9).encoding("base64");
        for (got, wanted) in [
            (
                s.control(interrupt).await.map(|it| it.record),
                json!({"subtype": "interrupt", "cancel_queued": true}),
            ),
            (
                s.control(rewind).await.map(|it| it.record),
                json!({"subtype": "rewind_files", "user_message_id": "u", "dry_run": true}),
            ),
            (
                s.control(read).await.map(|it| it.record),
                json!({"subtype": "read_file", "path": "/f", "max_bytes": 9, "encoding": "base64"}),
            ),
            (
                s.control(GetTaskOutput::new("t")).await.map(|it| it.record),
                json!({"subtype": "get_task_output", "task_id": "t"}),
            ),
            (
                s.control(McpSetServers::new(object())).await.map(|it| it.record),
                json!({"subtype": "mcp_set_servers", "servers": object()}),
            ),
            (
                s.control(ReloadOutputStyles::new()).await.map(|it| it.record),
                plain("reload_output_styles"),
            ),
        ] {
            assert_eq!(echoed(got.expect("answered")), wanted);
        }
        let broken = ApplyFlagSettings::new(std::collections::BTreeMap::from([([1], 2)]));
        let error = s.control(broken).await.expect_err("no JSON");
        assert_eq!(error.kind(), ErrorKind::InvalidRecord, "{error}");
        assert_played(&s.close().await);
    });
}

// A key of another type in a later CLI must not hide the others, and `None` is not zero.
#[test]
fn control_answers_give_what_is_there() {
    let of = |json: &Value| Record::from_json(json).expect("JSON");
    let stopped = control::Interrupted::from(of(&json!({"still_queued": ["a"], "cancelled": 7})));
    assert_eq!((stopped.still_queued, stopped.cancelled), (Some(vec!["a".into()]), None));
    let older = control::Interrupted::from(of(&json!({})));
    assert_eq!((older.still_queued, older.record.as_bytes()), (None, &b"{}"[..]));
    let file = json!({"contents": "x", "absPath": "/f", "truncated": true, "lossy": null});
    let file = control::FileRead::from(of(&file));
    assert_eq!((file.contents.as_deref(), file.path.as_deref()), (Some("x"), Some("/f")));
    assert_eq!((file.truncated, file.lossy, file.encoding), (Some(true), None, None));
    let set = control::ServersSet::from(of(&json!({"added": ["a"], "errors": {"b": "no"}})));
    assert_eq!(set.errors.expect("errors").as_bytes(), br#"{"b":"no"}"#);
    assert!(control::ServersSet::from(of(&json!({"errors": null}))).errors.is_none());
    assert!(control::TaskOutput::from(of(&json!([1]))).output.is_none());
}

// Two keys of one name in one object: the CLI took the last, and the hooks of the builder were never
// called.
#[test]
fn no_object_has_a_key_twice() {
    let hooks = || Session::builder().hook("Stop", |_| async { Ok(HookOutput::new()) });
    let dialogs =
        || Session::builder().user_dialog(["a"], |_| async { Ok(DialogAnswer::cancelled()) });
    let fails = async |builder: Builder, says: &[&str]| {
        let error = builder.start(&engine(), dialogue(&[HANDSHAKE])).await.expect_err("a clash");
        check_error(&error, ErrorKind::InvalidCommand, says);
    };
    wait(async {
        fails(hooks().option("hooks", json!({})), &["option(\"hooks\")", "leave one"]).await;
        fails(dialogs().option("supportedDialogKinds", ["b"]), &["user_dialog"]).await;
        fails(Session::builder().option("subtype", "x"), &["subtype"]).await;

        // A hook of the user's own has no counterpart, and replaces the `null`.
        let told =
            HANDSHAKE.replace(r#""request":{"subtype":"initialize"}"#, r#""request":"${asked}""#);
        let echo = says(json!({"type": "seen", "asked": "${asked}"}));
        let own = Session::builder().option("hooks", json!({"Stop": []})).option("a", 1);
        let own = own.option("a", 2).start(&engine(), dialogue(&[&told, &echo])).await;
        let own = own.expect("starts");
        let seen = own.next_record().await.expect("seen");
        assert_eq!(seen.as_str().expect("text").matches("hooks").count(), 1);
        let seen: Value = seen.json().expect("JSON");
        let wanted = json!({"subtype": "initialize", "hooks": {"Stop": []}, "a": 2});
        assert_eq!(seen["asked"], wanted);
        let error = own.request("x", json!({"subtype": "y"})).await.expect_err("two subtypes");
        check_error(&error, ErrorKind::InvalidRecord, &["subtype"]);
        assert_played(&own.close().await);
    });

    // The event of a hook's output.
    let output = HookOutput::new()
        .specific("PreToolUse", json!({"hookEventName": "Stop", "updatedInput": {"n": 1}}))
        .context(HookKind::PreToolUse, "in git")
        .decide(HookKind::PreToolUse, PermissionBehavior::Ask, "odd");
    let text = serde_json::to_string(&output).expect("JSON");
    assert_eq!(text.matches("hookEventName").count(), 1, "{text}");
    let wanted = json!({"hookSpecificOutput": {
        "hookEventName": "PreToolUse", "updatedInput": {"n": 1}, "additionalContext": "in git",
        "permissionDecision": "ask", "permissionDecisionReason": "odd",
    }});
    assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), wanted);
    let broken = HookOutput::new().specific("Stop", [1]).context("Stop", "x");
    assert!(serde_json::to_string(&broken).is_err(), "keys that are none are told");
}

// The server waits for the user, and a form has to be filled in by its schema.
#[test]
fn elicitation_has_fields_and_answers() {
    let asked = json!({
        "subtype": "elicitation", "mcp_server_name": "crm", "message": "Who?", "mode": "form",
        "requested_schema": {"type": "object"}, "property_order": ["name"], "title": "T",
    });
    let form = Session::builder().elicitation(|asked: Elicitation| async move {
        assert_eq!(asked.server.as_deref(), Some("crm"));
        assert_eq!(asked.property_order, Some(vec!["name".to_owned()]));
        assert_eq!((asked.mode.as_deref(), asked.url), (Some("form"), None));
        Ok(ElicitationAnswer::accept(json!({"schema": asked.requested_schema})))
    });
    let wanted = json!({"action": "accept", "content": {"schema": {"type": "object"}}});
    assert_eq!(success(form, asked.clone()), wanted);
    for (answer, wanted) in [
        (ElicitationAnswer::accept_url(), json!({"action": "accept"})),
        (ElicitationAnswer::decline(), json!({"action": "decline"})),
        (ElicitationAnswer::cancel(), json!({"action": "cancel"})),
    ] {
        let builder =
            Session::builder().elicitation(move |_| std::future::ready(Ok(answer.clone())));
        assert_eq!(success(builder, asked.clone()), wanted);
    }
    assert_eq!(answer_to(Session::builder(), asked)["subtype"], "error", "no handler");
}

// The dialog of another client of the session must not be closed by an answer of this one, not even by an
// error.
#[test]
fn undeclared_dialog_gets_no_answer() {
    let dialog = |id: &str, kind: &str| {
        let request = json!({"subtype": "request_user_dialog", "dialog_kind": kind,
            "payload": {"n": 1}, "tool_use_id": "x"});
        says(json!({"type": "control_request", "request_id": id, "request": request}))
    };
    let completed = |id: &str| {
        let response = json!({"behavior": "completed", "result": {"n": 1}});
        let response = json!({"subtype": "success", "request_id": id, "response": response});
        json!({"expect": {"type": "control_response", "response": response}}).to_string()
    };
    let announced = HANDSHAKE.replace(
        r#""subtype":"initialize""#,
        r#""subtype":"initialize","supportedDialogKinds":["choice"]"#,
    );
    let unannounced = HANDSHAKE.replace(
        r#""subtype":"initialize""#,
        r#""subtype":"initialize","supportedDialogKinds":"${absent}""#,
    );
    let seen = says(json!({"type": "seen"}));
    wait(async {
        // The next thing that the agent gets is the answer to the declared kind.
        let steps =
            [announced, dialog("1", "other"), dialog("2", "choice"), completed("2"), seen.clone()];
        let builder = Session::builder().user_dialog(["choice"], |asked: UserDialog| async move {
            assert_eq!(asked.kind.as_deref(), Some("choice"));
            Ok(DialogAnswer::completed(asked.payload))
        });
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        assert!(session.next_record().await.is_some(), "and the dialog is no message");
        assert_eq!(session.metrics().serving, 0);
        assert_played(&session.close().await);

        // Without a handler: the agent gets the end of its input, and nothing before it.
        let steps = [unannounced, dialog("1", "other"), seen, r#"{"expect_end":true}"#.into()];
        let session = start(&engine(), &steps).await;
        assert!(session.next_record().await.is_some());
        assert_played(&session.close().await);
    });
    let cancelled =
        Session::builder().user_dialog(["choice"], |_| async { Ok(DialogAnswer::cancelled()) });
    let asked = json!({"subtype": "request_user_dialog", "dialog_kind": "choice", "payload": {}});
    assert_eq!(success(cancelled, asked.clone()), json!({"behavior": "cancelled"}));
    // A handler for the subtype gets all kinds.
    let own = Session::builder().handle("request_user_dialog", |_| async { Ok(json!({"own": 1})) });
    assert_eq!(success(own, asked), json!({"own": 1}));
}

// A person decides by them; a host that misses one approves what it should not.
#[test]
fn permission_prompt_says_how_to_ask() {
    let asked = |more: Value| {
        let mut request = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {}});
        for (key, value) in more.as_object().expect("keys") {
            request[key] = value.clone();
        }
        request
    };
    let told = || {
        Session::builder().can_use_tool(|asked: PermissionRequest| async move {
            Ok(Permission::allow_with(json!([
                asked.mcp_server().map(|it| [it.name.clone(), it.source.clone()]),
                asked.matched_ask_rule().map(|it| it.rule_content.clone()),
                asked.decision_reason_type(),
                asked.classifier_approvable(),
                asked.suppress_always_allow_rule(),
                asked.default_to_no(),
                asked.requires_user_interaction(),
            ])))
        })
    };
    let seen = |more: Value| success(told(), asked(more))["updatedInput"].clone();
    let all = json!({
        "mcp_server": {"name": "docs", "source": "user"}, "decision_reason_type": "safetyCheck",
        "matched_ask_rule": {"source": "userSettings", "tool_name": "Bash", "rule_content": "rm:*"},
        "classifier_approvable": false, "suppress_always_allow_rule": true, "default_to_no": true,
        "requires_user_interaction": true,
    });
    let wanted = json!([["docs", "user"], "rm:*", "safetyCheck", false, true, true, true]);
    assert_eq!(seen(all), wanted);
    assert_eq!(seen(json!({})), json!([null, null, null, null, false, false, false]));
    let odd = json!({"mcp_server": "docs", "default_to_no": "yes", "matched_ask_rule": null});
    assert_eq!(seen(odd)[5], json!(false), "an odd key is no error");
}

// With one `null` or one missing key the CLI drops every update of the answer, without a word.
#[test]
fn permission_updates_are_whole() {
    use PermissionBehavior::{Allow, Ask, Deny};
    let rules = || [PermissionRule::tool("Read"), PermissionRule::matching("Bash", "ls:*")];
    let rules_json = json!([{"toolName": "Read"}, {"toolName": "Bash", "ruleContent": "ls:*"}]);
    let updates = [
        PermissionUpdate::add_rules(Allow, rules()),
        PermissionUpdate::replace_rules(Deny, []).to(PermissionDestination::UserSettings),
        PermissionUpdate::remove_rules(Ask, rules()).to(PermissionDestination::LocalSettings),
        PermissionUpdate::set_mode(PermissionMode::AcceptEdits),
        PermissionUpdate::add_directories(["/tmp/a b"]).to(PermissionDestination::CliArg),
        PermissionUpdate::remove_directories(["/x"]).to(PermissionDestination::ProjectSettings),
    ];
    let allow = Session::builder()
        .can_use_tool(move |_| std::future::ready(Ok(Permission::allow().updating(&updates))));
    let asked = json!({"subtype": "can_use_tool", "tool_name": "Bash", "input": {}});
    let wanted = json!([
        {"type": "addRules", "rules": rules_json, "behavior": "allow", "destination": "session"},
        {"type": "replaceRules", "rules": [], "behavior": "deny", "destination": "userSettings"},
        {"type": "removeRules", "rules": rules_json, "behavior": "ask",
            "destination": "localSettings"},
        {"type": "setMode", "mode": "acceptEdits", "destination": "session"},
        {"type": "addDirectories", "directories": ["/tmp/a b"], "destination": "cliArg"},
        {"type": "removeDirectories", "directories": ["/x"], "destination": "projectSettings"},
    ]);
    assert_eq!(success(allow, asked)["updatedPermissions"], wanted);
}

// The CLI connects to the servers of this process before the first prompt, with several messages at once.
#[test]
fn mcp_messages_before_a_prompt_are_answered() {
    let message = |number: usize, method: &str, id: Option<&str>| {
        let mut message = json!({"jsonrpc": "2.0", "method": method, "params": {"n": number}});
        if let Some(id) = id {
            message["id"] = id.into();
        }
        let request = json!({"subtype": "mcp_message", "server_name": "calc", "message": message});
        says(
            json!({"type": "control_request", "request_id": format!("r{number}"), "request": request}),
        )
    };
    let mut steps = vec![
        HANDSHAKE.to_owned(),
        // Answers may come in any order.
        json!({"on": {"type": "control_response", "response": "${answer}"},
            "send": {"type": "seen", "answer": "${answer}"}})
        .to_string(),
        message(0, "initialize", Some("i")),
        message(1, "notifications/initialized", None),
    ];
    steps.extend((2..6).map(|n| message(n, "tools/call", Some("x"))));
    let builder = Session::builder().mcp_server("calc", |asked: McpRequest| async move {
        Ok(json!({"method": asked.method(), "params": asked.params()}))
    });
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        let mut answered = std::collections::BTreeMap::new();
        while answered.len() < 6 {
            let seen: Value = session.next_record().await.expect("seen").json().expect("JSON");
            let answer = &seen["answer"];
            let id = answer["request_id"].as_str().expect("an id").to_owned();
            let response = answer["response"]["mcp_response"].clone();
            assert!(answered.insert(id, response).is_none(), "each once");
        }
        assert_eq!(answered["r1"], json!({"jsonrpc": "2.0", "result": {}}));
        for number in [0, 2, 3, 4, 5] {
            let response = &answered[&format!("r{number}")];
            assert_eq!(response["id"], if number == 0 { "i" } else { "x" });
            assert_eq!(response["result"]["params"], json!({"n": number}));
        }
        assert_played(&session.close().await);
    });
}

// A server of this process asks the CLI for its roots. The response was refused for want of a method, with
// an id that means a request of the CLI, and the server never got it.
#[test]
fn response_reaches_the_mcp_server_that_asked() {
    let ask = |message: &Value| {
        let (sender, given) = std::sync::mpsc::channel();
        let builder = Session::builder().mcp_server("calc", move |asked: McpRequest| {
            let message: Value = asked.message().json().expect("JSON");
            let seen = (asked.method().to_owned(), asked.is_notification(), message);
            sender.send(seen).expect("the test listens");
            std::future::ready(Ok(json!({"dropped": true})))
        });
        let request = json!({"subtype": "mcp_message", "server_name": "calc", "message": message});
        (success(builder, request)["mcp_response"].clone(), given.try_recv().ok())
    };
    for message in [
        json!({"jsonrpc": "2.0", "id": 1, "result": {"roots": []}}),
        json!({"jsonrpc": "2.0", "id": "a", "error": {"code": -32601, "message": "no roots"}}),
    ] {
        let (answer, given) = ask(&message);
        assert_eq!(given, Some((String::new(), true, message)));
        assert_eq!(answer, json!({"jsonrpc": "2.0", "result": {}}), "without an id");
    }
    // What is no message of JSON-RPC gets a refusal with its id.
    for message in [json!({"id": 7}), json!({"id": 7, "method": 1}), json!("id")] {
        let (answer, given) = ask(&message);
        let id = message.get("id").cloned().unwrap_or_default();
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-32600), &id), "{message}");
        assert_eq!(given, None, "{message}");
    }
}
