//! Floor 2. What an agent's handles and its engine share.
//!
//! Each lock is held for a few instructions and never across a wait or a system call, so neither
//! a slow reader nor a blocked writer can hold up the engine or a close.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::close::{CloseReason, CloseReport};
use crate::config::{Framing, Limits};
use crate::counters::AgentStats;
use crate::error::Error;
use crate::exit::Departure;
use crate::origin::Origin;
use crate::process::Executable;
use crate::record::Event;
use crate::sync::SetOnce;
use crate::sync::{Sole, WaitKey, WaitList, wake};

use super::buffers::{EventQueues, QUIET_EVENTS};

/// One agent, as its handles see it.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) pid: u32,
    /// `pid 123 (claude)`, for errors and traces.
    pub(crate) label: String,
    /// The file that was executed.
    #[cfg_attr(
        not(feature = "claude"),
        expect(dead_code, reason = "only Claude sessions ask for the version of their program")
    )]
    pub(crate) program: Executable,
    pub(crate) framing: Framing,
    pub(crate) limits: Limits,
    /// Elsewhere the engine's side does not run, and no lock here is ever free for sure.
    pub(crate) origin: Origin,
    /// Where its engine keeps it; set when the engine takes it over.
    slot: AtomicUsize,
    /// Where its queues of events come from and go to; set with the slot.
    queues: OnceLock<Arc<EventQueues>>,
    inbox: Mutex<Inbox>,
    /// Weight of the events delivered and not yet taken.
    inbox_bytes: AtomicUsize,
    /// The engine stopped reading because of that weight.
    paused: AtomicBool,
    reader_gone: AtomicBool,
    /// Requests in the mailbox of the engine thread: see `Request::bit`.
    asked: AtomicU8,
    outbox: Mutex<Outbox>,
    /// Set once, when a close begins: whatever the agent still says, it can be told nothing more.
    pub(super) closing: SetOnce<CloseReason>,
    /// Set once, when the close is done.
    pub(super) outcome: SetOnce<CloseReport>,
}

#[derive(Debug, Default)]
struct Inbox {
    events: VecDeque<Event>,
    ended: bool,
    reader: Sole,
    /// Its handles are gone: a process that exits waits for its end.
    departure: Option<Departure>,
    stats: AgentStats,
}

#[derive(Debug, Default)]
struct Outbox {
    frames: Vec<Vec<u8>>,
    /// Of what is accepted and not yet on the pipe, what the engine has taken included: its bytes,
    /// and for each record what it costs to keep it.
    weight: usize,
    refused: Option<Error>,
    /// Accepted bytes will never be written: the pipe broke or the agent was closed.
    lost: bool,
    wakers: WaitList,
    interrupt: Option<Vec<u8>>,
}

/// A queued record costs this and its bytes, so that the smallest ones count, too.
const FRAME_WEIGHT: usize = 64;

/// What became of an attempt to queue a frame.
#[derive(Debug)]
pub(crate) enum Offer {
    /// Queued. The engine has to be told if it was empty.
    Accepted { tell_engine: bool },
    /// No room: the waker is registered, the frame comes back.
    Full(Vec<u8>),
    /// Never again.
    Refused(Error),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds these locks panics half-way; the data is good even if a thread died.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    pub(crate) fn new(
        pid: u32,
        label: String,
        program: Executable,
        framing: Framing,
        limits: Limits,
    ) -> Self {
        Self {
            pid,
            label,
            program,
            framing,
            limits,
            origin: Origin::here(),
            slot: AtomicUsize::new(usize::MAX),
            queues: OnceLock::new(),
            inbox: Mutex::default(),
            inbox_bytes: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            reader_gone: AtomicBool::new(false),
            asked: AtomicU8::new(0),
            outbox: Mutex::default(),
            closing: SetOnce::new(),
            outcome: SetOnce::new(),
        }
    }

    // The engine's side.

    pub(crate) fn slot(&self) -> usize {
        self.slot.load(Ordering::Relaxed)
    }

    /// Its engine has taken it over.
    pub(crate) fn adopted(&self, slot: usize, queues: &Arc<EventQueues>) {
        self.slot.store(slot, Ordering::Relaxed);
        let _second = self.queues.set(Arc::clone(queues));
    }

    /// Hands a turn's events over in one go and wakes the reader once. Returns the weight now
    /// unread; `batch` is empty then.
    pub(crate) fn deliver(
        &self,
        batch: &mut VecDeque<Event>,
        weight: usize,
        stats: &AgentStats,
    ) -> usize {
        let unread = self.inbox_bytes.fetch_add(weight, Ordering::SeqCst) + weight;
        let waker = {
            let mut inbox = lock(&self.inbox);
            if inbox.events.is_empty() {
                std::mem::swap(batch, &mut inbox.events);
            } else {
                inbox.events.append(batch);
            }
            inbox.stats = *stats;
            if inbox.events.is_empty() { None } else { inbox.reader.take() }
        };
        wake(waker);
        unread
    }

