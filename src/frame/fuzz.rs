//! The laws of framing, for any bytes in any reads under any limits. The body of a fuzz target; the unit
//! tests check the same laws on generated input.

use crate::config::{JsonCheck, Limits};
use crate::framing::Framing;
use crate::record::{Event, MalformedReason, Preview, Record};

use super::classify::why_not_json;
use super::{CarryBuffers, Frame, Framer, controls, encode};

/// Checks the laws. The first bytes choose framing, limits and reads, the others are the input.
pub(crate) fn target(data: &[u8]) {
    let Some(([choice, record_max, header_max, sizes @ ..], input)) = data.split_first_chunk::<6>()
    else {
        return;
    };
    let check = if choice & 4 == 0 { JsonCheck::Syntax } else { JsonCheck::Shape };
    let mut limits = Limits::new().record_max(64 + 8 * usize::from(*record_max)).json_check(check);
    limits.header_max = usize::from(*header_max);
    let framing = [Framing::Ndjson, Framing::ContentLength, Framing::Concat, Framing::Auto]
        [usize::from(choice & 3)];
    let sizes = sizes.map(|size| usize::from(size) + 1);
    check_laws(framing, &limits, input, &sizes);
    check_sent(framing, limits, input, &sizes);
}

/// Checks that what this crate sends comes back as one record, if the input can be sent.
fn check_sent(framing: Framing, mut limits: Limits, input: &[u8], sizes: &[usize]) {
    // No header of this crate is longer.
    limits.header_max = limits.header_max.max(64);
    let mut sent = Vec::new();
    // A line that is a scalar is noise.
    let is_text = matches!(input.trim_ascii_start().first(), Some(b'{' | b'['));
    if is_text && encode(framing, input, &limits, &mut sent).is_ok() {
        let received = match framing {
            Framing::Concat => sent.trim_ascii(),
            Framing::Ndjson | Framing::ContentLength | Framing::Auto => input,
        };
        assert_eq!(feed_all(framing, &limits, cut(&sent, sizes)), [record(received)]);
    }
}

/// Checks that the frames depend on the bytes alone, and that every byte is in one of them or is part of
/// the framing. Compares lines with a naive splitter. Returns the frames.
pub(crate) fn check_laws(
    framing: Framing,
    limits: &Limits,
    input: &[u8],
    sizes: &[usize],
) -> Vec<Event> {
    let whole = feed_all(framing, limits, [input]);
    assert_eq!(whole, feed_all(framing, limits, cut(input, sizes)), "reads of {sizes:?} bytes");
    assert_eq!(whole, feed_all(framing, limits, input.chunks(1)), "reads of a byte");
    assert_eq!(
        whole,
        feed_held(framing, limits, cut(input, sizes)),
        "held, reads of {sizes:?} bytes"
    );
    let is_long =
        |event: &Event| matches!(event, Event::Record(it) if it.len() > limits.record_max);
    assert!(!whole.iter().any(is_long), "a record above the limit: {whole:?}");
    let (total, len) = (accounted(&whole), input.len() as u64);
    match framing {
        Framing::Ndjson => {
            if limits.json_check == JsonCheck::Syntax {
                let is_frame = |event: &&Event| !matches!(event, Event::FramingMismatch(_));
                let frames: Vec<Event> = whole.iter().filter(is_frame).cloned().collect();
                assert_eq!(frames, reference_events(limits, input));
            }
            assert_eq!(total + line_framing(limits, input), len, "{whole:?}");
        }
        Framing::Concat | Framing::ContentLength | Framing::Auto => {
            // What is in no event is white space, RS, a byte order mark or a header.
            let blank =
                |byte: &&u8| byte.is_ascii_whitespace() || b"\x1e\xEF\xBB\xBF".contains(byte);
            let may_have_headers = framing != Framing::Concat && input.contains(&b':');
            let content = input.iter().filter(|byte| !blank(byte)).count() as u64;
            let content = if may_have_headers { 0 } else { content };
            assert!((content..=len).contains(&total), "{content} of {total} of {len}: {whole:?}");
        }
    }
    whole
}

