//! Content-Length: bodies, and the text between them.

use super::*;

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn bodies_need_no_newline_between_them() {
    let input = joined(&[&framed("{\"a\":1}"), &framed("[2]"), &framed("{\"c\":\"\\n\"}")]);
    assert_eq!(lsp(input), [record("{\"a\":1}"), record("[2]"), record("{\"c\":\"\\n\"}")]);
}

#[test]
fn body_may_hold_newlines_and_headers() {
    let body = " {\r\n \"a\": \"Content-Length: 3\"\n}\r\n\r\n";
    assert_eq!(lsp(joined(&[&framed(body), &framed("{}")])), [record(body), record("{}")]);
}

#[test]
fn length_counts_bytes_not_characters() {
    let body = "{\"a\":\"\u{4f60}\u{597d}\u{1f980}\"}";
    assert_eq!(lsp(joined(&[&framed(body), &framed("{}")])), [record(body), record("{}")]);
}

#[test]
fn bad_body_costs_that_body() {
    let input = joined(&[&framed("{\"a\":}"), &framed(b"{\"\xFF\":1}"), &framed("{}")]);
    assert_eq!(lsp(input), [bad_json("{\"a\":}"), bad_utf8(b"{\"\xFF\":1}"), record("{}")]);
}

#[test]
fn empty_body_is_malformed() {
    let input = joined(&[&framed(""), &framed(" \r\n"), &framed("{}")]);
    assert_eq!(lsp(input), [bad_json(""), bad_json(" \r\n"), record("{}")]);
    assert_eq!(lsp(framed("")), [bad_json("")]);
}

#[test]
fn framed_scalar_is_a_record() {
    let input = joined(&[&framed("42"), &framed("\"x\""), &framed("nul")]);
    let expected = [record("42"), record("\"x\""), bad_json("nul")];
    assert_eq!(lsp(&input), expected);
    assert_eq!(frames_with(Framing::ContentLength, &shape(), &input), expected);
}

#[test]
fn shape_check_looks_at_the_ends_of_a_body() {
    let look = |body: &str| frames_with(Framing::ContentLength, &shape(), &framed(body));
    assert_eq!(look("{oops}"), [record("{oops}")]);
    assert_eq!(look("{oops]"), [bad_json("{oops]")]);
    assert_eq!(look("[debug]"), [bad_json("[debug]")]);
}

#[test]
fn log_lines_between_messages_are_noise() {
    let input = joined(&[
        b"starting\n12:30:01 listening\r\nINFO: ready\n\r\n\n",
        &framed("{}"),
        b"\r\nbye: now\r\n",
        &framed("[]"),
        b"last words",
    ]);
    let expected = [
        noise("starting"),
        noise("12:30:01 listening"),
        noise("INFO: ready"),
        record("{}"),
        noise("bye: now"),
        record("[]"),
        noise("last words"),
    ];
    assert_eq!(lsp(input), expected);
}

#[test]
fn log_line_inside_a_header_costs_nothing() {
    let input = b"Content-Length: 2\r\nwarning from another thread\r\n\r\n{}";
    assert_eq!(lsp(input), [noise("warning from another thread"), record("{}")]);
}

#[test]
fn header_is_found_behind_text_without_newline() {
    // The header is not at the start of a line.
    let input = joined(&[b"progress 50%", &framed("{}"), b"\xEF\xBB\xBF", &framed("[]")]);
    assert_eq!(lsp(input), [noise("progress 50%"), record("{}"), record("[]")]);
    // A log line that ends in the words of a header is not a header: no blank line follows it.
    let input = joined(&[b"got Content-Length: 7\n", &framed("{}")]);
    assert_eq!(lsp(input), [noise("got Content-Length: 7"), record("{}")]);
    let input = joined(&[b"X-Content-Length: 7\r\n", &framed("{}")]);
    assert_eq!(lsp(input), [noise("X-Content-Length: 7"), record("{}")]);
}

#[test]
fn short_length_costs_one_record() {
    // The length was counted in characters: the rest of the body precedes the next header.
    let body = "{\"a\":\"\u{e9}\u{e9}\"}";
    let short = format!("Content-Length: {}\r\n\r\n{body}", body.len() - 2).into_bytes();
    let input = joined(&[&short, &framed("{}")]);
    let (cut, rest) = body.split_at(body.len() - 2);
    assert_eq!(lsp(input), [bad_json(cut), noise(rest), record("{}")]);
}

#[test]
fn long_length_costs_one_record() {
    // The body reaches into the next header, up to its blank line, or over whole messages.
    for end in ["\r\n", "\n", "\r\r\n"] {
        let frame = |len: usize, body: &str| format!("Content-Length: {len}{end}{end}{body}");
        let good = format!("{}{}", frame(3, "[1]"), frame(3, "[2]"));
        for len in 3..=good.len() + 2 {
            let input = format!("{}{good}", frame(len, "{}"));
            let expected = [bad_length("{}"), record("[1]"), record("[2]")];
            assert_eq!(lsp(input), expected, "{len}, {end:?}");
        }
    }
}

#[test]
fn header_in_a_skipped_body_ends_it() {
    let limits = Limits::new().record_max(64);
    let look = |input: &str| frames_with(Framing::ContentLength, &limits, input.as_bytes());
    for end in ["\r\n", "\n"] {
        for text in ["", "{}", &"x".repeat(70), &"y\n".repeat(200)] {
            let wrong = format!("Content-Length: 1000000{end}{end}{text}");
            let input = format!("{wrong}Content-Length: 2{end}{end}[]");
            assert_eq!(look(&input), [bad_length(text), record("[]")], "{text:?}");
        }
    }
}

