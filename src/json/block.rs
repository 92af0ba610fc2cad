//! Blocks of 64 bytes: a bit mask for each class of bytes in the grammar.

/// Bytes per block. Each is one bit of a mask, the first byte the lowest.
pub(super) const BLOCK: usize = 64;

/// The positions of whitespace and signs, inside and outside of strings.
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

/// The positions of bytes that most blocks do not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RareMasks {
    pub(super) backslash: u64,
    /// Bytes below the space.
    pub(super) control: u64,
}

/// Returns which of the control characters are whitespace.
pub(super) fn white_among(block: &[u8; BLOCK], control: u64) -> u64 {
    let is_white = |place: &usize| matches!(block[*place], b'\t' | b'\n' | b'\r');
    super::places(control).filter(is_white).fold(0, |mask, place| mask | 1 << place)
}

/// A way to compute the masks of a block.
pub(super) trait BlockScanner {
    /// Whether no byte is above 127.
    fn is_ascii(block: &[u8; BLOCK]) -> bool;

    fn quotes(block: &[u8; BLOCK]) -> u64;

    /// Whether [`rare`](Self::rare) has a bit set.
    fn has_rare(block: &[u8; BLOCK]) -> bool;

    fn rare(block: &[u8; BLOCK]) -> RareMasks;

    fn masks(block: &[u8; BLOCK]) -> Masks;

    /// Replaces each bit by the parity of the bits up to it.
    fn parity(bits: u64) -> u64;
}

/// Scans eight bytes at a time, on any processor.
pub(super) struct ByWords;

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = ONES << 7;

/// Returns the high bits of the zero bytes. Exact: there is no borrow between bytes.
fn zeros(word: u64) -> u64 {
    // The sum carries into the high bit of a byte if any of its lower seven bits is set, and never
    // beyond it.
    !((word & !HIGHS).wrapping_add(!HIGHS) | word) & HIGHS
}

/// Returns the high bits of the bytes that equal `byte`.
#[inline]
pub(super) fn equal(word: u64, byte: u8) -> u64 {
    zeros(word ^ (ONES * u64::from(byte)))
}

/// Returns the high bits of the bytes below the space.
fn controls(word: u64) -> u64 {
    // A byte below 0x20 has its three highest bits clear.
    zeros(word & (ONES * 0xe0))
}

/// Packs the high bits of eight bytes into eight bits.
fn gather(highs: u64) -> u64 {
    // The product moves bit 8k to bit 56 + k. No two of its terms meet, so nothing carries.
    (highs >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

fn words(block: &[u8; BLOCK]) -> impl Iterator<Item = u64> {
    let (words, _) = block.as_chunks::<8>();
    // Little-endian on every processor, so that the first byte becomes the lowest bit of a mask.
    words.iter().map(|word| u64::from_le_bytes(*word))
}

/// Returns the mask of the bytes whose high bits `highs` sets in a word.
fn mask(block: &[u8; BLOCK], highs: impl Fn(u64) -> u64) -> u64 {
    let bits = |(at, word): (usize, u64)| gather(highs(word)) << (8 * at);
    words(block).enumerate().map(bits).fold(0, |all, one| all | one)
}

impl BlockScanner for ByWords {
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

    fn rare(block: &[u8; BLOCK]) -> RareMasks {
        RareMasks {
            backslash: mask(block, |word| equal(word, b'\\')),
            control: mask(block, controls),
        }
    }

    fn masks(block: &[u8; BLOCK]) -> Masks {
        // `[` and `{` differ in this bit only, as do `]` and `}`.
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
        // Each step doubles the number of bits that a position covers, up to all 64.
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

    fn check<S: BlockScanner>(block: &[u8; BLOCK]) {
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
        assert_eq!(S::masks(block), masks, "{block:?}");
        let rare =
            RareMasks { backslash: mask(|byte| byte == b'\\'), control: mask(|byte| byte < b' ') };
        assert_eq!(S::rare(block), rare, "{block:?}");
        assert_eq!(S::has_rare(block), rare != RareMasks::default(), "{block:?}");
        assert_eq!(S::quotes(block), mask(|byte| byte == b'"'), "{block:?}");
        assert_eq!(S::is_ascii(block), block.is_ascii(), "{block:?}");
        let parity = (0..64).fold(0, |parity, at| {
            let below = masks.space & (u64::MAX >> (63 - at));
            parity | u64::from(below.count_ones() % 2) << at
        });
        assert_eq!(S::parity(masks.space), parity, "{:#x}", masks.space);
    }

    /// Checks every byte at every position, and random blocks. Returns the number of fixed blocks.
    pub(in super::super) fn check_scanner<S: BlockScanner>() -> usize {
        let mut seen = 0;
        for byte in 0..=u8::MAX {
            for place in 0..BLOCK {
                let mut block = [b'a'; BLOCK];
                block[place] = byte;
                check::<S>(&block);
                seen += 1;
            }
        }
        let blocks = prop::collection::vec(prop_oneof![any::<u8>(), b' '..=b'"'], BLOCK..=BLOCK);
        proptest!(|(block in blocks)| check::<S>(&block.try_into().expect("64 bytes")));
        seen
    }

    #[test]
    fn word_scanner_finds_every_byte() {
        assert_eq!(check_scanner::<ByWords>(), 256 * BLOCK);
    }
}