/// Returns the events of one read.
pub(crate) fn feed_with(
    framer: &mut Framer,
    buffers: &mut CarryBuffers,
    mut read: &[u8],
) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(frame) = framer.next(&mut read, buffers) {
        events.extend(frame.into_event());
    }
    events
}

/// Returns the events of one read; no idle carry buffer is available.
pub(crate) fn feed(framer: &mut Framer, read: impl AsRef<[u8]>) -> Vec<Event> {
    feed_with(framer, &mut CarryBuffers::default(), read.as_ref())
}

/// Returns the events at the end of the output.
pub(crate) fn finish(framer: &mut Framer) -> Vec<Event> {
    let mut buffers = CarryBuffers::default();
    std::iter::from_fn(|| framer.finish(&mut buffers)).filter_map(Frame::into_event).collect()
}

/// Feeds the chunks and checks after each how much the framer holds.
pub(crate) fn feed_all<'a>(
    framing: Framing,
    limits: &Limits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let mut framer = Framer::new(framing, limits);
    let mut buffers = CarryBuffers::default();
    let most = limits.record_max.max(limits.header_max) + 4 + 160 + 64 * 4;
    for chunk in chunks {
        events.extend(feed_with(&mut framer, &mut buffers, chunk));
        assert!(framer.held() <= most, "held {} of at most {most}", framer.held());
        if framer.held() == 0 {
            assert_eq!(framer.capacity(), 0, "an idle framer holds no buffer");
        }
    }
    events.extend(std::iter::from_fn(|| framer.finish(&mut buffers)).filter_map(Frame::into_event));
    assert_eq!((framer.held(), framer.capacity()), (0, 0));
    assert_eq!(finish(&mut framer), [], "nothing is left for a second call");
    events
}

/// Feeds the chunks as bulk reads do: in two turns of three what is unfinished stays in the input.
pub(crate) fn feed_held<'a>(
    framing: Framing,
    limits: &Limits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Event> {
    let mut framer = Framer::new(framing, limits);
    let mut buffers = CarryBuffers::default();
    let (mut events, mut left) = (Vec::new(), Vec::new());
    for (turn, chunk) in chunks.into_iter().chain([&[][..]; 3]).enumerate() {
        left.extend_from_slice(chunk);
        framer.hold_back(turn % 3 < 2);
        let mut read = &left[..];
        while let Some(frame) = framer.next(&mut read, &mut buffers) {
            events.extend(frame.into_event());
        }
        let used = left.len() - read.len();
        left.drain(..used);
        assert!(left.len() <= limits.record_max, "{} bytes are held back", left.len());
    }
    assert_eq!(left, b"", "one of the last turns held nothing back");
    events.extend(finish(&mut framer));
    events
}

/// Cuts the input by a list of chunk sizes, used in turn.
pub(crate) fn cut<'a>(mut input: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for &size in sizes.iter().cycle() {
        if input.is_empty() {
            break;
        }
        let (chunk, rest) = input.split_at(size.min(input.len()));
        chunks.push(chunk);
        input = rest;
    }
    chunks
}

/// A simple line splitter with the whole input in memory, for comparison.
fn reference_events(limits: &Limits, input: &[u8]) -> Vec<Event> {
    let mut lines: Vec<&[u8]> = input.split(|&byte| byte == b'\n').collect();
    let tail = lines.pop().unwrap_or_default();
    let mut events = Vec::new();
    for (line, last) in lines.into_iter().map(|line| (line, false)).chain([(tail, true)]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        let text = line.trim_ascii();
        let valid = serde_json::from_slice::<serde_json::Value>(text).is_ok();
        let starts = text.first().copied();
        let mut before = None;
        let event = if line.len() > limits.record_max {
            Some(oversized(line))
        } else if line.iter().all(|byte| b" \t\r".contains(byte)) {
            None
        } else if valid && matches!(starts, Some(b'{' | b'[')) && text.len() == json_len(line) {
            Some(record(line))
        } else if let Some((text, around)) = between_controls(line) {
            before = Some(record(text));
            Some(noise(around))
        } else if starts == Some(b'{') && json_start(line) == Some(b'{') {
            Some(if last {
                truncated(line)
            } else if std::str::from_utf8(line).is_err() {
                bad_utf8(line)
            } else {
                bad_json(line)
            })
        } else if last && json_start(line) == Some(b'[') && array_like(line) {
            Some(truncated(line))
        } else {
            Some(noise(line))
        };
        events.extend(before.into_iter().chain(event));
    }
    events
}

