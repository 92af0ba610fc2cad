//! Bytes copied for each byte delivered, in reads of one page as the pool has them.

use super::super::scan::work;
use super::super::{Frame, Framer, Payload};
use super::*;

const READ: usize = 4096;
/// The last of them ends where a read ends.
const LINES: usize = 1024;

/// Copies by the framer, and those that are left for who keeps a borrowed record, for a thousand
/// bytes of records.
fn copies(size: usize) -> (u64, u64) {
    let line = framed_line(size);
    let input = line.repeat(LINES);
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new().json_check(JsonCheck::Shape));
    let mut spares = Spares::default();
    let (mut records, mut borrowed) = (0, 0);
    work::take();
    for read in input.chunks(READ) {
        framer.feed(read, &mut spares, &mut |frame| match frame {
            Frame::Record(payload, _) => {
                records += payload.as_bytes().len() as u64;
                if let Payload::Borrowed(bytes) = payload {
                    borrowed += bytes.len() as u64;
                }
            }
            other => panic!("{other:?}"),
        });
    }
    // The count has each byte once for the search, too.
    let copied = work::take() - input.len() as u64;
    let delivered = (size - 1) as u64 * LINES as u64;
    assert_eq!(records, delivered);
    (copied * 1000 / delivered, borrowed * 1000 / delivered)
}

fn framed_line(size: usize) -> Vec<u8> {
    let mut line = vec![b'x'; size];
    line[..2].copy_from_slice(b"[\"");
    line[size - 3..].copy_from_slice(b"\"]\n");
    line
}

// The reader's own copy is one for each byte, and a record that lies inside a read needs no other.
// One that spans reads is put together first: that is one more. Above 8 KiB it keeps what it was
// put together in, and the second copy is that of the growth: the most right after a step of it.
#[test]
fn a_byte_is_copied_once_and_once_more_where_its_record_spans_reads() {
    let inside = [64, 256, 1024, 4096].map(|size| (size, 0, 1000));
    let spanning = [(1000, 242, 1000), (4000, 968, 1000), (5000, 1000, 1000), (8192, 1000, 1000)];
    let large = [(10_000, 1615, 0), (16 << 10, 1500, 0), (33_000, 2117, 0), (64 << 10, 1625, 0)];
    for (size, put_together, kept) in [&inside[..], &spanning, &large].concat() {
        assert_eq!(copies(size), (put_together, kept), "{size} bytes");
    }
}
