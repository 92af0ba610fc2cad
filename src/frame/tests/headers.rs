//! Content-Length: header blocks, good and bad, and the recovery after a bad one.

use super::*;

#[test]
fn header_spellings_are_accepted() {
    for header in [
        "Content-Length: 2\r\n\r\n",
        "content-length:2\n\n",
        "Content-Length \t: 2\r\n\r\n",
        "CONTENT-LENGTH:\t 2 \t\r\n\n",
        "Content-Length: 0002\r\n\r\n",
        "Content-Length: 2\r\nContent-Type: application/vscode-jsonrpc; charset=utf-8\r\n\r\n",
        "Content-Type: x\r\nContent-Length: 2\r\n\r\n",
        "Content-Length: 2\r\n \t\r\n\r\n",
        "Content-Length: 2\r\nX-Other: Content-Length: 9\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\n",
        "Content-Length: 2\r\r\nContent-Type: x\r\r\n\r\r\n",
        "\u{feff}Content-Length: 2\n\n",
        "\u{feff}Content-Type: x\r\n\u{feff}Content-Length: 2\r\n\r\n",
        "\r\n \n\u{feff}\r\nContent-Length: 2\r\n\r\n",
    ] {
        let input = format!("{header}{{}}{header}[]");
        assert_eq!(lsp(input), [record("{}"), record("[]")], "{header:?}");
    }
}

#[test]
fn bad_length_costs_one_message() {
    for value in
        ["", "-1", "+2", "2x", "0x2", "2 3", "2,2", "1e3", "\u{662}", "18446744073709551616"]
    {
        let header = format!("Content-Length: {value}\r\n");
        let input = format!("{header}\r\n{{\"a\":1}}Content-Length: 2\r\n\r\n{{}}");
        let expected = [bad_header(&header), noise("{\"a\":1}"), record("{}")];
        assert_eq!(lsp(input), expected, "{value:?}");
    }
}

#[test]
fn block_without_length_is_malformed() {
    let input = "Content-Type: x\r\n\r\n{}\r\nContent-Length: 2\r\n\r\n[]";
    assert_eq!(lsp(input), [bad_header("Content-Type: x\r\n"), noise("{}"), record("[]")]);
}

#[test]
fn two_different_lengths_are_malformed() {
    let block = "Content-Length: 2\r\nContent-Length: 3\r\nContent-Length: 2\r\n";
    let input = format!("{block}\r\n{{}}\nContent-Length: 2\n\n[]");
    assert_eq!(lsp(input), [bad_header(block), noise("{}"), record("[]")]);
}

#[test]
fn resync_needs_a_good_length() {
    // Otherwise a broken body that contains header lines would be reported many times.
    let input = "Content-Length: x\r\n\r\n\
        Content-Type: y\r\nContent-Length: z\r\n{}\n\ncontent-length: 2\r\n\r\n[]";
    let expected = [
        bad_header("Content-Length: x\r\n"),
        noise("Content-Type: y"),
        noise("Content-Length: z"),
        noise("{}"),
        record("[]"),
    ];
    assert_eq!(lsp(input), expected);
    let input = "Content-Length: x\r\n\r\nContent-Le";
    assert_eq!(lsp(input), [bad_header("Content-Length: x\r\n"), noise("Content-Le")]);
}

#[test]
fn huge_length_allocates_nothing() {
    // Above 1 TiB the header is malformed; below, the body is skipped without being kept.
    for value in ["18446744073709551615", "1099511627777", "1000000000000000000000000000000"] {
        let header = format!("Content-Length: {value}\r\n");
        let input = format!("{header}\r\n{{}}\nContent-Length: 2\r\n\r\n[]");
        assert_eq!(lsp(input), [bad_header(&header), noise("{}"), record("[]")], "{value}");
    }
    for (value, held) in [(1_u64 << 40, 160 + 64), ((16 << 20) + 1, 160 + 64), (16 << 20, 1000)] {
        let mut framer = Framer::new(Framing::ContentLength, &Limits::new());
        let header = format!("Content-Length: {value}\r\n\r\n");
        assert_eq!(feed(&mut framer, header), []);
        assert_eq!((framer.held(), framer.capacity()), (0, 0), "a claim alone costs nothing");
        assert_eq!(feed(&mut framer, [b'['; 1000]), []);
        assert_eq!(framer.held(), held);
        assert!(framer.capacity() <= 8 << 10, "{}", framer.capacity());
        assert_eq!(finish(&mut framer), [truncated([b'['; 1000])]);
    }
}

#[test]
fn overlong_header_block_is_malformed_once() {
    let mut limits = Limits::new();
    limits.header_max = 100;
    let look = |input: &str| frames_with(Framing::ContentLength, &limits, input.as_bytes());
    // Exactly the limit, counted with line ends and without the blank line.
    let fits = format!("Content-Length: 2\r\nContent-Type: {}\r\n", "x".repeat(65));
    assert_eq!(fits.len(), 100);
    assert_eq!(look(&format!("{fits}\r\n{{}}")), [record("{}")]);
    let above = format!("Content-Length: 2\r\nContent-Type: {}\r\n", "x".repeat(66));
    let input = format!("{above}Content-Type: y\r\n\r\n{{}}{fits}\r\n[]");
    // The header at the end of the line is found, so the text before it is noise.
    let expected = [bad_header(&above), noise("Content-Type: y"), noise("{}"), record("[]")];
    assert_eq!(look(&input), expected);
    // One line alone is above the limit.
    let line = format!("Content-Type: {}\r\n", "x".repeat(400));
    let input = format!("{line}{line}\r\nContent-Length: 2\r\n\r\n[]");
    assert_eq!(look(&input), [bad_header(&line), noise(line.trim_end()), record("[]")]);
}

