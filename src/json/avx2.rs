//! The block scanner for AVX2: a block is two vectors of 32 bytes.
//!
//! Invariant for the unsafe code: the vector instructions run only after every feature was detected,
//! and they read no memory but a borrowed block of 64 bytes.
#![expect(unsafe_code, reason = "vector instructions")]

use std::arch::x86_64::{
    __m256i, _mm_clmulepi64_si128, _mm_cvtsi128_si64, _mm_set_epi64x, _mm_set1_epi8,
    _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
    _mm256_set1_epi8,
};

use super::block::{BLOCK, BlockScanner, Masks, RareMasks};
use super::{JsonMember, JsonSummary};

/// Used by [`pass`] only.
struct ByVectors;

fn is_there() -> bool {
    // Detected once; after that it is a load.
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("pclmulqdq")
}

/// Validates a text with these instructions. Returns `None` if the processor lacks one of them.
#[inline]
pub(super) fn validate<'a>(
    text: &'a [u8],
    see: &mut impl FnMut(JsonMember<'a>),
) -> Option<Option<JsonSummary>> {
    // SAFETY: `is_there` saw each of the features that `pass` is compiled with.
    is_there().then(|| unsafe { pass(text, see) })
}

#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
fn pass<'a>(text: &'a [u8], see: &mut impl FnMut(JsonMember<'a>)) -> Option<JsonSummary> {
    // The whole pass is inlined here, so that all of it is compiled with these features.
    super::validate_with::<ByVectors>(text, see)
}

// A safe method of a trait cannot have `target_feature`, so each calls a function that has it.
impl BlockScanner for ByVectors {
    #[inline(always)]
    fn is_ascii(block: &[u8; BLOCK]) -> bool {
        // SAFETY: only `pass` uses this, and `validate` asked `is_there` before it.
        unsafe { is_ascii(block) }
    }

    #[inline(always)]
    fn quotes(block: &[u8; BLOCK]) -> u64 {
        // SAFETY: as in `is_ascii`.
        unsafe { quotes(block) }
    }

    #[inline(always)]
    fn has_rare(block: &[u8; BLOCK]) -> bool {
        // SAFETY: as in `is_ascii`.
        unsafe { has_rare(block) }
    }

    #[inline(always)]
    fn rare(block: &[u8; BLOCK]) -> RareMasks {
        // SAFETY: as in `is_ascii`.
        unsafe { rare(block) }
    }

    #[inline(always)]
    fn masks(block: &[u8; BLOCK]) -> Masks {
        // SAFETY: as in `is_ascii`.
        unsafe { masks(block) }
    }

    #[inline(always)]
    fn parity(bits: u64) -> u64 {
        // SAFETY: as in `is_ascii`.
        unsafe { parity(bits) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(block: &[u8; BLOCK]) -> [__m256i; 2] {
    let (halves, _) = block.as_chunks::<32>();
    // SAFETY: each of `halves` is 32 bytes that may be read, and this load asks for no alignment.
    [0, 1].map(|at| unsafe { _mm256_loadu_si256(halves[at].as_ptr().cast()) })
}

/// Returns one bit per byte, set if all bits of the byte are set.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(low: __m256i, high: __m256i) -> u64 {
    let low = _mm256_movemask_epi8(low).cast_unsigned();
    let high = _mm256_movemask_epi8(high).cast_unsigned();
    u64::from(high) << 32 | u64::from(low)
}

#[inline]
#[target_feature(enable = "avx2")]
fn equal(bytes: __m256i, byte: u8) -> __m256i {
    _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte.cast_signed()))
}

/// Maps `[` to `{` and `]` to `}`. No other byte maps to these.
#[inline]
#[target_feature(enable = "avx2")]
fn folded(bytes: __m256i) -> __m256i {
    _mm256_or_si256(bytes, _mm256_set1_epi8(0x20))
}

#[inline]
#[target_feature(enable = "avx2")]
fn controls(bytes: __m256i) -> __m256i {
    // AVX2 compares signed bytes only, so the comparison is made of a minimum and an equality.
    _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes)
}

#[inline]
#[target_feature(enable = "avx2")]
fn is_ascii(block: &[u8; BLOCK]) -> bool {
    let [low, high] = halves(block);
    // The mask takes the highest bit of each byte, which is clear in ASCII.
    _mm256_movemask_epi8(_mm256_or_si256(low, high)) == 0
}

#[inline]
#[target_feature(enable = "avx2")]
fn quotes(block: &[u8; BLOCK]) -> u64 {
    let [low, high] = halves(block);
    bits(equal(low, b'"'), equal(high, b'"'))
}

#[inline]
#[target_feature(enable = "avx2")]
fn has_rare(block: &[u8; BLOCK]) -> bool {
    let [low, high] = halves(block);
    let backslashes = _mm256_or_si256(equal(low, b'\\'), equal(high, b'\\'));
    let controls = _mm256_or_si256(controls(low), controls(high));
    _mm256_movemask_epi8(_mm256_or_si256(backslashes, controls)) != 0
}

#[inline]
#[target_feature(enable = "avx2")]
fn rare(block: &[u8; BLOCK]) -> RareMasks {
    let [low, high] = halves(block);
    RareMasks {
        backslash: bits(equal(low, b'\\'), equal(high, b'\\')),
        control: bits(controls(low), controls(high)),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn masks(block: &[u8; BLOCK]) -> Masks {
    let [low, high] = halves(block);
    let (low_folded, high_folded) = (folded(low), folded(high));
    Masks {
        space: bits(equal(low, b' '), equal(high, b' ')),
        open: bits(equal(low_folded, b'{'), equal(high_folded, b'{')),
        close: bits(equal(low_folded, b'}'), equal(high_folded, b'}')),
        colon: bits(equal(low, b':'), equal(high, b':')),
        comma: bits(equal(low, b','), equal(high, b',')),
    }
}

/// A carry-less product with all ones is the parity of the bits up to each position.
#[inline]
#[target_feature(enable = "pclmulqdq")]
fn parity(bits: u64) -> u64 {
    let bits = _mm_set_epi64x(0, bits.cast_signed());
    _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0>(bits, _mm_set1_epi8(-1))).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::super::block::tests::check_scanner;
    use super::*;

    #[test]
    fn vector_scanner_finds_every_byte() {
        let found = validate(b"{}", &mut |_| ());
        if is_there() {
            assert_eq!(found, Some(Some(JsonSummary { is_ascii: true })));
            assert_eq!(check_scanner::<ByVectors>(), 256 * BLOCK);
        } else {
            assert_eq!(found, None, "the processor lacks an instruction");
        }
    }
}
