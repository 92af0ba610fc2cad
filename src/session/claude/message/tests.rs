//! Views of recorded messages, of broken ones, and of generated ones.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::*;

fn record(value: &Value) -> Record {
    Record::from_json(value).expect("a value has JSON")
}

fn refusal(value: &Value) -> String {
    let record = record(value);
    let error = Message::of(&record).expect_err("the record has no view");
    assert_eq!(error.kind(), ErrorKind::InvalidRecord);
    error.to_string()
}

/// Normalizes numbers to their value: `0` may come back as `0.0`.
fn normal(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(list) => list.into_iter().map(normal).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, normal(value))).collect(),
        other => other,
    }
}

/// Asserts that a view and its `extra` together hold the whole record.
fn assert_whole(message: &Message<'_>, wanted: &Value) {
    // Through text, so that the same parser reads the fractions of both sides.
    let held = serde_json::to_string(message).expect("a view has JSON");
    let held = serde_json::from_str(&held).expect("and that is JSON");
    assert_eq!(normal(held), normal(wanted.clone()));
}

/// Returns every recorded message of a real CLI, without control records.
fn real_records() -> Vec<(String, Record)> {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        dir: &'a str,
        #[serde(borrow)]
        record: Option<&'a RawValue>,
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("traces") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "ndjson") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a trace");
        for line in text.lines() {
            let line: Line<'_> = serde_json::from_str(line).expect("a line of a trace");
            let Some(raw) = line.record.filter(|_| line.dir == "out") else { continue };
            let record = Record::from(raw.get().as_bytes().to_vec());
            let kind = record.envelope().expect("an object").kind.expect("a type").into_owned();
            if !kind.starts_with("control_") {
                found.push((format!("{}: {kind}", path.display()), record));
            }
        }
    }
    found
}

#[test]
fn recorded_messages_are_whole_in_their_views() {
    // A view that loses a key would lose it for every host that stores messages.
    let records = real_records();
    assert_eq!(records.len(), 253, "the data records of all traces");
    for (name, record) in &records {
        let message = Message::of(record).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!matches!(message, Message::Other(_)), "{name} has a view");
        assert_whole(&message, &record.json().expect("JSON"));
    }
}

#[test]
fn recorded_results_have_their_fields() {
    // A renamed key of a result would read as absent, and cost and errors would vanish.
    let results = real_records().into_iter().filter(|(name, _)| name.ends_with(": result"));
    let mut errors = 0;
    for (name, record) in results {
        let message = Message::of(&record).expect("a view");
        let Message::Result(result) = message else { panic!("{name}: {message:?}") };
        assert!(result.num_turns > Some(0), "{name}");
        assert_eq!(result.session_id.as_ref().map(|id| id.len()), Some(36), "{name}");
        assert!(result.usage.is_some() && result.total_cost_usd.is_some(), "{name}");
        if let Some(status) = result.api_error_status {
            // If the API refuses, the subtype is `success` and `is_error` is set.
            assert_eq!((status, &*result.subtype, result.failed()), (400, "success", true));
            errors += 1;
        }
    }
    assert_eq!(errors, 1);
}