#[test]
fn endless_line_is_not_kept() {
    // One line of 1 MiB of noise with a header at its end.
    let limits = Limits::new();
    let mut framer = Framer::new(Framing::ContentLength, &limits);
    for _ in 0..1024 {
        assert_eq!(feed(&mut framer, [b'z'; 1024]), []);
        assert!(framer.held() <= limits.header_max + 160);
        assert!(framer.capacity() <= 2 * limits.header_max + 1024, "{}", framer.capacity());
    }
    let seen = feed(&mut framer, framed("{}"));
    assert_eq!(seen, [Event::Noise(Preview::new(1 << 20, &[b'z'; 160], 160)), record("{}")]);
}

#[test]
fn long_line_is_the_same_in_every_cut() {
    let mut limits = Limits::new();
    limits.header_max = 80;
    let look = |input: &str| frames_with(Framing::ContentLength, &limits, input.as_bytes());
    for len in [79, 80, 81, 150, 159, 160, 161, 400] {
        let word = "w".repeat(len);
        let input = format!("{word}\r\n{word}\n{word}Content-Length: 2\r\n\r\n{{}}{word}");
        let noise = || noise(&word);
        assert_eq!(look(&input), [noise(), noise(), noise(), record("{}"), noise()], "{len}");
    }
}

#[test]
fn print_costs_nothing_with_lf_headers() {
    // A server that ends its header lines in LF prints a word without a line end.
    let frame = |body: &str| format!("Content-Length: {}\n\n{body}", body.len());
    let input = format!("{}loading {}{}", frame("[1]"), frame("[2]"), frame("[3]"));
    assert_eq!(lsp(input), [record("[1]"), noise("loading "), record("[2]"), record("[3]")]);
    // At the start, and with another header behind it.
    let input = format!("loading Content-Length: 3\nContent-Type: x\n\n[1]{}", frame("[2]"));
    assert_eq!(lsp(input), [noise("loading "), record("[1]"), record("[2]")]);
    // A bad header and a length that is too short.
    let input = format!("Content-Length: x\n\n[1]{}", frame("[2]"));
    let bad = bad_header("Content-Length: x\n");
    assert_eq!(lsp(input), [bad, noise("[1]"), record("[2]")]);
    let input = format!("Content-Length: 2\n\n[1]{}", frame("[2]"));
    assert_eq!(lsp(input), [bad_json("[1"), noise("]"), record("[2]")]);
}

#[test]
fn log_line_about_a_length_costs_nothing() {
    let log = "GET /x Content-Length: 512";
    for next in ["\n", "\nINFO: more\n", "\n\u{feff}", "\nmore\n\n\n"] {
        let input = [format!("{log}{next}").as_bytes(), &framed("{}")].concat();
        let mut seen = lsp(&input);
        assert_eq!((seen.remove(0), seen.pop()), (noise(log), Some(record("{}"))), "{next:?}");
    }
    // Behind headers in CRLF it is a log line for certain.
    let input = [&framed("[]")[..], b"GET Content-Length: 2\n\n{}\n", &framed("{}")].concat();
    let expected = [record("[]"), noise("GET Content-Length: 2"), noise("{}"), record("{}")];
    assert_eq!(lsp(input), expected);
    assert_eq!(lsp(format!("{log}\n")), [noise(log)]);
}

#[test]
fn header_without_a_space_is_found_behind_text() {
    for end in ["\r\n", "\n"] {
        let input = format!("xContent-Length:2{end}{end}{{}}");
        assert_eq!(lsp(input), [noise("x"), record("{}")], "{end:?}");
    }
}

#[test]
fn lines_like_a_header_behind_text_are_noise() {
    // A name of the same length, and no colon.
    for line in ["x Content-Height: 2", "x Content-Length= 2"] {
        let input = format!("{line}\r\n\r\nContent-Length: 2\r\n\r\n{{}}");
        assert_eq!(lsp(input), [noise(line), record("{}")], "{line}");
    }
}

#[test]
fn any_header_may_follow_a_length() {
    // Behind text with `\r\n`, and with a bare `\n` after a malformed block.
    let other = "X-Other: 1";
    let input = format!("xContent-Length: 2\r\n{other}\r\n\r\n{{}}");
    assert_eq!(lsp(input), [noise("x"), record("{}")]);
    let input = format!("Content-Length: x\n\nContent-Length: 2\n{other}\n\n{{}}");
    assert_eq!(lsp(input), [bad_header("Content-Length: x\n"), record("{}")]);
}

#[test]
fn line_of_the_longest_length_is_whole() {
    let mut limits = Limits::new();
    limits.header_max = 64;
    let input = format!("{}\nContent-Length: 2\n\n{{}}", " ".repeat(64));
    let seen = frames_with(Framing::ContentLength, &limits, input.as_bytes());
    assert_eq!(seen, [record("{}")]);
}

#[test]
fn long_line_behind_a_mark_ends_in_a_header() {
    let mut limits = Limits::new();
    limits.header_max = 100;
    let text = "x".repeat(300);
    let input = format!("\u{feff}{text}Content-Length: 2\r\n\r\n{{}}");
    let seen = frames_with(Framing::ContentLength, &limits, input.as_bytes());
    // The mark took part in the bytes that are kept.
    let start = Event::Noise(Preview::new(300, &text.as_bytes()[..157], 160));
    assert_eq!(seen, [start, record("{}")]);
}
