//! Floor 0. Which brackets are open.

/// A bit for each, set for an object.
pub(super) struct Nesting {
    innermost: u64,
    /// One more than are open: so it is a multiple of 64 only where a word is full.
    level: usize,
    /// The 64 levels outside of `innermost`, and so on. Empty for anything a sane agent says.
    outer: Vec<u64>,
}

impl Nesting {
    pub(super) fn new() -> Self {
        Self { innermost: 0, level: 1, outer: Vec::new() }
    }

    #[inline]
    pub(super) fn open(&mut self, object: bool) {
        if self.level.is_multiple_of(64) {
            self.outer.push(self.innermost);
        }
        self.innermost = self.innermost << 1 | u64::from(object);
        self.level += 1;
    }

    /// Something must be open.
    #[inline]
    pub(super) fn close(&mut self) {
        self.innermost >>= 1;
        self.level -= 1;
        if self.level.is_multiple_of(64) {
            self.innermost = self.outer.pop().unwrap_or_default();
        }
    }

    /// Whether the innermost bracket is an object's.
    #[inline]
    pub(super) fn in_object(&self) -> bool {
        self.innermost & 1 == 1
    }

    #[inline]
    pub(super) fn depth(&self) -> usize {
        self.level - 1
    }
}