    /// Shows counters that changed after the turn's events were handed over.
    pub(crate) fn note_stats(&self, stats: &AgentStats) {
        lock(&self.inbox).stats = *stats;
    }

    /// No event will follow.
    pub(crate) fn end_inbox(&self) {
        let (waker, departure) = {
            let mut inbox = lock(&self.inbox);
            inbox.ended = true;
            (inbox.reader.take(), inbox.departure.take())
        };
        drop(departure);
        wake(waker);
    }

    /// Unread weight.
    pub(crate) fn unread(&self) -> usize {
        self.inbox_bytes.load(Ordering::SeqCst)
    }

    /// Notes that reading stopped. False if the reader caught up in between: then it may go on.
    pub(crate) fn pause(&self) -> bool {
        self.paused.store(true, Ordering::SeqCst);
        if self.unread() <= self.low_water() {
            return !self.paused.swap(false, Ordering::SeqCst);
        }
        true
    }

    pub(crate) fn unpause(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    pub(crate) fn reader_is_gone(&self) -> bool {
        self.reader_gone.load(Ordering::SeqCst)
    }

    /// The engine acts on a request from now on; the next of its kind is a new one.
    pub(crate) fn begin_request(&self, bit: Option<u8>) {
        if let Some(bit) = bit {
            self.asked.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Swaps the frames accepted since the last call for `empty`, whose room is used again.
    pub(crate) fn take_frames(&self, empty: &mut Vec<Vec<u8>>) {
        std::mem::swap(&mut lock(&self.outbox).frames, empty);
    }

    /// So many bytes left the queue, and with them the last of so many records; writers that waited
    /// for room are woken.
    pub(crate) fn written(&self, bytes: usize, records: u64) {
        let records = usize::try_from(records).unwrap_or(usize::MAX);
        let weight = bytes.saturating_add(records.saturating_mul(FRAME_WEIGHT));
        let waiting = {
            let mut outbox = lock(&self.outbox);
            outbox.weight = outbox.weight.saturating_sub(weight);
            if outbox.weight >= self.limits.outbox_high && outbox.weight > 0 {
                return;
            }
            outbox.wakers.take()
        };
        waiting.wake();
    }

    /// Refuses writes from now on, for the first reason given. False if they were refused before.
    pub(crate) fn refuse_writes(&self, why: Error) -> bool {
        let waiting = {
            let mut outbox = lock(&self.outbox);
            if outbox.refused.is_some() {
                return false;
            }
            outbox.refused = Some(why);
            outbox.wakers.take()
        };
        waiting.wake();
        true
    }

    /// Accepted bytes will never be written. Comes after [`refuse_writes`](Self::refuse_writes).
    pub(crate) fn lose_writes(&self) {
        let waiting = {
            let mut outbox = lock(&self.outbox);
            outbox.lost = outbox.weight > 0;
            outbox.wakers.take()
        };
        waiting.wake();
    }

    /// The interrupt request of the session, if a turn is open.
    pub(crate) fn interrupt(&self) -> Option<Vec<u8>> {
        lock(&self.outbox).interrupt.clone()
    }

    // The handles' side.

    /// Whether this request has to be sent: not if one of its kind is on its way. So handles that
    /// ask without a pause fill no mailbox, and others' requests wait behind few.
    pub(crate) fn ask(&self, bit: Option<u8>) -> bool {
        bit.is_none_or(|bit| self.asked.fetch_or(bit, Ordering::SeqCst) & bit == 0)
    }

    fn low_water(&self) -> usize {
        self.limits.inbox_high / 2
    }

    /// Moves what is there to `local`. Registers `waker` if nothing is. False once ended and
    /// empty.
    pub(crate) fn take_events(&self, local: &mut VecDeque<Event>, waker: &Waker) -> bool {
        let mut own = None;
        loop {
            {
                let mut inbox = lock(&self.inbox);
                if !inbox.events.is_empty() {
                    std::mem::swap(local, &mut inbox.events);
                    return true;
                }
                if inbox.ended {
                    return false;
                }
                if inbox.reader.register(waker, &mut own) {
                    return true;
                }
            }
            own = Some(waker.clone());
        }
    }

    /// A reader's queue is empty. A large one goes to whoever has the next burst.
    pub(crate) fn read_out(&self, local: &mut VecDeque<Event>) {
        if local.capacity() > QUIET_EVENTS {
            self.give_back_queue(std::mem::take(local));
        }
    }

    /// An empty queue that has served before, if there is one.
    pub(super) fn take_queue(&self) -> VecDeque<Event> {
        self.queues.get().map(|queues| queues.take()).unwrap_or_default()
    }

    /// Takes an empty queue.
    pub(super) fn give_back_queue(&self, queue: VecDeque<Event>) {
        if let Some(queues) = self.queues.get() {
            queues.give_back(queue);
        }
    }

    /// The reader took an event of this weight. True if the engine has to be told to read on.
    pub(crate) fn consumed(&self, weight: usize) -> bool {
        let before = self.inbox_bytes.fetch_sub(weight, Ordering::SeqCst);
        before.saturating_sub(weight) <= self.low_water()
            && self.paused.load(Ordering::SeqCst)
            && self.paused.swap(false, Ordering::SeqCst)
    }

    /// Nobody will read any more; what is queued is dropped.
    pub(crate) fn drop_reader(&self) {
        self.reader_gone.store(true, Ordering::SeqCst);
        let events = std::mem::take(&mut lock(&self.inbox).events);
        drop(events);
    }

    /// A process that exits waits until the agent has ended, if it has not yet.
    pub(crate) fn keep_process(&self, departure: Departure) {
        let mut inbox = lock(&self.inbox);
        if !inbox.ended {
            inbox.departure = Some(departure);
        }
    }

    /// Queues a frame, or registers `waker` for when there may be room.
    pub(crate) fn offer(&self, frame: Vec<u8>, place: &mut WaitKey, waker: &Waker) -> Offer {
        let mut own = None;
        loop {
            {
                let mut outbox = lock(&self.outbox);
                if let Some(why) = &outbox.refused {
                    return Offer::Refused(why.clone());
                }
                // An empty queue takes any record, so the limit can never starve a large one.
                let weight = frame.len() + FRAME_WEIGHT;
                if outbox.weight == 0 || outbox.weight + weight <= self.limits.outbox_high {
                    outbox.weight += weight;
                    let tell_engine = outbox.frames.is_empty();
                    outbox.frames.push(frame);
                    return Offer::Accepted { tell_engine };
                }
                if outbox.wakers.register(place, waker, &mut own) {
                    return Offer::Full(frame);
                }
            }
            own = Some(waker.clone());
        }
    }

    /// `Some(Ok)` once every accepted byte is on the pipe; registers `waker` until then.
    pub(crate) fn poll_flushed(
        &self,
        place: &mut WaitKey,
        waker: &Waker,
    ) -> Option<Result<(), Error>> {
        let mut own = None;
        loop {
            {
                let mut outbox = lock(&self.outbox);
                if let (true, Some(why)) = (outbox.lost, &outbox.refused) {
                    return Some(Err(why.clone()));
                }
                if outbox.weight == 0 {
                    return Some(Ok(()));
                }
                if outbox.wakers.register(place, waker, &mut own) {
                    return None;
                }
            }
            own = Some(waker.clone());
        }
    }

    /// A writer waits no more.
    pub(crate) fn leave(&self, place: &mut WaitKey) {
        if !self.origin.is_here() {
            return;
        }
        let waker = lock(&self.outbox).wakers.forget(place);
        // Here no lock is held: the last waker of a task may free all the task has.
        drop(waker);
    }

    /// Sets or clears the request that a graceful close sends first. Whether there was one.
    pub(crate) fn set_interrupt(&self, request: Option<Vec<u8>>) -> bool {
        std::mem::replace(&mut lock(&self.outbox).interrupt, request).is_some()
    }

    /// Why a close began, if one has.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.closing.get()
    }

    /// Waits until a close begins.
    pub(crate) async fn close_begun(&self) -> CloseReason {
        self.closing.wait().await.unwrap_or(CloseReason::Forked)
    }

    /// [`close_begun`](Self::close_begun) as a poll function.
    pub(crate) fn poll_close_begun(
        &self,
        place: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        self.closing.poll(place, context).map(|reason| reason.unwrap_or(CloseReason::Forked))
    }

    /// The report, once the close is done.
    pub(crate) fn close_report(&self) -> Option<CloseReport> {
        if self.origin.is_here() { self.outcome.get() } else { Some(self.foreign_report()) }
    }

    /// Waits until the close is done.
    pub(crate) async fn closed(&self) -> CloseReport {
        self.outcome.wait().await.unwrap_or_else(|| self.foreign_report())
    }

    /// [`closed`](Self::closed) as a poll function.
    pub(crate) fn poll_closed(
        &self,
        place: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<CloseReport> {
        let done = self.outcome.poll(place, context);
        done.map(|report| report.unwrap_or_else(|| self.foreign_report()))
    }

    /// A snapshot, at most one engine turn old. All 0 in a forked child.
    pub(crate) fn stats(&self) -> AgentStats {
        if self.origin.is_here() { lock(&self.inbox).stats } else { AgentStats::default() }
    }
}
