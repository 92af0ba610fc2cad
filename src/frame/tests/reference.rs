//! What the reference SDK's tests demand (B01 to B17), what it does with odd input, and what
//! users of its peers report. Our answer to each.

use super::*;

fn line(text: &str) -> String {
    format!("{text}\n")
}

#[test]
fn b01_several_records_in_one_read() {
    assert_eq!(ndjson("{\"a\":1}\n{\"b\":2}\n"), [record("{\"a\":1}"), record("{\"b\":2}")]);
}

#[test]
fn b02_escaped_newlines_are_text() {
    let text = r#"{"a":"one\ntwo\r\n"}"#;
    assert_eq!(ndjson(line(text)), [record(text)]);
}

#[test]
fn b03_runs_of_blank_lines() {
    assert_eq!(ndjson("{}\n\n\n\n[]\n"), [record("{}"), record("[]")]);
}

#[test]
fn b04_one_record_over_three_reads() {
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
fn b05_a_large_record_in_64_kib_reads() {
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(200_000));
    let seen = feed_all(Framing::Ndjson, &Limits::new(), line(&text).as_bytes().chunks(65536));
    assert_eq!(seen, [record(&text)]);
}

#[test]
fn b06_b08_a_line_above_the_limit_costs_that_line_complete_or_not() {
    // There it ended the session; here the stream goes on.
    let limits = Limits::new().record_max(512);
    let text = format!("{{\"a\":\"{}\"}}", "x".repeat(1000));
    let input = format!("{text}\n{{}}\n{text}");
    let seen = frames_with(Framing::Ndjson, &limits, input.as_bytes());
    assert_eq!(seen, [oversized(&text), record("{}"), oversized(&text)]);
}

#[test]
fn b07_the_full_length_is_known_to_the_report() {
    let limits = Limits::new().record_max(512);
    let seen = feed_all(Framing::Ndjson, &limits, [&[b'{'; 700][..]]);
    let [Event::Oversized(sample)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((sample.len(), sample.head().len()), (700, 160));
}

#[test]
fn b09_whole_and_split_records_keep_their_order() {
    let large = format!("{{\"n\":1,\"a\":\"{}\"}}", "x".repeat(5000));
    let input = format!("{{\"n\":0}}\n{large}\n{{\"n\":2}}\n");
    for chunk in [64, 1000, 5000] {
        let seen = feed_all(Framing::Ndjson, &Limits::new(), input.as_bytes().chunks(chunk));
        assert_eq!(seen, [record("{\"n\":0}"), record(&large), record("{\"n\":2}")]);
    }
}

#[test]
fn b10_b11_b12_noise_before_between_and_after() {
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
fn b13_whitespace_at_a_seam_survives() {
    for space in [" ", "  ", "\u{a0}", "\u{2009}", "\u{3000}"] {
        let text = format!("{{\"a\":\"x{space}y\"}}");
        assert_eq!(ndjson(line(&text)), [record(&text)]);
    }
}

#[test]
fn b14_400_000_spaces_over_seven_reads_survive() {
    let text = format!("{{\"a\":\"{}\"}}", " ".repeat(400_000));
    let seen = feed_all(Framing::Ndjson, &Limits::new(), line(&text).as_bytes().chunks(65536));
    assert_eq!(seen, [record(&text)]);
}

#[test]
fn b15_a_malformed_line_costs_that_line() {
    // There it ended the reader.
    assert_eq!(ndjson("{\"a\":\n{}\n"), [bad_json("{\"a\":"), record("{}")]);
}

#[test]
fn b16_the_last_record_may_lack_its_newline() {
    assert_eq!(ndjson("{}\n{\"last\":true}"), [record("{}"), record("{\"last\":true}")]);
}

#[test]
fn b17_a_cut_tail_is_said_aloud() {
    // There it was dropped in silence.
    assert_eq!(ndjson("{}\n{\"las"), [record("{}"), truncated("{\"las")]);
}

#[test]
fn odd_input_that_json_allows() {
    // U+2028 raw, numbers no machine holds, a lone surrogate escape, a repeated key.
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
fn odd_input_that_json_forbids() {
    // NaN passes in Python only; a raw control character, two objects on a line nowhere.
    for text in ["{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":\"\u{1}\"}", "{}{}", "{} {}"] {
        assert_eq!(ndjson(format!("{text}\n[]\n")), [bad_json(text), record("[]")], "{text}");
    }
}

#[test]
fn glued_noise_is_seen_and_not_lost_in_silence() {
    assert_eq!(ndjson("[dbg]{\"a\":1}\n{}\n"), [noise("[dbg]{\"a\":1}"), record("{}")]);
    assert_eq!(ndjson("\0{\"a\":1}\n"), [noise("\0{\"a\":1}")]);
    assert_eq!(ndjson("\u{feff}{\"a\":1}\n"), [record("{\"a\":1}")]);
}

#[test]
fn bad_utf8_does_not_take_earlier_lines_of_its_read_along() {
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
fn the_limit_counts_bytes_not_characters() {
    // 150 characters, 450 bytes.
    let limits = Limits::new().record_max(256);
    let text = format!("{{\"a\":\"{}\"}}", "\u{4f60}".repeat(150));
    let seen = frames_with(Framing::Ndjson, &limits, line(&text).as_bytes());
    assert_eq!(seen, [oversized(&text)]);
}

#[test]
fn pain_28_an_output_cut_at_65536_bytes_is_its_own_outcome() {
    let text = format!("{{\"a\":\"{}\"}}\n", "x".repeat(70_000));
    let cut = &text.as_bytes()[..65_536];
    let seen = feed_all(Framing::Ndjson, &Limits::new(), cut.chunks(4096));
    assert_eq!(seen, [truncated(cut)]);
}

#[test]
fn pain_29_30_a_record_above_64_kib_or_1_mib_is_ordinary() {
    for len in [65_536, 65_537, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let text = format!("[\"{}\"]", "x".repeat(len));
        let seen = feed_all(Framing::Ndjson, &Limits::new(), line(&text).as_bytes().chunks(65536));
        assert_eq!(seen, [record(&text)]);
    }
}

#[test]
fn pain_31_earlier_records_come_though_the_rest_has_no_newline() {
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new().record_max(100));
    let mut seen = Vec::new();
    framer.feed(b"{}\n[]\n{\"no newline", &mut Spares::default(), &mut |frame| {
        seen.push(frame.into_event())
    });
    assert_eq!(seen, [record("{}"), record("[]")]);
    for _ in 0..1000 {
        framer.feed(&[b'x'; 100], &mut Spares::default(), &mut |frame| panic!("{frame:?}"));
        assert!(framer.held() <= 160);
    }
}

#[test]
fn pain_32_half_a_record_lives_in_the_framer() {
    // A read that is given up between two feeds takes nothing along: there is nothing to lose
    // but the framer itself.
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new());
    framer.feed(b"{\"a\"", &mut Spares::default(), &mut |frame| panic!("{frame:?}"));
    assert_eq!(framer.held(), 4);
    framer.feed(b"", &mut Spares::default(), &mut |frame| panic!("{frame:?}"));
    assert_eq!(framer.held(), 4);
    let mut seen = Vec::new();
    framer.feed(b":1}\n", &mut Spares::default(), &mut |frame| seen.push(frame.into_event()));
    assert_eq!(seen, [record("{\"a\":1}")]);
}

#[test]
fn pain_33_payload_and_newline_are_one_piece() {
    let mut out = Vec::new();
    super::super::encode(Framing::Ndjson, b"{}", &Limits::new(), &mut out).unwrap();
    assert_eq!(out, b"{}\n");
}
