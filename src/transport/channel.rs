//! The channel between an agent's handles and its driver: events one way, frames the other, and the
//! close.
//!
//! Each lock is held for a few instructions and never across a wait or a system call, so neither
//! a slow reader nor a blocked writer can hold up the engine or a close. Wakers are woken, cloned and
//! dropped outside of the locks: they run code of the user.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::backend::Found;
use crate::close::{CloseReason, CloseReport};
use crate::config::Limits;
use crate::counters::{AgentStats, Backend};
use crate::error::Error;
use crate::exit::Departure;
use crate::framing::{Framing, FramingCell};
use crate::origin::Origin;
use crate::record::Event;
use crate::sync::{SetOnce, Sole, WaitKey, WaitList, wake};

use super::buffers::{EventQueues, QUIET_EVENTS};
use super::drain_budget::{DrainBudget, DrainShare};

/// The state that the handles of one agent share with its driver.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) pid: u32,
    /// `pid 123 (claude)`, for errors and traces.
    pub(crate) label: String,
    /// That of its engine.
    pub(crate) backend: Backend,
    /// Why that is not io_uring.
    pub(crate) fallback: Option<Arc<str>>,
    /// The framing of the output, as it was set.
    pub(crate) framing: Framing,
    /// The framing of what is sent.
    pub(crate) sent_framing: FramingCell,
    pub(crate) limits: Limits,
    /// In another process the driver does not run, and any lock may be held for good.
    pub(crate) origin: Origin,
    pub(crate) inbox: EventInbox,
    pub(crate) outbox: FrameOutbox,
    /// The agent's slot in its driver, set when the driver takes the agent over.
    slot: AtomicUsize,
    /// Requests that are on their way: see `Request::bit`.
    requested: AtomicU8,
    /// Set once, when a close begins: nothing more can be sent to the agent then.
    pub(super) closing: SetOnce<CloseReason>,
    /// Set once, when the close is done.
    pub(super) outcome: SetOnce<CloseReport>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds these locks panics half-way; the data is good even if a thread died.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    pub(crate) fn new(
        pid: u32,
        label: String,
        found: &Found,
        framing: Framing,
        limits: Limits,
    ) -> Self {
        Self {
            pid,
            label,
            backend: found.features.backend,
            fallback: found.fallback.clone(),
            framing,
            sent_framing: FramingCell::new(framing),
            limits,
            origin: Origin::here(),
            inbox: EventInbox::new(limits.inbox_high),
            outbox: FrameOutbox::new(limits.outbox_high),
            // No agent has this slot, so the driver ignores a request that comes before the
            // adoption.
            slot: AtomicUsize::new(usize::MAX),
            requested: AtomicU8::new(0),
            closing: SetOnce::new(),
            outcome: SetOnce::new(),
        }
    }

    /// Notes that a driver has taken the agent over, and lends the inbox the queues of its thread.
    pub(super) fn note_adopted(&self, slot: usize, queues: &Arc<EventQueues>) {
        // Relaxed, because only the thread of the driver reads the slot.
        self.slot.store(slot, Ordering::Relaxed);
        // An agent is adopted once, so the cell is still empty.
        let _second = self.inbox.queues.set(Arc::clone(queues));
    }

    pub(super) fn slot(&self) -> usize {
        self.slot.load(Ordering::Relaxed)
    }

    /// Returns whether a request has to be sent: not if one of its kind is on its way. So handles that
    /// request without a pause do not fill the mailbox, and requests of others wait behind few.
    pub(crate) fn note_request(&self, bit: Option<u8>) -> bool {
        // The handle changes the state first (a queued frame, a read event) and sets the bit after
        // it. The driver clears the bit first and looks at the state after it. So a request that is
        // suppressed here is covered by the one on its way.
        bit.is_none_or(|bit| self.requested.fetch_or(bit, Ordering::SeqCst) & bit == 0)
    }

    /// Notes that the driver acts on a request from now on; the next of its kind is a new one.
    pub(super) fn begin_request(&self, bit: Option<u8>) {
        if let Some(bit) = bit {
            self.requested.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Removes a task that waits for room or for the flush.
    pub(crate) fn cancel_wait(&self, key: &mut WaitKey) {
        // In a forked child the lock may be taken by a thread that does not exist there.
        if self.origin.is_here() {
            self.outbox.cancel_wait(key);
        }
    }

    /// Returns why a close began, if one has.
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
        key: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        self.closing.poll(key, context).map(|reason| reason.unwrap_or(CloseReason::Forked))
    }

    /// Returns the report, once the close is done.
    pub(crate) fn close_report(&self) -> Option<CloseReport> {
        // `get` returns `None` in a forked child, too, where it would mean that the close is not
        // done.
        if self.origin.is_here() { self.outcome.get() } else { Some(self.foreign_report()) }
    }

    /// Waits until the close is done.
    pub(crate) async fn closed(&self) -> CloseReport {
        // A wait without a value means a forked child: the report will never be set there.
        self.outcome.wait().await.unwrap_or_else(|| self.foreign_report())
    }

    /// [`closed`](Self::closed) as a poll function.
    pub(crate) fn poll_closed(
        &self,
        key: &mut WaitKey,
        context: &mut Context<'_>,
    ) -> Poll<CloseReport> {
        let done = self.outcome.poll(key, context);
        done.map(|report| report.unwrap_or_else(|| self.foreign_report()))
    }

    /// Returns a snapshot of the counters, at most one engine turn old. All 0 in a forked child.
    pub(crate) fn stats(&self) -> AgentStats {
        if self.origin.is_here() { self.inbox.stats() } else { AgentStats::default() }
    }
}

