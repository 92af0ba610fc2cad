//! Floor 4. The end of a session, whoever brings it about: all that is open fails at once.

use crate::error::{Error, ErrorKind};
use crate::origin::foreign;
use crate::record::Event;
use crate::record::Record;
use crate::sync::wake;

use super::core::Core;
use super::unread::Item;

impl Core {
    /// The agent is on its way out: what it still says is kept up to the drain budget.
    pub(super) fn drain(&self) {
        let pump = {
            let mut state = self.lock();
            state.closing = true;
            self.unstall(&mut state)
        };
        wake(pump);
    }

    /// No request is taken from now on, and none will be answered. The first reason stays.
    pub(super) fn end(&self, why: Error) {
        let (over, pending, serving, waiting, pump) = {
            let mut state = self.lock();
            let over = state.over.get_or_insert(why).clone();
            state.closing = true;
            let waiting = std::mem::take(&mut state.waiting);
            let pending = state.router.take_pending();
            state.stats.failed += pending.len() as u64;
            let serving = state.router.take_serving();
            let pump = self.unstall(&mut state);
            (over, pending, serving, waiting, pump)
        };
        wake(pump);
        drop(waiting);
        serving.iter().for_each(|token| token.cancel());
        for (_, pending) in pending {
            pending.slot.set(Err(over.clone()));
        }
    }

    /// Nothing will come from the agent any more. This reason replaces a poorer one.
    pub(super) fn finished(&self, why: Error, last: Option<Event>) {
        let readers = {
            let mut state = self.lock();
            state.over = Some(why.clone());
            state.ended = true;
            state.inbox.extend(last.map(Item::Event));
            state.readers.take()
        };
        self.end(why);
        readers.wake();
    }

    /// The last handle is gone.
    pub(super) fn release(&self) {
        let (inbox, pump) = {
            let mut state = self.lock();
            state.released = true;
            (std::mem::take(&mut state.inbox), state.pump.take())
        };
        drop(inbox);
        wake(pump);
        self.end(self.error(ErrorKind::Closed, "every handle of the session was dropped"));
        self.writer.abandon();
    }

    pub(super) fn why_over(&self) -> Option<Error> {
        if self.writer.is_here() { self.lock().over.clone() } else { Some(foreign("request")) }
    }

    pub(super) fn last_words(&self) -> Option<(String, Record)> {
        self.observer.as_ref().and_then(|observer| observer.last_words())
    }
}
