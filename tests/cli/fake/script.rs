//! Dialogues: `--script` and `--step`.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{Fake, INITIALIZE, converse, json, lines};
use crate::support::PROGRAM;

/// The arguments that play these steps.
fn played<'a>(steps: &[&'a str]) -> Vec<&'a str> {
    steps.iter().flat_map(|step| ["--step", step]).collect()
}

/// What a dialogue with this input writes, its status, and what it says on stderr.
fn play(steps: &[&str], input: &str) -> (String, Option<i32>, String) {
    play_with(&played(steps), input)
}

fn play_with(args: &[&str], input: &str) -> (String, Option<i32>, String) {
    let mut fake = Fake::start(args);
    let mut stderr = fake.stderr.take().expect("piped");
    if !input.is_empty() {
        fake.send(input.trim_end_matches('\n'));
    }
    fake.end_input();
    let output = String::from_utf8(fake.rest()).expect("utf-8");
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("utf-8");
    (output, fake.exit().code(), said)
}

#[test]
fn script_is_played_step_by_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dialogue");
    let script = r#"
# The handshake of a control agent.
{"expect": {"type": "control_request", "request_id": "${id}", "request": {"subtype": "initialize"}}}
{"send": {"type": "control_response",
          "response": {"subtype": "success", "request_id": "${id}", "response": {"n": 1.50}}}}
{"delay": 1}
{"expect_end": true}
{"stderr": "bye ${id}"}
{"exit": 7}
"#;
    fs::write(&path, script).expect("a file");
    let args = ["--script", path.to_str().expect("utf-8")];
    let (output, status, said) = play_with(&args, INITIALIZE);
    let wanted = concat!(
        r#"{"type":"control_response","response":{"subtype":"success","#,
        r#""request_id":"req_1_9f3a01bc","response":{"n":1.50}}}"#,
        "\n"
    );
    assert_eq!((output.as_str(), status, said.as_str()), (wanted, Some(7), "bye req_1_9f3a01bc\n"));
}