/// Returns one record for each type with a view, and the keys without which it has none.
fn one_of_each() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let message = json!({"role": "assistant", "model": "m", "content": []});
    let mut all: Vec<(&'static str, Value, &'static [&'static str])> = vec![
        (
            "user",
            json!({"type": "user", "message": {"content": "t"}, "uuid": "u", "tool_use_result": 1,
                "parent_tool_use_id": "p", "origin": {"kind": "k"}, "priority": "now",
                "isSynthetic": true, "isReplay": true, "timestamp": "t", "session_id": "s"}),
            &["message"],
        ),
        (
            "assistant",
            json!({"type": "assistant", "message": message, "error": "rate_limit", "uuid": "u",
                "parent_tool_use_id": "p", "session_id": "s", "user_message_uuid": "m",
                "user_message_uuids": ["m"], "request_id": "r", "timestamp": "t", "aborted": true,
                "is_api_error_message": true, "api_error_status": 500, "api_error_type": "e"}),
            &["message"],
        ),
        (
            "result",
            json!({"type": "result", "subtype": "success", "duration_ms": 1, "num_turns": 1,
                "duration_api_ms": 1, "is_error": false, "session_id": "s", "result": "r",
                "stop_reason": "r", "total_cost_usd": 0.5, "usage": {}, "modelUsage": {},
                "structured_output": [], "permission_denials": [], "errors": ["e"],
                "deferred_tool_use": {"id": "i", "name": "n", "input": {}}, "uuid": "u",
                "api_error_status": 500, "terminal_reason": "t", "origin": {"kind": "k"},
                "user_message_uuid": "m", "user_message_uuids": ["m"], "queued_turn_count": 0,
                "result_index": 0, "subagent_stats": {}, "model_usage_since_last_result": {},
                "first_content_frame_ms": 1, "ttft_ms": 1, "ttft_stream_ms": 1,
                "time_to_request_ms": 1, "safety_stops": [], "fast_mode_state": "off",
                "fast_mode_disabled_reason": "free", "api_error_type": "e"}),
            &["subtype"],
        ),
        (
            "stream_event",
            json!({"type": "stream_event", "uuid": "u", "session_id": "s", "event": {},
                "parent_tool_use_id": "p", "user_message_uuid": "m", "user_message_uuids": ["m"]}),
            &["event"],
        ),
        (
            "rate_limit_event",
            json!({"type": "rate_limit_event", "uuid": "u", "session_id": "s",
                "rate_limit_info": {"status": "allowed", "resetsAt": 1, "rateLimitType": "five",
                "utilization": 0.5, "overageStatus": "o", "overageResetsAt": 2,
                "overageDisabledReason": "r"}}),
            &["rate_limit_info"],
        ),
        (
            "conversation_reset",
            json!({"type": "conversation_reset", "new_conversation_id": "n", "uuid": "u",
                "session_id": "s"}),
            &["new_conversation_id"],
        ),
    ];
    let others = [
        json!({"type": "active_goal", "value": {"condition": "c"}}),
        json!({"type": "auth_status", "isAuthenticating": true, "output": ["o"], "error": "e"}),
        json!({"type": "prompt_suggestion", "suggestion": "s"}),
        json!({"type": "tool_progress", "tool_use_id": "x", "tool_name": "Bash",
            "parent_tool_use_id": "p", "elapsed_time_seconds": 1.5, "task_id": "t"}),
        json!({"type": "tool_use_summary", "summary": "s", "preceding_tool_use_ids": ["x"]}),
    ];
    let subtypes = [
        (
            "hook_response",
            json!({"hook_event": "e", "hook_name": "n", "hook_event_name": "m",
            "hook_id": "h", "stdout": "o", "stderr": "e", "outcome": "error", "exit_code": 2}),
        ),
        ("task_updated", json!({"task_id": "t", "patch": {"status": "killed"}})),
        ("background_tasks_changed", json!({"tasks": []})),
        ("mirror_error", json!({"key": {}, "error": "e"})),
        (
            "init",
            json!({"claude_code_version": "2.1.332", "cwd": "/", "model": "m", "tools": ["Bash"],
            "mcp_servers": [], "permissionMode": "plan", "slash_commands": ["c"],
            "output_style": "default", "agents": ["a"], "skills": ["s"], "plugins": [],
            "plugin_errors": [], "apiKeySource": "k", "betas": ["b"], "effort": "low",
            "capabilities": ["interrupt_receipt_v1"], "fast_mode_state": "off"}),
        ),
        ("session_state_changed", json!({"state": "idle"})),
        (
            "status",
            json!({"status": "compacting", "permissionMode": "plan",
            "compact_result": "failed", "compact_error": "e"}),
        ),
        (
            "api_retry",
            json!({"attempt": 1, "max_retries": 10, "retry_delay_ms": 500,
            "error_status": 529, "error": "server_error"}),
        ),
        ("commands_changed", json!({"commands": []})),
        ("compact_boundary", json!({"compact_metadata": {"trigger": "auto", "pre_tokens": 1}})),
        ("control_request_progress", json!({"request_id": "req_1", "status": "started"})),
        ("elicitation_complete", json!({"mcp_server_name": "m", "elicitation_id": "e"})),
        ("files_persisted", json!({"files": [], "failed": [], "processed_at": "t"})),
        (
            "informational",
            json!({"content": "c", "level": "info", "tool_use_id": "x",
            "prevent_continuation": true}),
        ),
        ("local_command_output", json!({"content": "c"})),
        ("memory_recall", json!({"mode": "select", "memories": []})),
        (
            "model_refusal_fallback",
            json!({"original_model": "a", "fallback_model": "b",
            "direction": "retry", "api_refusal_category": "c", "refused_user_message_uuid": "m",
            "retracted_message_uuids": ["m"], "content": "c"}),
        ),
        ("model_refusal_no_fallback", json!({"original_model": "a", "content": "c"})),
        ("notification", json!({"key": "k", "text": "t", "priority": "low", "timeout_ms": 1})),
        (
            "permission_denied",
            json!({"tool_name": "Bash", "tool_use_id": "x", "agent_id": "a",
            "decision_reason_type": "rule", "decision_reason": "r", "message": "m"}),
        ),
        ("plugin_install", json!({"status": "failed", "name": "n", "error": "e"})),
        (
            "session_writes_lost",
            json!({"error_code": "ENOSPC", "lost": ["transcript"],
            "transcript_session_ids": ["s"]}),
        ),
        (
            "thinking_tokens",
            json!({"estimated_tokens": 2, "estimated_tokens_delta": 1,
            "user_message_uuid": "m"}),
        ),
        ("worker_shutting_down", json!({"reason": "host_exit"})),
        ("news", json!({})),
    ];
    let task = json!({"task_id": "t", "description": "d", "tool_use_id": "x"});
    let tasks = [
        ("task_started", json!({"task_type": "y"}), &["task_id"][..]),
        ("task_progress", json!({"usage": {}, "last_tool_name": "y"}), &["task_id"]),
        (
            "task_notification",
            json!({"status": "failed", "output_file": "o", "summary": "s", "usage": {}}),
            &["task_id", "status"],
        ),
    ];
    let with = |mut keys: Value, more: &Value| {
        for (key, value) in more.as_object().expect("keys") {
            keys[key] = value.clone();
        }
        keys
    };
    let ids = json!({"session_id": "s", "uuid": "u"});
    all.extend(others.map(|value| ("other", with(value, &ids), &[][..])));
    let system = |subtype: &str| with(json!({"type": "system", "subtype": subtype}), &ids);
    all.extend(subtypes.map(|(kind, keys)| (kind, with(system(kind), &keys), &["subtype"][..])));
    all.extend(tasks.map(|(kind, keys, needed)| {
        let subtype = if kind == "task_notification" { "task_notification" } else { kind };
        let mut keys = with(with(system(subtype), &task), &keys);
        if kind == "task_notification" {
            // The only one without a description.
            keys.as_object_mut().expect("keys").remove("description");
        }
        (kind, keys, needed)
    }));
    all
}

