//! Floor 0. One pass over a JSON text: whether it is one, and what its outermost keys say.
//!
//! A block of 64 bytes at a time becomes masks, one bit for each byte, and the grammar is what may
//! stand behind what: shifts and carries between masks, with no branch for each token. Only
//! brackets, numbers and escapes are looked at one by one. Nothing is built and nothing recurses:
//! nesting is a bit per level, so depth is no danger. Whether the bytes are UTF-8 is not looked at.
//! `tests` holds it against `serde_json`.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod block;
mod member;
mod nesting;
mod scalar;

#[cfg(test)]
mod tests;

use block::{BLOCK, ByWords, Look, Masks};
pub(crate) use member::{Member, Value};
use nesting::Nesting;

/// Whether the bytes are one JSON value, with white space around it or none.
pub(crate) fn is_valid(text: &[u8]) -> bool {
    keys(text, &mut |_| {}).is_some()
}

/// Shows each member of the outermost object, if it is one. `None` for what is no JSON; what was
/// shown until then says nothing.
pub(crate) fn keys<'a>(text: &'a [u8], see: &mut impl FnMut(Member<'a>)) -> Option<()> {
    #[cfg(target_arch = "x86_64")]
    if let Some(is_json) = avx2::keys(text, see) {
        return is_json;
    }
    pass::<ByWords>(text, see)
}

/// [`keys`], looking at blocks in one way.
#[inline(always)]
fn pass<'a, L: Look>(text: &'a [u8], see: &mut impl FnMut(Member<'a>)) -> Option<()> {
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    let mut pass = Pass::new(text);
    for block in blocks {
        pass.block::<L>(block, see)?;
    }
    if !rest.is_empty() {
        let mut last = [b' '; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        pass.block::<L>(&last, see)?;
    }
    (pass.done && pass.inside == 0).then_some(())
}

/// What the blocks so far leave to the next.
struct Pass<'a> {
    text: &'a [u8],
    /// Where the next block begins.
    at: usize,
    nesting: Nesting,
    /// The outermost value is over, or a scalar: nothing may follow.
    done: bool,
    /// Within a string: all bits or none.
    inside: u64,
    /// 1: the next byte is escaped.
    escaped: u64,
    /// 1: the byte before is part of a scalar.
    scalar: u64,
    key_next: Follow,
    value_next: Follow,
    colon_next: Follow,
    after_open: Follow,
}

/// Finds the token behind each of some tokens. 1: it is still to come.
struct Follow(u64);

impl Follow {
    /// Of `all` tokens of a block, those behind `some`. There must be one.
    #[inline(always)]
    fn of(&mut self, some: u64, all: u64) -> u64 {
        // Between two tokens the carry runs on.
        let behind = (some << 1 | self.0).wrapping_add(!all) & all;
        self.0 = u64::from(some > all & !some);
        behind
    }
}

/// The places of the bits, lowest first.
fn places(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = bits.trailing_zeros() as usize;
        (bits != 0).then(|| {
            bits &= bits - 1;
            place
        })
    })
}

