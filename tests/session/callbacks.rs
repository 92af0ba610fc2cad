//! Callbacks of a Claude Code session: permissions and hooks, and the form of their answers.

use std::time::Duration;

use agentpipe::session::RpcError;
use agentpipe::session::claude::{
    Builder, HookKind, HookMatcher, HookOutput, HookRequest, Permission, PermissionRequest, Session,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::support::dialogue::{HANDSHAKE, assert_played, dialogue};
use crate::support::engine;
use crate::{answer_to, asks, says, success, wait};

fn may_it(decide: fn(PermissionRequest) -> Result<Permission, RpcError>) -> Builder {
    Session::builder().can_use_tool(move |request| std::future::ready(decide(request)))
}

fn bash(more: Value) -> Value {
    let mut request = json!({
        "subtype": "can_use_tool", "tool_name": "Bash",
        "input": {"command": "ls", "timeout": 5}, "tool_use_id": "toolu_1",
    });
    for (key, value) in more.as_object().expect("keys") {
        request[key] = value.clone();
    }
    request
}

// An allowed tool must come back with its input, or the agent runs it without one. A refusal
// carries its message, and a changed input replaces the old one.
#[test]
fn permission_answers_have_the_cli_form() {
    let allow = success(may_it(|_| Ok(Permission::allow())), bash(json!({})));
    let unchanged = json!({"command": "ls", "timeout": 5});
    assert_eq!(allow, json!({"behavior": "allow", "updatedInput": unchanged}));

    let deny = success(may_it(|_| Ok(Permission::deny("not here"))), bash(json!({})));
    assert_eq!(deny, json!({"behavior": "deny", "message": "not here"}));
    let stop = may_it(|_| Ok(Permission::deny("stop").interrupting()));
    let stop = success(stop, bash(json!({})));
    assert_eq!(stop, json!({"behavior": "deny", "message": "stop", "interrupt": true}));

    let safe = may_it(|request| {
        let mut input: Value = request.input().json()?;
        input["command"] = "ls --no-dereference".into();
        Ok(Permission::allow_with(input))
    });
    let changed = json!({"command": "ls --no-dereference", "timeout": 5});
    let safe = success(safe, bash(json!({})));
    assert_eq!(safe, json!({"behavior": "allow", "updatedInput": changed}));
}

// A suggestion that is parsed and written again loses its unknown keys, and the agent refuses it.
#[test]
fn suggestions_keep_unknown_keys() {
    let suggestions = json!([
        {"type": "addRules", "rules": [{"toolName": "Bash", "ruleContent": "ls:*"}],
            "behavior": "allow", "destination": "localSettings"},
        {"type": "replaceRules", "rules": [{"toolName": "Read"}], "behavior": "ask"},
        {"type": "setMode", "mode": "acceptEdits", "destination": "session"},
        {"type": "addDirectories", "directories": ["/tmp/a b"], "destination": "session"},
        {"type": "news", "of": {"a": [1, null]}, "destination": "nowhere"},
    ]);
    let asked = bash(json!({"permission_suggestions": suggestions}));
    let all = may_it(|request| Ok(Permission::allow().updating(request.suggestions())));
    assert_eq!(success(all, asked.clone())["updatedPermissions"], suggestions);
    let one = may_it(|request| {
        let this_session = |update: &&agentpipe::Record| {
            update.json::<Value>().is_ok_and(|update| update["destination"] == "session")
        };
        let chosen: Vec<_> = request.suggestions().iter().filter(this_session).collect();
        assert!(chosen[0].as_bytes().starts_with(b"{\""), "as it stands in the request");
        Ok(Permission::allow().updating(chosen))
    });
    let chosen = success(one, asked)["updatedPermissions"].clone();
    assert_eq!(chosen, json!([suggestions[2], suggestions[3]]));
    let none = may_it(|request| {
        assert!(request.suggestions().is_empty());
        Ok(Permission::allow())
    });
    let odd = bash(json!({"permission_suggestions": {"not": "a list"}}));
    assert_eq!(success(none, odd).get("updatedPermissions"), None);
}

// A person decides by which subagent asks, for which path and why.
#[test]
fn permission_prompt_has_every_field() {
    let all = json!({
        "agent_id": "agent_7", "decision_reason": "rule", "blocked_path": "/etc/passwd",
        "title": "Read a file", "display_name": "Read", "description": "the list of users",
    });
    let texts = |request: &PermissionRequest| {
        let texts = [
            request.agent_id(),
            request.decision_reason(),
            request.blocked_path(),
            request.title(),
            request.display_name(),
            request.description(),
        ];
        texts.map(|text| text.map(str::to_owned))
    };
    let told = Session::builder().can_use_tool(move |request: PermissionRequest| async move {
        assert_eq!((request.tool_name(), request.tool_use_id()), ("Bash", Some("toolu_1")));
        let whole: Value = request.body().json()?;
        Ok(Permission::allow_with(json!({"texts": texts(&request), "mode": whole["mode"]})))
    });
    let seen = |more: Value| success(told.clone(), bash(more))["updatedInput"].clone();
    let mut more = all.clone();
    more["mode"] = "unheard of".into();
    let words = ["agent_7", "rule", "/etc/passwd", "Read a file", "Read", "the list of users"];
    assert_eq!(seen(more), json!({"texts": words, "mode": "unheard of"}));
    let nothing = json!({"texts": [null, null, null, null, null, null], "mode": null});
    assert_eq!(seen(json!({})), nothing, "absent is none");
    let odd = json!({"agent_id": null, "decision_reason": {"type": "rule"}, "title": 7});
    assert_eq!(seen(odd), nothing, "and so is what is no text");
}

// The agent waits for an answer; the reason of the failure is the only trace it gets.
#[test]
fn failed_callback_is_an_error_answer() {
    let failing = may_it(|_| Err(RpcError::new("the policy server is down")));
    let panicking = Session::builder().can_use_tool(|request| async move {
        assert_eq!(request.tool_name(), "Read", "only Read");
        Ok(Permission::allow())
    });
    let broken_input = may_it(|_| Ok(Permission::allow_with([((), 1)].map(|_| f64::NAN))));
    for (builder, words) in [(failing, "the policy server is down"), (panicking, "only Read")] {
        let answer = answer_to(builder, bash(json!({})));
        assert_eq!(answer["subtype"], "error", "{answer}");
        assert!(answer["error"].as_str().is_some_and(|text| text.contains(words)), "{answer}");
        assert_eq!(answer.get("response"), None);
    }
    assert_eq!(success(broken_input, bash(json!({})))["updatedInput"], json!([null]));
    let shapeless =
        answer_to(may_it(|_| Ok(Permission::allow())), json!({"subtype": "can_use_tool"}));
    assert!(shapeless["error"].as_str().unwrap().contains("tool_name"), "{shapeless}");
    let unhandled = answer_to(Session::builder(), bash(json!({})));
    assert!(unhandled["error"].as_str().unwrap().contains("can_use_tool"), "{unhandled}");
}

fn hook<T: Serialize + Send + 'static>(output: fn(HookRequest) -> T) -> Builder {
    let on = HookMatcher::new(HookKind::PreToolUse).matching("Bash");
    Session::builder().hook(on, move |called| std::future::ready(Ok(output(called))))
}

