//! The trace says what was submitted, how it was linked, and in which submission.

use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::with_default;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::*;

/// One traced SQE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sqe {
    op: String,
    fd: i64,
    token: u64,
    link: String,
    submission: u64,
}

impl Visit for Sqe {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "fd" {
            self.fd = value;
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "token" => self.token = value,
            "submission" => self.submission = value,
            _ => (),
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "op" => self.op = value.to_owned(),
            "link" => self.link = value.to_owned(),
            _ => (),
        }
    }
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

struct Record(Arc<Mutex<Vec<Sqe>>>);

impl<S: tracing::Subscriber> Layer<S> for Record {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "agentpipe::ring" {
            let mut sqe = Sqe::default();
            event.record(&mut sqe);
            if !sqe.op.is_empty() {
                self.0.lock().unwrap().push(sqe);
            }
        }
    }
}

/// Returns what `run` submits. `set_up` makes the rig before the trace begins.
///
/// Another test's thread that reaches a callsite for the first time disables it for all threads for a
/// moment. If the callsite is disabled afterwards, entries may be missing, and the run is repeated.
fn traced<T>(set_up: impl Fn() -> Option<T>, run: impl Fn(&mut T)) -> Option<(T, Vec<Sqe>)> {
    let record = Arc::new(Mutex::new(Vec::new()));
    let deadline = Instant::now() + LIMIT;
    with_default(Registry::default().with(Record(Arc::clone(&record))), || {
        loop {
            let mut rig = set_up()?;
            assert!(Instant::now() < deadline, "no submission was traced");
            if !is_traced(&record) {
                tracing::callsite::rebuild_interest_cache();
                std::thread::yield_now();
                continue;
            }
            take(&record);
            run(&mut rig);
            let sqes = take(&record);
            if is_traced(&record) {
                return Some((rig, sqes));
            }
        }
    })
}

fn take(record: &Mutex<Vec<Sqe>>) -> Vec<Sqe> {
    std::mem::take(&mut *record.lock().unwrap())
}

/// Whether the submissions of another ring are traced.
fn is_traced(record: &Mutex<Vec<Sqe>>) -> bool {
    let Some(mut other) = Rig::new() else { return false };
    let pipe = other.reading(1);
    other.run_until_quiet();
    // The drop of the other ring is traced, too.
    drop((other, pipe));
    !take(record).is_empty()
}

/// Checks that every CLOSE follows its own ASYNC_CANCEL, hard-linked, in the same submission.
fn assert_pairs(sqes: &[Sqe], pairs: usize) {
    let mut found = 0;
    for (at, sqe) in sqes.iter().enumerate() {
        if sqe.op != "CLOSE" {
            continue;
        }
        let cancel = &sqes[at - 1];
        assert_eq!((cancel.op.as_str(), cancel.link.as_str()), ("ASYNC_CANCEL", "hard"));
        assert_eq!((cancel.fd, cancel.submission), (sqe.fd, sqe.submission), "{sqes:?}");
        assert_eq!(sqe.link, "none", "a chain ends with its close");
        found += 1;
    }
    assert_eq!(found, pairs, "{sqes:?}");
}

/// Three descriptors are closed by three pairs in one submission, in the given order.
#[test]
fn close_is_one_submission_of_hard_linked_pairs() {
    let set_up = || {
        let mut rig = Rig::new()?;
        let (out, out_write) = rig.reading(1);
        let (err, err_write) = rig.reading(2);
        let (input, input_read) = rig.writing(3);
        rig.run_until_quiet();
        Some((rig, [out, err, input], [out_write, err_write, input_read]))
    };
    let traced = traced(set_up, |(rig, ends, _)| {
        rig.ring.close(ends);
        rig.until("closed", |seen| count(seen, closed) == 3);
    });
    let Some((_, sqes)) = traced else { return };
    assert_pairs(&sqes, 3);
    let ops: Vec<_> = sqes.iter().map(|sqe| sqe.op.as_str()).collect();
    assert_eq!(ops, ["ASYNC_CANCEL", "CLOSE", "ASYNC_CANCEL", "CLOSE", "ASYNC_CANCEL", "CLOSE"]);
    assert!(sqes.iter().all(|sqe| sqe.submission == sqes[0].submission), "{sqes:?}");
}