/// The events on their way to the reader.
#[derive(Debug)]
pub(crate) struct EventInbox {
    /// Limits::inbox_high.
    high: usize,
    state: Mutex<InboxState>,
    /// Weight of the events delivered and not read yet.
    unread: AtomicUsize,
    /// The driver stopped reading because of that weight.
    paused: AtomicBool,
    reader_gone: AtomicBool,
    /// The reader does not want stderr read for now.
    stderr_held: AtomicBool,
    /// Idle queues of the driver's thread; set when the driver takes the agent over.
    queues: OnceLock<Arc<EventQueues>>,
    /// Set when a close begins: the part of what is unread in the sum of all closing agents.
    share: OnceLock<DrainShare>,
}

#[derive(Debug, Default)]
struct InboxState {
    events: VecDeque<Event>,
    ended: bool,
    reader: Sole,
    /// All handles are dropped: a process that exits waits for the end of the inbox.
    departure: Option<Departure>,
    stats: AgentStats,
}

impl EventInbox {
    fn new(high: usize) -> Self {
        Self {
            high,
            state: Mutex::default(),
            unread: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            reader_gone: AtomicBool::new(false),
            stderr_held: AtomicBool::new(false),
            queues: OnceLock::new(),
            share: OnceLock::new(),
        }
    }

    /// Delivers the events of a turn and wakes the reader once. Returns the weight that is unread now;
    /// `batch` is empty then.
    pub(super) fn deliver(
        &self,
        batch: &mut VecDeque<Event>,
        weight: usize,
        stats: &AgentStats,
    ) -> usize {
        // The weight is added before the reader can see the events. Added later, it could be
        // subtracted by `consume` first, and the counter would wrap.
        let unread = self.unread.fetch_add(weight, Ordering::SeqCst) + weight;
        if let Some(share) = self.share.get() {
            share.add(weight);
            self.settle_share();
        }
        let waker = {
            let mut state = lock(&self.state);
            if state.events.is_empty() {
                // The swap moves no event, and the batch gets an empty queue for the next turn.
                std::mem::swap(batch, &mut state.events);
            } else {
                state.events.append(batch);
            }
            state.stats = *stats;
            // A delivery without an event only publishes the counters, which is nothing to wake
            // for.
            if state.events.is_empty() { None } else { state.reader.take() }
        };
        // The lock is released: the waker runs code of the user, which may read the inbox at once.
        wake(waker);
        unread
    }

    /// Publishes counters that changed after the turn's events were delivered.
    pub(super) fn publish_stats(&self, stats: &AgentStats) {
        lock(&self.state).stats = *stats;
    }

