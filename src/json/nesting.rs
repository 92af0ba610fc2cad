//! The open brackets, one bit per level.

use super::block::BLOCK;
use super::places;

/// One bit per open bracket, set for an object.
#[derive(Debug)]
pub(crate) struct Nesting {
    innermost: u64,
    /// One more than the number of open brackets, so that it is a multiple of 64 only if a word is full.
    level: usize,
    /// Words of 64 levels outside of `innermost`. Empty for all usual records.
    outer: Vec<u64>,
}

impl Nesting {
    pub(crate) fn new() -> Self {
        Self { innermost: 0, level: 1, outer: Vec::new() }
    }

    #[inline]
    pub(crate) fn open(&mut self, object: bool) {
        if self.level.is_multiple_of(64) {
            // The word is saved before the shift below can lose its outermost level.
            self.outer.push(self.innermost);
        }
        self.innermost = self.innermost << 1 | u64::from(object);
        self.level += 1;
    }

    /// Closes the innermost bracket. One must be open.
    #[inline]
    pub(crate) fn close(&mut self) {
        self.innermost >>= 1;
        self.level -= 1;
        if self.level.is_multiple_of(64) {
            // There is a word: `open` saved one when it left this level.
            self.innermost = self.outer.pop().unwrap_or_default();
        }
    }

    /// Applies all brackets of a block without a branch per bracket. Returns the positions at which the
    /// innermost bracket is an object, or `None` if a bracket closes one of the other kind.
    ///
    /// Returns `Some(None)` and changes nothing if the block may reach the outermost bracket or is
    /// deeper than one word.
    #[inline(always)]
    pub(super) fn deep(
        &mut self,
        block: &[u8; BLOCK],
        open: u64,
        close: u64,
    ) -> Option<Option<u64>> {
        let (opens, closes) = (open.count_ones() as usize, close.count_ones() as usize);
        if self.depth() <= closes + 1 || self.level + opens >= 64 {
            return Some(None);
        }
        let mut objects = self.objects();
        let mut innermost = self.innermost;
        let mut wrong = 0;
        for place in places(open | close) {
            // This bit differs between braces and brackets.
            let brace = u64::from(block[place] >> 5 & 1);
            let opens = open >> place & 1;
            let was = innermost;
            innermost = if opens == 1 { was << 1 | brace } else { was >> 1 };
            wrong |= (was ^ brace) & !opens;
            objects ^= 0_u64.wrapping_sub((was ^ innermost) & 1) << place;
        }
        self.innermost = innermost;
        self.level = self.level + opens - closes;
        // The other bits compare outer levels, which are not closed here.
        (wrong & 1 == 0).then_some(Some(objects))
    }

    /// Whether the innermost bracket is an object.
    #[inline]
    pub(crate) fn in_object(&self) -> bool {
        self.innermost & 1 == 1
    }

    /// [`in_object`](Self::in_object) as a mask of all bits or none.
    #[inline]
    pub(super) fn objects(&self) -> u64 {
        0_u64.wrapping_sub(self.innermost & 1)
    }

    /// Whether exactly one bracket is open, as a mask of all bits or none.
    #[inline]
    pub(super) fn outermost(&self) -> u64 {
        0_u64.wrapping_sub(u64::from(self.depth() == 1))
    }

    #[inline]
    pub(crate) fn depth(&self) -> usize {
        self.level - 1
    }
}
