//! Memory, time and depth: what no agent can take.

use super::super::scan::work;
use super::*;

#[test]
fn the_limit_is_for_the_line_without_its_framing() {
    let limits = Limits::new().record_max(64);
    let fits = format!("{{\"a\":\"{}\"}}", "x".repeat(56));
    let above = format!("{{\"a\":\"{}\"}}", "x".repeat(57));
    let mark = "\u{feff}";
    for (before, after) in
        [("", "\n"), ("", "\r\n"), (mark, "\n"), (mark, "\r\n"), (mark, "\r"), ("", "")]
    {
        let look = |text: &str| {
            frames_with(Framing::Ndjson, &limits, format!("{before}{text}{after}").as_bytes())
        };
        assert_eq!(look(&fits), [record(&fits)], "{before:?} {after:?}");
        assert_eq!(look(&above), [oversized(&above)], "{before:?} {after:?}");
    }
}

#[test]
fn an_oversized_line_is_one_event_and_the_next_line_comes() {
    let limits = Limits::new().record_max(64);
    // Record, noise or blank: what it would have been is not known, and not asked.
    for byte in [b'{', b'x', b' ', 0xFF, b'\r'] {
        let line = vec![byte; 300];
        let mut input = b"{}\n".to_vec();
        input.extend_from_slice(&line);
        input.extend_from_slice(b"\n[]\n");
        input.extend_from_slice(&line);
        let kept = if byte == b'\r' { &line[1..] } else { &line[..] };
        let expected = [record("{}"), oversized(kept), record("[]"), oversized(kept)];
        assert_eq!(frames_with(Framing::Ndjson, &limits, &input), expected, "{byte:#x}");
    }
}

#[test]
fn the_head_of_an_oversized_line_ends_with_the_line() {
    // The sample is larger than the limit: the head must not pick up the '\r'.
    let limits = Limits::new().record_max(64);
    for len in [65, 100, 159, 160, 161, 200] {
        let line = "y".repeat(len);
        let input = format!("\u{feff}{line}\r\n{{}}\n");
        let seen = frames_with(Framing::Ndjson, &limits, input.as_bytes());
        assert_eq!(seen, [oversized(&line), record("{}")], "{len}");
    }
}

#[test]
fn a_limit_that_is_no_limit_overflows_nothing() {
    // The story: `record_max(usize::MAX)` panicked the engine thread at the first record that came in
    // two reads, and in a release build each read copied the whole record once more.
    let text = format!("[\"{}\"]", "x".repeat(1 << 20));
    let sizes = Limits::new().stderr_tail(usize::MAX).inbox_high(usize::MAX).drain_max(usize::MAX);
    let limits = sizes.outbox_high(usize::MAX).record_max(usize::MAX);
    let (header, end) = (format!("Content-Length: {}\r\n\r\n", text.len()), String::new());
    let framings = [
        (Framing::Ndjson, String::new(), "\r\n".to_owned()),
        (Framing::Ndjson, "\u{feff}".to_owned(), "\n".to_owned()),
        (Framing::ContentLength, header, end),
    ];
    for (framing, before, after) in framings {
        let input = format!("{before}{text}{after}");
        let mut framer = Framer::new(framing, &limits);
        let (mut events, mut spares) = (Vec::new(), Spares::default());
        work::take();
        for read in input.as_bytes().chunks(4096) {
            framer.feed(read, &mut spares, &mut |frame| events.push(frame.into_event()));
        }
        assert_eq!(events, [record(&text)], "{framing:?}");
        // Looked at once, copied once, and once more by the growth.
        let (worked, once) = (work::take(), input.len() as u64);
        assert!(worked <= 4 * once, "{framing:?}: {worked} for {once} bytes");
    }
    // A length that no memory can hold is waited for, and nothing is reserved for it.
    let mut framer = Framer::new(Framing::ContentLength, &limits);
    let claim = format!("Content-Length: {}\r\n\r\n{{", 1_u64 << 40);
    framer.feed(claim.as_bytes(), &mut Spares::default(), &mut |frame| panic!("{frame:?}"));
    assert!(framer.capacity() < 1 << 20, "{}", framer.capacity());
}

#[test]
fn no_newline_for_ever_is_counted_and_not_kept() {
    let limits = Limits::new().record_max(10_000);
    for size in [1, 700, 4096] {
        let mut framer = Framer::new(Framing::Ndjson, &limits);
        let chunk = vec![b'x'; size];
        for _ in 0..20_000 {
            framer.feed(&chunk, &mut Spares::default(), &mut |frame| panic!("{frame:?}"));
            assert!(framer.held() <= 10_004);
            assert!(framer.capacity() <= 10_004, "{}", framer.capacity());
        }
        assert_eq!(framer.held(), 160, "only the sample");
        let mut seen = Vec::new();
        framer.feed(b"\n", &mut Spares::default(), &mut |frame| seen.push(frame.into_event()));
        assert_eq!(seen, [Event::Oversized(Preview::new(20_000 * size as u64, &[b'x'; 160], 160))]);
        assert_eq!((framer.held(), framer.capacity()), (0, 0));
    }
}

#[test]
fn limits_are_per_record_and_never_summed() {
    let limits = Limits::new().record_max(64);
    let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat(50));
    let input = line.repeat(2000);
    let seen = feed_all(Framing::Ndjson, &limits, input.as_bytes().chunks(100));
    assert_eq!(seen.len(), 2000);
    assert!(seen.iter().all(|event| *event == record(line.trim_end())));
}

