//! Tests of the framers under every cut of their input.
//!
//! `frames_with` feeds the input whole, cut in two at every byte, and byte by byte, and requires
//! equal results. So a test that states the frames of an input states them for every chunking.

mod auto;
mod concat;
mod content_length;
mod controls;
mod copies;
mod encode;
mod headers;
mod laws;
mod limits;
mod mismatch;
mod ndjson;
mod reference;
mod shared_buffers;
mod stderr;
mod traces;

use crate::config::{JsonCheck, Limits};
use crate::framing::Framing;
use crate::record::Record;
use crate::record::{Event, MalformedReason, Preview};

use super::classify::why_not_json;
use super::{CarryBuffers, Frame, Framer, Payload};

/// Returns the events of one read.
pub(super) fn feed_with(
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
pub(super) fn feed(framer: &mut Framer, read: impl AsRef<[u8]>) -> Vec<Event> {
    feed_with(framer, &mut CarryBuffers::default(), read.as_ref())
}

/// Returns the events at the end of the output.
pub(super) fn finish(framer: &mut Framer) -> Vec<Event> {
    let mut buffers = CarryBuffers::default();
    std::iter::from_fn(|| framer.finish(&mut buffers)).filter_map(Frame::into_event).collect()
}

/// Feeds the chunks and checks after each how much the framer holds.
pub(super) fn feed_all<'a>(
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

/// Returns the events of the input and checks that they are the same for every cut.
pub(super) fn frames_with(framing: Framing, limits: &Limits, input: &[u8]) -> Vec<Event> {
    let whole = feed_all(framing, limits, [input]);
    let bytewise = feed_all(framing, limits, input.chunks(1));
    assert_eq!(whole, bytewise, "whole and byte by byte differ");
    for at in 0..=input.len() {
        let (first, second) = input.split_at(at);
        let halves = feed_all(framing, limits, [first, &[], second]);
        assert_eq!(whole, halves, "whole and cut at byte {at} differ");
    }
    whole
}

pub(super) fn ndjson(input: impl AsRef<[u8]>) -> Vec<Event> {
    frames_with(Framing::Ndjson, &Limits::new(), input.as_ref())
}

pub(super) fn lsp(input: impl AsRef<[u8]>) -> Vec<Event> {
    frames_with(Framing::ContentLength, &Limits::new(), input.as_ref())
}

pub(super) fn shape() -> Limits {
    Limits::new().json_check(JsonCheck::Shape)
}

pub(super) fn record(bytes: impl AsRef<[u8]>) -> Event {
    Event::Record(Record::from(bytes.as_ref().to_vec()))
}

pub(super) fn sample(bytes: impl AsRef<[u8]>) -> Preview {
    let bytes = bytes.as_ref();
    Preview::new(bytes.len() as u64, bytes, 160)
}

pub(super) fn noise(bytes: impl AsRef<[u8]>) -> Event {
    Event::Noise(sample(bytes))
}

pub(super) fn oversized(bytes: impl AsRef<[u8]>) -> Event {
    Event::Oversized(sample(bytes))
}

pub(super) fn truncated(bytes: impl AsRef<[u8]>) -> Event {
    Event::Truncated(sample(bytes))
}

/// A malformed record whose reason has tests of its own.
pub(super) fn bad_json(bytes: impl AsRef<[u8]>) -> Event {
    let reason = why_not_json(bytes.as_ref());
    Event::Malformed { reason, sample: sample(bytes) }
}

pub(super) fn bad_utf8(bytes: impl AsRef<[u8]>) -> Event {
    Event::Malformed { reason: MalformedReason::Utf8, sample: sample(bytes) }
}

pub(super) fn bad_header(bytes: impl AsRef<[u8]>) -> Event {
    Event::Malformed { reason: MalformedReason::Header, sample: sample(bytes) }
}

pub(super) fn bad_length(bytes: impl AsRef<[u8]>) -> Event {
    Event::Malformed { reason: MalformedReason::Length, sample: sample(bytes) }
}

/// One Content-Length frame.
pub(super) fn framed(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut frame = format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    frame.extend_from_slice(body);
    frame
}

/// Returns for each record whether it was handed over with its memory, and its length.
pub(super) fn handed_over<'a>(
    framing: Framing,
    limits: &Limits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<(bool, usize)> {
    let mut seen = Vec::new();
    let mut framer = Framer::new(framing, limits);
    let mut buffers = CarryBuffers::default();
    for mut chunk in chunks {
        while let Some(frame) = framer.next(&mut chunk, &mut buffers) {
            if let Frame::Record(payload, _) = frame {
                let owned = matches!(payload, Payload::Owned(_));
                seen.push((owned, payload.as_bytes().len()));
            }
        }
    }
    seen
}
