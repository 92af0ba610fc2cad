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

use block::{BLOCK, ByWords, Look, Masks, Rare};
use member::Strings;
pub(crate) use member::{Member, Value};
use nesting::Nesting;

/// What is known of a text that is JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// No byte is above 127. Otherwise it may be no UTF-8: that is not looked at.
    pub(crate) is_ascii: bool,
}

/// Whether the bytes are one JSON value, with white space around it or none.
pub(crate) fn is_valid(text: &[u8]) -> bool {
    keys(text, &mut |_| {}).is_some()
}

/// Shows each member of the outermost object, if it is one. `None` for what is no JSON; what was
/// shown until then says nothing.
pub(crate) fn keys<'a>(text: &'a [u8], see: &mut impl FnMut(Member<'a>)) -> Option<Seen> {
    #[cfg(target_arch = "x86_64")]
    if let Some(seen) = avx2::keys(text, see) {
        return seen;
    }
    pass::<ByWords>(text, see)
}

/// [`keys`], looking at blocks in one way.
#[inline(always)]
fn pass<'a, L: Look>(text: &'a [u8], see: &mut impl FnMut(Member<'a>)) -> Option<Seen> {
    let (blocks, rest) = text.as_chunks::<BLOCK>();
    let mut pass = Pass::new(text);
    let mut is_ascii = true;
    let mut look = |block: &[u8; BLOCK]| {
        is_ascii &= L::is_ascii(block);
        pass.block::<L>(block, see)
    };
    for block in blocks {
        look(block)?;
    }
    if !rest.is_empty() {
        let mut last = [b' '; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        look(&last)?;
    }
    (pass.done && pass.inside == 0).then_some(Seen { is_ascii })
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
    value_next: Follow,
    key_next: Follow,
    colon_next: Follow,
    after_open: Follow,
}

/// Where tokens begin in a block, at least one.
#[derive(Clone, Copy)]
struct Tokens {
    all: u64,
    /// How many places are behind the last one.
    behind_last: u32,
}

/// Finds the token behind each of some tokens. 1: it is still to come.
struct Follow(u64);

impl Follow {
    /// Of a block's tokens, those behind `some`.
    #[inline(always)]
    fn behind(&self, some: u64, tokens: Tokens) -> u64 {
        // Between two tokens the carry runs on.
        (some << 1 | self.0).wrapping_add(!tokens.all) & tokens.all
    }

    /// The block is done with.
    #[inline(always)]
    fn leave(&mut self, some: u64, tokens: Tokens) {
        self.0 = (some << tokens.behind_last) >> 63;
    }

    /// Both.
    #[inline(always)]
    fn next(&mut self, some: u64, tokens: Tokens) -> u64 {
        let behind = self.behind(some, tokens);
        self.leave(some, tokens);
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
            value_next: Follow(1),
            key_next: Follow(0),
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
        let rare = if L::has_rare(block) { L::rare(block) } else { Rare::default() };
        let escaped = self.escapes(rare.backslash);
        let quotes = L::quotes(block) & !escaped;
        if self.inside & !quotes == u64::MAX {
            // Text, and nothing but.
            return (rare.control == 0).then(|| scalar::check_escapes(self.text, at, escaped))?;
        }
        // From each opening quote up to its closing one, which is not of them.
        let inside = L::parity(quotes) ^ self.inside;
        self.inside = 0_u64.wrapping_sub(inside >> 63);
        let Masks { mut space, open, close, colon, comma } = L::masks(block);
        if rare.control | escaped != 0 {
            if rare.control & inside != 0 {
                return None;
            }
            space |= block::white_among(block, rare.control);
            scalar::check_escapes(self.text, at, escaped & inside)?;
        }

        let signs = open | close | colon | comma;
        let scalars = !(inside | quotes | space | signs);
        let starts = scalars & !(scalars << 1 | self.scalar);
        self.scalar = scalars >> 63;
        let strings = quotes & inside;
        let tokens = signs & !inside | strings | starts;
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
            None => self.brackets::<L>(block, tokens.all, open, close)?,
        };

        // A value stands where one is due and nowhere else, and a comma never there. Of an object
        // a key is due first, and behind a key stands a colon, and one stands nowhere else.
        let value_next = self.value_next.next(open | colon | comma, tokens);
        let key_next = self.key_next.next((open | comma) & objects, tokens);
        let keys = key_next & strings;
        let colon_next = self.colon_next.next(keys, tokens);
        let mut wrong = value_next & comma
            | !value_next & (strings | starts | open)
            | key_next & !(strings | close)
            | colon_next ^ colon;
        if value_next & close != 0 {
            // `{}` and `[]`; which closes which is the nesting's to say.
            wrong |= value_next & close & !self.after_open.behind(open, tokens);
        }
        self.after_open.leave(open, tokens);
        for place in places(starts) {
            scalar::check(self.text, at + place)?;
        }
        let keys = keys & outermost;
        if keys != 0 {
            let plain = escaped == 0;
            self.show(keys, Strings { at, quotes, strings, tokens: tokens.all, plain }, see);
        }
        // Asked last: it costs more where it ends a block that is right.
        (wrong == 0).then_some(())
    }

    /// Apart, to leave the registers to the blocks that have no key to show.
    #[inline(never)]
    fn show(&self, keys: u64, strings: Strings, see: &mut impl FnMut(Member<'a>)) {
        for place in places(keys) {
            see(Member::new(self.text, place, &strings));
        }
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

    /// The outermost value begins once, and behind a scalar there is nothing.
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

    /// Where the innermost bracket is an object's, and where just one is open. Behind the last
    /// one there is nothing.
    #[inline(always)]
    fn brackets<L: Look>(
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
        Some((L::parity(object_turns) ^ objects, L::parity(outermost_turns) ^ outermost))
    }
}