#[test]
fn every_view_has_a_field_for_each_key() {
    // A reader of the documentation does not find a key without a field.
    for (kind, value, _) in one_of_each() {
        let record = record(&value);
        let message = Message::of(&record).expect("a record of this type");
        assert!(!matches!(message, Message::Other(_)), "{kind} has a view: {message:?}");
        let shown = format!("{message:?}");
        let extras = shown.matches("extra: Extra([])").count();
        let views = shown.matches("extra: Extra(").count();
        // The role of a message and a condition of a goal are of the API.
        let unread = usize::from(kind == "assistant");
        assert_eq!(extras, views - unread, "{kind}: {shown}");
    }
}

#[test]
fn missing_key_costs_its_field_alone() {
    // A release of the CLI, a gateway or another model may leave a key out. The rest is still there.
    for (kind, whole, needed) in one_of_each() {
        let whole_record = record(&whole);
        let message = Message::of(&whole_record).expect("the record is whole");
        assert_eq!(serde_json::to_value(&message).expect("JSON"), whole, "{kind}: nothing is lost");
        let keys = whole.as_object().expect("an object").keys().filter(|key| *key != "type");
        for key in keys {
            for broken in [None, Some(json!({"no": "such thing"})), Some(Value::Null)] {
                let mut value = whole.clone();
                match &broken {
                    None => drop(value.as_object_mut().expect("an object").remove(key)),
                    Some(other) => value[key] = other.clone(),
                }
                let record = record(&value);
                let message = Message::of(&record).expect("an object with a type");
                assert_whole(&message, &value);
                let Message::Other(other) = message else { continue };
                let why = other.why.expect("it has a reason");
                assert!(needed.contains(&&**key) || key == "subtype", "{kind}: {why}");
                assert!(why.contains(&format!("`{key}`")), "{kind}: {why}");
            }
        }
    }
    assert!(refusal(&json!({"no": "type"})).contains("the key `type` is missing"));
    assert!(refusal(&json!({"type": 7})).contains("`type`: expected a string"));
    assert!(refusal(&json!([])).contains("expected an object"));
}

