//! The pass against `serde_json`: what one takes, the other takes.

use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::{ByWords, Seen, Value, is_valid, keys, pass};

fn reference(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Every text here, cut off at every byte, is judged as `serde_json` judges it.
#[test]
fn a_text_cut_anywhere_is_judged_as_serde_does() {
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

/// Blocks of 64 bytes have no seam: each text at every place of a block, cut and whole, by the
/// instructions of this machine and by those of any.
#[test]
fn a_text_is_judged_alike_wherever_it_stands_in_a_block() {
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
                let by_words = pass::<ByWords>(text.as_bytes(), &mut |_| ()).is_some();
                assert_eq!(by_words, reference(&text), "{text:?}");
            }
        }
    }
}

/// The story: keys were shown of a deeper level, where brackets opened and closed in one block.
/// What a block holds of a key and its value is taken from it, and the rest is read.
#[test]
fn members_are_the_same_wherever_they_stand_in_a_block() {
    let long = "l".repeat(200);
    let text =
        r#"{"a":"b","c":[{"d":{"e":1}},{"f":[{}]}],"g" : "h","i":{"i":{}},"j":[],"k":"LONG","#;
    let text = text.replace("LONG", &long) + r#""\\":"n\"","o":"\/","p":"","":0}"#;
    let (some, other) = (Value::Text, Value::Other);
    let expected = [
        (some(b"a"), some(b"b")),
        (some(b"c"), other),
        (some(b"g"), some(b"h")),
        (some(b"i"), other),
        (some(b"j"), other),
        (some(b"k"), some(long.as_bytes())),
        (Value::Escaped, Value::Escaped),
        (some(b"o"), Value::Escaped),
        (some(b"p"), some(b"")),
        (some(b""), other),
    ];
    for shift in 0..64 {
        let text = " ".repeat(shift) + &text;
        let mut seen = Vec::new();
        keys(text.as_bytes(), &mut |member| seen.push((member.key(), member.value())));
        assert_eq!(seen, expected, "{shift}");
        let mut by_words = Vec::new();
        pass::<ByWords>(text.as_bytes(), &mut |it| by_words.push((it.key(), it.value())));
        assert_eq!(by_words, expected, "{shift}");
    }
}

#[test]
fn what_is_nearly_json_is_refused() {
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
        // Wherever the wrong token is a block away from the one before it.
        for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            let text = text[..at].to_owned() + &" ".repeat(64) + &text[at..];
            assert_eq!(is_valid(text.as_bytes()), reference(&text), "{text:?}");
        }
    }
}

/// The brackets' bits are kept in words; the seams lie at every 64th level.
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

/// A special byte at any place of any length of text: blocks, words and rests have no seam.
#[test]
fn the_end_of_a_string_is_found_at_every_length() {
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
fn keys_are_those_of_the_outermost_object() {
    let text =
        br#" {"a":"one","b":{"a":"two"},"c":["a"],"d":"t\n","e":-1,"f":null,"a":"","\u0061":1 } "#;
    let mut seen = Vec::new();
    let object = keys(text, &mut |member| seen.push((member.key(), member.value())));
    assert_eq!(object, Some(Seen { is_ascii: true }));
    let (text, other) = (Value::Text, Value::Other);
    let expected = [
        (text(b"a"), text(b"one")),
        (text(b"b"), other),
        (text(b"c"), other),
        (text(b"d"), Value::Escaped),
        (text(b"e"), other),
        (text(b"f"), other),
        (text(b"a"), text(b"")),
        (Value::Escaped, other),
    ];
    assert_eq!(seen, expected);
    assert_eq!(keys(b"[{\"a\":1}]", &mut |_| panic!("no key")), Some(Seen { is_ascii: true }));
    assert_eq!(keys(b"{", &mut |_| ()), None);
}

/// Every block is asked, the plain ones and the last one too.
#[test]
fn one_byte_above_127_anywhere_is_seen() {
    for len in 0..200 {
        let text = "x".repeat(len);
        let ascii = format!("{{\"k\":\"{text}\"}}");
        assert_eq!(keys(ascii.as_bytes(), &mut |_| ()), Some(Seen { is_ascii: true }), "{len}");
        let other = format!("{{\"k\":\"{text}\u{80}\"}}");
        let other = other.as_bytes();
        assert_eq!(keys(other, &mut |_| ()), Some(Seen { is_ascii: false }), "{len}");
        let by_words = pass::<ByWords>(other, &mut |_| ());
        assert_eq!(by_words, Some(Seen { is_ascii: false }), "{len}");
    }
}

/// Texts that are JSON, or nearly so.
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
    fn any_text_is_judged_as_serde_does(text in texts()) {
        prop_assert_eq!(is_valid(text.as_bytes()), reference(&text), "{}", text);
        let by_words = pass::<ByWords>(text.as_bytes(), &mut |_| ()).is_some();
        prop_assert_eq!(by_words, reference(&text), "{}", text);
    }

    /// Brackets in a block that comes nowhere near the outermost one are looked at in another way.
    #[test]
    fn any_text_is_judged_alike_deep_within_another(text in texts(), before in 0..64_usize) {
        let text = "[".repeat(30) + &" ".repeat(before + 40) + &text + &" ".repeat(64) + &"]".repeat(30);
        prop_assert_eq!(is_valid(text.as_bytes()), reference(&text), "{}", text);
        let by_words = pass::<ByWords>(text.as_bytes(), &mut |_| ()).is_some();
        prop_assert_eq!(by_words, reference(&text), "{}", text);
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(text) = std::str::from_utf8(&bytes) {
            prop_assert_eq!(is_valid(&bytes), reference(text));
        } else {
            is_valid(&bytes);
        }
    }
}