    fn stats(&self) -> AgentStats {
        lock(&self.state).stats
    }

    /// Ends the inbox: no event follows.
    pub(super) fn end(&self) {
        let (waker, departure) = {
            let mut state = lock(&self.state);
            state.ended = true;
            (state.reader.take(), state.departure.take())
        };
        // The drop wakes a process that waits in `exit`, with a system call: not under the lock.
        drop(departure);
        wake(waker);
    }

    /// Counts what is unread among what the closing agents hold, from now on.
    pub(super) fn begin_drain(&self, budget: &Arc<DrainBudget>) {
        self.share.get_or_init(|| DrainShare::new(budget)).add(self.unread());
        // The reader may have taken some since it was counted.
        self.settle_share();
    }

    /// Returns whether this weight may be unread in all, beside what other closing agents hold.
    pub(super) fn may_hold(&self, weight: usize) -> bool {
        self.share.get().is_none_or(|share| share.allows(weight))
    }

    fn settle_share(&self) {
        if let Some(share) = self.share.get() {
            // After the drop of the reader nothing is held, and the weight stays as it is.
            share.settle(|| if self.reader_is_gone() { 0 } else { self.unread() });
        }
    }

    /// Returns the weight that is unread.
    pub(super) fn unread(&self) -> usize {
        self.unread.load(Ordering::SeqCst)
    }

    /// Notes that the driver stops reading. Returns false if the reader caught up in between: then the
    /// driver may go on.
    pub(super) fn pause(&self) -> bool {
        // The flag is set before the weight is read, and `consume` lowers the weight before it
        // reads the flag. Both are sequentially consistent, so at least one side sees the other,
        // and an agent is not left paused with a reader that has caught up.
        self.paused.store(true, Ordering::SeqCst);
        if self.unread() <= self.low() {
            // If the flag is cleared already, the reader did it and requests a resume: the pause
            // holds until that request comes.
            return !self.paused.swap(false, Ordering::SeqCst);
        }
        true
    }

