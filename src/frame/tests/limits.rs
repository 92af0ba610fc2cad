//! Memory, time and depth are bounded for any output of an agent.

use super::super::carry::work;
use super::*;

#[test]
fn limit_excludes_the_framing_of_a_line() {
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
fn oversized_line_is_one_event() {
    let limits = Limits::new().record_max(64);
    // An oversized line is not classified: record, noise and blank lines give the same event.
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
fn head_of_an_oversized_line_excludes_the_cr() {
    // The sample is larger than the limit, so the head may hold the whole line.
    let limits = Limits::new().record_max(64);
    for len in [65, 100, 159, 160, 161, 200] {
        let line = "y".repeat(len);
        let input = format!("\u{feff}{line}\r\n{{}}\n");
        let seen = frames_with(Framing::Ndjson, &limits, input.as_bytes());
        assert_eq!(seen, [oversized(&line), record("{}")], "{len}");
    }
}

#[test]
fn unlimited_record_max_does_not_overflow() {
    // `record_max(usize::MAX)` panicked the engine thread at the first record that came in two
    // reads. In a release build each read copied the whole record again.
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
        let (mut events, mut buffers) = (Vec::new(), CarryBuffers::default());
        work::take();
        for read in input.as_bytes().chunks(4096) {
            events.extend(feed_with(&mut framer, &mut buffers, read));
        }
        assert_eq!(events, [record(&text)], "{framing:?}");
        // Each byte is searched once, copied once, and copied again by the growth.
        let (worked, once) = (work::take(), input.len() as u64);
        assert!(worked <= 4 * once, "{framing:?}: {worked} for {once} bytes");
    }
    // Nothing is reserved for a body that no memory can hold.
    let mut framer = Framer::new(Framing::ContentLength, &limits);
    let claim = format!("Content-Length: {}\r\n\r\n{{", 1_u64 << 40);
    assert_eq!(feed(&mut framer, claim), []);
    assert!(framer.capacity() < 1 << 20, "{}", framer.capacity());
}

#[test]
fn endless_line_is_counted_and_not_kept() {
    let limits = Limits::new().record_max(10_000);
    for size in [1, 700, 4096] {
        let mut framer = Framer::new(Framing::Ndjson, &limits);
        let chunk = vec![b'x'; size];
        for _ in 0..20_000 {
            assert_eq!(feed(&mut framer, &chunk), []);
            assert!(framer.held() <= 10_004);
            assert!(framer.capacity() <= 10_004, "{}", framer.capacity());
        }
        assert_eq!(framer.held(), 160, "only the sample");
        let seen = feed(&mut framer, b"\n");
        assert_eq!(seen, [Event::Oversized(Preview::new(20_000 * size as u64, &[b'x'; 160], 160))]);
        assert_eq!((framer.held(), framer.capacity()), (0, 0));
    }
}

#[test]
fn limit_is_per_record() {
    let limits = Limits::new().record_max(64);
    let line = format!("{{\"a\":\"{}\"}}\n", "x".repeat(50));
    let input = line.repeat(2000);
    let seen = feed_all(Framing::Ndjson, &limits, input.as_bytes().chunks(100));
    assert_eq!(seen.len(), 2000);
    assert!(seen.iter().all(|event| *event == record(line.trim_end())));
}

#[test]
fn small_records_are_lent_and_large_ones_moved() {
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
fn record_inside_one_read_is_not_copied() {
    // The bytes of the record lie in the input.
    for input in [b"{}\n{\"a\":1}\n".to_vec(), [framed("{}"), framed("{\"a\":1}")].concat()] {
        let framing = if input[0] == b'{' { Framing::Ndjson } else { Framing::ContentLength };
        let range = input.as_ptr_range();
        let mut count = 0;
        let mut framer = Framer::new(framing, &Limits::new());
        let mut read = &input[..];
        while let Some(frame) = framer.next(&mut read, &mut CarryBuffers::default()) {
            let Frame::Record(payload, _) = frame else { panic!("{frame:?}") };
            let bytes = payload.as_bytes().as_ptr_range();
            assert!(range.contains(&bytes.start) && bytes.end <= range.end);
            count += 1;
        }
        assert_eq!(count, 2);
    }
}

#[test]
fn moved_record_has_no_excess_capacity() {
    let line = format!("\u{feff}[\"{}\"]\r\n", "l".repeat(70_000));
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new());
    let mut seen = 0;
    for mut chunk in line.as_bytes().chunks(4096) {
        while let Some(frame) = framer.next(&mut chunk, &mut CarryBuffers::default()) {
            let Frame::Record(Payload::Owned(bytes), _) = frame else { panic!("{frame:?}") };
            assert_eq!(bytes.len(), 70_004);
            assert_eq!(bytes.capacity(), bytes.len());
            seen += 1;
        }
    }
    assert_eq!(seen, 1);
    assert_eq!(framer.capacity(), 0);
}

#[test]
fn small_rest_does_not_keep_a_large_buffer() {
    // A record of 16 KiB came in two reads; one byte of the next record follows it.
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new());
    let line = format!("[\"{}\"]\n", "x".repeat(16_000));
    assert_eq!(feed(&mut framer, &line.as_bytes()[..15_000]), []);
    let seen = feed(&mut framer, [&line.as_bytes()[15_000..], b"{"].concat());
    assert_eq!((seen.len(), framer.held()), (1, 1));
    assert_eq!(framer.capacity(), 8 << 10, "one carry buffer");
}

#[test]
fn four_mib_byte_by_byte_is_linear_work() {
    // A search that started over with each read would look at 8.8e12 bytes here. The test counts
    // the bytes searched and copied, including the growth of the carry.
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
fn deep_nesting_does_not_overflow_the_stack() {
    // Depth costs a bit per level on the heap. A host that builds a tree from such a record gets
    // the error of its parser.
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
