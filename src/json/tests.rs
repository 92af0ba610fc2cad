//! The validator compared with `serde_json`: both accept the same texts.

use proptest::prelude::*;

use super::fuzz::is_json as reference;
use super::{ByWords, JsonSummary, JsonValue, is_valid, validate, validate_with};

#[test]
fn truncated_texts_match_serde() {
    let texts = [
        r#"{"type":"assistant","n":[1,-0,0.5,1e9,2E-7,3.25e+1],"x":{"y":null,"z":[true,false]}}"#,
        r#" { "a" : "b\"c\\ \/\b\f\n\r\t\u00e9\ud83d" , "long" : "0123456789abcdef0123456789abcdef01" } "#,
        "\t[ [] , {} , \"\" , [[[{\"a\":[]}]]] ]\r\n",
        r#""a text alone""#,
        "-12.5e-3",
        "true",
        "{\"\u{65e5}\u{672c}\":\"\u{8a9e}\u{1f980}\"}",
    ];
    for text in texts {
        assert!(is_valid(text.as_bytes()), "{text}");
        for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            let part = &text[..cut];
            assert_eq!(is_valid(part.as_bytes()), reference(part), "{part:?}");
        }
    }
}

/// Tokens may cross the border between two blocks of 64 bytes, so each text is tested at every offset.
#[test]
fn texts_match_serde_at_every_block_offset() {
    let texts = [
        r#"{"a":[1,{"b\\\"":"\\","c":{}}],"d":-1.5e+7,"e":[[]],"f":"","g":[true,null,12345678]}"#,
        r#"{"a":[1,{"b":2]}}"#,
        r#"[0,1,12,123,1234567,12345678,123456789,0123]"#,
        r#"{"a":1,"a" :2 , "\u0061":[{}, {"b" : false}]}"#,
        r#"["\\\\\\\"",{"k":"\""}]"#,
        r#"{"a":{"b":{"c":{"d":[[[[[[]]]]]]}}},"e":"text"}"#,
    ];
    for text in texts {
        for cut in 0..=text.len() {
            for shift in 0..64 {
                let text = " ".repeat(shift) + &text[..cut];
                assert_eq!(is_valid(text.as_bytes()), reference(&text), "{text:?}");
                let by_words = validate_with::<ByWords>(text.as_bytes(), &mut |_| ()).is_some();
                assert_eq!(by_words, reference(&text), "{text:?}");
            }
        }
    }
}

/// Keys of a deeper level were returned if brackets opened and closed in one block.
#[test]
fn members_are_the_same_at_every_block_offset() {
    let long = "l".repeat(200);
    let text =
        r#"{"a":"b","c":[{"d":{"e":1}},{"f":[{}]}],"g" : "h","i":{"i":{}},"j":[],"k":"LONG","#;
    let text = text.replace("LONG", &long) + r#""\\":"n\"","o":"\/","p":"","":0}"#;
    let (some, other) = (JsonValue::Text, JsonValue::Other);
    let expected = [
        (some(b"a"), some(b"b")),
        (some(b"c"), other),
        (some(b"g"), some(b"h")),
        (some(b"i"), other),
        (some(b"j"), other),
        (some(b"k"), some(long.as_bytes())),
        (JsonValue::Escaped, JsonValue::Escaped),
        (some(b"o"), JsonValue::Escaped),
        (some(b"p"), some(b"")),
        (some(b""), other),
    ];
    for shift in 0..64 {
        let text = " ".repeat(shift) + &text;
        let mut seen = Vec::new();
        validate(text.as_bytes(), &mut |member| seen.push((member.key(), member.value())));
        assert_eq!(seen, expected, "{shift}");
        let mut by_words = Vec::new();
        validate_with::<ByWords>(text.as_bytes(), &mut |it| by_words.push((it.key(), it.value())));
        assert_eq!(by_words, expected, "{shift}");
    }
}

#[test]
fn almost_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "]",
        "[1,]",
        "[,1]",
        "{,}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{"a" 1}"#,
        r#"{1:2}"#,
        "{[]}",
        r#"{{"a":1}}"#,
        r#"{"a":1,[]}"#,
        r#"{"a":1]"#,
        "[1}",
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "0x1",
        "nul",
        "nulll",
        "True",
        "'a'",
        r#""a"#,
        r#""\x""#,
        r#""\u12g4""#,
        r#""\u123"#,
        "\"\n\"",
        "\"\0\"",
        "[0123,\"a number with a zero before it, and text behind it\"]",
        "[1:,\"a number with what cannot end it, and text behind it\"]",
        "{} {}",
        "{},",
        "[1],",
        "1,",
        "\"a\",",
        "{}:",
        "[] 1",
        "\u{a0}1",
        "NaN",
        "[1 2]",
        r#"["a""b"]"#,
    ] {
        assert!(!reference(text), "{text:?} is a bad example");
        assert!(!is_valid(text.as_bytes()), "{text:?}");
        // The wrong token may be one block behind the token before it.
        for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            let text = text[..at].to_owned() + &" ".repeat(64) + &text[at..];
            assert_eq!(is_valid(text.as_bytes()), reference(&text), "{text:?}");
        }
    }
}

