//! Terminal control sequences on the line of a record.

use super::*;

/// What terminals understand and programs write in front of a line.
const CONTROLS: &[&str] = &[
    "\x1b]0;agent: ready\x07",
    "\x1b]0;agent {1}\x1b\\",
    "\x1b]8;;http://x\x1b\\\x1b]8;;\x07",
    "\x1b]133;A\u{9c}",
    "\x1b[?2004h",
    "\x1b[2K\x1b[1G",
    "\r\x1b[K",
    "\x1b[38;5;196m",
    "\x1b[0 q",
    "\x1bP+q544e\x1b\\",
    "\x1b_Gi=1;AAAA\x1b\\",
    "\x1b^private\x1b\\",
    "\x1bXstart\x1b\\",
    "\x1bktitle\x1b\\",
    "\x1b7\x1b8\x1b=\x1b>\x1bM",
    "\x1b(B\x1b#8\x1b%G",
    "\u{9b}31m\u{9d}0;x\u{9c}",
    "\u{84}",
    // Aborted: by another sequence, by CAN, by the record itself.
    "\x1b]0;half\x1b[0m",
    "\x1b]0;half\x18",
    "\x1b",
    "\x1b[1;",
    // Single control characters, with white space and byte order marks among them.
    "\x07\x08\x0e\x0f\x7f",
    "\x1e",
    " \t\x1b[m \u{feff} ",
];

#[test]
fn terminal_controls_beside_a_record_are_noise() {
    // A title, a cursor move, bracketed paste: the record behind it was lost.
    for text in CONTROLS {
        for json in ["{\"a\":1}", "[1]"] {
            if json == "[1]" && text.starts_with("\x1b[1;") || *text == "\x1b" {
                continue;
            }
            let expected = [record(json), noise(text), record("{}")];
            assert_eq!(ndjson(format!("{text}{json}\n{{}}\n")), expected, "{text:?}");
            assert_eq!(ndjson(format!("{text}{json}\r\n{{}}")), expected, "{text:?}");
            let tail = [record(json), noise(text)];
            assert_eq!(ndjson(format!("{text}{json}")), tail, "{text:?} before the last record");
            let marked = format!("\u{feff}{text}{json}\n");
            assert_eq!(ndjson(marked), tail, "{text:?} behind a mark");
        }
    }
    assert_eq!(ndjson("\x1b{}\n"), [record("{}"), noise("\x1b")]);
    // Behind the record, and on both sides.
    let both = "\x1b[2m{\"a\":1}\x1b[0m \x1b]0;x\x07\n";
    assert_eq!(ndjson(both), [record("{\"a\":1}"), noise("\x1b[2m\x1b[0m \x1b]0;x\x07")]);
    assert_eq!(ndjson("[1]\x1b[0m"), [record("[1]"), noise("\x1b[0m")]);
    let shape = frames_with(Framing::Ndjson, &shape(), both.as_bytes());
    assert_eq!(shape.len(), 2);
}

#[test]
fn terminal_controls_alone_cost_one_line() {
    // A string without an end, a log line in colour, a record in the middle of text.
    for line in [
        "\x1b]0;never ends {\"a\":1}",
        "\x1bPnever ends {\"a\":1}",
        "\x1b[31merror\x1b[0m",
        "\x1b[31m",
        "\x1b[31m{oops}",
        "\x1b[31mx{}",
        "\x1b[1;[]",
        "\x1b[m\0{}",
    ] {
        let expected = [noise(line), record("{}")];
        assert_eq!(ndjson(format!("{line}\n{{}}\n")), expected, "{line:?}");
        assert_eq!(ndjson(line), [noise(line)], "{line:?} as the tail");
    }
    // A malformed record stays one, and its sample is the whole line.
    for line in ["{\"a\":\x1b[0m}", "{\"a\":\"\x1b[0m\"}", "{}\x1b[0mx", "{}\x1b[0m{}"] {
        assert_eq!(ndjson(format!("{line}\n[]\n")), [bad_json(line), record("[]")], "{line:?}");
    }
}

#[test]
fn terminal_controls_before_a_header_are_noise() {
    for text in CONTROLS.iter().filter(|text| text.trim_start() == **text) {
        let input = [text.as_bytes(), &framed("{}"), b"\x1b[0m", &framed("[]")].concat();
        let expected = [noise(text), record("{}"), noise("\x1b[0m"), record("[]")];
        assert_eq!(lsp(input), expected, "{text:?}");
    }
}

#[test]
fn large_record_behind_controls_keeps_its_memory() {
    let body = format!("[\"{}\"]", "x".repeat(100_000));
    let input = format!("\x1b[K{body}\x1b[m\n");
    let seen = feed_all(Framing::Ndjson, &Limits::new(), input.as_bytes().chunks(4096));
    assert_eq!(seen, [record(&body), noise("\x1b[K\x1b[m")]);
    let parts = handed_over(Framing::Ndjson, &Limits::new(), input.as_bytes().chunks(4096));
    assert_eq!(parts, [(true, body.len())]);
}

#[test]
fn overwritten_text_costs_no_record() {
    // A progress bar and a spinner, which the record overwrites.
    for text in [
        "loading 50%\rloading 100%\r",
        "\u{280b} loading\r\x1b[K",
        "[1/3] loading\x1b[2K\x1b[1G",
        "\x1b[32mloading\x1b[0m\x1b[G \x1b[0K",
    ] {
        let expected = [record("{\"a\":1}"), noise(text), record("[]")];
        assert_eq!(ndjson(format!("{text}{{\"a\":1}}\r\n[]\n")), expected, "{text:?}");
    }
    // Nothing is overwritten, or it was a record.
    for line in ["loading {\"a\":1}", "loading\r\x1b[K x {}", "loading\x1b[2G{}", "x\r{\"a\":\r1}"]
    {
        assert_eq!(ndjson(format!("{line}\n[]\n")), [noise(line), record("[]")], "{line:?}");
    }
    assert_eq!(ndjson("{}\r{}\n[]\n"), [bad_json("{}\r{}"), record("[]")]);
}
