//! NDJSON: the classification of a line and of the last line.

use super::*;

#[test]
fn record_is_its_line_byte_for_byte() {
    // Whitespace around the JSON is kept, although the check ignores it.
    assert_eq!(ndjson("  {\"a\" : 1}\t\n"), [record("  {\"a\" : 1}\t")]);
    assert_eq!(ndjson("{\"a\":1}\n[1]\n"), [record("{\"a\":1}"), record("[1]")]);
}

#[test]
fn one_cr_before_the_newline_is_framing() {
    assert_eq!(ndjson("{}\r\n[]\r\n"), [record("{}"), record("[]")]);
    assert_eq!(ndjson("{}\r\r\n"), [record("{}\r")]);
    assert_eq!(ndjson("word\r\n"), [noise("word")]);
    assert_eq!(ndjson("{\"a\":\r1}\n"), [record("{\"a\":\r1}")]);
}

#[test]
fn cr_alone_ends_no_line() {
    assert_eq!(ndjson("{}\r{}\r\n"), [bad_json("{}\r{}")]);
    assert_eq!(ndjson("{}\r{}\r"), [truncated("{}\r{}")]);
}

#[test]
fn blank_lines_are_framing() {
    assert_eq!(ndjson("\n\n \t \n\r\n\r\r\n{}\n\n"), [record("{}")]);
    assert_eq!(ndjson(""), []);
    assert_eq!(ndjson(" \t"), []);
    assert_eq!(ndjson("\r"), []);
}

#[test]
fn byte_order_mark_is_framing() {
    assert_eq!(ndjson(b"\xEF\xBB\xBF{}\n"), [record("{}")]);
    assert_eq!(ndjson(b"{}\n\xEF\xBB\xBF{\"b\":2}\r\n"), [record("{}"), record("{\"b\":2}")]);
    assert_eq!(ndjson(b"\xEF\xBB\xBF\n\xEF\xBB\xBF\r\n"), []);
    assert_eq!(ndjson(b"\xEF\xBB\xBFword\n"), [noise("word")]);
    assert_eq!(ndjson(b"\xEF\xBB\xBF[1"), [truncated("[1")]);
    // Only one complete mark at the start of a line is framing. Others before a record are noise.
    let two = b"\xEF\xBB\xBF\xEF\xBB\xBF{}\n";
    assert_eq!(ndjson(two), [record("{}"), noise(b"\xEF\xBB\xBF")]);
    assert_eq!(ndjson(b"\xEF\xBB{}\n"), [noise(b"\xEF\xBB{}")]);
    assert_eq!(ndjson(b"\xEF\xBB"), [noise(b"\xEF\xBB")]);
}

#[test]
fn brace_begins_a_record_or_a_malformed_one() {
    for bad in ["{", "{]", "{}}", "{a:1}", "{\"a\":NaN}", "{\"a\":1}x", "{}{}", "{\"a\":\"\t\"}"] {
        assert_eq!(ndjson(format!("{bad}\n{{}}\n")), [bad_json(bad), record("{}")], "{bad}");
    }
}

#[test]
fn bracket_may_begin_a_log_line() {
    for bad in ["[debug] ready", "[", "[1", "[1]]", "[INFO] {\"a\":1}", "[t] x", "[1] [2]"] {
        assert_eq!(ndjson(format!("{bad}\n{{}}\n")), [noise(bad), record("{}")], "{bad}");
    }
    assert_eq!(ndjson("[]\n[ ]\n[{}]\n"), [record("[]"), record("[ ]"), record("[{}]")]);
}

#[test]
fn scalars_and_words_are_noise() {
    for word in ["42", "\"text\"", "null", "true", "ready", "x{}", "\0{}", "\u{a0}{}", "\u{c}"] {
        assert_eq!(ndjson(format!("{word}\n")), [noise(word)], "{word:?}");
        assert_eq!(ndjson(word), [noise(word)], "{word:?} as the tail");
    }
}