fn call(more: Value) -> Value {
    let mut request = json!({"subtype": "hook_callback", "callback_id": "hook_0"});
    for (key, value) in more.as_object().expect("keys") {
        request[key] = value.clone();
    }
    request
}

// Input and tool use arrive unchanged. A cancelled hook is dropped.
#[test]
fn hook_gets_its_input_and_is_dropped_on_cancel() {
    let told = |called: HookRequest| json!({"input": called.input(), "tool": called.tool_use_id()});
    let input = json!({"hook_event_name": "PreToolUse", "tool_input": {"command": "ls"}});
    let seen = success(hook(told), call(json!({"input": input, "tool_use_id": "toolu_1"})));
    assert_eq!(seen, json!({"input": input, "tool": "toolu_1"}));
    let seen = success(hook(told), call(json!({})));
    assert_eq!(seen, json!({"input": null, "tool": null}));
    let unknown = json!({"subtype": "hook_callback", "callback_id": "hook_7"});
    let answer = answer_to(hook(told), unknown);
    assert!(answer["error"].as_str().unwrap().contains("hook_7"), "{answer}");
}

// A field under another name is ignored, and the hook with it. `continue` and `async` are keywords
// of many languages.
#[test]
fn hook_outputs_have_the_cli_keys() {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Own {
        r#continue: bool,
        r#async: bool,
        stop_reason: &'static str,
    }
    let all = hook(|_| {
        HookOutput::new().stop("enough").block("no").message("look").quiet().field("news", [1])
    });
    let wanted = json!({
        "continue": false, "stopReason": "enough", "decision": "block", "reason": "no",
        "systemMessage": "look", "suppressOutput": true, "news": [1],
    });
    assert_eq!(success(all, call(json!({}))), wanted);
    let own = hook(|_| Own { r#continue: true, r#async: false, stop_reason: "x" });
    let wanted = json!({"continue": true, "async": false, "stopReason": "x"});
    assert_eq!(success(own, call(json!({}))), wanted);
    assert_eq!(success(hook(|_| HookOutput::new()), call(json!({}))), json!({}));
    let broken =
        hook(|_| HookOutput::new().field("map", std::collections::BTreeMap::from([([1], 2)])));
    assert_eq!(answer_to(broken, call(json!({})))["subtype"], "error", "told, not sent half");
}

// This form of answer makes the agent go on without the hook, with and without a limit.
#[test]
fn hook_can_continue_in_the_background() {
    let limited = hook(|_| HookOutput::in_background(Some(Duration::from_millis(1500))));
    let wanted = json!({"async": true, "asyncTimeout": 1500});
    assert_eq!(success(limited, call(json!({}))), wanted);
    let unlimited = hook(|_| HookOutput::in_background(None));
    assert_eq!(success(unlimited, call(json!({}))), json!({"async": true}));
}

#[test]
fn every_event_has_its_outputs() {
    for (event, keys) in [
        ("Notification", json!({"additionalContext": "seen"})),
        ("PermissionRequest", json!({"decision": {"behavior": "allow", "updatedInput": {"a": 1}}})),
        ("SubagentStart", json!({"additionalContext": "be brief"})),
        ("PostToolUse", json!({"updatedMCPToolOutput": {"text": "***"}, "additionalContext": "x"})),
        ("PreToolUse", json!({"permissionDecision": "ask", "additionalContext": "in git"})),
    ] {
        let (name, output) = (event.to_owned(), keys.clone());
        let builder = Session::builder().hook(event, move |_| {
            std::future::ready(Ok(HookOutput::new().specific(&name, &output)))
        });
        let mut wanted = keys;
        wanted["hookEventName"] = event.into();
        let sent = success(builder, call(json!({"input": {"hook_event_name": event}})));
        assert_eq!(sent, json!({"hookSpecificOutput": wanted}));
    }
}

// Known events and future ones: each call reaches its own hook.
#[test]
fn every_event_can_be_registered() {
    assert_eq!(HookKind::ALL.len(), 34);
    let events = HookKind::ALL.iter().map(|kind| kind.as_str()).chain(["News"]);
    let mut builder = Session::builder();
    let (mut hooks, mut steps) = (json!({}), Vec::new());
    for (number, event) in events.enumerate() {
        let full = number.is_multiple_of(2);
        let (on, matcher) = (HookMatcher::new(event), "Bash|Edit");
        let on = if full { on.matching(matcher).timeout(Duration::from_millis(2500)) } else { on };
        builder = builder.hook(on, move |called: HookRequest| async move {
            assert!(called.input().as_str()?.contains(event));
            Ok(json!({"from": event}))
        });
        let id = format!("hook_{number}");
        hooks[event] = if full {
            json!([{"matcher": matcher, "hookCallbackIds": [&id], "timeout": 2.5}])
        } else {
            json!([{"matcher": null, "hookCallbackIds": [&id]}])
        };
        let request = call(json!({"callback_id": id, "input": {"hook_event_name": event}}));
        steps.push(asks(&id, request, json!({"from": event})));
    }
    let registered = says(json!({"type": "registered", "hooks": "${hooks}"}));
    let handshake = HANDSHAKE
        .replace(r#""subtype":"initialize""#, r#""subtype":"initialize","hooks":"${hooks}""#);
    steps.insert(0, handshake);
    steps.push(registered);
    wait(async {
        let session = builder.start(&engine(), dialogue(&steps)).await.expect("starts");
        let seen: Value = session.next_record().await.expect("all were called").json().unwrap();
        assert_eq!(seen["hooks"], hooks);
        assert_played(&session.close().await);
    });
}
