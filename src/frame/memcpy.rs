//! Works around slow `rep movsb` copies: copies in pieces that no `memcpy` turns into one.
//!
//! Above 2 KiB the `memcpy` of several glibc versions (2.36 among them) is a single `rep movsb`. On
//! AMD processors since Zen 3 that instruction runs at a twentieth of its speed if, within their
//! pages, the target begins 1 to 31 bytes after the source. Large `malloc` blocks begin 16 bytes
//! into a page and pipe data begins at a page, so copies out of a pipe meet this case.

use bytes::{BufMut, Bytes};

/// Below the size at which any `memcpy` uses `rep movsb`.
const PIECE: usize = 1 << 10;

/// Appends the bytes.
pub(crate) fn append(to: &mut impl BufMut, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE) {
        to.put_slice(piece);
    }
}

/// Returns a copy of the bytes.
pub(crate) fn owned(bytes: &[u8]) -> Bytes {
    let mut copy = Vec::with_capacity(bytes.len());
    append(&mut copy, bytes);
    copy.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_complete_at_every_piece_boundary() {
        let bytes: Vec<u8> = (0..=250).cycle().take(5 * PIECE).collect();
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 5 * PIECE] {
            let mut copy = b"before".to_vec();
            append(&mut copy, &bytes[..len]);
            assert_eq!(copy, [b"before", &bytes[..len]].concat());
            assert_eq!(owned(&bytes[..len]), bytes[..len]);
        }
    }
}
