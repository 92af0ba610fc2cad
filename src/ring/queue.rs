//! Floor 1. The two queues shared with the kernel: push submissions, enter, reap completions.
#![expect(unsafe_code, reason = "submission entries name memory and descriptors")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Submitter, cqueue, opcode};

use super::buffer::GROUP;
use super::op::Token;
use super::window::Window;

// Bits of io_uring_enter(2); the crate keeps its own private.
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

static AT_ONCE: Timespec = Timespec::new();

/// At most this many bytes move in one read or write: the kernel's MAX_RW_COUNT.
const MAX_RW_COUNT: usize = 0x7fff_f000;

/// One completion, copied out of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cqe {
    pub(super) token: Token,
    pub(super) result: i32,
    pub(super) more: bool,
    pub(super) buffer: Option<u16>,
}

/// The ring and what it has done.
pub(super) struct Queue {
    pub(super) uring: IoUring,
    enter_flags: u32,
    capacity: usize,
    /// Pushed and not yet given to the kernel.
    queued: usize,
    pub(super) enters: u64,
    pub(super) submitted: u64,
    pub(super) completions: u64,
    /// Reaps that found the queue full, with more kept in the kernel.
    pub(super) overflows: u64,
    /// Enters that carried submissions: the ordinal in the trace.
    submissions: u64,
    pub(super) window: Window,
    /// Something queued ends, or may end, as soon as it is submitted.
    pub(super) urgent: bool,
}

impl Queue {
    pub(super) fn new(uring: IoUring) -> Self {
        // Without NO_IOWAIT a parked engine looks like a core waiting for a disk.
        let no_iowait = uring.params().is_feature_no_iowait();
        let enter_flags =
            ENTER_GETEVENTS | ENTER_EXT_ARG | if no_iowait { ENTER_NO_IOWAIT } else { 0 };
        let capacity = uring.params().sq_entries() as usize;
        Self {
            uring,
            enter_flags,
            capacity,
            queued: 0,
            enters: 0,
            submitted: 0,
            completions: 0,
            overflows: 0,
            submissions: 0,
            window: Window::default(),
            urgent: false,
        }
    }

    /// Waits are to collect what comes within `window`.
    pub(super) fn coalesce(&mut self, window: Duration, min_wait: bool, buffers: u16) {
        self.window = Window::new(window, min_wait, buffers);
    }

    /// Whether waits collect more than the first completion.
    pub(super) fn coalesces(&self) -> bool {
        self.window.is_open()
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.uring.submitter()
    }

