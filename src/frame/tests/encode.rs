//! Outgoing records: refused before a byte is sent, or sent unchanged.

use proptest::prelude::*;

use super::super::encode;
use super::*;
use crate::error::ErrorKind;

const ALL: [Framing; 4] = [Framing::Ndjson, Framing::ContentLength, Framing::Concat, Framing::Auto];

fn refusal(framing: Framing, record: &[u8], limits: &Limits) -> (ErrorKind, String) {
    let mut out = b"before".to_vec();
    let error = encode(framing, record, limits, &mut out).expect_err("a refusal");
    assert_eq!(out, b"before", "nothing is appended on an error");
    assert_eq!(error.operation(), "write");
    (error.kind(), error.to_string())
}

#[test]
fn encode_appends_one_frame() {
    let mut out = b"x".to_vec();
    encode(Framing::Ndjson, b"{\"a\":1}", &Limits::new(), &mut out).unwrap();
    assert_eq!(out, b"x{\"a\":1}\n");
    out.clear();
    encode(Framing::ContentLength, b"{\"a\":\n1}", &Limits::new(), &mut out).unwrap();
    assert_eq!(out, b"Content-Length: 8\r\n\r\n{\"a\":\n1}");
}

#[test]
fn frame_costs_one_allocation() {
    let record = format!("[\"{}\"]", "x".repeat(10_000));
    for framing in ALL {
        let mut out = Vec::new();
        encode(framing, record.as_bytes(), &Limits::new(), &mut out).unwrap();
        assert_eq!(out.capacity(), out.len(), "{framing:?}");
    }
}

#[test]
fn concat_writes_one_line() {
    let mut out = b"x\n".to_vec();
    encode(Framing::Concat, b"{\r\n\"a\": \"\\n\"\n}", &Limits::new(), &mut out).unwrap();
    assert_eq!(out, b"x\n{  \"a\": \"\\n\" }\n");
    encode(Framing::Auto, b"{}", &Limits::new(), &mut out).unwrap();
    assert!(out.ends_with(b"}\n{}\n"));
}

#[test]
fn ndjson_refuses_raw_line_ends() {
    for record in [&b"{\"a\":\n1}"[..], b"{}\n", b"{}\n{}", b"{\"a\":\r1}", b"{}\r"] {
        let (kind, text) = refusal(Framing::Ndjson, record, &Limits::new());
        assert_eq!(kind, ErrorKind::InvalidRecord);
        assert!(text.contains("raw line end at byte"), "{text}");
    }
    // An escaped line end is text, not framing.
    let mut out = Vec::new();
    encode(Framing::Ndjson, br#"{"a":"\n\r"}"#, &Limits::new(), &mut out).unwrap();
}

#[test]
fn invalid_json_is_refused_with_any_check() {
    for framing in ALL {
        for record in
            [&b""[..], b" ", b"{", b"{}x", b"word", b"{oops}", b"{\"a\":\"\xFF\"}", b"{}{}"]
        {
            for limits in [Limits::new(), shape()] {
                assert_eq!(refusal(framing, record, &limits).0, ErrorKind::InvalidRecord);
            }
        }
    }
    let (_, text) = refusal(Framing::Ndjson, b"", &Limits::new());
    assert_eq!(text, "write: record is empty");
    let (_, text) = refusal(Framing::Ndjson, b"\xFF", &Limits::new());
    assert!(text.contains("not UTF-8"), "{text}");
}

#[test]
fn oversized_record_is_refused_with_the_limit() {
    let limits = Limits::new().record_max(64);
    let fits = format!("\"{}\"", "x".repeat(62));
    let above = format!("\"{}\"", "x".repeat(63));
    for framing in ALL {
        encode(framing, fits.as_bytes(), &limits, &mut Vec::new()).unwrap();
        let (kind, text) = refusal(framing, above.as_bytes(), &limits);
        assert_eq!(kind, ErrorKind::RecordTooLarge);
        assert!(text.contains("65 bytes") && text.contains("limit of 64"), "{text}");
    }
}

#[test]
fn deep_nesting_is_sent_without_recursion() {
    let nest = "[".repeat(100_000) + &"]".repeat(100_000);
    for framing in ALL {
        encode(framing, nest.as_bytes(), &Limits::new(), &mut Vec::new()).unwrap();
        let open = &nest.as_bytes()[..100_000];
        assert_eq!(refusal(framing, open, &Limits::new()).0, ErrorKind::InvalidRecord);
    }
}

proptest! {
    #[test]
    fn encoded_records_are_framed_unchanged(
        records in prop::collection::vec(laws::any_record(), 1..8),
        cut in 1_usize..50,
    ) {
        for framing in ALL {
            let mut wire = Vec::new();
            for record in &records {
                encode(framing, record, &Limits::new(), &mut wire).unwrap();
            }
            let expected: Vec<Event> = records.iter().map(record).collect();
            prop_assert_eq!(feed_all(framing, &Limits::new(), wire.chunks(cut)), expected);
        }
    }
}
