//! Floor 0. Copies that are as fast wherever the bytes lie.
//!
//! For more than 2 KiB the memcpy(3) of many a glibc (2.36 for one) is one `rep movsb`. On AMD
//! processors since Zen 3 that has a twentieth of its speed where, within their pages, the copy
//! begins 1 to 31 bytes behind the original. Memory of malloc(3) that is pages of its own begins
//! 16 bytes behind a page, and what comes out of a pipe begins a page.

use bytes::{BufMut, Bytes};

/// Below what any memcpy leaves to `rep movsb`.
const PIECE: usize = 1 << 10;

/// Appends the bytes.
pub(crate) fn append(to: &mut impl BufMut, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE) {
        to.put_slice(piece);
    }
}

/// The bytes, in memory of their own.
pub(crate) fn owned(bytes: &[u8]) -> Bytes {
    let mut copy = Vec::with_capacity(bytes.len());
    append(&mut copy, bytes);
    copy.into()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn what_is_copied_in_pieces_is_whole() {
        let bytes: Vec<u8> = (0..=250).cycle().take(5 * PIECE).collect();
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 5 * PIECE] {
            let mut copy = b"before".to_vec();
            append(&mut copy, &bytes[..len]);
            assert_eq!(copy, [b"before", &bytes[..len]].concat());
            assert_eq!(owned(&bytes[..len]), bytes[..len]);
        }
    }

    /// The fastest of many copies that begin so many bytes behind the original, within a page.
    fn time(behind: usize) -> Duration {
        let len = 16 * PAGE;
        let original = vec![b'x'; len + PAGE];
        let mut copy = Vec::<u8>::with_capacity(len);
        let from = copy.as_ptr().addr().wrapping_sub(behind + original.as_ptr().addr()) % PAGE;
        let copies = (0..1000).map(|_| {
            copy.clear();
            let start = Instant::now();
            append(&mut copy, black_box(&original[from..from + len]));
            black_box(&mut copy);
            start.elapsed()
        });
        copies.min().expect("a thousand")
    }

    /// The story: records of 4 KiB took 2.2 us in one run and 0.3 us in the next, and which it
    /// was to be was up to where malloc(3) had put a buffer.
    #[test]
    fn a_copy_costs_no_more_where_it_begins_a_little_behind_the_original() {
        let (apart, behind) = (time(PAGE / 2), time(16));
        assert!(behind < 6 * apart, "{behind:?}, and {apart:?} half a page behind");
    }
}
