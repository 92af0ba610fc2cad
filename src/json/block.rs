//! Floor 0. What each of 64 bytes is: a mask for every class that the grammar knows.

/// Bytes in a block: a bit of a mask each, the first byte's the lowest.
pub(super) const BLOCK: usize = 64;

/// Where the bytes of each class are, within strings as well as outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Masks {
    pub(super) quote: u64,
    pub(super) backslash: u64,
    /// Below the space.
    pub(super) control: u64,
    pub(super) space: u64,
    /// `{` and `[`
    pub(super) open: u64,
    /// `}` and `]`
    pub(super) close: u64,
    pub(super) colon: u64,
    pub(super) comma: u64,
}

/// Which of the control characters are white space.
pub(super) fn white_among(block: &[u8; BLOCK], control: u64) -> u64 {
    let is_white = |place: &usize| matches!(block[*place], b'\t' | b'\n' | b'\r');
    super::places(control).filter(is_white).fold(0, |mask, place| mask | 1 << place)
}

/// How a block is looked at.
pub(super) trait Look {
    /// What each byte is.
    fn masks(block: &[u8; BLOCK]) -> Masks;

    /// No quote, no backslash and no control character is in it.
    fn is_plain(block: &[u8; BLOCK]) -> bool;

    /// Each bit becomes the parity of the bits up to it.
    fn parity(bits: u64) -> u64;
}

/// Eight bytes at a time: on any machine.
pub(super) struct ByWords;

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = ONES << 7;

/// The high bits of the bytes that are zero: exact, nothing is borrowed from one to the next.
fn zeros(word: u64) -> u64 {
    !((word & !HIGHS).wrapping_add(!HIGHS) | word) & HIGHS
}

/// The high bits of the bytes that are this one.
#[inline]
pub(super) fn equal(word: u64, byte: u8) -> u64 {
    zeros(word ^ (ONES * u64::from(byte)))
}

/// The high bits of the bytes below the space.
fn controls(word: u64) -> u64 {
    zeros(word & (ONES * 0xe0))
}

/// The high bits of eight bytes, side by side.
fn gather(highs: u64) -> u64 {
    (highs >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

impl Look for ByWords {
    fn masks(block: &[u8; BLOCK]) -> Masks {
        let mut masks = Masks::default();
        let (words, _) = block.as_chunks::<8>();
        for (at, word) in words.iter().enumerate() {
            let word = u64::from_le_bytes(*word);
            // `[` and `{`, `]` and `}` differ in this bit alone.
            let folded = word | (ONES * 0x20);
            let mask = |highs: u64| gather(highs) << (8 * at);
            masks.quote |= mask(equal(word, b'"'));
            masks.backslash |= mask(equal(word, b'\\'));
            masks.control |= mask(controls(word));
            masks.space |= mask(equal(word, b' '));
            masks.open |= mask(equal(folded, b'{'));
            masks.close |= mask(equal(folded, b'}'));
            masks.colon |= mask(equal(word, b':'));
            masks.comma |= mask(equal(word, b','));
        }
        masks
    }

    fn is_plain(block: &[u8; BLOCK]) -> bool {
        let (words, _) = block.as_chunks::<8>();
        let special = |word: &[u8; 8]| {
            let word = u64::from_le_bytes(*word);
            equal(word, b'"') | equal(word, b'\\') | controls(word)
        };
        words.iter().map(special).fold(0, |all, one| all | one) == 0
    }

    fn parity(mut bits: u64) -> u64 {
        for shift in [1, 2, 4, 8, 16, 32] {
            bits ^= bits << shift;
        }
        bits
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, byte by byte.
    fn bytewise(block: &[u8; BLOCK]) -> Masks {
        let mask = |is: fn(u8) -> bool| {
            let bit = |(at, byte): (usize, &u8)| u64::from(is(*byte)) << at;
            block.iter().enumerate().map(bit).fold(0, |all, one| all | one)
        };
        Masks {
            quote: mask(|byte| byte == b'"'),
            backslash: mask(|byte| byte == b'\\'),
            control: mask(|byte| byte < b' '),
            space: mask(|byte| byte == b' '),
            open: mask(|byte| matches!(byte, b'{' | b'[')),
            close: mask(|byte| matches!(byte, b'}' | b']')),
            colon: mask(|byte| byte == b':'),
            comma: mask(|byte| byte == b','),
        }
    }

    fn check<L: Look>(block: &[u8; BLOCK]) {
        let masks = bytewise(block);
        assert_eq!(L::masks(block), masks, "{block:?}");
        let special = masks.quote | masks.backslash | masks.control;
        assert_eq!(L::is_plain(block), special == 0, "{block:?}");
        let parity = (0..64).fold(0, |parity, at| {
            let below = masks.space & (u64::MAX >> (63 - at));
            parity | u64::from(below.count_ones() % 2) << at
        });
        assert_eq!(L::parity(masks.space), parity, "{:#x}", masks.space);
    }

    /// Every byte at every place, alone, and any block. Says how many blocks these were.
    pub(in super::super) fn sees_what_is_there<L: Look>() -> usize {
        let mut seen = 0;
        for byte in 0..=u8::MAX {
            for place in 0..BLOCK {
                let mut block = [b'a'; BLOCK];
                block[place] = byte;
                check::<L>(&block);
                seen += 1;
            }
        }
        let blocks = prop::collection::vec(prop_oneof![any::<u8>(), b' '..=b'"'], BLOCK..=BLOCK);
        proptest!(|(block in blocks)| check::<L>(&block.try_into().expect("64 bytes")));
        seen
    }

    #[test]
    fn words_show_every_byte() {
        assert_eq!(sees_what_is_there::<ByWords>(), 256 * BLOCK);
    }
}
