//! JSON validation in one pass, which also finds the members of the outermost object.
//!
//! Why not `serde_json` or `simd-json`: every record is checked before a reader sees it, without an
//! allocation, and most records are then read only by their routing keys. `serde_json` into
//! `IgnoredAny` or a struct of those keys costs several times as much and checks each byte in a
//! branch of its own; `simd-json` needs a mutable buffer and builds a tape on the heap. The check
//! costs about 0.4 us per KiB with AVX2 and 1.0 us without. Of the whole way of a record of 1 KiB through
//! an engine (`agentpipe bench pipeline_1k`) AVX2 saves a third, 1.3 us against 2.0: that is why there
//! are two block scanners.
//!
//! The pass turns each block of 64 bytes into bit masks, one bit per byte. The grammar is a rule
//! about which token may follow which, computed with shifts and carries between masks instead of a
//! branch per token. Only brackets, numbers and escapes are checked one by one. Nothing is built and
//! nothing recurses: nesting is one bit per level, so deep input is harmless. UTF-8 is not checked.
//! The tests compare the results with `serde_json`.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod block;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod member;
mod nesting;
mod scalar;

#[cfg(test)]
mod tests;

use block::{BLOCK, BlockScanner, ByWords, Masks, RareMasks};
use member::BlockTokens;
pub(crate) use member::{JsonMember, JsonValue};
pub(crate) use nesting::Nesting;

/// The facts that the pass collects about a valid text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JsonSummary {
    /// No byte is above 127, so the text is UTF-8. Other texts need a check of their encoding.
    pub(crate) is_ascii: bool,
}

/// Returns whether the bytes are one JSON value, with optional whitespace around it.
pub(crate) fn is_valid(text: &[u8]) -> bool {
    validate(text, &mut |_| {}).is_some()
}

/// Validates a text and calls `see` for each member of the outermost object. Returns `None` if the text
/// is not JSON; the members seen until then mean nothing.
pub(crate) fn validate<'a>(
    text: &'a [u8],
    see: &mut impl FnMut(JsonMember<'a>),
) -> Option<JsonSummary> {
    #[cfg(target_arch = "x86_64")]
    if let Some(seen) = avx2::validate(text, see) {
        return seen;
    }
    validate_with::<ByWords>(text, see)
}

/// [`validate`] with one implementation of the block scan.
#[inline(always)]
fn validate_with<'a, S: BlockScanner>(
    text: &'a [u8],
    see: &mut impl FnMut(JsonMember<'a>),
) -> Option<JsonSummary> {
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    let mut pass = Validator::new(text);
    let mut is_ascii = true;
    let mut look = |block: &[u8; BLOCK]| {
        is_ascii &= S::is_ascii(block);
        pass.block::<S>(block, see)
    };
    for block in blocks {
        look(block)?;
    }
    if !rest.is_empty() {
        // Spaces end a scalar and change nothing else. A string that is open here has no end in the
        // text, and the check of `inside` refuses it.
        let mut last = [b' '; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        look(&last)?;
    }
    (pass.done && pass.inside == 0).then_some(JsonSummary { is_ascii })
}

/// The state between two blocks.
struct Validator<'a> {
    text: &'a [u8],
    /// The index of the next block.
    at: usize,
    nesting: Nesting,
    /// The outermost value is complete or a scalar: no token may follow.
    done: bool,
    /// All bits set inside a string, none outside.
    inside: u64,
    /// 1 if the next byte is escaped.
    escaped: u64,
    /// 1 if the previous byte is part of a scalar.
    scalar: u64,
    value_next: Follow,
    key_next: Follow,
    colon_next: Follow,
    after_open: Follow,
}

/// The positions in a block at which tokens begin. There is at least one.
#[derive(Clone, Copy)]
struct Tokens {
    all: u64,
    /// The number of bits above the last token.
    behind_last: u32,
}

/// Finds the token that follows each of some tokens. 1 if that token is in a later block.
struct Follow(u64);

impl Follow {
    /// Returns the tokens of a block that follow `some`.
    #[inline(always)]
    fn behind(&self, some: u64, tokens: Tokens) -> u64 {
        // The carry of the addition runs over the gap between two tokens.
        (some << 1 | self.0).wrapping_add(!tokens.all) & tokens.all
    }

    /// Carries the state over to the next block.
    #[inline(always)]
    fn leave(&mut self, some: u64, tokens: Tokens) {
        self.0 = (some << tokens.behind_last) >> 63;
    }

    /// Returns the tokens that follow `some` and carries the state over.
    #[inline(always)]
    fn next(&mut self, some: u64, tokens: Tokens) -> u64 {
        // `behind` needs the state of the block before, which `leave` replaces.
        let behind = self.behind(some, tokens);
        self.leave(some, tokens);
        behind
    }
}

/// Returns the positions of the set bits, lowest first.
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros() as usize;
        (bits != 0).then(|| {
            bits &= bits - 1;
            place
        })
    })
}