    pub(super) fn unpause(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    pub(super) fn reader_is_gone(&self) -> bool {
        self.reader_gone.load(Ordering::SeqCst)
    }

    /// Sets whether stderr is held back. Returns whether that is a change.
    pub(crate) fn hold_stderr(&self, held: bool) -> bool {
        self.stderr_held.swap(held, Ordering::SeqCst) != held
    }

    pub(super) fn is_stderr_held(&self) -> bool {
        self.stderr_held.load(Ordering::SeqCst)
    }

    fn low(&self) -> usize {
        // Half of the mark, so that reading does not stop and start again at each event.
        self.high / 2
    }

    /// Moves the events that are there to `events`, or registers `waker` if there are none. Returns
    /// false once the inbox is ended and empty.
    pub(crate) fn take_events(&self, events: &mut VecDeque<Event>, waker: &Waker) -> bool {
        // The waker is cloned outside of the lock, because that runs code of the user. So the first
        // round finds out whether a clone is needed, and the second registers it, after it has
        // looked for events again. A replaced waker is left in `own` and dropped without the lock.
        let mut own = None;
        loop {
            {
                let mut state = lock(&self.state);
                if !state.events.is_empty() {
                    std::mem::swap(events, &mut state.events);
                    return true;
                }
                if state.ended {
                    return false;
                }
                if state.reader.register(waker, &mut own) {
                    return true;
                }
            }
            own = Some(waker.clone());
        }
    }

    /// Notes that the reader took an event of this weight. Returns whether the driver has to be asked
    /// to read on.
    pub(crate) fn consume(&self, weight: usize) -> bool {
        let before = self.unread.fetch_sub(weight, Ordering::SeqCst);
        self.settle_share();
        // The load keeps the common case free of a write. The swap lets one side alone act on a
        // pause: this reader, or the driver in `pause`.
        before.saturating_sub(weight) <= self.low()
            && self.paused.load(Ordering::SeqCst)
            && self.paused.swap(false, Ordering::SeqCst)
    }

    /// Returns a large queue that the reader has emptied to the thread, for the next burst.
    pub(crate) fn recycle(&self, events: &mut VecDeque<Event>) {
        if events.capacity() > QUIET_EVENTS {
            self.give_back_queue(std::mem::take(events));
        }
    }

    /// Takes an empty queue that has room, if the thread has one.
    pub(super) fn take_queue(&self) -> VecDeque<Event> {
        self.queues.get().map(|queues| queues.take()).unwrap_or_default()
    }

    /// Returns an empty queue to the thread.
    pub(super) fn give_back_queue(&self, queue: VecDeque<Event>) {
        if let Some(queues) = self.queues.get() {
            queues.give_back(queue);
        }
    }

    /// Notes that nothing will be read any more, and drops what is queued.
    pub(crate) fn drop_reader(&self) {
        // Set first, so that at most the events that the driver has collected in this turn still
        // arrive.
        self.reader_gone.store(true, Ordering::SeqCst);
        let events = std::mem::take(&mut lock(&self.state).events);
        // The lock is released: to free a full inbox takes a while, and the driver may want to
        // deliver.
        drop(events);
        self.settle_share();
    }

    /// Lets a process that exits wait until the inbox has ended, if it has not yet.
    pub(crate) fn keep_process(&self, departure: Departure) {
        let mut state = lock(&self.state);
        // After its end the agent is closed, and `exit` has nothing to wait for.
        if !state.ended {
            state.departure = Some(departure);
        }
    }
}

/// A queued record weighs this and its bytes, so that the limit bounds the number of small ones, too.
const FRAME_WEIGHT: usize = 64;

/// The most frames that an outbox or a write queue keeps room for while it is empty.
pub(super) const QUIET_FRAMES: usize = 8;

/// The frames on their way to the agent.
#[derive(Debug)]
pub(crate) struct FrameOutbox {
    /// Limits::outbox_high.
    high: usize,
    state: Mutex<OutboxState>,
}

#[derive(Debug, Default)]
struct OutboxState {
    /// Accepted, and not taken by the driver yet.
    frames: VecDeque<Vec<u8>>,
    /// Weight of what is accepted and not in the pipe yet, what the driver has taken included.
    weight: usize,
    refused: Option<Error>,
    /// Accepted bytes will never be written: the pipe broke or the agent was closed.
    lost: bool,
    /// Tasks that wait for room or for the flush.
    writers: WaitList,
    interrupt: Option<Vec<u8>>,
    /// Written once the interrupt of a close is answered.
    farewell: Vec<Vec<u8>>,
}

/// The result of an attempt to queue a frame.
#[derive(Debug)]
pub(crate) enum Offer {
    /// The frame is queued. The driver has to be told if the queue was empty.
    Accepted { tell_driver: bool },
    /// There is no room now: the waker is registered, and the frame comes back.
    Full(Vec<u8>),
    /// No frame is accepted any more.
    Refused(Error),
}

impl FrameOutbox {
    fn new(high: usize) -> Self {
        Self { high, state: Mutex::default() }
    }

    /// Queues a frame, or registers `waker` for when there may be room.
    pub(crate) fn offer(&self, frame: Vec<u8>, key: &mut WaitKey, waker: &Waker) -> Offer {
        // The waker is cloned outside of the lock, as in `EventInbox::take_events`. There may be
        // room by then, so each round offers the frame again before it registers.
        let mut own = None;
        let mut frame = frame;
        loop {
            {
                let mut state = lock(&self.state);
                match state.accept(frame, self.high) {
                    Offer::Full(back) => frame = back,
                    decided => return decided,
                }
                if state.writers.register(key, waker, &mut own) {
                    return Offer::Full(frame);
                }
            }
            own = Some(waker.clone());
        }
    }

    /// Queues a frame, or returns it at once if there is no room now.
    pub(crate) fn try_offer(&self, frame: Vec<u8>) -> Offer {
        lock(&self.state).accept(frame, self.high)
    }

