//! Floor 0. Where a thread shows its counts: written by that thread alone, read by anybody.
//!
//! Plain stores and loads of atomics, so neither side ever waits for the other. Each number is
//! right by itself; two of them may be of two turns.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::close::CloseStage;
use crate::counters::{IoCounters, Work};
use crate::stats::EngineStats;
use crate::stats::histogram::{BUCKETS, Histogram, bucket_of};

/// Atomic twins of a struct of numbers. A field that is missing here does not compile.
macro_rules! cells {
    ($name:ident of $plain:ident { $($field:ident),+ $(,)? }) => {
        #[derive(Debug, Default)]
        struct $name { $($field: AtomicU64),+ }

        impl $name {
            fn store(&self, from: &$plain) {
                let $plain { $($field),+ } = from;
                $(self.$field.store(*$field, Relaxed);)+
            }

            fn load(&self) -> $plain {
                $plain { $($field: self.$field.load(Relaxed)),+ }
            }
        }
    };
}

cells!(WorkCells of Work {
    records_in, bytes_in, records_out, bytes_out, records_discarded, bytes_discarded, pauses,
});
cells!(IoCells of IoCounters {
    queued, in_kernel, enters, submitted, completions, stale, buffers, buffers_free,
    buffers_free_min, starved, overflows,
});

/// The counts of one engine thread.
#[derive(Debug)]
pub(crate) struct Board {
    begun: Instant,
    agents: AtomicU64,
    spawned: AtomicU64,
    work: WorkCells,
    io: IoCells,
    closes: [AtomicU64; CloseStage::ALL.len()],
    close_times: [AtomicU64; BUCKETS],
    close_total_us: AtomicU64,
    close_max_us: AtomicU64,
    /// The meter: the bits of its level, and when that was, in microseconds from `begun`.
    level: AtomicU64,
    level_at_us: AtomicU64,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            agents: AtomicU64::default(),
            spawned: AtomicU64::default(),
            work: WorkCells::default(),
            io: IoCells::default(),
            closes: [const { AtomicU64::new(0) }; CloseStage::ALL.len()],
            close_times: [const { AtomicU64::new(0) }; BUCKETS],
            close_total_us: AtomicU64::default(),
            close_max_us: AtomicU64::default(),
            level: AtomicU64::default(),
            level_at_us: AtomicU64::default(),
        }
    }
}

/// By the owner alone, so no read-modify-write is needed.
fn add(cell: &AtomicU64, more: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(more), Relaxed);
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Board {
    /// Once a turn, by the owner.
    pub(crate) fn publish(
        &self,
        agents: u64,
        spawned: u64,
        work: &Work,
        io: &IoCounters,
        meter: Meter,
    ) {
        self.agents.store(agents, Relaxed);
        self.spawned.store(spawned, Relaxed);
        self.work.store(work);
        self.io.store(io);
        if let Some(at) = meter.at {
            self.level.store(meter.level.to_bits(), Relaxed);
            self.level_at_us.store(micros(at.saturating_duration_since(self.begun)), Relaxed);
        }
    }

    /// A close was reported, by the owner.
    pub(crate) fn note_close(&self, stage: CloseStage, took: Duration) {
        let took = micros(took);
        add(&self.closes[stage as usize], 1);
        add(&self.close_times[bucket_of(took)], 1);
        add(&self.close_total_us, took);
        self.close_max_us.store(self.close_max_us.load(Relaxed).max(took), Relaxed);
    }

    /// What the board shows.
    pub(crate) fn read(&self) -> EngineStats {
        let work = self.work.load();
        let counts = self.close_times.each_ref().map(|cell| cell.load(Relaxed));
        EngineStats {
            agents: self.agents.load(Relaxed),
            spawned: self.spawned.load(Relaxed),
            records_in: work.records_in,
            bytes_in: work.bytes_in,
            records_out: work.records_out,
            bytes_out: work.bytes_out,
            records_discarded: work.records_discarded,
            bytes_discarded: work.bytes_discarded,
            pauses: work.pauses,
            io: self.io.load(),
            close_times: Histogram {
                counts,
                total_us: self.close_total_us.load(Relaxed),
                max_us: self.close_max_us.load(Relaxed),
            },
            closes: self.closes.each_ref().map(|cell| cell.load(Relaxed)),
        }
    }

    /// Units of work a second, of late.
    pub(crate) fn pace(&self, now: Instant) -> f64 {
        let at = Duration::from_micros(self.level_at_us.load(Relaxed));
        let level = f64::from_bits(self.level.load(Relaxed));
        Meter { level, at: Some(self.begun + at), units: 0 }.pace(now)
    }
}