/// Each method returns `None` if the text is not JSON.
impl<'a> Validator<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            nesting: Nesting::new(),
            done: false,
            inside: 0,
            escaped: 0,
            scalar: 0,
            // The first token of the text must begin a value, as if a sign were in front of it.
            value_next: Follow(1),
            key_next: Follow(0),
            colon_next: Follow(0),
            after_open: Follow(0),
        }
    }

    #[inline(always)]
    fn block<S: BlockScanner>(
        &mut self,
        block: &[u8; BLOCK],
        see: &mut impl FnMut(JsonMember<'a>),
    ) -> Option<()> {
        let at = self.at;
        self.at += BLOCK;
        let rare = if S::has_rare(block) { S::rare(block) } else { RareMasks::default() };
        let escaped = self.escapes(rare.backslash);
        let quotes = S::quotes(block) & !escaped;
        if self.inside & !quotes == u64::MAX {
            // The whole block is text inside a string.
            // No token begins in such a block, so what is carried over stays as it is.
            return (rare.control == 0).then(|| scalar::check_escapes(self.text, at, escaped))?;
        }
        // From each opening quote up to its closing quote, which is excluded.
        let inside = S::parity(quotes) ^ self.inside;
        self.inside = 0_u64.wrapping_sub(inside >> 63);
        let Masks { mut space, open, close, colon, comma } = S::masks(block);
        if rare.control | escaped != 0 {
            if rare.control & inside != 0 {
                return None;
            }
            // The other control characters count as parts of a scalar, which then fails its check.
            space |= block::white_among(block, rare.control);
            scalar::check_escapes(self.text, at, escaped & inside)?;
        }

        let signs = open | close | colon | comma;
        let scalars = !(inside | quotes | space | signs);
        let starts = scalars & !(scalars << 1 | self.scalar);
        self.scalar = scalars >> 63;
        let strings = quotes & inside;
        let tokens = signs & !inside | strings | starts;
        // The shifts of `Follow` need a token. Without one its states carry over as they are.
        if tokens == 0 {
            return Some(());
        }
        let tokens = Tokens { all: tokens, behind_last: tokens.leading_zeros() };
        let [open, close, colon, comma] = [open, close, colon, comma].map(|mask| mask & !inside);
        if self.nesting.depth() == 0 {
            self.begin(tokens.all, open)?;
        }
        let (objects, outermost) = match self.nesting.deep(block, open, close)? {
            Some(objects) => (objects, 0),
            None => self.brackets::<S>(block, tokens.all, open, close)?,
        };

        // A value follows each of `[ { : ,` and nothing else, and a comma follows none of them. In an
        // object, a key follows `{` and `,`; a colon follows each key and nothing else.
        let value_next = self.value_next.next(open | colon | comma, tokens);
        let key_next = self.key_next.next((open | comma) & objects, tokens);
        let keys = key_next & strings;
        let colon_next = self.colon_next.next(keys, tokens);
        let mut wrong = value_next & comma
            | !value_next & (strings | starts | open)
            | key_next & !(strings | close)
            | colon_next ^ colon;
        if value_next & close != 0 {
            // `{}` and `[]`. The nesting checks that the brackets match.
            wrong |= value_next & close & !self.after_open.behind(open, tokens);
        }
        self.after_open.leave(open, tokens);
        for place in places(starts) {
            scalar::check(self.text, at + place)?;
        }
        let keys = keys & outermost;
        if keys != 0 {
            let plain = escaped == 0;
            self.show(keys, BlockTokens { at, quotes, strings, tokens: tokens.all, plain }, see);
        }
        // Last, because an early return costs more in valid blocks.
        (wrong == 0).then_some(())
    }

    /// A function of its own, so that blocks without such keys keep the registers.
    #[inline(never)]
    fn show(&self, keys: u64, strings: BlockTokens, see: &mut impl FnMut(JsonMember<'a>)) {
        for place in places(keys) {
            see(JsonMember::new(self.text, place, &strings));
        }
    }

    /// Returns the escaped bytes: those behind a backslash that is not escaped itself.
    #[inline(always)]
    fn escapes(&mut self, backslashes: u64) -> u64 {
        const EVEN: u64 = u64::from_ne_bytes([0x55; 8]);
        if backslashes == 0 {
            return std::mem::take(&mut self.escaped);
        }
        let backslashes = backslashes & !self.escaped;
        let behind = backslashes << 1 | self.escaped;
        // In a run of backslashes every second one escapes, counted from the start of the run.
        let odd = backslashes & !EVEN & !behind;
        let (runs, over) = odd.overflowing_add(backslashes);
        self.escaped = u64::from(over);
        (EVEN ^ (runs << 1)) & behind
    }

    /// Begins the outermost value. Only one may begin, and nothing may follow a scalar.
    fn begin(&mut self, tokens: u64, open: u64) -> Option<()> {
        if self.done {
            return None;
        }
        let first = tokens & tokens.wrapping_neg();
        if open & first == 0 {
            self.done = true;
            (tokens == first).then_some(())?;
        }
        Some(())
    }

    /// Returns where the innermost bracket is an object, and where exactly one bracket is open. Fails if
    /// a token follows the last bracket.
    #[inline(always)]
    fn brackets<S: BlockScanner>(
        &mut self,
        block: &[u8; BLOCK],
        tokens: u64,
        open: u64,
        close: u64,
    ) -> Option<(u64, u64)> {
        let nesting = &mut self.nesting;
        let (objects, outermost) = (nesting.objects(), nesting.outermost());
        let (mut object_turns, mut outermost_turns) = (0, 0);
        for place in places(open | close) {
            let brace = matches!(block[place], b'{' | b'}');
            let (object, depth) = (nesting.in_object(), nesting.depth());
            if open >> place & 1 == 1 {
                nesting.open(brace);
            } else {
                if depth == 0 || object != brace {
                    return None;
                }
                nesting.close();
                if nesting.depth() == 0 {
                    self.done = true;
                    (tokens >> place == 1).then_some(())?;
                }
            }
            object_turns |= u64::from(object != nesting.in_object()) << place;
            outermost_turns |= u64::from((depth == 1) != (nesting.depth() == 1)) << place;
        }
        // The parity applies each turn to its own position and to all behind it.
        Some((S::parity(object_turns) ^ objects, S::parity(outermost_turns) ^ outermost))
    }
}