#[test]
fn odd_block_costs_no_other_block() {
    // A thinking block without a signature once hid the answer beside it, and so did a message whose
    // content is a plain text, or that names no model.
    let of = |message: Value| json!({"type": "assistant", "message": message});
    let text = json!({"type": "text", "text": "the answer"});
    for odd in [
        json!({"type": "thinking", "thinking": "hm"}),
        json!({"type": "tool_use", "name": "n", "input": {}}),
        json!({"type": "tool_result", "tool_use_id": 7}),
        json!({"type": "text", "text": 3}),
        json!({"type": "text"}),
        json!({"type": null}),
        json!(null),
    ] {
        let value = of(json!({"model": "m", "content": [text, odd]}));
        let record = record(&value);
        let message = Message::of(&record).expect("a view");
        assert_whole(&message, &value);
        let Message::Assistant(said) = message else { panic!("{odd}") };
        let content = said.message.content;
        assert_eq!(content.texts().collect::<Vec<_>>(), ["the answer"]);
        let thinks = matches!(&content.blocks()[1], Block::Thinking(it) if it.signature.is_none());
        assert!(thinks || matches!(content.blocks()[1], Block::Other(_)), "{content:?}");
    }
    let texts = |message: Value| {
        let value = of(message);
        let record = record(&value);
        let message = Message::of(&record).expect("a view");
        assert_whole(&message, &value);
        let Message::Assistant(said) = message else { panic!("{message:?}") };
        said.message.content.texts().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(texts(json!({"role": "assistant", "model": "m", "content": "plain"})), ["plain"]);
    assert_eq!(texts(json!({"content": [text]})), ["the answer"], "no model");
    assert!(texts(json!({"model": "m", "content": null})).is_empty());
}

#[test]
fn result_without_flags_tells_of_its_failure() {
    // A host that reads `is_error` alone would take a failed resume for a success.
    for (keys, failed) in [
        (json!({"subtype": "error_during_execution", "errors": ["No conversation found"]}), true),
        (json!({"subtype": "success"}), false),
        (json!({"subtype": "success", "is_error": true}), true),
        (json!({"subtype": "error_max_turns", "is_error": false}), false),
    ] {
        let mut value = keys;
        value["type"] = "result".into();
        let record = record(&value);
        let Ok(Message::Result(result)) = Message::of(&record) else { panic!("{value}") };
        assert_eq!(result.failed(), failed, "{value}");
    }
}

#[test]
fn unknown_types_and_keys_are_kept() {
    // A later CLI sends types and keys that have no view yet.
    let unknown = record(&json!({"type": "keep_alive", "a": [1]}));
    let Message::Other(other) = Message::of(&unknown).expect("a view") else { panic!() };
    assert_eq!((&*other.kind, other.record), ("keep_alive", &unknown));

    let blocks = json!([
        {"type": "image", "source": {"data": "x"}}, {"no": "type"}, {"type": 1}, "text", 7,
        {"type": "thinking", "thinking": "t", "signature": "s", "new": true},
        {"type": "server_tool_use", "id": "i", "name": "n", "input": {"q": 1}},
        {"type": "advisor_tool_result", "tool_use_id": "i", "content": {"type": "x"}},
        {"type": "tool_result", "tool_use_id": "i", "content": [{"type": "image"}]},
    ]);
    let said = json!({"type": "user", "message": {"role": "user", "content": blocks}, "new": {}});
    let said_record = record(&said);
    let message = Message::of(&said_record).expect("a view");
    assert_whole(&message, &said);
    let Message::User(user) = message else { panic!() };
    let Content::Blocks(blocks) = &user.message.content else { panic!() };
    let others = blocks.iter().filter(|block| matches!(block, Block::Other(_))).count();
    assert_eq!((blocks.len(), others), (9, 5));
    let Block::Thinking(thinking) = &blocks[5] else { panic!("{:?}", blocks[5]) };
    assert_eq!(thinking.extra.get("new").map(Json::as_str), Some("true"));
    assert_eq!(user.extra.iter().map(|(key, _)| key).collect::<Vec<_>>(), ["new"]);
}

#[test]
fn origin_without_a_text_kind_stays_in_extra() {
    // A host that trusts `origin` must not get a guess.
    for (origin, kept) in [
        (json!({"kind": "channel", "server": "s"}), true),
        (json!({"kind": 7}), false),
        (json!({}), false),
        (json!("channel"), false),
        (json!(null), false),
    ] {
        let value = json!({"type": "user", "message": {"content": ""}, "origin": origin});
        let record = record(&value);
        let message = Message::of(&record).expect("a view");
        assert_whole(&message, &value);
        let Message::User(user) = message else { panic!() };
        assert_eq!(user.origin.is_some(), kept, "{origin}");
        assert_eq!(user.extra.get("origin").is_some(), !kept, "{origin}");
    }
}

#[test]
fn unknown_words_are_kept() {
    // A status of a later CLI must not read as the end of a task.
    let status = |word: &str| {
        let patch = json!({"status": word, "end_time": 3});
        let record = record(&json!({"type": "system", "subtype": "task_updated", "patch": patch}));
        let Ok(Message::TaskUpdated(updated)) = Message::of(&record) else { panic!() };
        let status = updated.patch.expect("a patch").status.expect("a status");
        assert_eq!(status.as_str(), word);
        status.is_terminal()
    };
    for word in ["completed", "failed", "stopped", "killed"] {
        assert!(status(word), "{word}");
    }
    assert!(!status("running") && !status("paused") && !status(""));

    let error = |word: &str| {
        let message = json!({"model": "m", "content": []});
        let record = record(&json!({"type": "assistant", "message": message, "error": word}));
        let Ok(Message::Assistant(said)) = Message::of(&record) else { panic!() };
        let error = said.error.expect("an error");
        assert_eq!(error.as_str(), word);
        !matches!(error, AssistantError::Other(_))
    };
    for word in
        "authentication_failed billing_error rate_limit invalid_request server_error unknown"
            .split(' ')
    {
        assert!(error(word), "{word}");
    }
    assert!(!error("max_output_tokens"));

    for key in ["hook_event", "hook_name", "hook_event_name"] {
        let record = record(&json!({"type": "system", "subtype": "hook_response", key: "Stop"}));
        let Ok(Message::HookEvent(hook)) = Message::of(&record) else { panic!() };
        assert_eq!(hook.event(), Some("Stop"), "{key}");
    }
}

#[test]
fn text_without_escapes_is_borrowed() {
    // Images of many megabytes are part of messages.
    let long = "x".repeat(1 << 20);
    let content = json!([{"type": "text", "text": long}, {"type": "image", "data": long}]);
    let record = record(&json!({"type": "user", "message": {"content": content}}));
    let inside = record.as_bytes().as_ptr_range();
    let Ok(Message::User(user)) = Message::of(&record) else { panic!() };
    let Content::Blocks(blocks) = user.message.content else { panic!() };
    let [Block::Text(text), Block::Other(image)] = &blocks[..] else { panic!("{blocks:?}") };
    assert!(matches!(text.text, Cow::Borrowed(_)) && inside.contains(&text.text.as_ptr()));
    assert!(inside.contains(&image.as_str().as_ptr()));
    let shown = format!("{:?}", image);
    assert!(shown.len() < 200 && shown.ends_with("bytes)"), "{shown}");
}

#[test]
fn inexact_value_is_kept_in_extra() {
    // A clock may go backwards, a text may be cut within a character, and a key may be repeated. None of
    // these may make the message an error, or be lost.
    let text = concat!(
        r#"{"type":"result","subtype":"success","duration_ms":-3,"duration_api_ms":12.75,"#,
        r#""is_error":true,"is_error":false,"num_turns":1,"session_id":"s","#,
        r#""result":"cut \ud83d","total_cost_usd":12345678901234567890}"#
    );
    let record = Record::from(text.as_bytes().to_vec());
    let Ok(Message::Result(result)) = Message::of(&record) else { panic!() };
    assert_eq!(
        (result.duration_ms, result.duration_api_ms, result.is_error),
        (Some(0), Some(13), Some(false))
    );
    assert_eq!(result.result.as_deref(), Some("cut \u{fffd}\u{fffd}\u{fffd}"));
    let kept: Vec<_> = result.extra.iter().map(|(key, json)| (key, json.as_str())).collect();
    let wanted = [
        ("duration_ms", "-3"),
        ("duration_api_ms", "12.75"),
        ("is_error", "true"),
        ("is_error", "false"),
        ("result", "\"cut \\ud83d\""),
        ("total_cost_usd", "12345678901234567890"),
    ];
    assert_eq!(kept, wanted);
    assert_eq!(result.extra.get("is_error").map(Json::as_str), Some("false"));
    let again = serde_json::to_string(&result).expect("JSON");
    assert_eq!(again.matches("is_error").count(), 2, "{again}");
}

#[test]
fn deeply_nested_record_has_a_view() {
    // A recursive parser would overflow its stack on the input of a tool.
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let call = format!(r#"{{"type":"tool_use","id":"i","name":"n","input":{deep}}}"#);
    let text = format!(
        r#"{{"type":"assistant","deep":{deep},"message":{{"model":"m","content":[{call}]}}}}"#
    );
    let record = Record::from(text.into_bytes());
    let Ok(Message::Assistant(said)) = Message::of(&record) else { panic!() };
    let [Block::ToolUse(call)] = said.message.content.blocks() else { panic!() };
    assert_eq!(call.input.as_str(), deep);
    assert!(call.input.parse::<Value>().is_err(), "too deep to build, and no panic");
    assert_eq!(serde_json::to_string(&said).expect("JSON").len(), record.len());
}

/// Keys of real messages, and sometimes another.
fn any_key() -> impl Strategy<Value = String> {
    let keys = "type subtype message content model text id name input uuid session_id patch status \
        origin kind is_error num_turns duration_ms duration_api_ms task_id description event usage \
        errors tool_use_id thinking signature total_cost_usd parent_tool_use_id error result new";
    let keys: Vec<&str> = keys.split_whitespace().collect();
    prop_oneof![9 => prop::sample::select(keys).prop_map(String::from), 1 => ".{0,3}"]
}

/// Values with types, keys and words of real messages in any place.
fn any_value() -> impl Strategy<Value = Value> {
    let words = "user assistant system result stream_event task_started task_updated text tool_use \
        tool_result thinking success completed init";
    let words: Vec<&str> = words.split_whitespace().collect();
    let leaf = prop_oneof![
        3 => prop::sample::select(words).prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        // Fractions that every parser reads alike.
        1 => any::<i32>().prop_map(|number| Value::from(f64::from(number) / 4.0)),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(5, 64, 6, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::btree_map(any_key(), inner, 0..10)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Collects the JSON pointers of all values inside a value.
fn places(value: &Value, here: &str, found: &mut Vec<String>) {
    found.push(here.to_owned());
    match value {
        Value::Array(list) => {
            for (at, inner) in list.iter().enumerate() {
                places(inner, &format!("{here}/{at}"), found);
            }
        }
        Value::Object(map) => {
            for (key, inner) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(inner, &format!("{here}/{key}"), found);
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(1000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// No bytes panic the parser, and bytes that are not JSON have no view.
    #[test]
    fn any_bytes_can_be_viewed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let record = Record::from(bytes);
        if let Ok(message) = Message::of(&record) {
            prop_assert!(record.json::<Value>().is_ok(), "{message:?}");
        }
    }

    /// Known keys with values of all types, in messages of all types.
    #[test]
    fn generated_messages_are_whole_in_their_views(
        pick in any::<prop::sample::Index>(),
        others in prop::collection::btree_map(any_key(), any_value(), 0..6),
        inside in prop::collection::btree_map(any_key(), any_value(), 0..6),
    ) {
        let all = one_of_each();
        let (kind, mut value, required) = pick.get(&all).clone();
        for (key, other) in others {
            if key != "type" && key != "subtype" && !required.contains(&&*key) {
                value[key] = other;
            }
        }
        if let Some(message) = value.get_mut("message").filter(|message| message.is_object()) {
            for (key, other) in inside.into_iter().filter(|(key, _)| key != "model") {
                // Not every content is valid.
                message[key] = other;
            }
        }
        let record = record(&value);
        let message = Message::of(&record).expect("an object with a type");
        if let Message::Other(other) = &message {
            let why = other.why.as_deref().unwrap_or_default();
            prop_assert!(why.contains("`content`"), "{kind}: {why}");
        }
        assert_whole(&message, &value);
    }

    /// A valid record with one value replaced.
    #[test]
    fn one_wrong_value_is_kept_or_an_error(
        pick in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        other in any_value(),
    ) {
        let all: Vec<Value> = one_of_each().into_iter().map(|(_, value, _)| value).collect();
        let mut value = pick.get(&all).clone();
        let mut found = Vec::new();
        places(&value, "", &mut found);
        let place: &String = place.get(&found);
        *value.pointer_mut(place).expect("it is there") = other;
        let record = record(&value);
        match Message::of(&record) {
            Ok(message) => assert_whole(&message, &value),
            Err(error) => {
                let error = error.to_string();
                prop_assert!(error.contains('`') || error.contains("expected an object"), "{error}");
            }
        }
    }
}