/// Pipes being read, on a ring with a short queue.
struct Batch {
    rig: Rig,
    ends: Vec<EndId>,
    writes: Vec<OwnedFd>,
}

fn many_reading(entries: u32, count: u32) -> Option<Batch> {
    let mut rig = Rig::with(RingConfig { entries, ..config() })?;
    let (ends, writes) = (0..count).map(|agent| rig.reading(agent)).unzip();
    rig.run_until_quiet();
    Some(Batch { rig, ends, writes })
}

impl Batch {
    /// Closes all pipes behind some queued writes.
    fn close_behind(&mut self, queued: u32) {
        let Self { rig, ends, .. } = self;
        let mut reads = Vec::new();
        for agent in 0..queued {
            let (input, read) = rig.writing(100 + agent);
            rig.ring.write(input, b"x".to_vec(), 0).unwrap();
            reads.push(read);
        }
        rig.ring.close(ends);
        rig.until("closed", |seen| count(seen, closed) == ends.len());
    }
}

/// A link ends with its submission, so a queue with too little room must be emptied before a pair and
/// never inside one.
#[test]
fn full_queue_never_splits_a_pair() {
    for entries in [2, 4, 8] {
        for queued in 0..=entries {
            let set_up = || many_reading(entries, 13);
            let traced = traced(set_up, |batch| batch.close_behind(queued));
            let Some((batch, sqes)) = traced else { return };
            assert_pairs(&sqes, 13);
            for write in &batch.writes {
                must_break(write);
            }
            // No more submissions than the batch needs, and one for the queued writes.
            let first = sqes.iter().find(|sqe| sqe.op == "CLOSE").unwrap().submission;
            let last = sqes.iter().rfind(|sqe| sqe.op == "CLOSE").unwrap().submission;
            let need = 26_u64.div_ceil(u64::from(entries)) + 1;
            assert!(last - first < need, "{entries} {queued}: {first}..={last}");
        }
    }
}

/// If the pairs fit an empty queue, a queue with too little room is emptied first and not filled with
/// half of the pairs.
#[test]
fn close_that_fits_the_queue_is_one_submission() {
    let traced = traced(|| many_reading(8, 3), |batch| batch.close_behind(5));
    let Some((_, sqes)) = traced else { return };
    assert_pairs(&sqes, 3);
    let pairs: Vec<_> = sqes.iter().filter(|sqe| sqe.op != "WRITE").collect();
    assert!(pairs.iter().all(|sqe| sqe.submission == sqes[0].submission + 1), "{sqes:?}");
}

#[test]
fn operations_are_traced_by_name() {
    let traced = traced(Rig::new, |rig| {
        let (out, _write) = rig.reading(1);
        let (input, _read) = rig.writing(2);
        let (exit, _peer) = rig.writing(3);
        rig.ring.write(input, b"x".to_vec(), 0).unwrap();
        rig.ring.watch(exit);
        rig.turn(Duration::ZERO);
        rig.ring.pause(out);
        rig.turn(Duration::ZERO);
    });
    let Some((_, sqes)) = traced else { return };
    let ops: Vec<_> = sqes.iter().map(|sqe| (sqe.op.as_str(), sqe.link.as_str())).collect();
    let read = if multishot() { "READ_MULTISHOT" } else { "READ" };
    let named = [read, "WRITE", "POLL_ADD", "ASYNC_CANCEL"];
    assert_eq!(ops, named.map(|name| (name, "none")));
    assert_eq!(sqes[0].submission, sqes[2].submission);
    assert_eq!(sqes[3].submission, sqes[0].submission + 1);
}
