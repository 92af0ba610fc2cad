//! Floor 2. Queues of events that go from the engine to a reader and back, used again.
//!
//! An agent that is quiet has room for a few events and no more; a burst borrows a queue of its
//! thread's, and the reader gives it back once it has read it out. So neither an idle agent holds
//! memory nor a busy one asks for any.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::record::Event;

/// An agent keeps room for no more events than this, on either side.
pub(super) const KEPT: usize = 4;

/// Places for events in the queues that wait to be used, of one thread: some 600 KB.
const PLACES_MAX: usize = 8192;

/// The spare queues of one thread. The lock is held for a few instructions.
#[derive(Debug, Default)]
pub(crate) struct Batches(Mutex<Spare>);

#[derive(Debug, Default)]
struct Spare {
    /// Empty, each with room for more than [`KEPT`].
    queues: Vec<VecDeque<Event>>,
    places: usize,
}

impl Batches {
    /// An empty queue with room, if there is one.
    pub(super) fn borrow(&self) -> VecDeque<Event> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = spare.queues.pop().unwrap_or_default();
        spare.places -= queue.capacity();
        queue
    }

    /// Takes an empty queue back, or frees it: one that is small is nobody's loss.
    pub(super) fn give_back(&self, queue: VecDeque<Event>) {
        debug_assert!(queue.is_empty(), "events would be lost");
        if queue.capacity() <= KEPT {
            return;
        }
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.places + queue.capacity() <= PLACES_MAX {
            spare.places += queue.capacity();
            spare.queues.push(queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_used_again_and_spares_have_a_limit() {
        let batches = Batches::default();
        batches.give_back(VecDeque::with_capacity(KEPT));
        assert_eq!(batches.borrow().capacity(), 0, "a small one is not worth keeping");
        let queue = VecDeque::with_capacity(100);
        let memory = queue.as_slices().0.as_ptr();
        batches.give_back(queue);
        let again = batches.borrow();
        assert_eq!((again.as_slices().0.as_ptr(), again.capacity()), (memory, 100));
        for _ in 0..1000 {
            batches.give_back(VecDeque::with_capacity(100));
        }
        let kept = (0..1000).filter(|_| batches.borrow().capacity() > 0).count();
        assert_eq!(kept, PLACES_MAX / 100);
    }
}
