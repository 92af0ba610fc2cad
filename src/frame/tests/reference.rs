//! Inputs from the tests of a reference SDK, odd input, and defects that users of other clients
//! reported.

use super::*;

fn line(text: &str) -> String {
    format!("{text}\n")
}

#[test]
fn several_records_in_one_read() {
    assert_eq!(ndjson("{\"a\":1}\n{\"b\":2}\n"), [record("{\"a\":1}"), record("{\"b\":2}")]);
}

#[test]
fn escaped_newlines_are_text() {
    let text = r#"{"a":"one\ntwo\r\n"}"#;
    assert_eq!(ndjson(line(text)), [record(text)]);
}

#[test]
fn runs_of_blank_lines_are_skipped() {
    assert_eq!(ndjson("{}\n\n\n\n[]\n"), [record("{}"), record("[]")]);
}

#[test]
fn one_record_over_three_reads() {
    let text = r#"{"type":"assistant","text":"abcdefgh"}"#;
    let input = line(text);
    for first in 1..input.len() - 1 {
        for second in first + 1..input.len() {
            let parts = [&input[..first], &input[first..second], &input[second..]];
            let seen = feed_all(Framing::Ndjson, &Limits::new(), parts.map(str::as_bytes));
            assert_eq!(seen, [record(text)]);
        }
    }
}

#[test]
fn large_record_in_64_kib_reads() {
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(200_000));
    let seen = feed_all(Framing::Ndjson, &Limits::new(), line(&text).as_bytes().chunks(65536));
    assert_eq!(seen, [record(&text)]);
}

#[test]
fn line_above_the_limit_costs_that_line() {
    // In the reference SDK it ends the session.
    let limits = Limits::new().record_max(512);
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
    let input = format!("{text}\n{{}}\n{text}");
    let seen = frames_with(Framing::Ndjson, &limits, input.as_bytes());
    assert_eq!(seen, [oversized(&text), record("{}"), oversized(&text)]);
}

#[test]
fn oversized_line_reports_its_full_length() {
    let limits = Limits::new().record_max(512);
    let seen = feed_all(Framing::Ndjson, &limits, [&[b'{'; 700][..]]);
    let [Event::Oversized(sample)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((sample.len(), sample.head().len()), (700, 160));
}

#[test]
fn whole_and_split_records_keep_their_order() {
    let large = format!("{{\"n\":1,\"a\":\"{}\"}}", "x".repeat(5000));
    let input = format!("{{\"n\":0}}\n{large}\n{{\"n\":2}}\n");
    for chunk in [64, 1000, 5000] {
        let seen = feed_all(Framing::Ndjson, &Limits::new(), input.as_bytes().chunks(chunk));
        assert_eq!(seen, [record("{\"n\":0}"), record(&large), record("{\"n\":2}")]);
    }
}

#[test]
fn noise_before_between_and_after_records() {
    let input = "[SandboxDebug] on\n{}\nwarning: x\n{\"b\":1}\nbye\n";
    let expected = [
        noise("[SandboxDebug] on"),
        record("{}"),
        noise("warning: x"),
        record("{\"b\":1}"),
        noise("bye"),
    ];
    assert_eq!(ndjson(input), expected);
}

#[test]
fn whitespace_at_a_read_boundary_is_kept() {
    for space in [" ", "  ", "\u{a0}", "\u{2009}", "\u{3000}"] {
        let text = format!("{{\"a\":\"x{space}y\"}}");
        assert_eq!(ndjson(line(&text)), [record(&text)]);
    }
}

#[test]
fn long_whitespace_over_seven_reads_is_kept() {
    let text = format!("{{\"a\":\"{}\"}}", " ".repeat(400_000));
    let seen = feed_all(Framing::Ndjson, &Limits::new(), line(&text).as_bytes().chunks(65536));
    assert_eq!(seen, [record(&text)]);
}

#[test]
fn malformed_line_costs_that_line() {
    // In the reference SDK it ends the reader.
    assert_eq!(ndjson("{\"a\":\n{}\n"), [bad_json("{\"a\":"), record("{}")]);
}

#[test]
fn last_record_may_lack_its_newline() {
    assert_eq!(ndjson("{}\n{\"last\":true}"), [record("{}"), record("{\"last\":true}")]);
}

#[test]
fn cut_tail_is_reported() {
    // The reference SDK drops it silently.
    assert_eq!(ndjson("{}\n{\"las"), [record("{}"), truncated("{\"las")]);
}

#[test]
fn odd_but_valid_json_is_a_record() {
    // U+2028 raw, numbers out of range, a lone surrogate escape, a repeated key.
    for text in [
        "{\"a\":\"\u{2028}\u{2029}\u{85}\"}",
        "{\"a\":123456789012345678901234567890,\"b\":1e999}",
        r#"{"a":"\ud800"}"#,
        r#"{"a":1,"a":2}"#,
    ] {
        assert_eq!(ndjson(line(text)), [record(text)], "{text}");
    }
}

#[test]
fn odd_and_invalid_json_is_malformed() {
    // Python accepts NaN. No parser accepts a raw control character or two objects on a line.
    for text in ["{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":\"\u{1}\"}", "{}{}", "{} {}"] {
        assert_eq!(ndjson(format!("{text}\n[]\n")), [bad_json(text), record("[]")], "{text}");
    }
}

#[test]
fn noise_glued_to_a_record_is_reported() {
    assert_eq!(ndjson("[dbg]{\"a\":1}\n{}\n"), [noise("[dbg]{\"a\":1}"), record("{}")]);
    assert_eq!(ndjson("\0{\"a\":1}\n"), [noise("\0{\"a\":1}")]);
    assert_eq!(ndjson("\u{feff}{\"a\":1}\n"), [record("{\"a\":1}")]);
}

#[test]
fn bad_utf8_costs_only_its_line() {
    let input = b"{\"a\":1}\n{\"b\":\"\xFF\"}\n\xFF\xFE noise\n{\"c\":3}\n{\"d\":\"\xE4\xBD";
    let expected = [
        record("{\"a\":1}"),
        bad_utf8(b"{\"b\":\"\xFF\"}"),
        noise(b"\xFF\xFE noise"),
        record("{\"c\":3}"),
        truncated(b"{\"d\":\"\xE4\xBD"),
    ];
    assert_eq!(ndjson(input), expected);
}

#[test]
fn limit_counts_bytes_not_characters() {
    // 150 characters, 450 bytes.
    let limits = Limits::new().record_max(256);
    let text = format!("{{\"a\":\"{}\"}}", "\u{4f60}".repeat(150));
    let seen = frames_with(Framing::Ndjson, &limits, line(&text).as_bytes());
    assert_eq!(seen, [oversized(&text)]);
}

#[test]
fn output_cut_at_64_kib_is_truncated() {
    let text = format!("{{\"a\":\"{}\"}}\n", "x".repeat(70_000));
    let cut = &text.as_bytes()[..65_536];
    let seen = feed_all(Framing::Ndjson, &Limits::new(), cut.chunks(4096));
    assert_eq!(seen, [truncated(cut)]);
}

#[test]
fn records_above_1_mib_are_ordinary() {
    for len in [65_536, 65_537, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let text = format!("[\"{}\"]", "x".repeat(len));
        let seen = feed_all(Framing::Ndjson, &Limits::new(), line(&text).as_bytes().chunks(65536));
        assert_eq!(seen, [record(&text)]);
    }
}

#[test]
fn records_come_before_a_rest_without_newline() {
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new().record_max(100));
    let seen = feed(&mut framer, b"{}\n[]\n{\"no newline");
    assert_eq!(seen, [record("{}"), record("[]")]);
    for _ in 0..1000 {
        assert_eq!(feed(&mut framer, [b'x'; 100]), []);
        assert!(framer.held() <= 160);
    }
}

