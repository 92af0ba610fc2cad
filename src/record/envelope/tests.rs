//! The outline compared with a parser: if the outline is known, both agree.

use proptest::prelude::*;

use super::{Envelope, Outline};

fn by_parser(text: &str) -> Option<Envelope<'_>> {
    serde_json::from_str(text).ok()
}

#[test]
fn outline_is_unknown_if_it_needs_a_parser() {
    for text in [
        "[]",
        "1",
        r#"{"ty\u0070e":"x"}"#,
        r#"{"type":"a\n"}"#,
        r#"{"type":"a","type":"b"}"#,
        r#"{"type":1,"type":2}"#,
        &format!(r#"{{"type":"{}"}}"#, "x".repeat(usize::from(u16::MAX))),
    ] {
        let outline = Outline::of(text.as_bytes()).expect("it is JSON");
        assert!(!outline.is_known(), "{text}");
        assert_eq!(outline.envelope(text.as_bytes()), None);
    }
    assert_eq!(Outline::of(b"{"), None);
}

#[test]
fn outline_of_other_bytes_does_not_panic() {
    let outline = Outline::of(br#"{"type":"result","session_id":"s"}"#).expect("JSON");
    assert_eq!(outline.envelope(b"{}"), None);
    assert_eq!(outline.envelope("{\"type\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}".as_bytes()), None);
}

/// Objects with routing keys in any order and of any type, some of them twice.
fn objects() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        r#""type""#,
        r#""subtype""#,
        r#""request_id""#,
        r#""session_id""#,
        r#""parent_tool_use_id""#,
        r#""other""#,
        r#""ty\u0070e""#,
    ]);
    let value = prop::sample::select(vec![
        r#""text""#,
        r#""""#,
        r#""a\"b""#,
        "\"\u{e9}\u{1f980}\"",
        "null",
        "-1.5",
        r#"{"type":"inner"}"#,
        r#"["type",{"type":"inner"}]"#,
        "true",
    ]);
    let space = prop::sample::select(vec!["", " ", "\t"]);
    prop::collection::vec((key, value, space), 0..7).prop_map(|members| {
        let members: Vec<_> = members
            .into_iter()
            .map(|(key, value, s)| format!("{s}{key}{s}:{s}{value}{s}"))
            .collect();
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn outline_agrees_with_the_parser(text in objects()) {
        let outline = Outline::of(text.as_bytes()).expect("it is JSON");
        if outline.is_known() {
            prop_assert_eq!(outline.envelope(text.as_bytes()), by_parser(&text), "{}", text);
        }
    }
}