    /// `Some(Ok)` once every accepted byte is in the pipe; registers `waker` until then.
    pub(crate) fn poll_flushed(
        &self,
        key: &mut WaitKey,
        waker: &Waker,
    ) -> Option<Result<(), Error>> {
        let mut own = None;
        loop {
            {
                let mut state = lock(&self.state);
                // A refusal alone is not an error: what was accepted before it may still be
                // written.
                if let (true, Some(why)) = (state.lost, &state.refused) {
                    return Some(Err(why.clone()));
                }
                if state.weight == 0 {
                    return Some(Ok(()));
                }
                if state.writers.register(key, waker, &mut own) {
                    return None;
                }
            }
            own = Some(waker.clone());
        }
    }

    fn cancel_wait(&self, key: &mut WaitKey) {
        let waker = lock(&self.state).writers.forget(key);
        // No lock is held here: the last waker of a task may free everything that the task owns.
        drop(waker);
    }

    /// Appends the frames that were accepted since the last call to `queue`.
    pub(super) fn take_frames(&self, queue: &mut VecDeque<Vec<u8>>) {
        let mut state = lock(&self.state);
        if queue.is_empty() {
            // The swap moves no frame, so the lock is held for an instant however many there are.
            std::mem::swap(&mut state.frames, queue);
        } else {
            queue.append(&mut state.frames);
        }
        if state.frames.capacity() > QUIET_FRAMES {
            // The outbox of a quiet agent must not keep the room of its largest burst.
            state.frames = VecDeque::new();
        }
    }

    /// Notes that `bytes` are in the pipe, and with them the last byte of `records` records. Wakes the
    /// writers that wait for room.
    pub(super) fn written(&self, bytes: usize, records: u64) {
        let records = usize::try_from(records).unwrap_or(usize::MAX);
        let weight = bytes.saturating_add(records.saturating_mul(FRAME_WEIGHT));
        let waiting = {
            let mut state = lock(&self.state);
            state.weight = state.weight.saturating_sub(weight);
            // Without room a woken writer would only register again. An empty outbox always has
            // room, also with a limit of 0.
            if state.weight >= self.high && state.weight > 0 {
                return;
            }
            state.writers.take()
        };
        waiting.wake();
    }

    /// Refuses frames from now on, for the first reason given. Returns false if they were refused
    /// before.
    pub(crate) fn refuse(&self, why: Error) -> bool {
        let waiting = {
            let mut state = lock(&self.state);
            // The first reason stays, so that a close does not hide that the pipe broke before it.
            if state.refused.is_some() {
                return false;
            }
            state.refused = Some(why);
            state.writers.take()
        };
        waiting.wake();
        true
    }

    /// Notes that accepted bytes will never be written. Comes after [`refuse`](Self::refuse).
    pub(super) fn lose(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            // If everything is in the pipe, nothing is lost, and a later flush succeeds.
            state.lost = state.weight > 0;
            state.writers.take()
        };
        waiting.wake();
    }

    /// Returns the interrupt request of the session, if a turn is open.
    pub(super) fn interrupt(&self) -> Option<Vec<u8>> {
        lock(&self.state).interrupt.clone()
    }

    /// Sets or clears the request that a graceful close sends first. Returns whether there was one.
    pub(crate) fn set_interrupt(&self, request: Option<Vec<u8>>) -> bool {
        std::mem::replace(&mut lock(&self.state).interrupt, request).is_some()
    }

    /// Sets the frames that follow the answer to the interrupt of a close.
    pub(crate) fn set_farewell(&self, frames: Vec<Vec<u8>>) {
        lock(&self.state).farewell = frames;
    }

    /// Takes the frames that follow the answer to the interrupt.
    pub(super) fn take_farewell(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.state).farewell)
    }
}

impl OutboxState {
    fn accept(&mut self, frame: Vec<u8>, high: usize) -> Offer {
        if let Some(why) = &self.refused {
            return Offer::Refused(why.clone());
        }
        let weight = frame.len() + FRAME_WEIGHT;
        // An empty queue takes any record, so that the limit cannot starve a large one.
        if self.weight > 0 && self.weight + weight > high {
            return Offer::Full(frame);
        }
        self.weight += weight;
        // The driver takes all frames at once. If some are here, the handle that queued the first
        // of them has sent, or is about to send, a request that covers this one.
        let tell_driver = self.frames.is_empty();
        self.frames.push_back(frame);
        Offer::Accepted { tell_driver }
    }
}
