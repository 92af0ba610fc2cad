//! The sum over all closing agents of an engine: how many bytes they may hold for their readers
//! together.
//!
//! Each closing agent may hold [`DRAIN_SHARE`] in any case, and half of what the others leave of the
//! sum beyond that. So the sum is never used up: one agent gets half of it, two get a third each,
//! and an agent with a short last answer keeps it beside any number of agents that flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The default sum: a single agent may hold all of the default `Limits::drain_max`.
pub(crate) const DRAIN_TOTAL_MAX: usize = 128 << 20;

/// How much each closing agent may hold whatever the others do.
const DRAIN_SHARE: usize = 256 << 10;

/// The sum, which the threads of an engine share.
#[derive(Debug)]
pub(crate) struct DrainBudget {
    max: usize,
    held: AtomicUsize,
}

impl DrainBudget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: AtomicUsize::new(0) })
    }
}

/// What one closing agent holds of the sum. Dropped, it holds nothing.
#[derive(Debug)]
pub(super) struct DrainShare {
    budget: Arc<DrainBudget>,
    held: AtomicUsize,
}

impl DrainShare {
    pub(super) fn new(budget: &Arc<DrainBudget>) -> Self {
        Self { budget: Arc::clone(budget), held: AtomicUsize::new(0) }
    }

    /// Returns whether the agent may hold `wanted` bytes in all.
    pub(super) fn allows(&self, wanted: usize) -> bool {
        // Relaxed, because the counts guard no memory. What another thread adds meanwhile exceeds the
        // sum by what it reads in one turn.
        let held = self.budget.held.load(Ordering::Relaxed);
        let others = held.saturating_sub(self.held.load(Ordering::Relaxed));
        wanted <= DRAIN_SHARE || wanted.saturating_mul(2) <= self.budget.max.saturating_sub(others)
    }

    /// Notes that the agent holds more.
    pub(super) fn add(&self, bytes: usize) {
        // In this order `settle`, on the thread of the reader, never takes more from the sum than is
        // in it.
        self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        self.held.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Notes that the reader has taken some: no more than `unread` returns is held from now on.
    pub(super) fn settle(&self, unread: impl Fn() -> usize) {
        let mut held = self.held.load(Ordering::SeqCst);
        // The driver counts bytes as unread before it adds them here. If it does both between the
        // two loads and the exchange, the exchange fails.
        loop {
            let now = unread();
            if held <= now {
                return;
            }
            match self.held.compare_exchange(held, now, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    self.budget.held.fetch_sub(held - now, Ordering::Relaxed);
                    return;
                }
                Err(other) => held = other,
            }
        }
    }
}

impl Drop for DrainShare {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(*self.held.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a share, in steps of 1000 bytes, as far as it is allowed.
    fn fill(share: &DrainShare) -> usize {
        let mut held = share.held.load(Ordering::Relaxed);
        while share.allows(held + 1000) {
            share.add(1000);
            held += 1000;
        }
        held
    }

    #[test]
    fn flooders_leave_room_for_a_last_answer() {
        // 200 agents that each held 64 MiB made 12.8 GB.
        let budget = DrainBudget::new(DRAIN_TOTAL_MAX);
        let alone = DrainShare::new(&budget);
        assert_eq!(fill(&alone) / 1000, (64 << 20) / 1000, "drain_max of one agent");
        drop(alone);
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);

        // In rounds, as the turns of a driver do it.
        let shares: Vec<_> = (0..200).map(|_| DrainShare::new(&budget)).collect();
        let mut held = [0; 200];
        for _ in 0..2000 {
            for (share, held) in shares.iter().zip(&mut held) {
                if share.allows(*held + 1000) {
                    share.add(1000);
                    *held += 1000;
                }
            }
        }
        let sum: usize = held.iter().sum();
        assert!(sum <= DRAIN_TOTAL_MAX, "{sum}");
        assert!(sum > DRAIN_TOTAL_MAX / 10 * 9, "the rest is not wasted: {sum}");
        let (least, most) = (held.iter().min(), held.iter().max());
        assert!(most <= least.map(|least| least + 1000).as_ref(), "{least:?} and {most:?}");
        let late = fill(&DrainShare::new(&budget));
        assert!(late >= 300_000, "what is left for one that comes late: {late}");
        // Beyond the sum each has its share.
        let budget = DrainBudget::new(0);
        assert_eq!(fill(&DrainShare::new(&budget)) / 1000, DRAIN_SHARE / 1000);
    }

    #[test]
    fn bytes_that_are_read_are_free_again() {
        let budget = DrainBudget::new(1 << 20);
        let share = DrainShare::new(&budget);
        share.add(500_000);
        assert!(!share.allows(600_000));
        share.settle(|| 600_000);
        assert_eq!(budget.held.load(Ordering::Relaxed), 500_000, "older ones were read");
        share.settle(|| 100);
        assert_eq!(budget.held.load(Ordering::Relaxed), 100);
        // The driver adds while the reader settles: the one count must not overwrite the other.
        let calls = std::cell::Cell::new(0);
        share.settle(|| {
            calls.set(calls.get() + 1);
            if calls.get() == 1 {
                share.add(30);
                return 40;
            }
            70
        });
        assert_eq!((calls.get(), budget.held.load(Ordering::Relaxed)), (2, 70));
        drop(share);
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
        let endless = DrainBudget::new(usize::MAX);
        assert!(DrainShare::new(&endless).allows(usize::MAX));
    }

    #[test]
    fn reader_on_another_thread_loses_no_count() {
        const ROUNDS: usize = 100_000;
        let budget = DrainBudget::new(usize::MAX);
        let share = DrainShare::new(&budget);
        let (unread, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    // In step with the reader, so that both work on the same bytes at a time.
                    while unread.load(Ordering::SeqCst) > 0 {
                        std::thread::yield_now();
                    }
                    unread.fetch_add(3, Ordering::SeqCst);
                    share.add(3);
                }
            });
            scope.spawn(|| {
                let mut taken = 0;
                while taken < ROUNDS {
                    if unread.load(Ordering::SeqCst) == 0 {
                        std::thread::yield_now();
                        continue;
                    }
                    unread.fetch_sub(3, Ordering::SeqCst);
                    taken += 1;
                    share.settle(|| unread.load(Ordering::SeqCst));
                    most.fetch_max(budget.held.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            });
        });
        assert!(most.into_inner() <= 3 * ROUNDS, "below zero it would leave no agent any room");
        share.settle(|| unread.load(Ordering::SeqCst));
        assert_eq!((unread.into_inner(), budget.held.load(Ordering::Relaxed)), (0, 0));
    }
}
