//! The signs of the other framing.

use super::*;

const HEADERS: Event = Event::FramingMismatch(Framing::ContentLength);
const LINES: Event = Event::FramingMismatch(Framing::Ndjson);

#[test]
fn headers_in_place_of_lines_are_told() {
    // The body has no line end, so it never completes a line. The blank line behind the header
    // is enough.
    for header in
        ["Content-Length: 2\r\n\r\n", "content-length:2\n\n", "\u{feff}Content-Length: 2\n\n"]
    {
        let mut framer = Framer::new(Framing::Ndjson, &Limits::new());
        let line = header.trim_end().trim_start_matches('\u{feff}');
        assert_eq!(feed(&mut framer, header), [noise(line), HEADERS], "{header:?}");
        assert_eq!(feed(&mut framer, "{}"), []);
    }
    let body = "Content-Type: x\r\nContent-Length: 2\r\nX-Y: 1\r\n\r\n{}";
    let expected = [
        noise("Content-Type: x"),
        noise("Content-Length: 2"),
        noise("X-Y: 1"),
        HEADERS,
        record("{}"),
    ];
    assert_eq!(ndjson(body), expected);
    // Once, and also behind a log line without a line end.
    let input = [b"loading ", &framed("{}")[..], b"\n", &framed("{}")].concat();
    let mut seen = ndjson(input);
    assert_eq!(seen.remove(1), HEADERS);
    assert!(!seen.contains(&HEADERS), "{seen:?}");
}

#[test]
fn log_lines_are_no_headers() {
    for input in [
        "Content-Length: 2\n{}\n\n",
        "Content-Type: x\n\n{}\n",
        "X-Content-Length: 2\n\n",
        "Content-Length: 2\nwords\n\n",
        "Content-Length: 2\n",
        "Content-Length: x\n\n",
        "{\"a\":\"Content-Length: 2\"}\n\n",
    ] {
        assert!(!ndjson(input).contains(&HEADERS), "{input:?}");
    }
}

#[test]
fn lines_in_place_of_headers_are_told() {
    for mark in ["", "\u{feff}"] {
        // The line may have no end.
        let mut framer = Framer::new(Framing::ContentLength, &Limits::new());
        assert_eq!(feed(&mut framer, format!("{mark}{{\"id\":1}}")), [LINES]);
        let input = format!("starting\n{mark}{{\"a\":1}}\n{{\"b\":2}}\n");
        let seen = lsp(input);
        assert_eq!(seen, [noise("starting"), LINES, noise("{\"a\":1}"), noise("{\"b\":2}")]);
    }
    // Behind a header it is a log line.
    let input = [&framed("{}")[..], b"\n{\"level\":\"info\"}\n", &framed("[]")].concat();
    assert_eq!(lsp(input), [record("{}"), noise("{\"level\":\"info\"}"), record("[]")]);
    let input = [b"[info] x\n{}c", &framed("[]")[..]].concat();
    assert_eq!(lsp(input), [noise("[info] x"), LINES, noise("{}c"), record("[]")]);
    assert!(!lsp("Content-Length: x\r\n\r\n{}\n").contains(&LINES));
}
