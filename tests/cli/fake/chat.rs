//! `--chat`: the agent that sends and answers requests at random, and counts them.

use super::{Fake, converse};

/// The answer to request `c-1`, whether it asks for an answer or for an error.
fn both_answers() -> [&'static str; 2] {
    [
        concat!(
            r#"{"type":"control_response","response":{"subtype":"success","#,
            r#""request_id":"c-1","response":{"n":1}}}"#,
            "\n"
        ),
        concat!(
            r#"{"type":"control_response","response":{"subtype":"error","#,
            r#""request_id":"c-1","error":"no"}}"#,
            "\n"
        ),
    ]
}

#[test]
fn chat_reports_missing_answers() {
    for said in [
        "",
        "{\"type\":\"news\"}\n",
        "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\"request_id\":\"c-9\"}}\n",
        "no record\n",
    ] {
        let (_, status) = converse(&["--chat", "7,1"], said);
        assert_eq!(status.code(), Some(65), "{said:?}");
    }
}

// The host does not know when a request comes, so it waits for each.
#[test]
fn chat_demands_one_right_answer_per_request() {
    let statuses: Vec<Option<i32>> = [[0].as_slice(), &[1], &[0, 0], &[1, 1]]
        .into_iter()
        .map(|which| {
            let mut fake = Fake::start(&["--chat", "7,1"]);
            let asked = fake.record();
            assert_eq!(asked["request"]["n"], 1, "{asked}");
            let said: String = which.iter().map(|at| both_answers()[*at]).collect();
            fake.send(said.trim_end());
            fake.end_input();
            fake.timed_exit().0
        })
        .collect();
    let fine = statuses.iter().filter(|status| **status == Some(0)).count();
    assert_eq!(fine, 1, "once, and as it was asked to: {statuses:?}");
    assert!(statuses[2..].iter().all(|status| *status == Some(65)), "{statuses:?}");
}

#[test]
fn empty_chat_is_its_tally() {
    for protocol in ["claude", "mcp", "lsp"] {
        let (output, status) = converse(&["--chat", "5,0", "--chat-as", protocol], "");
        let text = String::from_utf8(output).expect("utf-8");
        let records: Vec<&str> = text.lines().collect();
        assert_eq!((records.len(), status.code()), (2, Some(0)), "{text}");
        assert!(records[0].contains("chat_done") && records[1].contains("chat_tally"), "{text}");
    }
}
