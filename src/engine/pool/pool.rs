//! Floor 3. The spares of one command, and what becomes of each.
//!
//! The lock is held for a few instructions: never while something is spawned, closed or woken.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Wake;
use std::time::{Duration, Instant};

use crate::close::ClosePolicy;
use crate::close::CloseReason;
use crate::command::AgentCommand;
use crate::error::Result;
use crate::exit::Departure;
use crate::process::{Meaning, spawn_admitted};
use crate::sync::SetOnce;

use super::super::handle::Inner;
use super::super::writer::AgentWriter;
use super::settings::WarmPoolSettings;
use super::spare::{Handed, Spare, Unfit};
use super::stats::WarmPoolStats;

/// A spare that ends by itself is replaced at once only if it lived for so long: one that cannot
/// live would be spawned over and over.
const LIVED: Duration = Duration::from_secs(10);

fn lived(age: Duration) -> bool {
    age >= LIVED
}

pub(super) struct Pool {
    pub(super) engine: Arc<Inner>,
    pub(super) command: AgentCommand,
    settings: WarmPoolSettings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    spares: VecDeque<Spare>,
    pending: usize,
    /// Set when the next of those has come, or has failed.
    came: Arc<SetOnce<()>>,
    /// Something will look at the ages.
    timed: bool,
    /// No spare is wanted any more.
    ended: bool,
    counts: WarmPoolStats,
}

/// What a spawn that makes room has to wait for.
pub(super) enum Room {
    /// This one is being closed.
    Leaving(AgentWriter),
    /// One is on its way, and can be closed only once it is there.
    Coming(Arc<SetOnce<()>>),
}

