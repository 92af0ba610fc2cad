//! Concatenated JSON.

use super::*;

fn concat(input: impl AsRef<[u8]>) -> Vec<Event> {
    frames_with(Framing::Concat, &Limits::new(), input.as_ref())
}

#[test]
fn texts_need_no_line_ends() {
    let all = [record("{\"a\":1}"), record("[2]"), record("{\"c\":\"}{\\\"[\"}")];
    for between in ["", " ", "\n", "\r\n\r\n", "\u{1e}", "\n\u{1e}", "\n\u{feff}\n"] {
        let input = ["{\"a\":1}", "[2]", "{\"c\":\"}{\\\"[\"}"].join(between);
        assert_eq!(concat(&input), all, "{between:?}");
        assert_eq!(concat(format!("{between}{input}{between}")), all, "{between:?}");
    }
    // Complete with its last bracket, not with the byte behind it.
    let mut framer = Framer::new(Framing::Concat, &Limits::new());
    assert_eq!(feed(&mut framer, "{\"a\":[{}"), []);
    assert_eq!(feed(&mut framer, "]}"), [record("{\"a\":[{}]}")]);
    assert_eq!(framer.held(), 0);
}

#[test]
fn pretty_printed_text_is_one_record() {
    let text =
        "{\n  \"a\": [\n    { \"b\": {} },\n    [\n      1\n    ]\n  ],\r\n  \"c\": [{}, []]\n}";
    assert_eq!(concat(format!("{text}\n{text}{text}")), [record(text), record(text), record(text)]);
}

#[test]
fn bad_text_costs_little() {
    for (bad, events) in [
        // Balanced: itself.
        ("{\"a\":NaN}", vec![bad_json("{\"a\":NaN}")]),
        ("{a:1}", vec![bad_json("{a:1}")]),
        ("{\"a\":1}}", vec![record("{\"a\":1}"), noise("}")]),
        ("{},", vec![record("{}"), noise(",")]),
        // A bracket that may not stand there begins the next text.
        ("{\"a\":[1,2\n", vec![bad_json("{\"a\":[1,2")]),
        ("{\"a\":1,\n", vec![bad_json("{\"a\":1,")]),
        ("{", vec![bad_json("{")]),
        ("{\"a\"", vec![bad_json("{\"a\"")]),
        ("{\"a\":[1}", vec![bad_json("{\"a\":[1}")]),
        ("{\"a\":[1}]", vec![bad_json("{\"a\":[1}"), noise("]")]),
        // A string without an end ends at the line end or RS.
        ("{\"a\":\"x\n", vec![bad_json("{\"a\":\"x")]),
        ("{\"a\":\"x\\\n", vec![bad_json("{\"a\":\"x\\")]),
        ("{\"a\":\"x\u{1e}", vec![bad_json("{\"a\":\"x")]),
        ("{\"a\":[1,\u{1e}", vec![bad_json("{\"a\":[1,")]),
        // Words, and brackets of log lines.
        ("loading ", vec![noise("loading")]),
        ("[debug] x [y]: z\n", vec![noise("[debug] x [y]: z")]),
        ("[it's \"quoted\n", vec![noise("[it's \"quoted")]),
        ("42 \"x\" null\n", vec![noise("42 \"x\" null")]),
        ("\u{1b}]0;title\u{7}", vec![noise("\u{1b}]0;title\u{7}")]),
        ("\u{1b}[0m\n", vec![noise("\u{1b}[0m")]),
    ] {
        let wanted: Vec<Event> =
            events.into_iter().chain([record("{\"b\":{}}"), record("[]")]).collect();
        assert_eq!(concat(format!("{bad}{{\"b\":{{}}}}[]")), wanted, "{bad:?}");
    }
    // A text that was cut behind a comma or a colon takes the next one with it.
    for bad in ["[1,\n", "{\"a\":"] {
        let lost = format!("{bad}{{\"b\":2}}");
        let mut seen = concat(format!("{lost}\n{{\"c\":3}}\n"));
        assert_eq!(seen.pop(), Some(record("{\"c\":3}")), "{bad:?}");
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
}

#[test]
fn crossed_brackets_are_no_record_of_good_shape() {
    let seen = frames_with(Framing::Concat, &shape(), b"{\"a\":[1}{}");
    assert_eq!(seen, [bad_json("{\"a\":[1}"), record("{}")]);
}

#[test]
fn cut_text_is_truncated() {
    for cut in ["{", "{\"a\":1", "[1", "[\"a", "{\"a\":{}"] {
        assert_eq!(concat(format!("{{}}{cut}")), [record("{}"), truncated(cut)], "{cut}");
    }
    assert_eq!(concat("[debug: x"), [noise("[debug: x")]);
    assert_eq!(concat("{}\n words \n"), [record("{}"), noise("words")]);
    assert_eq!(concat(""), []);
}

#[test]
fn long_text_costs_only_itself() {
    let limits = Limits::new().record_max(64);
    let long = format!("{{\"a\":[\"{}\"]}}", "x".repeat(100));
    let fits = format!("[\"{}\"]", "x".repeat(60));
    let input = format!("{long}{fits}{long}\n{{}}");
    let expected = [oversized(&long), record(&fits), oversized(&long), record("{}")];
    assert_eq!(frames_with(Framing::Concat, &limits, input.as_bytes()), expected);
    let cut = &long[..90];
    assert_eq!(frames_with(Framing::Concat, &limits, cut.as_bytes()), [oversized(cut)]);
}

#[test]
fn deep_text_is_one_record() {
    let text = "[".repeat(100_000) + &"]".repeat(100_000);
    let seen = feed_all(Framing::Concat, &Limits::new(), text.as_bytes().chunks(4096));
    assert_eq!(seen, [record(&text)]);
}

#[test]
fn endless_brackets_stay_bounded() {
    let limits = Limits::new().record_max(64);
    let seen = feed_all(Framing::Concat, &limits, [b'['; 65 * 1000].chunks(4096));
    assert_eq!(seen.len(), 1000);
    assert!(seen.iter().all(|event| *event == oversized([b'['; 65])), "{:?}", seen[0]);
}
