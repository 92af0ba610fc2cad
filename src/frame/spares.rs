//! Floor 1. Buffers in which records that span reads are put together, used again.
//!
//! A thread has few agents in the middle of a record at a time, so a few buffers serve them all.
//! They are lent for a feed and stay with an agent only while a record of its is unfinished.

/// The size of each: a record up to this, put together, costs no allocation.
pub(super) const SPARE: usize = 8 << 10;

/// Those that wait to be used, of one thread: 256 KiB.
const SPARES_MAX: usize = 32;

/// The spare buffers of one thread.
#[derive(Debug, Default)]
pub(crate) struct Spares(Vec<Vec<u8>>);

impl Spares {
    /// An empty buffer of [`SPARE`] bytes, if there is one; else one without memory.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes a buffer back, or frees it: only those of one size are worth keeping.
    pub(super) fn give_back(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() == SPARE && self.0.len() < SPARES_MAX {
            self.0.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_and_spares_have_a_limit() {
        let mut spares = Spares::default();
        assert_eq!(spares.take().capacity(), 0, "none is made before it is needed");
        let buffer = Vec::with_capacity(SPARE);
        let memory = buffer.as_ptr();
        spares.give_back(buffer);
        spares.give_back(Vec::with_capacity(SPARE + 1));
        let again = spares.take();
        assert_eq!((again.as_ptr(), again.capacity()), (memory, SPARE));
        assert_eq!(spares.take().capacity(), 0, "one of another size is freed");
        for _ in 0..1000 {
            spares.give_back(Vec::with_capacity(SPARE));
        }
        assert_eq!(spares.0.len(), SPARES_MAX);
    }
}
