//! Bytes copied per byte delivered, in reads of one page.

use super::super::carry::work;
use super::*;

const READ: usize = 4096;
/// The last of them ends where a read ends.
const LINES: usize = 1024;

/// Returns the bytes copied by the framer, and those left to the reader of borrowed records, per
/// thousand bytes of records.
fn copies(size: usize) -> (u64, u64) {
    let line = framed_line(size);
    let input = line.repeat(LINES);
    let mut framer = Framer::new(Framing::Ndjson, &Limits::new().json_check(JsonCheck::Shape));
    let mut buffers = CarryBuffers::default();
    let (mut records, mut borrowed) = (0, 0);
    work::take();
    for mut read in input.chunks(READ) {
        while let Some(frame) = framer.next(&mut read, &mut buffers) {
            let Frame::Record(payload, _) = frame else { panic!("{frame:?}") };
            records += payload.as_bytes().len() as u64;
            if let Payload::Borrowed(bytes) = payload {
                borrowed += bytes.len() as u64;
            }
        }
    }
    // The search counts each byte once.
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

// A record inside one read is copied once, by the reader. A record that spans reads is copied into
// the carry before that. Above 8 KiB it keeps the memory of the carry, and the second copy is the
// growth of the carry, which costs most right after a growth step.
#[test]
fn bytes_are_copied_once_or_twice() {
    let inside = [64, 256, 1024, 4096].map(|size| (size, 0, 1000));
    let spanning = [(1000, 242, 1000), (4000, 968, 1000), (5000, 1000, 1000), (8192, 1000, 1000)];
    let large = [(10_000, 1615, 0), (16 << 10, 1500, 0), (33_000, 2117, 0), (64 << 10, 1625, 0)];
    for (size, put_together, kept) in [&inside[..], &spanning, &large].concat() {
        assert_eq!(copies(size), (put_together, kept), "{size} bytes");
    }
}
