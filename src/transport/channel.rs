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

use crate::close::{CloseReason, CloseReport};
use crate::config::{Framing, Limits};
use crate::counters::AgentStats;
use crate::error::Error;
use crate::exit::Departure;
use crate::origin::Origin;
use crate::process::Executable;
use crate::record::Event;
use crate::sync::{SetOnce, Sole, WaitKey, WaitList, wake};

use super::buffers::{EventQueues, QUIET_EVENTS};

/// What the handles of one agent and its driver share.
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
            inbox: EventInbox::new(limits.inbox_high),
            outbox: FrameOutbox::new(limits.outbox_high),
            slot: AtomicUsize::new(usize::MAX),
            requested: AtomicU8::new(0),
            closing: SetOnce::new(),
            outcome: SetOnce::new(),
        }
    }

    /// Notes that a driver has taken the agent over, and lends the inbox the queues of its thread.
    pub(super) fn note_adopted(&self, slot: usize, queues: &Arc<EventQueues>) {
        self.slot.store(slot, Ordering::Relaxed);
        let _second = self.inbox.queues.set(Arc::clone(queues));
    }

    pub(super) fn slot(&self) -> usize {
        self.slot.load(Ordering::Relaxed)
    }

    /// Returns whether a request has to be sent: not if one of its kind is on its way. So handles that
    /// request without a pause do not fill the mailbox, and requests of others wait behind few.
    pub(crate) fn note_request(&self, bit: Option<u8>) -> bool {
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
        if self.origin.is_here() { self.outcome.get() } else { Some(self.foreign_report()) }
    }

    /// Waits until the close is done.
    pub(crate) async fn closed(&self) -> CloseReport {
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
    /// Idle queues of the driver's thread; set when the driver takes the agent over.
    queues: OnceLock<Arc<EventQueues>>,
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
            queues: OnceLock::new(),
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
        let unread = self.unread.fetch_add(weight, Ordering::SeqCst) + weight;
        let waker = {
            let mut state = lock(&self.state);
            if state.events.is_empty() {
                std::mem::swap(batch, &mut state.events);
            } else {
                state.events.append(batch);
            }
            state.stats = *stats;
            if state.events.is_empty() { None } else { state.reader.take() }
        };
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
        drop(departure);
        wake(waker);
    }

    /// Returns the weight that is unread.
    pub(super) fn unread(&self) -> usize {
        self.unread.load(Ordering::SeqCst)
    }

    /// Notes that the driver stops reading. Returns false if the reader caught up in between: then the
    /// driver may go on.
    pub(super) fn pause(&self) -> bool {
        self.paused.store(true, Ordering::SeqCst);
        if self.unread() <= self.low() {
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

    fn low(&self) -> usize {
        self.high / 2
    }

    /// Moves the events that are there to `events`, or registers `waker` if there are none. Returns
    /// false once the inbox is ended and empty.
    pub(crate) fn take_events(&self, events: &mut VecDeque<Event>, waker: &Waker) -> bool {
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
        self.reader_gone.store(true, Ordering::SeqCst);
        let events = std::mem::take(&mut lock(&self.state).events);
        drop(events);
    }

    /// Lets a process that exits wait until the inbox has ended, if it has not yet.
    pub(crate) fn keep_process(&self, departure: Departure) {
        let mut state = lock(&self.state);
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
        let tell_driver = self.frames.is_empty();
        self.frames.push_back(frame);
        Offer::Accepted { tell_driver }
    }
}