/// A record with terminal controls around it, and those.
fn between_controls(line: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let text = controls::text_between(line)?;
    serde_json::from_slice::<serde_json::Value>(&line[text.clone()]).ok()?;
    Some((&line[text.clone()], [&line[..text.start], &line[text.end..]].concat()))
}

/// Unlike `trim_ascii`, does not trim form feeds, which are content in JSON.
fn json_len(line: &[u8]) -> usize {
    String::from_utf8_lossy(line).trim_matches([' ', '\t', '\r']).len()
}

fn json_start(line: &[u8]) -> Option<u8> {
    line.iter().copied().find(|byte| !b" \t\r".contains(byte))
}

fn array_like(line: &[u8]) -> bool {
    let mut bytes = line.iter().copied().filter(|byte| !b" \t\r".contains(byte)).skip(1);
    bytes.next().is_none_or(|byte| b"{[]\"-tfn0123456789".contains(&byte))
}

/// Bytes that are in an event.
fn accounted(events: &[Event]) -> u64 {
    let bytes = |event: &Event| match event {
        Event::Record(record) => record.len() as u64,
        Event::Noise(sample) | Event::Oversized(sample) | Event::Truncated(sample) => sample.len(),
        Event::Malformed { sample, .. } => sample.len(),
        Event::FramingMismatch(_) => 0,
        other => panic!("{other:?} is not a frame"),
    };
    events.iter().map(bytes).sum()
}

/// Bytes that are framing: line ends, blank lines, byte order marks.
fn line_framing(limits: &Limits, input: &[u8]) -> u64 {
    let newlines = input.iter().filter(|&&byte| byte == b'\n').count();
    let inside: usize = input
        .split(|&byte| byte == b'\n')
        .map(|line| {
            let content = line.strip_suffix(b"\r").unwrap_or(line);
            let content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
            let blank = content.iter().all(|byte| b" \t\r".contains(byte));
            let skipped = blank && content.len() <= limits.record_max;
            if skipped { line.len() } else { line.len() - content.len() }
        })
        .sum();
    (newlines + inside) as u64
}

pub(crate) fn record(bytes: impl AsRef<[u8]>) -> Event {
    Event::Record(Record::from(bytes.as_ref().to_vec()))
}

pub(crate) fn sample(bytes: impl AsRef<[u8]>) -> Preview {
    let bytes = bytes.as_ref();
    Preview::new(bytes.len() as u64, bytes, 160)
}

pub(crate) fn noise(bytes: impl AsRef<[u8]>) -> Event {
    Event::Noise(sample(bytes))
}

pub(crate) fn oversized(bytes: impl AsRef<[u8]>) -> Event {
    Event::Oversized(sample(bytes))
}

pub(crate) fn truncated(bytes: impl AsRef<[u8]>) -> Event {
    Event::Truncated(sample(bytes))
}

/// A malformed record whose reason has tests of its own.
pub(crate) fn bad_json(bytes: impl AsRef<[u8]>) -> Event {
    let reason = why_not_json(bytes.as_ref());
    Event::Malformed { reason, sample: sample(bytes) }
}

pub(crate) fn bad_utf8(bytes: impl AsRef<[u8]>) -> Event {
    Event::Malformed { reason: MalformedReason::Utf8, sample: sample(bytes) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_reads_give_the_same_frames() {
        crate::fuzz_driver::run("frame", super::target);
    }
}
