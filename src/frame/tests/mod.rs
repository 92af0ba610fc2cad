//! Tests of the framers under every cut of their input.
//!
//! `frames_with` feeds the input whole, cut in two at every byte, and byte by byte, and requires
//! equal results. So a test that states the frames of an input states them for every chunking.

mod auto;
mod concat;
mod content_length;
mod controls;
mod copies;
mod deframer;
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

use super::{CarryBuffers, Frame, Framer, Payload};

use super::fuzz::{
    bad_json, bad_utf8, feed, feed_all, feed_held, feed_with, finish, noise, oversized, record,
    sample, truncated,
};

/// Returns the events of the input and checks that they are the same for every cut.
pub(super) fn frames_with(framing: Framing, limits: &Limits, input: &[u8]) -> Vec<Event> {
    let whole = feed_all(framing, limits, [input]);
    let bytewise = feed_all(framing, limits, input.chunks(1));
    assert_eq!(whole, bytewise, "whole and byte by byte differ");
    let held = feed_held(framing, limits, input.chunks(1));
    assert_eq!(whole, held, "whole and held back differ");
    for at in 0..=input.len() {
        let (first, second) = input.split_at(at);
        let held = feed_held(framing, limits, [first, second]);
        assert_eq!(whole, held, "whole and held back at byte {at} differ");
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
