//! Reading the routing keys of a record, without a pipe: `frame/CONTESTANT/BYTES`.
//!
//! The input is a stream of records as Claude Code writes them, cut into reads of one page. All
//! contestants split it at newlines. `memchr_scan` does nothing else and is the limit.
//! `envelope` copies each line into a `Record`, checks its JSON and reads the routing keys;
//! `serde_envelope` parses the line into a borrowed struct of the same keys, and `serde_value` into
//! a `Value`. For the whole path through a pipe see `throughput`.

mod support;

use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

use agentpipe::Record;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::Value;

use crate::support::contest::{Contest, Contestant, Slice};
use crate::support::stopwatch::Stopwatch;

const SIZES: [usize; 5] = [256, 1 << 10, 4 << 10, 64 << 10, 1 << 20];
/// The size of a buffer of the pool, in bytes.
const READ: usize = 4096;
const SESSION: &str = "9b6f4d5e-6a0c-4a57-9c59-0f1d2e3a4b5c";

/// Returns a record of exactly this size, with its newline.
fn line(size: usize) -> String {
    const PROSE: &str = "The loop reads one page at a time.\\nIt returns \\\"early\\\" when done. ";
    let (head, tail) = if size < 512 {
        let head = concat!(
            r#"{"type":"stream_event","event":{"type":"content_block_delta","index":0,"#,
            r#""delta":{"type":"text_delta","text":""#
        );
        (head, format!(r#""}}}},"session_id":"{SESSION}"}}"#))
    } else {
        let head = concat!(
            r#"{"type":"assistant","message":{"id":"msg_01XFDUDYJgAACzvnptvVoYEL","#,
            r#""type":"message","role":"assistant","content":[{"type":"text","text":""#
        );
        let usage = concat!(
            r#"{"input_tokens":4,"cache_creation_input_tokens":2312,"#,
            r#""cache_read_input_tokens":14021,"output_tokens":318,"service_tier":"standard"}"#
        );
        let tail = format!(
            r#""}}],"stop_reason":null,"usage":{usage}}},"parent_tool_use_id":null,{}"#,
            format_args!(r#""session_id":"{SESSION}","uuid":"{SESSION}"}}"#)
        );
        (head, tail)
    };
    let room = size - head.len() - tail.len() - 1;
    let mut text = PROSE.repeat(room / PROSE.len());
    text.push_str(&"x".repeat(room - text.len()));
    let line = format!("{head}{text}{tail}\n");
    assert_eq!(line.len(), size);
    line
}

/// Returns the records of a round, and their number.
fn input(size: usize) -> (Vec<u8>, u64) {
    let count = (64 << 10) / size.min(64 << 10);
    (line(size).repeat(count).into_bytes(), count as u64)
}

fn memchr_scan(input: &[u8]) -> u64 {
    input.chunks(READ).map(|read| memchr::memchr_iter(b'\n', read).count() as u64).sum()
}

/// Splits the input at newlines.
fn lines(input: &[u8], carry: &mut Vec<u8>, each: fn(&[u8])) -> u64 {
    let mut records = 0;
    for read in input.chunks(READ) {
        // Searches the new bytes only.
        let mut seen = carry.len();
        carry.extend_from_slice(read);
        let mut done = 0;
        while let Some(at) = memchr::memchr(b'\n', &carry[seen..]) {
            each(black_box(&carry[done..seen + at]));
            done = seen + at + 1;
            seen = done;
            records += 1;
        }
        carry.drain(..done);
    }
    records
}

/// The keys of [`agentpipe::Envelope`], parsed by serde.
#[derive(serde::Deserialize)]
struct Keys<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    subtype: Option<Cow<'a, str>>,
    #[serde(borrow)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    session_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    parent_tool_use_id: Option<Cow<'a, str>>,
}

fn is_the_record(kind: Option<&str>, session: Option<&str>, others: [bool; 3]) {
    assert!(matches!(kind, Some("assistant" | "stream_event")), "{kind:?}");
    assert_eq!(session, Some(SESSION));
    assert_eq!(others, [false; 3]);
}

fn envelope(line: &[u8]) {
    let record = Record::from(line.to_vec());
    let it = record.envelope().expect("an object");
    let others = [&it.subtype, &it.request_id, &it.parent_tool_use_id].map(Option::is_some);
    is_the_record(it.kind.as_deref(), it.session_id.as_deref(), others);
}

fn serde_envelope(line: &[u8]) {
    let it: Keys<'_> = serde_json::from_slice(line).expect("an object");
    let others = [&it.subtype, &it.request_id, &it.parent_tool_use_id].map(Option::is_some);
    is_the_record(it.kind.as_deref(), it.session_id.as_deref(), others);
}

fn serde_value(line: &[u8]) {
    let value: Value = serde_json::from_slice(line).expect("JSON");
    is_the_record(value["type"].as_str(), value["session_id"].as_str(), [false; 3]);
}

/// Returns a contestant over this input. A sample is the time of a record.
fn contestant<'a>(
    name: &'static str,
    (input, records): (&'a [u8], u64),
    mut round: impl FnMut(&[u8]) -> u64 + 'a,
) -> Contestant<'a> {
    let rounds = move |count: u64| {
        let watch = Stopwatch::start();
        for _ in 0..count {
            assert_eq!(round(black_box(input)), records);
        }
        Slice::mean(watch.stop(), count * records)
    };
    (name, Box::new(rounds))
}

fn frame(criterion: &mut Criterion) {
    for size in SIZES {
        let (input, records) = input(size);
        let bytes = input.len() as u64;
        let on = (&input[..], records);
        let reader = |name, each| {
            let mut carry = Vec::new();
            contestant(name, on, move |input| lines(input, &mut carry, each))
        };
        let contestants = vec![
            contestant("memchr_scan", on, memchr_scan),
            reader("envelope", envelope),
            reader("serde_envelope", serde_envelope),
            reader("serde_value", serde_value),
        ];
        let contest = Contest {
            group: "frame",
            parameter: size.to_string(),
            slice: Duration::from_millis(70),
            throughput: Some(Throughput::ElementsAndBytes { elements: records, bytes }),
        };
        contest.run(criterion, contestants);
    }
}

criterion_group!(benches, frame);
criterion_main!(benches);
