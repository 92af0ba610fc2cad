//! Stderr: bounded lines, and the tail.

use std::time::{Duration, Instant};

use super::super::StderrLines;
use crate::config::Limits;
use crate::record::StderrLine;

fn limits(line_max: usize, tail: usize) -> Limits {
    let mut limits = Limits::new().stderr_tail(tail);
    limits.stderr_line_max = line_max;
    limits
}

fn feed_all<'a>(
    limits: &Limits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<String>, String) {
    let mut lines = Vec::new();
    let mut given = Vec::new();
    let mut stderr = StderrLines::new(limits);
    for chunk in chunks {
        given.extend_from_slice(chunk);
        lines.extend(feed(&mut stderr, chunk));
        assert!(stderr.held() <= limits.stderr_line_max.max(4) + 1);
    }
    lines.extend(stderr.finish());
    assert_eq!(stderr.held(), 0);
    assert_eq!(stderr.finish(), None, "nothing is left for a second call");
    let said: Vec<u8> = lines.iter().flat_map(|line| line.as_bytes()).copied().collect();
    assert_eq!(said, given, "the lines are the bytes of stderr");
    (lines.iter().map(|line| line.text().into_owned()).collect(), stderr.tail())
}

fn feed(stderr: &mut StderrLines, read: &[u8]) -> Vec<StderrLine> {
    feed_at(stderr, read, Instant::now())
}

fn feed_at(stderr: &mut StderrLines, mut read: &[u8], now: Instant) -> Vec<StderrLine> {
    stderr.absorb(read);
    std::iter::from_fn(|| stderr.next_line(&mut read, now)).collect()
}

/// Returns lines and tail, and checks that they are the same for every cut.
fn lines_with(limits: &Limits, input: &[u8]) -> (Vec<String>, String) {
    let whole = feed_all(limits, [input]);
    assert_eq!(whole, feed_all(limits, input.chunks(1)), "byte by byte");
    for at in 0..=input.len() {
        let (first, second) = input.split_at(at);
        assert_eq!(whole, feed_all(limits, [first, second]), "cut at byte {at}");
    }
    whole
}

#[test]
fn lines_are_whole_in_every_cut() {
    let (lines, tail) = lines_with(&Limits::new(), b"one\ntwo\r\n\nthree");
    assert_eq!(lines, ["one", "two", "", "three"]);
    assert_eq!(tail, "one\ntwo\r\n\nthree");
    assert_eq!(lines_with(&Limits::new(), b"").0, [""; 0]);
}

#[test]
fn binary_data_does_not_end_stderr() {
    let (lines, tail) = lines_with(&Limits::new(), b"a\xFFb\n\xC3\xA9\nend\xC3");
    assert_eq!(lines, ["a\u{FFFD}b", "\u{e9}", "end\u{FFFD}"]);
    assert_eq!(tail, "a\u{FFFD}b\n\u{e9}\nend\u{FFFD}");
}

#[test]
fn long_line_comes_in_pieces() {
    // A progress bar never writes a newline: its text must not grow, and must be delivered.
    let limits = limits(8, 100);
    for (input, pieces) in [
        ("12345678\n", &["12345678"][..]),
        ("12345678\r\n", &["12345678"]),
        ("123456789\n", &["12345678", "9"]),
        ("123456789\r\n", &["12345678", "9"]),
        ("12345678\r9\n", &["12345678", "\r9"]),
        ("1234567812345678\nx\n", &["12345678", "12345678", "x"]),
        ("12345678123456781", &["12345678", "12345678", "1"]),
    ] {
        assert_eq!(lines_with(&limits, input.as_bytes()).0, pieces, "{input:?}");
    }
}

#[test]
fn piece_ends_between_characters() {
    let limits = limits(8, 100);
    for text in ["1234567\u{e9}89\n", "12345\u{4f60}\u{597d}6\n", "123456\u{1f980}78901234\n"] {
        let (lines, _) = lines_with(&limits, text.as_bytes());
        assert_eq!(lines.concat(), text.trim_end(), "{lines:?}");
        assert!(lines.iter().all(|line| line.len() <= 8), "{lines:?}");
    }
    // No character ends in a run of continuation bytes, so the cut is at the limit.
    let (lines, _) = lines_with(&limits, &[0x80; 20]);
    assert_eq!(lines.iter().map(|line| line.chars().count()).collect::<Vec<_>>(), [8, 8, 4]);
}

