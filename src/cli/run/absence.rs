//! A parent that stops reading without closing stdout (`--reader-timeout`): when its reader is given up,
//! and when the agent behind it is.
//!
//! Agent SDKs close in this way: they stop reading, close stdin and wait, with stdout open. They also end
//! stdin early, right after the only prompt, and read on for the length of the turn. So the end of stdin
//! alone decides nothing.

use std::time::{Duration, Instant};

/// Bytes that an agent may write after its reader was given up. The CLI writes an answer three times over: in
/// pieces, as one record, and in its result.
const DROPPED_MAX: u64 = 32 << 20;

/// How long such an agent may write without a pause, and the shortest pause. A finished answer takes a tenth of
/// it to write, and longer on a busy machine.
const BURST_MAX: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

/// What is known about the reader after the end of stdin.
#[derive(Debug)]
pub(super) struct Absence {
    limit: Duration,
    /// When stdin ended.
    ended: Option<Instant>,
    /// How many bytes the reader had taken from stdout shortly after that.
    taken: Option<u64>,
    /// The reader took something later, so it is slow and not gone.
    reads: bool,
    /// When the reader was given up.
    gave_up: Option<Instant>,
    /// How many bytes the agent has written since then, and when it last wrote.
    dropped: u64,
    heard: Instant,
    /// Since when it has written without a pause.
    burst: Instant,
    /// How many bytes the agent had written before.
    before: u64,
}

impl Absence {
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self {
            limit,
            ended: None,
            taken: None,
            reads: false,
            gave_up: None,
            dropped: 0,
            heard: now,
            burst: now,
            before: 0,
        }
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Notes the end of stdin, once.
    pub(super) fn input_ended(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
    }

    /// Returns whether [`note_taken`](Self::note_taken) is due.
    pub(super) fn wants_taken(&self, now: Instant) -> bool {
        self.taken.is_none() && self.first_look().is_some_and(|at| now >= at)
    }

    /// Notes how many bytes the reader has taken, once.
    pub(super) fn note_taken(&mut self, taken: u64) {
        self.taken.get_or_insert(taken);
    }

    /// A runtime may fill its own buffer from the pipe for a moment after its user has stopped reading.
    fn first_look(&self) -> Option<Instant> {
        Some(self.ended? + self.limit / 2)
    }

    /// Returns when a reader is looked at that takes nothing. `took` is when stdout last accepted something.
    pub(super) fn deadline(&self, took: Instant) -> Option<Instant> {
        let ended = self.ended.filter(|_| !self.reads && self.gave_up.is_none())?;
        if self.taken.is_none() { self.first_look() } else { Some(ended.max(took) + self.limit) }
    }

    /// Decides at the deadline about the reader of an stdout that accepts nothing. `taken` is how many bytes
    /// the reader has taken, `written` how many the agent has written. Returns true if the reader is given up.
    pub(super) fn decide(&mut self, taken: u64, written: u64, now: Instant) -> bool {
        let Some(before) = self.taken else { return false };
        self.reads = taken > before;
        if !self.reads {
            self.gave_up = Some(now);
            (self.heard, self.burst, self.before) = (now, now, written);
        }
        !self.reads
    }

    /// Whether stdin has ended and nothing is decided about the reader.
    pub(super) fn is_open(&self) -> bool {
        self.ended.is_some() && !self.reads && self.gave_up.is_none()
    }

    /// Whether the reader was given up.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up.is_some()
    }

    /// Notes how many bytes the agent has written.
    pub(super) fn hear(&mut self, written: u64, now: Instant) {
        let dropped = written.saturating_sub(self.before);
        if dropped != self.dropped {
            if now > self.heard + PAUSE {
                self.burst = now;
            }
            (self.dropped, self.heard) = (dropped, now);
        }
    }

    /// Returns when an agent whose reader was given up must have left: after a silence of `drain`, after `total`,
    /// and at once if it floods.
    pub(super) fn agent_deadline(&self, drain: Duration, total: Duration) -> Option<Instant> {
        let since = self.gave_up?;
        let floods = self.dropped > DROPPED_MAX || self.heard >= self.burst + BURST_MAX;
        Some(if floods { self.heard } else { (self.heard + drain).min(since + total) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);
    const DRAIN: Duration = Duration::from_secs(2);
    const TOTAL: Duration = Duration::from_secs(5);

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn open_input_gives_no_reader_up() {
        let start = Instant::now();
        let absence = Absence::new(LIMIT, start);
        assert_eq!((absence.deadline(start), absence.agent_deadline(DRAIN, TOTAL)), (None, None));
    }

    fn ended(start: Instant) -> Absence {
        let mut absence = Absence::new(LIMIT, start);
        absence.input_ended(start);
        absence.input_ended(start + ms(50));
        // asyncio reads on for 100 kB and more after the task that read was cancelled.
        assert!(!absence.wants_taken(start + ms(99)) && absence.wants_taken(start + ms(100)));
        assert_eq!(absence.deadline(start), Some(start + ms(100)));
        absence.note_taken(100);
        absence.note_taken(101);
        assert_eq!(absence.deadline(start + ms(30)), Some(start + ms(230)));
        absence
    }

    // A host that reads in bursts took something since, so its pause is no departure.
    #[test]
    fn reader_that_took_a_byte_is_never_given_up() {
        let start = Instant::now();
        let mut absence = ended(start);
        assert!(!absence.decide(101, 70_000, start + ms(230)));
        assert_eq!((absence.deadline(start), absence.gave_up()), (None, false));
    }

    #[test]
    fn backlog_has_more_time_than_a_flood() {
        let start = Instant::now();
        let mut absence = ended(start);
        let left = start + ms(200);
        assert!(absence.decide(100, 70_000, left), "nothing was taken");
        assert_eq!(absence.agent_deadline(DRAIN, TOTAL), Some(left + DRAIN));
        absence.hear(70_000 + DROPPED_MAX, left + ms(300));
        absence.hear(70_000 + DROPPED_MAX, left + ms(450));
        assert_eq!(absence.agent_deadline(DRAIN, TOTAL), Some(left + ms(300) + DRAIN));
        absence.hear(70_001 + DROPPED_MAX, left + ms(500));
        assert_eq!(absence.agent_deadline(DRAIN, TOTAL), Some(left + ms(500)), "a flood");
    }

    #[test]
    fn slow_flood_is_one_too() {
        let start = Instant::now();
        let mut absence = ended(start);
        assert!(absence.decide(100, 100, start));
        for kilobytes in 1..=20 {
            assert_eq!(absence.agent_deadline(DRAIN, TOTAL), Some(absence.heard + DRAIN));
            absence.hear(kilobytes << 10, start + ms(kilobytes * 50));
        }
        assert_eq!(absence.agent_deadline(DRAIN, TOTAL), Some(start + ms(1000)));
    }

    #[test]
    fn dripping_agent_has_a_last_moment() {
        let start = Instant::now();
        let mut absence = ended(start);
        let left = start + ms(200);
        assert!(absence.decide(100, 100, left));
        for drip in 1..20 {
            absence.hear(100 + drip, left + ms(drip * 250));
        }
        assert_eq!(absence.agent_deadline(DRAIN, TOTAL), Some(left + TOTAL));
    }
}