#[test]
fn half_a_record_is_kept_between_reads() {
    // A reader that cancels a read loses nothing: the bytes are in the framer.
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new());
    assert_eq!(feed(&mut framer, b"{\"a\""), []);
    assert_eq!(framer.held(), 4);
    assert_eq!(feed(&mut framer, b""), []);
    assert_eq!(framer.held(), 4);
    assert_eq!(feed(&mut framer, b":1}\n"), [record("{\"a\":1}")]);
}

#[test]
fn payload_and_newline_are_one_piece() {
    let mut out = Vec::new();
    super::super::encode(Framing::Ndjson, b"{}", &Limits::new(), &mut out).unwrap();
    assert_eq!(out, b"{}\n");
}

#[test]
fn malformed_record_names_its_fault() {
    use MalformedReason::*;
    for (text, reason) in [
        ("{\"a\":NaN}", NotFinite),
        ("{\"a\":[1,-Infinity]}", NotFinite),
        ("{\"a\":Infinity}", NotFinite),
        ("{\"a\":\"NaN\",\"b\":}", Json),
        ("{\"a\":NaNs}", Json),
        ("{\"a\":\"\t\"}", ControlCharacter),
        ("{\"a\":\"\0\"}", ControlCharacter),
        ("{\"a\":\"\\\t\"}", Json),
        ("{}{}", SecondText),
        ("{\"a\":1} x", SecondText),
        ("{\"a\":1}}", SecondText),
        ("{\"a\":[1", Unfinished),
        ("{\"a\":\"x", Unfinished),
        ("{\"a\":\"x\\", Unfinished),
        ("{'a':1}", Json),
        ("{\"a\":True}", Json),
        ("{\"a\":1,}", Json),
        ("{\"a\"}", Json),
    ] {
        let expected = [Event::Malformed { reason, sample: sample(text) }, record("[]")];
        assert_eq!(ndjson(format!("{text}\n[]\n")), expected, "{text}");
        let sent =
            super::super::encode(Framing::Ndjson, text.as_bytes(), &Limits::new(), &mut vec![]);
        let error = sent.expect_err(text).to_string();
        assert!(error.contains(reason.as_str()), "{error}");
    }
    assert!(NotFinite.as_str().contains("NaN"));
}