#[test]
fn a_record_inside_one_read_is_lent_and_a_large_one_over_many_handed_over() {
    let small = format!("[\"{}\"]\n", "s".repeat(1000));
    let large = format!("[\"{}\"]\n", "l".repeat(100_000));
    let (small_len, large_len) = (small.len() - 1, large.len() - 1);
    let lines = [small.as_bytes(), large.as_bytes()].concat();
    let frames = [framed(&small[..small_len]), framed(&large[..large_len])].concat();
    for (framing, input) in [(Framing::Ndjson, &lines), (Framing::ContentLength, &frames)] {
        let limits = Limits::new();
        let whole = handed_over(framing, &limits, [&input[..]]);
        assert_eq!(whole, [(false, small_len), (false, large_len)]);
        let cut = handed_over(framing, &limits, input.chunks(700));
        assert_eq!(cut, [(false, small_len), (true, large_len)]);
    }
}

#[test]
fn a_record_inside_one_read_lies_where_it_was_read() {
    // No copy: the record's bytes are the input's.
    for input in [b"{}\n{\"a\":1}\n".to_vec(), [framed("{}"), framed("{\"a\":1}")].concat()] {
        let framing = if input[0] == b'{' { Framing::Ndjson } else { Framing::ContentLength };
        let range = input.as_ptr_range();
        let mut count = 0;
        Framer::new(framing, &Limits::new()).feed(&input, &mut Spares::default(), &mut |frame| {
            let super::super::Frame::Record(payload, _) = frame else { panic!("{frame:?}") };
            let bytes = payload.as_bytes().as_ptr_range();
            assert!(range.contains(&bytes.start) && bytes.end <= range.end);
            count += 1;
        });
        assert_eq!(count, 2);
    }
}

#[test]
fn a_record_handed_over_holds_no_more_than_its_bytes() {
    let line = format!("\u{feff}[\"{}\"]\r\n", "l".repeat(70_000));
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new());
    let mut seen = 0;
    for chunk in line.as_bytes().chunks(4096) {
        framer.feed(chunk, &mut Spares::default(), &mut |frame| match frame {
            super::super::Frame::Record(Payload::Owned(bytes), _) => {
                assert_eq!(bytes.len(), 70_004);
                assert_eq!(bytes.capacity(), bytes.len());
                seen += 1;
            }
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, 1);
    assert_eq!(framer.capacity(), 0);
}

#[test]
fn a_small_rest_does_not_keep_a_large_buffer() {
    // A 16 KiB record came in two reads; after it only one byte is unfinished.
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new());
    let line = format!("[\"{}\"]\n", "x".repeat(16_000));
    framer
        .feed(&line.as_bytes()[..15_000], &mut Spares::default(), &mut |frame| panic!("{frame:?}"));
    let mut count = 0;
    framer.feed(&[&line.as_bytes()[15_000..], b"{"].concat(), &mut Spares::default(), &mut |_| {
        count += 1
    });
    assert_eq!((count, framer.held()), (1, 1));
    assert_eq!(framer.capacity(), 8 << 10, "a spare buffer");
}

#[test]
fn four_mib_byte_by_byte_is_linear_work() {
    // A search that began anew with each read would look at 8.8e12 bytes here. Counted, not
    // timed: bytes searched for a newline and bytes copied, growth of the carry included.
    const LEN: usize = 4 << 20;
    let mut line = vec![b'x'; LEN];
    line[..2].copy_from_slice(b"[\"");
    line[LEN - 3..].copy_from_slice(b"\"]\n");
    for chunk in [1, 4096, LEN] {
        work::take();
        let seen = handed_over(Framing::Ndjson, &shape(), line.chunks(chunk));
        let done = work::take();
        assert_eq!(seen, [(chunk != LEN, LEN - 1)]);
        assert!(done <= 4 * LEN as u64, "{done} bytes of work for {LEN} in chunks of {chunk}");
    }
    let frame = framed(&line[..LEN - 1]);
    work::take();
    assert_eq!(handed_over(Framing::ContentLength, &shape(), frame.chunks(4)), [(true, LEN - 1)]);
    let done = work::take();
    assert!(done <= 4 * LEN as u64, "{done} bytes of work for {LEN} in chunks of 4");
}

#[test]
fn a_nest_of_100_000_brackets_does_not_overflow_the_stack() {
    // Depth costs a byte a level on the heap. It is JSON, so it is a record; a host that builds
    // a tree from it gets its parser's own error.
    let nest = "[".repeat(100_000) + &"]".repeat(100_000);
    let object = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
    let open = "[".repeat(100_000);
    let broken = "{\"a\":".repeat(100_000);
    let input = format!("{nest}\n{object}\n{open}\n{broken}\n{open}");
    let expected =
        [record(&nest), record(&object), noise(&open), bad_json(&broken), truncated(&open)];
    assert_eq!(feed_all(Framing::Ndjson, &Limits::new(), input.as_bytes().chunks(8192)), expected);
    let input = [framed(&nest), framed(&broken)].concat();
    let seen = feed_all(Framing::ContentLength, &Limits::new(), input.chunks(8192));
    assert_eq!(seen, [record(&nest), bad_json(&broken)]);
    let deep = Record::from(nest.into_bytes());
    assert!(deep.json::<serde_json::Value>().is_err(), "an error, not an overflow");
}