/// A counter turned into a pace: what was done counts less the longer it is ago.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    /// Units, each weighed by its age.
    level: f64,
    at: Option<Instant>,
    units: u64,
}

/// After so long a unit of work counts a third.
const FADE: Duration = Duration::from_secs(1);

/// What is done within this time is weighed together: nobody who places an agent sees the difference.
const STEP: Duration = Duration::from_millis(1);

impl Meter {
    /// The counter stands at `units` now.
    pub(crate) fn advance(&mut self, units: u64, now: Instant) {
        if self.at.is_some_and(|at| units == self.units || now < at + STEP) {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "the work of one turn")]
        let done = units.saturating_sub(self.units) as f64;
        self.level = self.faded(now) + done;
        self.units = units;
        self.at = Some(now);
    }

    fn faded(&self, now: Instant) -> f64 {
        let age = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.level * (-age.as_secs_f64() / FADE.as_secs_f64()).exp()
    }

    /// Units a second, of late.
    pub(crate) fn pace(&self, now: Instant) -> f64 {
        self.faded(now) / FADE.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_that_of_the_last_seconds() {
        // The story: an agent that worked hard yesterday must not keep its thread empty today.
        let begun = Instant::now();
        let mut meter = Meter::default();
        for turn in 0..10_000_u64 {
            meter.advance(turn * 5, begun + Duration::from_millis(turn));
        }
        let now = begun + Duration::from_millis(10_000);
        assert!((4800.0..5200.0).contains(&meter.pace(now)), "{}", meter.pace(now));
        assert!(meter.pace(now + Duration::from_secs(10)) < 1.0);
        let before = meter.pace(now);
        meter.advance(9_999 * 5, now);
        assert!((meter.pace(now) - before).abs() < 1e-9, "a turn without work changes nothing");
    }

    #[test]
    fn what_is_published_is_read() {
        let board = Board::default();
        let work = Work { records_in: 1, bytes_in: 2, pauses: 7, ..Work::default() };
        let io = IoCounters { enters: 3, buffers_free_min: 4, ..IoCounters::default() };
        let mut meter = Meter::default();
        let now = Instant::now();
        meter.advance(0, now);
        meter.advance(50, now + STEP / 2);
        meter.advance(100, now + STEP);
        board.publish(5, 6, &work, &io, meter);
        board.note_close(CloseStage::Drain, Duration::from_micros(90));
        board.note_close(CloseStage::Kill, Duration::from_micros(30));
        let read = board.read();
        assert_eq!((read.agents, read.spawned, read.records_in, read.bytes_in), (5, 6, 1, 2));
        assert_eq!((read.pauses, read.io), (7, io));
        assert_eq!((read.closed(), read.closed_in(CloseStage::Kill)), (2, 1));
        assert_eq!(read.close_times.total(), Duration::from_micros(120));
        assert_eq!(read.close_times.max(), Duration::from_micros(90));
        assert!(board.pace(Instant::now()) > 50.0);
        let mut both = read.clone();
        both.merge(&read);
        assert_eq!((both.closed(), both.agents, both.io.enters), (4, 10, 6));
        assert_eq!(both.io.buffers_free_min, 4, "the lowest, not the sum");
    }
}
