//! Properties of any input. A failing case prints its seed and its smallest form.

use proptest::prelude::*;

use super::super::fuzz::{check_laws, cut};
use super::*;

/// One record on one line, without a raw line end.
pub(super) fn any_record() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(serde_json::Value::from),
        any::<bool>().prop_map(serde_json::Value::from),
        "\\PC{0,12}".prop_map(serde_json::Value::from),
        "[ \\n\\r\\t\"{}\\[\\]\u{e9}\u{4f60}\u{1f980}]{0,12}".prop_map(serde_json::Value::from),
    ];
    let tree = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::btree_map("[a-c]{1,2}", inner, 0..4)
                .prop_map(|map| { serde_json::Value::Object(map.into_iter().collect()) }),
        ]
    });
    prop_oneof![
        prop::collection::vec(tree.clone(), 0..4).prop_map(serde_json::Value::from),
        prop::collection::btree_map("[a-c]{1,2}", tree, 0..4)
            .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
    ]
    .prop_map(|value| value.to_string().into_bytes())
}

/// One line without its end: a record, noise, a broken or huge record, or any bytes.
fn any_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => any_record(),
        1 => Just(Vec::new()),
        1 => "[ \\t\\r]{1,3}".prop_map(String::into_bytes),
        2 => "[a-z\\[{} ]{1,20}".prop_map(String::into_bytes),
        1 => any_record().prop_map(|mut record| { record.pop(); record }),
        1 => any_record().prop_map(|record| [b"\xEF\xBB\xBF", &record[..]].concat()),
        1 => any_record().prop_map(|mut record| { record.insert(1, 0xFF); record }),
        1 => (any_controls(), any_record(), any_controls())
            .prop_map(|(before, record, after)| [&before, &record[..], &after].concat()),
        1 => (60_usize..400, prop::sample::select(b"x{[ \r\xFF".to_vec()))
            .prop_map(|(len, byte)| vec![byte; len]),
        1 => prop::collection::vec(any::<u8>().prop_filter("newline", |&b| b != b'\n'), 0..30),
    ]
}

/// Bytes of terminal control sequences, complete or not.
fn any_controls() -> impl Strategy<Value = Vec<u8>> {
    "(\x1b(\\[[0-9;?]{0,3}[hmK]?|\\]0;[a-z\\[{]{0,4}(\x07|\x1b\\\\)?|[(]B|7)|[ \r\x07\u{feff}]){0,3}"
        .prop_map(String::into_bytes)
}

fn any_lines() -> impl Strategy<Value = Vec<u8>> {
    let end = prop::sample::select(vec!["\n", "\n", "\r\n", "\r\r\n"]);
    (prop::collection::vec((any_line(), end), 0..12), any_line()).prop_map(|(lines, tail)| {
        let mut input = Vec::new();
        for (line, end) in lines {
            input.extend_from_slice(&line);
            input.extend_from_slice(end.as_bytes());
        }
        input.extend_from_slice(&tail);
        input
    })
}

/// Content-Length traffic: frames, log lines, broken headers, wrong lengths, any bytes.
fn any_frames() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        5 => any_record().prop_map(framed),
        1 => any_record().prop_map(|body| {
            [format!("Content-Length: {}\n\n", body.len()).as_bytes(), &body].concat()
        }),
        1 => any_record().prop_map(|record| framed([b"\xEF\xBB\xBF", &record[..]].concat())),
        1 => any_record().prop_map(|record| [&record[..], b"\n"].concat()),
        1 => (60_usize..300).prop_map(|len| framed(vec![b'['; len])),
        1 => "[a-z:]{0,10}(\r\n|\n|)".prop_map(String::into_bytes),
        1 => (any_record(), 0_usize..60)
            .prop_map(|(body, n)| [format!("Content-Length: {n}\r\n\r\n").as_bytes(), &body].concat()),
        1 => "[Cc]ontent-[Ll]ength:[ x0-9-]{0,5}\r?\r?\n(\r?\n)?".prop_map(String::into_bytes),
        1 => "Content-Type: [a-z]{0,120}\r\n".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

/// Concatenated JSON: texts, parts of texts, log lines, separators, any bytes.
fn any_texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        5 => any_record(),
        1 => any_record().prop_map(|mut record| { record.pop(); record }),
        2 => "[ \\n\\r\x1e,]{1,2}".prop_map(String::into_bytes),
        1 => "[a-z\\[{}\": \\n]{1,20}".prop_map(String::into_bytes),
        1 => (60_usize..200).prop_map(|len| vec![b'['; len]),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn small() -> Limits {
    let mut limits = Limits::new().record_max(64);
    limits.header_max = 100;
    limits
}

proptest! {
    #[test]
    fn lines_depend_on_the_bytes_alone(
        input in any_lines(),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        check_laws(Framing::Ndjson, &small(), &input, &sizes);
    }

    #[test]
    fn content_length_frames_depend_on_the_bytes_alone(
        input in any_frames(),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        check_laws(Framing::ContentLength, &small(), &input, &sizes);
    }

    #[test]
    fn content_length_accounts_for_every_byte(
        parts in prop::collection::vec((any_record(), "[a-z]{0,30}", any::<bool>()), 0..8),
        sizes in prop::collection::vec(1_usize..40, 1..6),
        tail in 0_usize..200,
    ) {
        // Each part is a log line, a good or broken header, and a body. Everything but good headers,
        // line ends and blank lines is in an event. The last message may be cut off.
        let mut input = Vec::new();
        let mut expected = Vec::new();
        let limits = Limits::new();
        for (body, word, good) in &parts {
            input.extend_from_slice(word.as_bytes());
            input.extend_from_slice(b"\r\n");
            if !word.is_empty() {
                expected.push(noise(word));
            }
            if *good {
                input.extend_from_slice(&framed(body));
                expected.push(record(body));
            } else {
                input.extend_from_slice(b"Content-Length: -1\r\n\r\n");
                input.extend_from_slice(&framed(body));
                expected.push(bad_header("Content-Length: -1\r\n"));
                expected.push(record(body));
            }
        }
        let last = framed(vec![b'['; 300]);
        let cut_at = tail.min(last.len());
        input.extend_from_slice(&last[..cut_at]);
        let header = b"Content-Length: 300\r\n\r\n".len();
        if cut_at > 0 {
            expected.push(truncated(if cut_at < header { &last[..cut_at] } else { &last[header..cut_at] }));
        }
        let seen = feed_all(Framing::ContentLength, &limits, cut(&input, &sizes));
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn concat_frames_depend_on_the_bytes_alone(
        input in any_texts(),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        check_laws(Framing::Concat, &small(), &input, &sizes);
    }

    #[test]
    fn concat_finds_every_record(
        records in prop::collection::vec((any_record(), "[ \\n\\r\\t\x1e]{0,3}"), 0..10),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let input: Vec<u8> =
            records.iter().flat_map(|(body, space)| [body, space.as_bytes()].concat()).collect();
        let expected: Vec<Event> = records.iter().map(|(body, _)| record(body)).collect();
        let seen = feed_all(Framing::Concat, &Limits::new(), cut(&input, &sizes));
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn auto_frames_depend_on_the_bytes_alone(
        input in prop_oneof![any_lines(), any_frames()],
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        check_laws(Framing::Auto, &small(), &input, &sizes);
    }
}
