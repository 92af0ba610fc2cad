//! The tag of an agent: a number that all its descendants inherit and that `/proc` shows of each process.
//!
//! It is the limit for file locks (RLIMIT_LOCKS), which Linux has not enforced since 2.4.25. Unlike the
//! session, the parent and the environment, a daemon keeps it. `/proc/PID/limits` may be read by every
//! user. The upper bits are a random word of the engine, the lower ones number its agents.

/// The bits that number the agents of an engine.
const NUMBER_BITS: u32 = 22;
/// A word is below this, and a tag is so below all that means "unlimited".
const WORD_END: u64 = 1 << 40;
/// Words below this could be found by accident.
const WORD_MIN: u64 = 1 << 16;

/// The random part of the tags of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    /// Makes a word whose tags are below the hard limit of the host; `None` if that is too low. A host
    /// that is an agent itself has the tag of its own engine as its hard limit.
    pub(super) fn new(random: u64, hard: Option<u64>) -> Option<Self> {
        let end = hard.map_or(WORD_END, |hard| (hard >> NUMBER_BITS).min(WORD_END));
        // In the upper half, so that an engine of an agent finds room below.
        (end >= 2 * WORD_MIN).then(|| Self(end - 1 - random % (end / 2)))
    }

    /// Returns the tag of an agent. After 4 million agents the numbers begin again.
    pub(super) fn tag(self, number: u64) -> u64 {
        (self.0 << NUMBER_BITS) | (number % (1 << NUMBER_BITS))
    }

    /// Returns the last tag of the engine.
    pub(super) fn last(self) -> u64 {
        self.tag(u64::MAX)
    }

    /// Returns whether a limit is a tag of this engine.
    pub(super) fn is_of(self, limit: u64) -> bool {
        limit >> NUMBER_BITS == self.0
    }
}

/// Returns the soft and the hard limit for file locks from the text of `/proc/PID/limits`, with `u64::MAX`
/// for unlimited. Allocates nothing.
pub(in super::super) fn locks_of(limits: &[u8]) -> Option<[u64; 2]> {
    let line =
        limits.split(|byte| *byte == b'\n').find_map(|l| l.strip_prefix(b"Max file locks"))?;
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    let mut next = || words.next().map(|word| word.parse().unwrap_or(u64::MAX));
    Some([next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_nested_engines_differ() {
        // The guard of an engine would kill the agents of another.
        for random in [0, 1, 12345, u64::MAX] {
            let outer = Word::new(random, None).expect("unlimited");
            let inner = Word::new(random, Some(outer.last())).expect("room below");
            let third = Word::new(random, Some(inner.last())).expect("room below");
            for (word, others) in [(outer, [inner, third]), (inner, [outer, third])] {
                for number in [0, 1, 1 << 22, u64::MAX] {
                    assert!(word.is_of(word.tag(number)) && word.tag(number) <= word.last());
                    assert!(others.iter().all(|other| !other.is_of(word.tag(number))));
                }
            }
            assert!(inner.last() <= outer.last() && !outer.is_of(u64::MAX));
        }
        assert_eq!(Word::new(7, Some(1000)), None, "too low for a tag");
    }

    #[test]
    fn limits_of_a_process_are_read() {
        let text = b"Limit  Soft Limit  Hard Limit  Units\n\
            Max file locks            4611686018427387905  unlimited            locks     \n\
            Max pending signals       1 2 signals\n";
        assert_eq!(locks_of(text), Some([4_611_686_018_427_387_905, u64::MAX]));
        assert_eq!(locks_of(b"Max file locks"), None);
        assert!(locks_of(&std::fs::read("/proc/self/limits").expect("proc")).is_some());
    }
}