/// The levels are kept in words of 64 bits, so every 64th level is a border.
#[test]
fn nesting_is_right_at_any_depth() {
    for depth in [1, 2, 63, 64, 65, 127, 128, 129, 5000] {
        for shape in [["[", "]"], [r#"{"k":"#, "}"]] {
            let text = |close: usize| shape[0].repeat(depth) + "1" + &shape[1].repeat(close);
            assert!(is_valid(text(depth).as_bytes()), "{depth}");
            assert!(!is_valid(text(depth - 1).as_bytes()), "{depth}");
            assert!(!is_valid(text(depth + 1).as_bytes()), "{depth}");
        }
        let mixed = r#"[{"k":"#.repeat(depth) + "1" + &"}]".repeat(depth);
        assert!(is_valid(mixed.as_bytes()), "{depth}");
        let crossed = r#"[{"k":"#.repeat(depth) + "1" + &"]}".repeat(depth);
        assert!(!is_valid(crossed.as_bytes()), "{depth}");
    }
}

/// A special byte at any position of a string of any length.
#[test]
fn strings_of_every_length_end_correctly() {
    for len in 0..200 {
        let text = "x".repeat(len);
        assert!(is_valid(format!("\"{text}\"").as_bytes()), "{len}");
        for at in 0..len {
            for (bad, good) in
                [("\n", false), ("\u{1f}", false), (" ", true), ("\\n", true), ("\u{80}", true)]
            {
                let text = format!("\"{}{bad}{}\"", &text[..at], &text[at..]);
                assert_eq!(is_valid(text.as_bytes()), good, "{text:?}");
            }
        }
    }
}

#[test]
fn members_are_those_of_the_outermost_object() {
    let text =
        br#" {"a":"one","b":{"a":"two"},"c":["a"],"d":"t\n","e":-1,"f":null,"a":"","\u0061":1 } "#;
    let mut seen = Vec::new();
    let object = validate(text, &mut |member| seen.push((member.key(), member.value())));
    assert_eq!(object, Some(JsonSummary { is_ascii: true }));
    let (text, other) = (JsonValue::Text, JsonValue::Other);
    let expected = [
        (text(b"a"), text(b"one")),
        (text(b"b"), other),
        (text(b"c"), other),
        (text(b"d"), JsonValue::Escaped),
        (text(b"e"), other),
        (text(b"f"), other),
        (text(b"a"), text(b"")),
        (JsonValue::Escaped, other),
    ];
    assert_eq!(seen, expected);
    assert_eq!(
        validate(b"[{\"a\":1}]", &mut |_| panic!("no key")),
        Some(JsonSummary { is_ascii: true })
    );
    assert_eq!(validate(b"{", &mut |_| ()), None);
}

/// Every block counts, also plain text blocks and the last one.
#[test]
fn non_ascii_byte_is_found_anywhere() {
    for len in 0..200 {
        let text = "x".repeat(len);
        let ascii = format!("{{\"k\":\"{text}\"}}");
        assert_eq!(
            validate(ascii.as_bytes(), &mut |_| ()),
            Some(JsonSummary { is_ascii: true }),
            "{len}"
        );
        let other = format!("{{\"k\":\"{text}\u{80}\"}}");
        let other = other.as_bytes();
        assert_eq!(validate(other, &mut |_| ()), Some(JsonSummary { is_ascii: false }), "{len}");
        let by_words = validate_with::<ByWords>(other, &mut |_| ());
        assert_eq!(by_words, Some(JsonSummary { is_ascii: false }), "{len}");
    }
}

/// Texts that are JSON or almost.
fn texts() -> impl Strategy<Value = String> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"a\"",
        "\"\"",
        "\"\\u00e9\"",
        "\"\\",
        "1",
        "-0.5e3",
        "0",
        "12345678",
        "0123",
        "true",
        "null",
        " ",
        "\"0123456789abcdef0123456789abcdef\"",
        "\u{e9}",
        "\n",
    ]);
    let near = prop_oneof![
        prop::collection::vec(token.clone(), 0..8),
        prop::collection::vec(token, 0..40)
    ];
    let near = near.prop_map(|tokens| tokens.concat());
    let leaf = prop_oneof![
        any::<String>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
    ];
    let good = leaf.prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|pairs| pairs.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    });
    let good = good.prop_map(|value| value.to_string());
    let broken = (good.clone(), any::<prop::sample::Index>(), "[\\[\\]{}\",:\\\\x0\n]").prop_map(
        |(mut text, at, with)| {
            let mut at = at.index(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, &with);
            text
        },
    );
    prop_oneof![near, good, broken]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_text_matches_serde(text in texts()) {
        prop_assert_eq!(is_valid(text.as_bytes()), reference(&text), "{}", text);
        let by_words = validate_with::<ByWords>(text.as_bytes(), &mut |_| ()).is_some();
        prop_assert_eq!(by_words, reference(&text), "{}", text);
    }

    /// Blocks far from the outermost bracket take another code path.
    #[test]
    fn any_deeply_nested_text_matches_serde(text in texts(), before in 0..64_usize) {
        let text = "[".repeat(30) + &" ".repeat(before + 40) + &text + &" ".repeat(64) + &"]".repeat(30);
        prop_assert_eq!(is_valid(text.as_bytes()), reference(&text), "{}", text);
        let by_words = validate_with::<ByWords>(text.as_bytes(), &mut |_| ()).is_some();
        prop_assert_eq!(by_words, reference(&text), "{}", text);
    }
}