impl Pool {
    pub(super) fn new(
        engine: Arc<Inner>,
        command: AgentCommand,
        settings: WarmPoolSettings,
    ) -> Arc<Self> {
        Arc::new(Self { engine, command, settings, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, note: impl FnOnce(&mut WarmPoolStats)) {
        note(&mut self.lock().counts);
    }

    /// All 0 in a forked child.
    pub(super) fn stats(&self) -> WarmPoolStats {
        if !self.is_here() {
            return WarmPoolStats::default();
        }
        let state = self.lock();
        WarmPoolStats { ready: state.spares.len(), pending: state.pending, ..state.counts }
    }

    /// Elsewhere the lock may be taken for good, and the spares are the parent's.
    pub(super) fn is_here(&self) -> bool {
        self.engine.origin.is_here()
    }

    pub(super) fn ready(&self) -> usize {
        self.lock().spares.len()
    }

    /// Orders the spares that are missing.
    pub(super) fn refill(self: &Arc<Self>) {
        if self.engine.check().is_err() {
            return;
        }
        let missing = {
            let mut state = self.lock();
            if state.ended {
                return;
            }
            let missing = self.settings.spares.saturating_sub(state.spares.len() + state.pending);
            state.pending += missing;
            missing
        };
        for _ in 0..missing {
            self.order(Self::spawn_one);
        }
    }

    /// Does it on a spawning thread, unless nobody has this pool by then.
    fn order(self: &Arc<Self>, work: fn(&Arc<Self>)) {
        let pool = Arc::downgrade(self);
        self.engine.spawner.order(move || {
            if let Some(pool) = pool.upgrade() {
                work(&pool);
            }
        });
    }

    fn spawn_one(self: &Arc<Self>) {
        let _departure = Departure::begin();
        let spare = self.try_spawn();
        if let Err(error) = &spare {
            crate::trace::warn!(%error, "no spare: it is tried again with the next take");
        }
        let (came, unwanted) = {
            let mut state = self.lock();
            state.pending -= 1;
            let came = mem::replace(&mut state.came, Arc::new(SetOnce::new()));
            let mut unwanted = None;
            match spare {
                Ok(Some(spare)) => {
                    state.counts.spawned += 1;
                    if state.ended {
                        state.counts.unused += 1;
                        unwanted = Some(spare);
                    } else {
                        state.spares.push_back(spare);
                    }
                }
                Ok(None) => {}
                Err(_) => state.counts.failed += 1,
            }
            (came, unwanted)
        };
        if let Some(spare) = unwanted {
            spare.close(self.command.close);
        }
        came.set(());
        self.watch_ages();
    }

    /// None where there is no place for a spare.
    fn try_spawn(self: &Arc<Self>) -> Result<Option<Spare>> {
        if self.engine.check().is_err() || self.lock().ended {
            return Ok(None);
        }
        let Some(permit) = self.engine.admission.admit_spare() else { return Ok(None) };
        // Before the exec: a file replaced in between makes it differ from what it is.
        let meaning = Meaning::of(&self.command)?;
        let child = spawn_admitted(&self.command, permit)?;
        let command = self.command.clone();
        let (agent, _ringing) = Arc::clone(&self.engine).hand_over(child, command)?;
        let watcher = Arc::new(Watcher(Arc::downgrade(self)));
        Ok(Some(Spare::new(agent, meaning, watcher)))
    }

    /// On a spawning thread, because it searches for the file.
    pub(super) fn pick(self: &Arc<Self>) -> Option<Handed> {
        let meaning = Meaning::of(&self.command).ok();
        loop {
            let mut spare = self.lock().spares.pop_front()?;
            let fit = spare.check(meaning.as_ref(), self.settings.max_age, Instant::now());
            if fit.is_ok() && !self.settings.keep_output {
                let records = spare.silence();
                self.count(|counts| counts.records_discarded += records);
            }
            // It may have told of its end just now.
            match fit.and_then(|()| spare.ended().map_or(Ok(()), |_| Err(Unfit::Ended))) {
                Ok(()) => return Some(Handed::new(spare, Arc::clone(self))),
                Err(why) => self.discard(spare, why),
            }
        }
    }

    fn discard(&self, spare: Spare, why: Unfit) {
        let shut_down = spare.ended() == Some(CloseReason::Shutdown);
        self.count(|counts| match why {
            Unfit::Ended if shut_down => counts.unused += 1,
            Unfit::Ended => counts.died += 1,
            Unfit::Stale => counts.expired += 1,
            Unfit::Changed => counts.changed += 1,
        });
        let writer = spare.close(self.command.close);
        crate::trace::debug!(pid = writer.pid(), ?why, "a spare is not handed out");
    }

    /// Takes out those that this is true of, and says what they were.
    fn take_out(&self, mut of: impl FnMut(&Spare) -> bool) -> Vec<Spare> {
        let mut state = self.lock();
        let (out, kept) = mem::take(&mut state.spares).into_iter().partition(|spare| of(spare));
        state.spares = kept;
        Vec::from(out)
    }

    /// Some have ended.
    fn bury(self: &Arc<Self>) {
        let now = Instant::now();
        let ended = self.take_out(|spare| spare.ended().is_some());
        let replace = ended.iter().any(|spare| lived(spare.age(now)));
        for spare in ended {
            self.discard(spare, Unfit::Ended);
        }
        if replace {
            self.refill();
        }
    }

    /// Some may be too old.
    fn expire(self: &Arc<Self>) {
        let now = Instant::now();
        self.lock().timed = false;
        let old = self.take_out(|spare| spare.due(self.settings.max_age) <= now);
        let any = !old.is_empty();
        for spare in old {
            self.discard(spare, Unfit::Stale);
        }
        if any {
            self.refill();
        }
        self.watch_ages();
    }

    /// One look at the ages is ordered at a time: for when the oldest will be too old.
    fn watch_ages(self: &Arc<Self>) {
        let due = {
            let mut state = self.lock();
            let Some(oldest) = state.spares.front() else { return };
            let due = oldest.due(self.settings.max_age);
            if mem::replace(&mut state.timed, true) {
                return;
            }
            due
        };
        let pool = Arc::downgrade(self);
        self.engine.spawner.order_at(due, move || {
            if let Some(pool) = pool.upgrade() {
                pool.expire();
            }
        });
    }

    /// Gives a spare up for a spawn that has no place, at once: somebody waits.
    pub(super) fn give_up(&self) -> Option<Room> {
        let spare = {
            let mut state = self.lock();
            let Some(spare) = state.spares.pop_front() else {
                return (state.pending > 0).then(|| Room::Coming(Arc::clone(&state.came)));
            };
            state.counts.evicted += 1;
            spare
        };
        Some(Room::Leaving(spare.close(ClosePolicy::abort())))
    }

    /// No spare is wanted any more.
    pub(super) fn end(&self) {
        if !self.is_here() {
            return;
        }
        let spares = {
            let mut state = self.lock();
            state.ended = true;
            state.counts.unused += state.spares.len() as u64;
            mem::take(&mut state.spares)
        };
        for spare in spares {
            spare.close(self.command.close);
        }
    }
}

/// Woken by an engine thread when a spare has ended. What is to be done is done elsewhere.
struct Watcher(Weak<Pool>);

impl Wake for Watcher {
    fn wake(self: Arc<Self>) {
        if let Some(pool) = self.0.upgrade() {
            pool.order(Pool::bury);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_spare_that_lived_is_replaced_at_once() {
        // At most one start every ten seconds for each place, whatever the program does.
        assert!(!lived(Duration::ZERO) && !lived(Duration::from_millis(9_999)));
        assert!(lived(LIVED) && lived(Duration::from_secs(3600)));
    }
}