#[test]
fn unexpected_input_is_located() {
    let steps = [r#"{"delay": 1}"#, r#"{"expect": {"type": "user", "message": {"n": 1}}}"#];
    let cases = [
        ("", "step 2 (expect): stdin ended, expected {\"message\":{\"n\":1},\"type\":\"user\"}"),
        (
            r#"{"type":"user"}"#,
            "step 2 (expect): /message: it is missing; the record: {\"type\":\"user\"}",
        ),
        (r#"{"type":"x"}"#, "step 2 (expect): /message: it is missing"),
        (r#"{"type":"user","message":{"n":2}}"#, "step 2 (expect): /message/n: expected 1, got 2"),
        ("noise", "step 2 (expect): not JSON: "),
    ];
    for (input, wanted) in cases {
        let (output, status, said) = play(&steps, input);
        assert_eq!((output.as_str(), status), ("", Some(65)), "{input}: {said}");
        let wanted = format!("agentpipe fake: {wanted}");
        assert!(said.starts_with(&wanted) && said.lines().count() == 1, "{said}");
    }
    // A flag that sets the status does not hide it.
    let args = [played(&steps), vec!["--exit-code", "0"]].concat();
    assert_eq!(play_with(&args, "{}").1, Some(65));
    // Neither does a dialogue that is over listen to everything.
    let (_, status, said) = play(&[r#"{"send": {}}"#], r#"{"late":1}"#);
    assert_eq!(status, Some(65));
    assert_eq!(
        said,
        "agentpipe fake: after the last step: expected the end of input, got {\"late\":1}\n"
    );
}

#[test]
fn broken_script_fails_before_its_first_step() {
    let cases = [
        (r#"{"sned": {}}"#, "step 2: no verb; there are on, repeat, expect"),
        (r#"{"send": {}, "skip": true}"#, "step 2 (send): `skip` does not go with it"),
        (r#"{"delay": "1s"}"#, "step 2 (delay): delay: invalid type"),
        (r#"{"exit": 256}"#, "step 2 (exit): expected a status"),
        (r#"{"exit": "NOPE"}"#, "step 2 (exit): unknown signal `NOPE`"),
        (r#"{"repeat": 2, "steps": [{"send": 1}, {"delay": -1}]}"#, "step 2.2 (delay): "),
        (r#"{"on": {}, "steps": [{"delay": 1}]}"#, "step 2.1 (delay): a rule may not wait"),
        (r#"{"raw_hex": "f"}"#, "step 2 (raw_hex): expected pairs"),
        (r#"{"close": "all"}"#, "step 2 (close): expected stdin"),
        (r#"{"flood": 1, "size": 63}"#, "step 2 (flood): `size` is 64 bytes to 1 GiB"),
        (r#"{"flood": 1, "size": 1073741825}"#, "step 2 (flood): `size` is 64 bytes to 1 GiB"),
        ("[1]", "step 2: "),
    ];
    for (step, wanted) in cases {
        let (output, status, said) = play(&[r#"{"send": {}}"#, step], "");
        assert_eq!((output.as_str(), status), ("", Some(1)), "{step}: {said}");
        let wanted = format!("agentpipe fake: {wanted}");
        assert!(said.starts_with(&wanted) && said.lines().count() == 1, "{said}");
    }
    // What only a name that was never bound can show.
    let (_, status, said) = play(&[r#"{"send": {"id": "${id}"}}"#], "");
    assert_eq!(status, Some(1));
    assert_eq!(said, "agentpipe fake: step 1 (send): nothing is bound to `id`\n");
}

// A wrong path may name a device without an end, which filled the memory. Where the limit fell into a
// character, the error was that the text is not UTF-8.
#[test]
fn endless_script_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let umlauts = dir.path().join("umlauts");
    fs::write(&umlauts, "\u{e4}".repeat((32 << 20) + 1)).expect("written");
    for path in [Path::new("/dev/zero"), &umlauts] {
        let output = Command::new(PROGRAM).args(["fake", "--script"]).arg(path).output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let wanted =
            format!("agentpipe fake: {}: larger than the 64 MiB allowed\n", path.display());
        assert_eq!(said, wanted);
    }
}

// A host may send its control requests before, between or after the records that a test is about.
#[test]
fn rules_answer_in_any_order() {
    let steps = [
        r#"{"on": {"type": "control_request", "request_id": "${id}"}, "send": {"answer": "${id}"}}"#,
        r#"{"expect": {"type": "user", "id": "${id}"}}"#,
        r#"{"send": {"turn": "${id}"}}"#,
    ];
    let request = |id: &str| format!(r#"{{"type":"control_request","request_id":"{id}"}}"#);
    let user = r#"{"type":"user","id":7}"#;
    let (one, two) = (request("a"), request("b"));
    let answers = |order: [&str; 3]| {
        let (output, status, said) = play(&steps, &order.join("\n"));
        assert_eq!(status, Some(0), "{said}");
        output.replace('\n', " ")
    };
    assert_eq!(answers([&one, user, &two]), r#"{"answer":"a"} {"turn":7} {"answer":"b"} "#);
    assert_eq!(answers([user, &one, &two]), r#"{"turn":7} {"answer":"a"} {"answer":"b"} "#);
    assert_eq!(answers([&two, &one, user]), r#"{"answer":"b"} {"answer":"a"} {"turn":7} "#);
}

#[test]
fn rules_can_be_late_and_limited() {
    let steps = [
        r#"{"on": {"n": "slow"}, "after": 60, "times": 1, "send": {"a": "slow"}}"#,
        r#"{"on": {"n": "fast"}, "send": {"a": "fast"}, "steps": [{"raw": "!\n"}]}"#,
    ];
    let (slow, fast) = (r#"{"n":"slow"}"#, r#"{"n":"fast"}"#);
    // What is owed at the end of input still comes, in its time.
    let (output, status, _) = play(&steps, &[slow, fast].join("\n"));
    assert_eq!((output.as_str(), status), ("{\"a\":\"fast\"}\n!\n{\"a\":\"slow\"}\n", Some(0)));
    let (_, status, said) = play(&steps, &[slow, slow].join("\n"));
    assert_eq!(status, Some(65), "{said}");
}

#[test]
fn silence_can_be_expected() {
    let steps = [r#"{"expect": {"n": 1}}"#, r#"{"quiet": 40}"#, r#"{"send": {"still": true}}"#];
    let mut fake = Fake::start(&played(&steps));
    fake.send(r#"{"n":1}"#);
    assert_eq!(fake.record(), json!({"still": true}));
    fake.end_input();
    assert_eq!(fake.exit().code(), Some(0));

    let (_, status, said) = play(&steps, "{\"n\":1}\n{\"n\":2}");
    assert_eq!(status, Some(65));
    assert_eq!(said, "agentpipe fake: step 2 (quiet): expected silence, got {\"n\":2}\n");
}

#[test]
fn blocks_repeat_and_skips_apply() {
    let steps = [
        r#"{"repeat": 2, "steps": [{"send": {"turn": "${i}"}}]}"#,
        r#"{"expect": {"wanted": true}, "skip": true}"#,
        r#"{"repeat": "forever", "steps": [{"expect": {"n": "${n}"}}, {"send": {"n": "<${n}>"}}]}"#,
        r#"{"send": {"over": true}}"#,
    ];
    let input = "{\"x\":1}\n[2]\n{\"wanted\":true}\n{\"n\":[1]}\n{\"n\":\"t\"}";
    let (output, status, said) = play(&steps, input);
    assert_eq!(status, Some(0), "{said}");
    let wanted = r#"{"turn":0} {"turn":1} {"n":"<[1]>"} {"n":"<t>"} {"over":true} "#;
    assert_eq!(output.replace('\n', " "), wanted);
}

#[test]
fn script_floods_breaks_and_dies() {
    let (output, status) = converse(
        &played(&[
            r#"{"flood": 3, "size": 100, "type": "assistant"}"#,
            r#"{"raw_hex": "7b 22ff 0a"}"#,
            r#"{"close": "stdout"}"#,
            r#"{"send": {"lost": true}}"#,
        ]),
        "",
    );
    assert_eq!(status.code(), Some(0));
    let played_lines = lines(&output);
    assert_eq!(played_lines.len(), 4);
    for (number, line) in played_lines[..3].iter().enumerate() {
        assert_eq!(line.len(), 99);
        assert_eq!(json(line)["seq"], number);
        assert_eq!(json(line)["type"], "assistant");
    }
    assert_eq!(played_lines[3], b"{\"\xff");

    let mut fake = Fake::start(&played(&[r#"{"close": "stderr"}"#, r#"{"exit": "SIGKILL"}"#]));
    assert_eq!(fake.exit().signal(), Some(9));
}

#[test]
fn script_speaks_content_length() {
    let steps = [r#"{"expect": {"id": "${id}"}}"#, r#"{"send": {"id": "${id}", "result": null}}"#];
    let args = [vec!["--framing", "content-length"], played(&steps)].concat();
    let (output, status) = converse(&args, "Content-Length: 8\r\n\r\n{\"id\":1}");
    assert_eq!(status.code(), Some(0));
    assert_eq!(output, b"Content-Length: 22\r\n\r\n{\"id\":1,\"result\":null}");
}