/// Each step is `None` where the text is not JSON.
impl<'a> Pass<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            at: 0,
            nesting: Nesting::new(),
            done: false,
            inside: 0,
            escaped: 0,
            scalar: 0,
            key_next: Follow(0),
            value_next: Follow(1),
            colon_next: Follow(0),
            after_open: Follow(0),
        }
    }

    #[inline(always)]
    fn block<L: Look>(
        &mut self,
        block: &[u8; BLOCK],
        see: &mut impl FnMut(Member<'a>),
    ) -> Option<()> {
        let at = self.at;
        self.at += BLOCK;
        if self.inside != 0 && self.escaped == 0 && L::is_plain(block) {
            // Text, and nothing but.
            return Some(());
        }
        let masks = L::masks(block);
        let escaped = self.escapes(masks.backslash);
        let quotes = masks.quote & !escaped;
        // From each opening quote up to its closing one, which is not of them.
        let inside = L::parity(quotes) ^ self.inside;
        self.inside = 0_u64.wrapping_sub(inside >> 63);
        if masks.control & inside != 0 {
            return None;
        }
        if escaped & inside != 0 {
            scalar::check_escapes(self.text, at, escaped & inside)?;
        }

        let space = masks.space | block::white_among(block, masks.control);
        let Masks { open, close, colon, comma, .. } = masks;
        let scalars = !(inside | quotes | space | open | close | colon | comma);
        let starts = scalars & !(scalars << 1 | self.scalar);
        self.scalar = scalars >> 63;
        let strings = quotes & inside;
        let [open, close, colon, comma] = [open, close, colon, comma].map(|mask| mask & !inside);
        let tokens = strings | starts | open | close | colon | comma;
        if tokens == 0 {
            return Some(());
        }

        self.begin(tokens, open)?;
        let depth = self.nesting.depth();
        let object = self.brackets::<L>(block, tokens, open, close)?;
        let opens = self.after_open.of(open, tokens);
        let key_next = self.key_next.of((open | comma) & object, tokens);
        let value_next = self.value_next.of((open | comma) & !object | colon, tokens);
        let keys = key_next & strings;
        let colon_next = self.colon_next.of(keys, tokens);
        // `{}` and `[]`; which closes which is the nesting's to say.
        let empty = close & opens;
        let wrong = key_next & !(strings | empty)
            | value_next & !(strings | starts | open | empty)
            | colon_next & !colon
            | tokens & !(key_next | value_next | colon_next | close | comma);
        for place in places(starts) {
            scalar::check(self.text, at + place)?;
        }
        // Most blocks of a long text lie deeper.
        if depth <= 1 + close.count_ones() as usize {
            for place in places(keys & outermost::<L>(depth, open, close)) {
                see(Member::new(self.text, at + place));
            }
        }
        (wrong == 0).then_some(())
    }

    /// Which bytes a backslash stands before, and is not itself escaped.
    #[inline(always)]
    fn escapes(&mut self, backslashes: u64) -> u64 {
        const EVEN: u64 = u64::from_ne_bytes([0x55; 8]);
        if backslashes == 0 {
            return std::mem::take(&mut self.escaped);
        }
        let backslashes = backslashes & !self.escaped;
        let behind = backslashes << 1 | self.escaped;
        // Of a run of backslashes every second escapes; where that is depends on where it begins.
        let odd = backslashes & !EVEN & !behind;
        let (runs, over) = odd.overflowing_add(backslashes);
        self.escaped = u64::from(over);
        (EVEN ^ (runs << 1)) & behind
    }

    /// The outermost value begins once, and behind it there is nothing.
    #[inline(always)]
    fn begin(&mut self, tokens: u64, open: u64) -> Option<()> {
        if self.done {
            return None;
        }
        if self.nesting.depth() == 0 {
            let first = tokens & tokens.wrapping_neg();
            if open & first == 0 {
                self.done = true;
                return (tokens == first).then_some(());
            }
        }
        Some(())
    }

    /// Where the innermost bracket is an object's.
    #[inline(always)]
    fn brackets<L: Look>(
        &mut self,
        block: &[u8; BLOCK],
        tokens: u64,
        open: u64,
        close: u64,
    ) -> Option<u64> {
        let first = if self.nesting.in_object() { u64::MAX } else { 0 };
        let mut turns = 0;
        for place in places(open | close) {
            let bracket = block[place];
            let object = self.nesting.in_object();
            if open >> place & 1 == 1 {
                self.nesting.open(bracket == b'{');
            } else {
                if self.nesting.depth() == 0 || object != (bracket == b'}') {
                    return None;
                }
                self.nesting.close();
                if self.nesting.depth() == 0 {
                    self.done = true;
                    (tokens >> place == 1).then_some(())?;
                }
            }
            turns |= u64::from(object != self.nesting.in_object()) << place;
        }
        Some(L::parity(turns) ^ first)
    }
}

/// Where just one bracket is open, `depth` being how many are at the beginning.
fn outermost<L: Look>(mut depth: usize, open: u64, close: u64) -> u64 {
    let first = if depth == 1 { u64::MAX } else { 0 };
    let mut turns = 0;
    for place in places(open | close) {
        let was = depth;
        // The nesting has seen that there is something to close.
        depth = if open >> place & 1 == 1 { depth + 1 } else { depth.saturating_sub(1) };
        turns |= u64::from((was == 1) != (depth == 1)) << place;
    }
    L::parity(turns) ^ first
}
