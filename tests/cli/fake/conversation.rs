//! Echo, the control handshake, stderr, usage errors.

use std::io::Read;

use rustix::io::ioctl_fionread;

use super::{Fake, INITIALIZE, USER, converse, text};

#[test]
fn echo_returns_every_byte() {
    assert_eq!(text(&[], "one\n\n{\"two\":2}\r\nlast"), "one\n\n{\"two\":2}\r\nlast");
    assert_eq!(text(&["--echo"], ""), "");
    let long = format!("{}\n", "x".repeat(300_000));
    assert_eq!(text(&[], &long), long);
}

#[test]
fn echo_answers_line_by_line() {
    let mut fake = Fake::start(&[]);
    for number in 0..100 {
        fake.send(&number.to_string());
        assert_eq!(fake.line(), format!("{number}\n"));
    }
    fake.end_input();
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn content_length_frames_are_echoed() {
    let args = ["--framing", "content-length"];
    let input = "Content-Length: 2\r\n\r\n{}Content-Type: x\r\ncontent-length: 3\r\n\r\n{\n}";
    let wanted = "Content-Length: 2\r\n\r\n{}Content-Length: 3\r\n\r\n{\n}";
    assert_eq!(text(&args, input), wanted);
    let (_, status) = converse(&args, "no header\r\n\r\n");
    assert_eq!(status.code(), Some(1));
}

#[test]
fn framing_of_the_host_is_found() {
    let headers = "Content-Length: 2\r\n\r\n{}";
    assert_eq!(text(&["--framing", "auto"], headers), headers);
    assert_eq!(text(&["--framing", "auto"], "{}\n[]\n"), "{}\n[]\n");
    assert_eq!(text(&["--framing", "concat"], "{}\n[]\n"), "{}[]");
}

#[test]
fn handshake_is_answered_with_its_id() {
    let mut fake = Fake::start(&["--answer-initialize"]);
    fake.send(INITIALIZE);
    let response = fake.record();
    assert_eq!(response["type"], "control_response");
    assert_eq!(response["response"]["subtype"], "success");
    assert_eq!(response["response"]["request_id"], "req_1_9f3a01bc");
    assert_eq!(response["response"]["response"]["pid"], fake.child.id());

    fake.send(
        r#"{"type":"control_request","request_id":"a\"b","request":{"subtype":"set_model"}}"#,
    );
    let response = fake.record();
    assert_eq!(response["response"]["request_id"], "a\"b");
    assert_eq!(response["response"]["response"], serde_json::json!({}));

    // Noise from the host and answers to requests that were never made get no answer.
    fake.send("not json");
    fake.send(r#"{"type":"control_response","response":{}}"#);
    fake.send(USER);
    assert_eq!(fake.record()["type"], "assistant");
    let result = fake.record();
    assert_eq!((&result["type"], &result["is_error"]), (&"result".into(), &false.into()));
    fake.end_input();
    assert_eq!(fake.rest(), b"");
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn stderr_lines_come_first() {
    let mut fake = Fake::start(&["--stderr", "one", "--stderr", "two", "--exit-now"]);
    let mut stderr = String::new();
    fake.stderr.take().expect("piped").read_to_string(&mut stderr).expect("utf-8");
    assert_eq!(stderr, "one\ntwo\n");
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn unread_stderr_blocks_the_answer() {
    let mut fake = Fake::start(&["--flood-stderr", "1m"]);
    fake.send("hello");
    fake.end_input();
    assert!(fake.is_alive_after(200));
    let pipe = fake.stdout.as_ref().expect("open").get_ref();
    assert_eq!(ioctl_fionread(pipe).expect("a pipe"), 0, "no answer while stderr is full");
    let mut stderr = Vec::new();
    fake.stderr.take().expect("piped").read_to_end(&mut stderr).expect("a pipe");
    assert_eq!(stderr.len(), 1 << 20);
    assert_eq!(fake.line(), "hello\n");
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn endless_stderr_runs_beside_the_conversation() {
    let mut fake = Fake::start(&["--flood-stderr"]);
    fake.send("hello");
    assert_eq!(fake.line(), "hello\n");
    fake.end_input();
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn contradicting_flags_are_a_usage_error() {
    for args in [
        &["--crlf", "--framing", "content-length"][..],
        &["--rate", "5"],
        &["--echo", "--answer-initialize"],
        &["--flood", "--like", "claude-native"],
        &["--flood", "64q"],
        &["--record-size", "10"],
        &["--ignore-sigterm", "--sigterm-restart"],
        &["--chat", "1"],
        &["--chat", "1,-2"],
        &["--chat-as", "mcp"],
    ] {
        assert_eq!(converse(args, "").1.code(), Some(2), "{args:?}");
    }
}

// With `--script FILE --flood 1m` no flood came, and the test that used it tested something else.
#[test]
fn flags_a_dialogue_ignores_are_refused() {
    let step = ["--step", r#"{"exit": 0}"#];
    for plays in [&step[..], &["--script", "/dev/null"], &["--chat", "1,0"]] {
        assert_eq!(converse(plays, "").1.code(), Some(0), "{plays:?} alone is fine");
        for flag in [
            &["--flood"][..],
            &["--flood", "1m"],
            &["--records", "3"],
            &["--record-size", "2k"],
            &["--records", "3", "--rate", "5"],
            &["--one-write"],
            &["--huge", "1m"],
            &["--flood-after-input"],
            &["--read-eof-between"],
            &["--never-read-stdin"],
            &["--close-stdout"],
            &["--like", "claude-native"],
            &["--replay-builtin", "text_turn"],
            &["--answer-initialize"],
            &["--echo"],
        ] {
            let args = [plays, flag].concat();
            assert_eq!(converse(&args, "").1.code(), Some(2), "{args:?}");
        }
    }
}

#[test]
fn tell_command_shows_arguments_and_environment() {
    let arguments = ["--tell-command", "--", "--flag=-x", "", "two words\n", "--"];
    let mut fake = Fake::start(&arguments);
    let told = fake.record();
    assert_eq!(told["type"], "command");
    assert_eq!(told["args"], serde_json::json!(["--flag=-x", "", "two words\n", "--"]));
    assert_eq!(told["env"]["PATH"], std::env::var("PATH").expect("a path"));
    let cwd = std::env::current_dir().expect("a directory");
    assert_eq!(told["cwd"], cwd.to_str().expect("text"));
    // Without the flag they are passed over.
    assert_eq!(text(&["--", "--output-format", "x"], "{}\n"), "{}\n");
}
