//! Properties of any input. A failing case prints its seed and its smallest form.

use proptest::prelude::*;

use super::super::controls;
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

/// Cuts the input by a list of chunk sizes, used in turn.
fn cut<'a>(mut input: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for &size in sizes.iter().cycle() {
        if input.is_empty() {
            break;
        }
        let (chunk, rest) = input.split_at(size.min(input.len()));
        chunks.push(chunk);
        input = rest;
    }
    chunks
}

/// A simple line splitter with the whole input in memory, for comparison.
fn reference_events(limits: &Limits, input: &[u8]) -> Vec<Event> {
    let mut lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    let tail = lines.pop().unwrap_or_default();
    let mut events = Vec::new();
    for (line, last) in lines.into_iter().map(|line| (line, false)).chain([(tail, true)]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        let text = line.trim_ascii();
        let valid = serde_json::from_slice::<serde_json::Value>(text).is_ok();
        let starts = text.first().copied();
        let mut before = None;
        let event = if line.len() > limits.record_max {
            Some(oversized(line))
        } else if line.iter().all(|byte| b" \t\r".contains(byte)) {
            None
        } else if valid && matches!(starts, Some(b'{' | b'[')) && text.len() == json_len(line) {
            Some(record(line))
        } else if let Some((text, around)) = between_controls(line) {
            before = Some(record(text));
            Some(noise(around))
        } else if starts == Some(b'{') && json_start(line) == Some(b'{') {
            Some(if last {
                truncated(line)
            } else if std::str::from_utf8(line).is_err() {
                bad_utf8(line)
            } else {
                bad_json(line)
            })
        } else if last && json_start(line) == Some(b'[') && array_like(line) {
            Some(truncated(line))
        } else {
            Some(noise(line))
        };
        events.extend(before.into_iter().chain(event));
    }
    events
}

/// A record with terminal controls around it, and those.
fn between_controls(line: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let text = controls::text_between(line)?;
    serde_json::from_slice::<serde_json::Value>(&line[text.clone()]).ok()?;
    Some((&line[text.clone()], [&line[..text.start], &line[text.end..]].concat()))
}

/// Unlike `trim_ascii`, does not trim form feeds, which are content in JSON.
fn json_len(line: &[u8]) -> usize {
    String::from_utf8_lossy(line).trim_matches([' ', '\t', '\r']).len()
}

fn json_start(line: &[u8]) -> Option<u8> {
    line.iter().copied().find(|byte| !b" \t\r".contains(byte))
}

fn array_like(line: &[u8]) -> bool {
    let mut bytes = line.iter().copied().filter(|byte| !b" \t\r".contains(byte)).skip(1);
    bytes.next().is_none_or(|byte| b"{[]\"-tfn0123456789".contains(&byte))
}

/// Bytes that are in an event.
fn accounted(events: &[Event]) -> u64 {
    let bytes = |event: &Event| match event {
        Event::Record(record) => record.len() as u64,
        Event::Noise(sample) | Event::Oversized(sample) | Event::Truncated(sample) => sample.len(),
        Event::Malformed { sample, .. } => sample.len(),
        Event::FramingMismatch(_) => 0,
        other => panic!("{other:?} is not a frame"),
    };
    events.iter().map(bytes).sum()
}

/// Bytes that are framing: line ends, blank lines, byte order marks.
fn line_framing(limits: &Limits, input: &[u8]) -> u64 {
    let newlines = input.iter().filter(|&&byte| byte == b'\n').count();
    let inside: usize = input
        .split(|&byte| byte == b'\n')
        .map(|line| {
            let content = line.strip_suffix(b"\r").unwrap_or(line);
            let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
            let blank = content.iter().all(|byte| b" \t\r".contains(byte));
            let skipped = blank && content.len() <= limits.record_max;
            if skipped { line.len() } else { line.len() - content.len() }
        })
        .sum();
    (newlines + inside) as u64
}

fn small() -> Limits {
    let mut limits = Limits::new().record_max(64);
    limits.header_max = 100;
    limits
}

proptest! {
    #[test]
    fn ndjson_frames_depend_on_the_bytes_alone(
        input in any_lines(),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let limits = small();
        let whole = feed_all(Framing::Ndjson, &limits, [&input[..]]);
        prop_assert_eq!(&whole, &reference_events(&limits, &input));
        prop_assert_eq!(&whole, &feed_all(Framing::Ndjson, &limits, cut(&input, &sizes)));
        prop_assert_eq!(&whole, &feed_all(Framing::Ndjson, &limits, input.chunks(1)));
    }

    #[test]
    fn ndjson_accounts_for_every_byte(
        input in any_lines(),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let limits = small();
        let events = feed_all(Framing::Ndjson, &limits, cut(&input, &sizes));
        let total = accounted(&events) + line_framing(&limits, &input);
        prop_assert_eq!(total, input.len() as u64);
    }

    #[test]
    fn ndjson_accepts_any_bytes(
        input in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\"\r\n \xEF\xBB\xBF1,:".to_vec())],
            0..300,
        ),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let limits = small();
        let whole = feed_all(Framing::Ndjson, &limits, [&input[..]]);
        prop_assert_eq!(&whole, &reference_events(&limits, &input));
        prop_assert_eq!(&whole, &feed_all(Framing::Ndjson, &limits, cut(&input, &sizes)));
        let total = accounted(&whole) + line_framing(&limits, &input);
        prop_assert_eq!(total, input.len() as u64);
    }

    #[test]
    fn content_length_frames_depend_on_the_bytes_alone(
        input in any_frames(),
        sizes in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let limits = small();
        let whole = feed_all(Framing::ContentLength, &limits, [&input[..]]);
        prop_assert_eq!(&whole, &feed_all(Framing::ContentLength, &limits, cut(&input, &sizes)));
        prop_assert_eq!(&whole, &feed_all(Framing::ContentLength, &limits, input.chunks(1)));
        prop_assert!(accounted(&whole) <= input.len() as u64, "a byte was counted twice");
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
        let limits = small();
        let whole = feed_all(Framing::Concat, &limits, [&input[..]]);
        prop_assert_eq!(&whole, &feed_all(Framing::Concat, &limits, cut(&input, &sizes)));
        prop_assert_eq!(&whole, &feed_all(Framing::Concat, &limits, input.chunks(1)));
        // What is in no event is white space, RS or a byte order mark.
        let blank = |byte: &&u8| byte.is_ascii_whitespace() || b"\x1e\xEF\xBB\xBF".contains(byte);
        let content = input.iter().filter(|byte| !blank(byte)).count() as u64;
        prop_assert!((content..=input.len() as u64).contains(&accounted(&whole)));
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
        let limits = small();
        let whole = feed_all(Framing::Auto, &limits, [&input[..]]);
        prop_assert_eq!(&whole, &feed_all(Framing::Auto, &limits, cut(&input, &sizes)));
        prop_assert_eq!(&whole, &feed_all(Framing::Auto, &limits, input.chunks(1)));
    }
}
