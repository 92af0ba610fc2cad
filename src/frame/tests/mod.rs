//! The framers under every cut of their input.
//!
//! `frames` feeds whole, cut in two at every byte, and byte by byte; all must agree. So each
//! test that states what an input means states it for every chunking.

mod content_length;
mod copies;
mod encode;
mod headers;
mod laws;
mod limits;
mod ndjson;
mod reference;
mod shared;
mod stderr;
mod traces;

use crate::config::{Framing, JsonCheck, Limits};
use crate::record::Record;
use crate::record::{Event, MalformedReason, Preview};

use super::{Framer, Payload, Spares};

/// Feeds the chunks and checks, after each, what a framer may hold.
pub(super) fn feed_all<'a>(
    framing: Framing,
    limits: &Limits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let mut framer = Framer::new(framing, limits);
    let mut spares = Spares::default();
    let most = limits.record_max.max(limits.header_max) + 4 + 160 + 64 * 4;
    for chunk in chunks {
        framer.feed(chunk, &mut spares, &mut |frame| events.push(frame.into_event()));
        assert!(framer.held() <= most, "held {} of at most {most}", framer.held());
        if framer.held() == 0 {
            assert_eq!(framer.capacity(), 0, "an idle framer holds no buffer");
        }
    }
    let before = events.len();
    framer.finish(&mut spares, &mut |frame| events.push(frame.into_event()));
    assert!(events.len() <= before + 1, "the tail is one frame at most");
    assert_eq!((framer.held(), framer.capacity()), (0, 0));
    framer
        .finish(&mut spares, &mut |frame| panic!("a second finish has nothing to show: {frame:?}"));
    events
}

/// What the input means, however it is cut.
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

pub(super) fn bad_json(bytes: impl AsRef<[u8]>) -> Event {
    Event::Malformed { reason: MalformedReason::Json, sample: sample(bytes) }
}

pub(super) fn bad_utf8(bytes: impl AsRef<[u8]>) -> Event {
    Event::Malformed { reason: MalformedReason::Utf8, sample: sample(bytes) }
}

pub(super) fn bad_header(bytes: impl AsRef<[u8]>) -> Event {
    Event::Malformed { reason: MalformedReason::Header, sample: sample(bytes) }
}

/// One Content-Length frame.
pub(super) fn framed(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut frame = format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    frame.extend_from_slice(body);
    frame
}

/// Payloads as the transport sees them: whether each was handed over, and its length.
pub(super) fn handed_over<'a>(
    framing: Framing,
    limits: &Limits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Vec<(bool, usize)> {
    let mut seen = Vec::new();
    let mut framer = Framer::new(framing, limits);
    let mut spares = Spares::default();
    for chunk in chunks {
        framer.feed(chunk, &mut spares, &mut |frame| {
            if let super::Frame::Record(payload, _) = frame {
                let owned = matches!(payload, Payload::Owned(_));
                seen.push((owned, payload.as_bytes().len()));
            }
        });
    }
    seen
}