    /// Entries the submission queue holds.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Entries that may be pushed before the next enter.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.queued
    }

    /// Entries pushed and not yet given to the kernel.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Starts the counters over.
    pub(super) fn restart_counters(&mut self) {
        self.enters = 0;
        self.submitted = 0;
        self.completions = 0;
        self.overflows = 0;
    }

    /// # Safety
    ///
    /// `fd` must stay open until the entry has been submitted: the number is looked up then.
    pub(super) unsafe fn push_read(&mut self, fd: BorrowedFd<'_>, token: Token) {
        let fd = fd.as_raw_fd();
        // A plain descriptor: with a fixed one this builder reads the wrong file. The length
        // comes from the buffer group; any other than 0 is refused.
        let entry = opcode::ReadMulti::new(Fd(fd), 0, GROUP).build();
        // SAFETY: names no memory but the registered pool, which outlives the ring; the caller keeps
        // the descriptor.
        unsafe { self.push("READ_MULTISHOT", entry, Flags::empty(), fd, token, None) };
    }

    /// # Safety
    ///
    /// `bytes` must neither move nor go before the operation's final completion, and `fd` must stay
    /// open until the entry has been submitted.
    pub(super) unsafe fn push_write(
        &mut self,
        fd: BorrowedFd<'_>,
        token: Token,
        bytes: &[u8],
        rw_flags: i32,
    ) {
        let fd = fd.as_raw_fd();
        let len = u32::try_from(bytes.len().min(MAX_RW_COUNT)).unwrap_or(u32::MAX);
        // The offset -1 means the file's own position, which a pipe has not.
        let entry = opcode::Write::new(Fd(fd), bytes.as_ptr(), len)
            .offset(u64::MAX)
            .rw_flags(rw_flags)
            .build();
        self.urgent = true;
        // SAFETY: the caller keeps `bytes`, the only memory the entry names, and the descriptor.
        unsafe { self.push("WRITE", entry, Flags::empty(), fd, token, None) };
    }

    /// # Safety
    ///
    /// As [`push_read`](Self::push_read).
    pub(super) unsafe fn push_watch(&mut self, fd: BorrowedFd<'_>, events: i16, token: Token) {
        let fd = fd.as_raw_fd();
        let entry = opcode::PollAdd::new(Fd(fd), u32::from(events.cast_unsigned())).build();
        // SAFETY: names no memory; the caller keeps the descriptor.
        unsafe { self.push("POLL_ADD", entry, Flags::empty(), fd, token, None) };
    }

    /// Polls as `push_watch` does, and when that fires, ends the wait under way at once, even one
    /// that waits for many completions. There must be room for two.
    ///
    /// A plain poll is not run before as many others are due; one that is EXCLUSIVE is. A wait
    /// counts completions and stops for one thing: an expired TIMEOUT.
    ///
    /// # Safety
    ///
    /// As [`push_read`](Self::push_read).
    pub(super) unsafe fn push_watch_and_nudge(
        &mut self,
        fd: BorrowedFd<'_>,
        token: Token,
        nudge: Token,
    ) {
        assert!(self.room() >= 2, "a pair is never split");
        let fd = fd.as_raw_fd();
        let events = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
        let entry = opcode::PollAdd::new(Fd(fd), events.cast_unsigned()).build();
        // SAFETY: names no memory; the caller keeps the descriptor.
        unsafe { self.push("POLL_ADD", entry, Flags::IO_LINK, fd, token, None) };
        let entry = opcode::Timeout::new(&raw const AT_ONCE).build();
        // SAFETY: names a static.
        unsafe { self.push("TIMEOUT", entry, Flags::empty(), fd, nudge, None) };
    }

    /// `fd` is for the trace alone: a cancel goes by token.
    pub(super) fn push_cancel(&mut self, fd: RawFd, of: Token, token: Token) {
        self.urgent = true;
        let entry = opcode::AsyncCancel::new(of.raw()).build();
        // SAFETY: names no memory.
        unsafe { self.push("ASYNC_CANCEL", entry, Flags::empty(), fd, token, Some(of)) };
    }

    /// Cancels `of`, then closes `fd`. There must be room for two: a link ends with the submission.
    pub(super) fn push_cancel_close(
        &mut self,
        fd: OwnedFd,
        of: Token,
        cancel: Token,
        close: Token,
    ) {
        assert!(self.room() >= 2, "a pair is never split");
        self.urgent = true;
        // The kernel closes it.
        let fd = fd.into_raw_fd();
        // Cancel by token, because by descriptor scans every pending request. A hard link, because
        // a soft one breaks where the cancel finds nothing and then the descriptor leaks.
        let entry = opcode::AsyncCancel::new(of.raw()).build();
        // SAFETY: names no memory.
        unsafe { self.push("ASYNC_CANCEL", entry, Flags::IO_HARDLINK, fd, cancel, Some(of)) };
        let entry = opcode::Close::new(Fd(fd)).build();
        // SAFETY: names no memory; the number has no owner but this entry.
        unsafe { self.push("CLOSE", entry, Flags::empty(), fd, close, None) };
    }

    /// # Safety
    ///
    /// All memory the entry names must stay until the operation's final completion, and a
    /// descriptor it closes must have no other owner.
    unsafe fn push(
        &mut self,
        op: &'static str,
        entry: Entry,
        flags: Flags,
        fd: RawFd,
        token: Token,
        of: Option<Token>,
    ) {
        let link = match flags {
            _ if flags.contains(Flags::IO_HARDLINK) => "hard",
            _ if flags.contains(Flags::IO_LINK) => "soft",
            _ => "none",
        };
        let submission = self.submissions + 1;
        let token = token.raw();
        // What a cancel cancels. The trace is the evidence for it.
        let of = of.map(Token::raw);
        crate::trace::trace!(target: "agentpipe::ring", op, fd, token, of, link, submission, "submit");
        let entry = entry.flags(flags).user_data(token);
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        // An entry that is lost is a write that never ends, or a descriptor that stays open. The
        // thread ends instead, and its agents are killed and reported.
        assert!(pushed.is_ok(), "callers make room first");
        self.queued += 1;
    }

    /// Submits what is queued and waits for `want` completions or `timeout`.
    ///
    /// Always asks for events, because only then the kernel runs the deferred work that finishes
    /// a cancel and its linked close.
    pub(super) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.enter_with(self.queued, want, timeout, Duration::ZERO)
    }

    /// As `enter`, but waits for `want` only until `window` has passed, and then for one.
    pub(super) fn enter_window(
        &mut self,
        want: u32,
        window: Duration,
        timeout: Duration,
    ) -> io::Result<()> {
        self.enter_with(self.queued, want, Some(timeout), window)
    }

    /// Waits without submitting: for when the kernel is too busy to take more.
    pub(super) fn enter_idle(&mut self, timeout: Duration) -> io::Result<()> {
        self.enter_with(0, 1, Some(timeout), Duration::ZERO)
    }

    fn enter_with(
        &mut self,
        submit: usize,
        want: u32,
        timeout: Option<Duration>,
        min_wait: Duration,
    ) -> io::Result<()> {
        let submit = u32::try_from(submit).unwrap_or(u32::MAX);
        self.enters += 1;
        let entered = if want == 0 {
            // Nothing for the kernel to look up: so are the calls of a local engine.
            let flags = self.enter_flags & !ENTER_EXT_ARG;
            // SAFETY: without EXT_ARG the last argument is a signal mask, and there is none.
            unsafe { self.uring.submitter().enter::<libc::sigset_t>(submit, want, flags, None) }
        } else {
            let timespec = timeout
                .map(|limit| Timespec::new().sec(limit.as_secs()).nsec(limit.subsec_nanos()));
            let min_wait = u32::try_from(min_wait.as_micros()).unwrap_or(u32::MAX);
            let mut args = SubmitArgs::new().min_wait_usec(min_wait);
            if let Some(timespec) = &timespec {
                args = args.timespec(timespec);
            }
            let flags = self.enter_flags;
            // SAFETY: EXT_ARG goes with a `SubmitArgs`, which is the kernel's structure, and the
            // timespec it points to lives until the call returns.
            unsafe { self.uring.submitter().enter(submit, want, flags, Some(&args)) }
        };
        // Counted from the queue itself: an enter that submits and then times out says so too.
        let left = self.uring.submission().len();
        let taken = self.queued - left;
        self.urgent &= left > 0;
        self.queued = left;
        self.submitted += taken as u64;
        if taken > 0 {
            self.submissions += 1;
        }
        entered.map(drop)
    }

    /// The kernel holds work that an enter would run, or completions that found no room. A ring
    /// without the flag that says so has its completions here.
    pub(super) fn has_work(&mut self) -> bool {
        let submission = self.uring.submission();
        submission.taskrun() || submission.cq_overflow()
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Hands over every completion there is.
    pub(super) fn reap(&mut self, mut each: impl FnMut(Cqe)) {
        // What is kept comes with the next enter that asks for events: all of ours do.
        self.overflows += u64::from(self.uring.submission().cq_overflow());
        for entry in self.uring.completion() {
            self.completions += 1;
            each(Cqe {
                token: Token::from_raw(entry.user_data()),
                result: entry.result(),
                more: cqueue::more(entry.flags()),
                buffer: cqueue::buffer_select(entry.flags()),
            });
        }
    }
}