#[test]
fn bad_utf8_is_malformed_only_in_a_record() {
    assert_eq!(ndjson(b"{\"a\":\"\xFF\"}\n{}\n"), [bad_utf8(b"{\"a\":\"\xFF\"}"), record("{}")]);
    // Both are wrong: bad UTF-8 is reported, as the deeper cause.
    assert_eq!(ndjson(b"{\xFF\n"), [bad_utf8(b"{\xFF")]);
    assert_eq!(ndjson(b"\xFF\xFE\n[\"\xC3\"]\n"), [noise(b"\xFF\xFE"), noise(b"[\"\xC3\"]")]);
    // An encoded surrogate, an overlong slash.
    assert_eq!(ndjson(b"{\"a\":\"\xED\xA0\x80\"}\n"), [bad_utf8(b"{\"a\":\"\xED\xA0\x80\"}")]);
    assert_eq!(ndjson(b"{\"a\":\"\xC0\xAF\"}\n"), [bad_utf8(b"{\"a\":\"\xC0\xAF\"}")]);
}

#[test]
fn shape_check_looks_at_the_ends_only() {
    let look = |input: &str| frames_with(Framing::Ndjson, &shape(), input.as_bytes());
    assert_eq!(look("{nonsense}\n"), [record("{nonsense}")]);
    assert_eq!(look(" {\"a\":1} \n"), [record(" {\"a\":1} ")]);
    for bad in ["{", "{\"a\":1", "{\"a\":1]", "{} {"] {
        assert_eq!(look(&format!("{bad}\n")), [bad_json(bad)], "{bad}");
    }
    for bad in ["[", "[debug]", "[1", "[1}", "[ INFO ]", "[1] x"] {
        assert_eq!(look(&format!("{bad}\n")), [noise(bad)], "{bad}");
    }
    for good in ["[]", "[ 1, oops]", "[\"a\"]", "[-1]", "[true]", "[[]]", "[{}]"] {
        assert_eq!(look(&format!("{good}\n")), [record(good)], "{good}");
    }
    let bad = b"{\"a\":\"\xFF\"}\n[\"\xFF\"]\n";
    assert_eq!(
        frames_with(Framing::Ndjson, &shape(), bad),
        [bad_utf8(b"{\"a\":\"\xFF\"}"), noise(b"[\"\xFF\"]")]
    );
}

#[test]
fn valid_tail_is_a_record() {
    assert_eq!(ndjson("{}\n{\"a\":1}"), [record("{}"), record("{\"a\":1}")]);
    assert_eq!(ndjson("[1]\r"), [record("[1]")]);
}

#[test]
fn cut_tail_is_truncated() {
    for cut in ["{", "{\"a\":1", "{\"a\":{}", "[", "[1", "[\"a", "[ tru"] {
        assert_eq!(ndjson(cut), [truncated(cut)], "{cut}");
    }
    assert_eq!(ndjson(b"{\"a\":\"\xC3"), [truncated(b"{\"a\":\"\xC3")]);
    assert_eq!(ndjson("[debug] half a li"), [noise("[debug] half a li")]);
    assert_eq!(ndjson("half a li"), [noise("half a li")]);
}

#[test]
fn cut_tail_with_the_right_shape_is_truncated() {
    // `{"a":{}` ends in a brace by chance and would pass the shape check.
    let tail = b"{\"a\":{}";
    assert_eq!(frames_with(Framing::Ndjson, &shape(), tail), [truncated(tail)]);
    assert_eq!(frames_with(Framing::Ndjson, &shape(), b"{\"a\":{}}"), [record("{\"a\":{}}")]);
}

#[test]
fn finish_resets_the_framer() {
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new().record_max(64));
    let mut seen = Vec::new();
    for input in [&b"{\"half"[..], &[b'x'; 100], b"{}"] {
        seen.extend(feed(&mut framer, input));
        seen.extend(finish(&mut framer));
    }
    assert_eq!(seen, [truncated("{\"half"), oversized([b'x'; 100]), record("{}")]);
}

#[test]
fn fault_without_a_name_is_only_bad_json() {
    // A backslash outside of strings hides no bracket, and a word is not unfinished.
    let fault =
        |text: &str| Event::Malformed { reason: MalformedReason::Json, sample: sample(text) };
    assert_eq!(ndjson("{\\}\n"), [fault("{\\}")]);
    assert_eq!(lsp(framed("nul")), [fault("nul")]);
}