#[test]
fn tail_is_bounded() {
    let text: String = (0..5000).map(|n| format!("line {n}\n")).collect();
    for chunk in [1, 7, 100, 101, 4096, text.len()] {
        let (_, tail) = feed_all(&limits(64, 100), text.as_bytes().chunks(chunk));
        assert_eq!(tail, text[text.len() - 100..], "in chunks of {chunk}");
    }
    assert_eq!(feed_all(&limits(64, 0), [&b"text"[..]]).1, "");
}

#[test]
fn tail_begins_with_a_whole_character() {
    // 4 bytes are kept of two characters of 3 bytes: the rest of the first is left out.
    assert_eq!(lines_with(&limits(64, 4), "\u{4f60}\u{597d}".as_bytes()).1, "\u{597d}");
    // Nothing was cut, so nothing is left out.
    assert_eq!(lines_with(&limits(64, 4), b"\x80ab").1, "\u{FFFD}ab");
}

#[test]
fn absorb_keeps_only_the_tail() {
    let mut stderr = StderrLines::new(&limits(64, 10));
    for _ in 0..1000 {
        stderr.absorb(b"no newline here ");
        assert_eq!(stderr.held(), 0);
    }
    assert_eq!(stderr.tail(), "line here ");
    assert_eq!(stderr.finish(), None);
}

#[test]
fn unfinished_line_is_overdue_after_100_ms() {
    let start = Instant::now();
    let after = |ms| start + Duration::from_millis(ms);
    let mut stderr = StderrLines::new(&limits(64, 100));
    assert_eq!(stderr.overdue_at(), None);
    assert_eq!(feed_at(&mut stderr, b"one\nProceed", start).len(), 1);
    // Further bytes give the line no more time: a bar of dots must not wait for its last dot.
    assert_eq!(feed_at(&mut stderr, b"? ", after(60)).len(), 0);
    assert_eq!(stderr.overdue_at(), Some(after(100)));
    assert_eq!(stderr.take_overdue(after(99)), None);
    let piece = stderr.take_overdue(after(100)).expect("overdue");
    assert_eq!((piece.as_bytes(), piece.is_finished()), (&b"Proceed? "[..], false));
    assert_eq!((stderr.overdue_at(), stderr.take_overdue(after(500))), (None, None));
    // The rest is a piece of its own, and nothing is said twice.
    let rest = feed_at(&mut stderr, b"[y] yes\ntwo\n", after(600));
    assert_eq!(rest.iter().map(StderrLine::text).collect::<Vec<_>>(), ["[y] yes", "two"]);
    assert!(rest.iter().all(StderrLine::is_finished));
    assert_eq!(stderr.overdue_at(), None);
    assert_eq!(stderr.tail(), "one\nProceed? [y] yes\ntwo\n");
}

// A character that arrives in two reads must not become two U+FFFD, nor must a byte that begins
// none keep a timer running.
#[test]
fn overdue_piece_ends_between_characters() {
    let start = Instant::now();
    let late = start + Duration::from_secs(1);
    for (text, whole) in [("a\u{e9}", 1), ("a\u{597d}", 1), ("a\u{1f980}", 1), ("\u{e9}", 0)] {
        for cut in whole + 1..text.len() {
            let mut stderr = StderrLines::new(&limits(64, 100));
            let (first, second) = text.as_bytes().split_at(cut);
            assert_eq!(feed_at(&mut stderr, first, start).len(), 0);
            let piece = stderr.take_overdue(late).map(|piece| piece.text().into_owned());
            assert_eq!(piece.as_deref(), text.get(..whole).filter(|text| !text.is_empty()));
            assert_eq!(stderr.overdue_at(), None, "no timer without a whole character");
            assert_eq!(feed_at(&mut stderr, second, late).len(), 0);
            let rest = stderr.take_overdue(late + Duration::from_secs(1)).expect("overdue");
            assert_eq!(rest.text(), text[whole..]);
        }
    }
    for binary in [&b"\xFF"[..], b"a\x80", b"\x80\x80\x80\x80", b"\xC0", b"\xF8\x80"] {
        let mut stderr = StderrLines::new(&limits(64, 100));
        feed_at(&mut stderr, binary, start);
        assert_eq!(stderr.take_overdue(late).expect("all of it").as_bytes(), binary);
    }
}

#[test]
fn binary_piece_is_as_long_as_the_limit() {
    // Bytes that look like the rest of a character whose start is missing: there is nothing to keep whole.
    let lines = lines_with(&limits(8, 0), b"xxxxxx\x80\x80\x80x\n").0;
    assert_eq!(lines[0].chars().count(), 8, "{lines:?}");
}
