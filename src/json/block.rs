//! Floor 0. What each of 64 bytes is: a mask for every class that the grammar knows.

/// Bytes in a block: a bit of a mask each, the first byte's the lowest.
pub(super) const BLOCK: usize = 64;

/// Where bytes are that stand between tokens or are one, within strings as well as outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Masks {
    pub(super) space: u64,
    /// `{` and `[`
    pub(super) open: u64,
    /// `}` and `]`
    pub(super) close: u64,
    pub(super) colon: u64,
    pub(super) comma: u64,
}

/// Where bytes are that most blocks have none of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rare {
    pub(super) backslash: u64,
    /// Below the space.
    pub(super) control: u64,
}

/// Which of the control characters are white space.
pub(super) fn white_among(block: &[u8; BLOCK], control: u64) -> u64 {
    let is_white = |place: &usize| matches!(block[*place], b'\t' | b'\n' | b'\r');
    super::places(control).filter(is_white).fold(0, |mask, place| mask | 1 << place)
}

/// How a block is looked at.
pub(super) trait Look {
    /// No byte is above 127.
    fn is_ascii(block: &[u8; BLOCK]) -> bool;

    fn quotes(block: &[u8; BLOCK]) -> u64;

    /// Whether [`rare`](Self::rare) shows any.
    fn has_rare(block: &[u8; BLOCK]) -> bool;

    fn rare(block: &[u8; BLOCK]) -> Rare;

    fn masks(block: &[u8; BLOCK]) -> Masks;

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

fn words(block: &[u8; BLOCK]) -> impl Iterator<Item = u64> {
    let (words, _) = block.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word))
}

/// A mask of the bytes whose high bits `highs` leaves in a word.
fn mask(block: &[u8; BLOCK], highs: impl Fn(u64) -> u64) -> u64 {
    let bits = |(at, word): (usize, u64)| gather(highs(word)) << (8 * at);
    words(block).enumerate().map(bits).fold(0, |all, one| all | one)
}

impl Look for ByWords {
    fn is_ascii(block: &[u8; BLOCK]) -> bool {
        words(block).fold(0, |all, word| all | word) & HIGHS == 0
    }

    fn quotes(block: &[u8; BLOCK]) -> u64 {
        mask(block, |word| equal(word, b'"'))
    }

    fn has_rare(block: &[u8; BLOCK]) -> bool {
        let rare = |word: u64| equal(word, b'\\') | controls(word);
        words(block).map(rare).fold(0, |all, one| all | one) != 0
    }

    fn rare(block: &[u8; BLOCK]) -> Rare {
        Rare { backslash: mask(block, |word| equal(word, b'\\')), control: mask(block, controls) }
    }

    fn masks(block: &[u8; BLOCK]) -> Masks {
        // `[` and `{`, `]` and `}` differ in this bit alone.
        let folded = |word: u64| word | (ONES * 0x20);
        Masks {
            space: mask(block, |word| equal(word, b' ')),
            open: mask(block, |word| equal(folded(word), b'{')),
            close: mask(block, |word| equal(folded(word), b'}')),
            colon: mask(block, |word| equal(word, b':')),
            comma: mask(block, |word| equal(word, b',')),
        }
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

    fn check<L: Look>(block: &[u8; BLOCK]) {
        let mask = |is: fn(u8) -> bool| {
            let bit = |(at, byte): (usize, &u8)| u64::from(is(*byte)) << at;
            block.iter().enumerate().map(bit).fold(0, |all, one| all | one)
        };
        let masks = Masks {
            space: mask(|byte| byte == b' '),
            open: mask(|byte| matches!(byte, b'{' | b'[')),
            close: mask(|byte| matches!(byte, b'}' | b']')),
            colon: mask(|byte| byte == b':'),
            comma: mask(|byte| byte == b','),
        };
        assert_eq!(L::masks(block), masks, "{block:?}");
        let rare =
            Rare { backslash: mask(|byte| byte == b'\\'), control: mask(|byte| byte < b' ') };
        assert_eq!(L::rare(block), rare, "{block:?}");
        assert_eq!(L::has_rare(block), rare != Rare::default(), "{block:?}");
        assert_eq!(L::quotes(block), mask(|byte| byte == b'"'), "{block:?}");
        assert_eq!(L::is_ascii(block), block.is_ascii(), "{block:?}");
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