#[test]
fn text_about_headers_is_a_body() {
    // In a string the line ends are escaped, so none of these is a header.
    for body in [
        r#"{"a":"Content-Length: 3\r\n\r\n[1]"}"#,
        r#"{"a":"Content-Length: 3"}"#,
        "[1,\r\n2,\n34\n]",
        "{\"Content-Length\":\n3\n}",
    ] {
        let input = joined(&[&framed(body), &framed("{}")]);
        assert_eq!(lsp(&input), [record(body), record("{}")], "{body}");
        assert_eq!(frames_with(Framing::ContentLength, &shape(), &input).len(), 2);
    }
    // A record that ends in the letter of a header, with the right length.
    assert_eq!(
        lsp(joined(&[&framed("{}c"), &framed("[]")])),
        [bad_length("{}"), noise("c"), record("[]")]
    );
}

#[test]
fn mark_before_a_body_is_framing() {
    let body = b"\xEF\xBB\xBF{\"a\":1}";
    let bad = b"\xEF\xBB\xBF{\"a\":";
    let input = joined(&[&framed(body), &framed(bad), &framed(b"\xEF\xBB\xBF"), &framed("[]")]);
    let expected = [record("{\"a\":1}"), bad_json("{\"a\":"), bad_json(""), record("[]")];
    assert_eq!(lsp(input), expected);
    let large = [b"\xEF\xBB\xBF[\"", &[b'x'; 20_000][..], b"\"]"].concat();
    let seen = feed_all(Framing::ContentLength, &Limits::new(), framed(&large).chunks(4096));
    assert_eq!(seen, [record(&large[3..])]);
}

#[test]
fn end_inside_a_message_is_truncated() {
    assert_eq!(lsp("Content-Length: 10\r\n\r\n{\"a\""), [truncated("{\"a\"")]);
    assert_eq!(lsp("Content-Length: 10\r\n\r\n"), [truncated("")]);
    assert_eq!(lsp("Content-Length: 10\r\n\r"), [truncated("Content-Length: 10\r\n\r")]);
    assert_eq!(lsp("Content-Length: 10\r\nCont"), [truncated("Content-Length: 10\r\nCont")]);
    assert_eq!(lsp("Content-Length: 10\r"), [truncated("Content-Length: 10\r")]);
    assert_eq!(lsp("content-le"), [truncated("content-le")]);
    assert_eq!(lsp("Content-Type: x"), [truncated("Content-Type: x")]);
    // A complete body that is not JSON is malformed, not truncated.
    assert_eq!(lsp("Content-Length: 4\r\n\r\n{\"a\""), [bad_json("{\"a\"")]);
    assert_eq!(lsp("\r\n \r"), []);
}

#[test]
fn oversized_body_is_skipped_exactly() {
    let limits = Limits::new().record_max(64);
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(300));
    let fits = format!("{{\"a\":\"{}\"}}", "x".repeat(56));
    assert_eq!(fits.len(), 64);
    let cut = &framed(&body)[..99];
    let header = "Content-Length: 308\r\n\r\n".len();
    let input = joined(&[&framed(&body), &framed("{}"), &framed(&fits), cut]);
    let expected = [oversized(&body), record("{}"), record(&fits), truncated(&cut[header..])];
    assert_eq!(frames_with(Framing::ContentLength, &limits, &input), expected);
}

#[test]
fn finish_resets_the_framer() {
    let mut framer = Framer::new(Framing::ContentLength, &Limits::new().record_max(64));
    let mut seen = Vec::new();
    for input in ["Content-Length: 5\r\n\r\n{", "Content-Length: 500\r\n\r\n{", "Content-Length: x"]
    {
        seen.extend(feed(&mut framer, input));
        seen.extend(finish(&mut framer));
    }
    seen.extend(feed(&mut framer, framed("{}")));
    let expected = [truncated("{"), truncated("{"), truncated("Content-Length: x"), record("{}")];
    assert_eq!(seen, expected);
}

#[test]
fn header_in_a_body_costs_exactly_that_body() {
    // The header is cut at each byte. Before it is the body without its mark. What is malformed behind
    // it begins with that header.
    let second = format!("Content-Length: {}9\r\n", "0".repeat(45));
    assert_eq!(second.len(), 64);
    for mark in ["", "\u{feff}"] {
        let body = format!("{mark}{{\"a\":1,\n{second}Content-Length: 3\r\n\r\n");
        let input = format!("Content-Length: 500\r\n\r\n{body}");
        assert_eq!(
            lsp(input),
            [bad_length("{\"a\":1,\n"), bad_header(&body[mark.len() + 8..body.len() - 2])]
        );
    }
}

#[test]
fn header_in_a_skipped_body_costs_exactly_that_body() {
    let limits = Limits::new().record_max(64);
    let look = |input: &str| frames_with(Framing::ContentLength, &limits, input.as_bytes());
    let input = "Content-Length: 500\r\n\r\n[1,\nContent-Length: 2\r\n";
    assert_eq!(look(&format!("{input}\r\n{{}}")), [bad_length("[1,\n"), record("{}")]);
    // The header is whole, as the sample of a block that goes on badly shows.
    let block = "Content-Length: 2\r\nContent-Length: 3\r\n";
    let seen = look(&format!("{input}Content-Length: 3\r\n\r\n"));
    assert_eq!(seen, [bad_length("[1,\n"), bad_header(block)]);
}

#[test]
fn text_behind_a_body_is_a_header_only_if_it_begins_like_one() {
    for body in ["{}cat", "{}Content-Length: x", "{}-Content"] {
        assert_eq!(
            lsp(joined(&[&framed(body), &framed("[]")])),
            [bad_json(body), record("[]")],
            "{body}"
        );
    }
}
