//! The two queues shared with the kernel: push submissions, enter, collect completions.
//!
//! Invariant for the unsafe code: whatever an entry names stays valid, memory until the final
//! completion and descriptors until the entry is submitted. Each `push_` method states its part.
#![expect(unsafe_code, reason = "submission entries name memory and descriptors")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
#[cfg(feature = "local")]
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, Submitter, cqueue, opcode};

use super::buffer::GROUP;
use super::op::OpToken;

// Bits of io_uring_enter(2); the crate keeps its own private.
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_NO_IOWAIT: u32 = 1 << 7;

/// The zero timeout that ends a wait.
static AT_ONCE: Timespec = Timespec::new();

/// The most bytes that one write moves: the kernel's MAX_RW_COUNT.
const MAX_RW_COUNT: usize = 0x7fff_f000;

/// One completion, copied out of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cqe {
    pub(super) token: OpToken,
    pub(super) result: i32,
    pub(super) more: bool,
    pub(super) buffer: Option<u16>,
}

/// A wait that has collected this many completions ends before its window does.
const ENOUGH: u16 = 64;

/// The limit of a wait without one: with a minimum wait, the kernel needs a timeout.
const NO_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// The batching window: how long a wait continues after the first completion.
///
/// One wake-up then serves all completions of the window. Two things must not wait for it: entries
/// that complete as soon as they are submitted (writes, cancels, closes), so a turn that submits
/// some waits for one completion only; and the eventfd that wakes the driver (see `poll.rs`).
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Zero: no window.
    length: Duration,
    /// The kernel supports a minimum wait in one call (Linux 6.12).
    min_wait: bool,
    want: u32,
}

/// The ring, with its counters.
pub(super) struct Queue {
    uring: IoUring,
    enter_flags: u32,
    capacity: usize,
    /// Entries pushed and not yet submitted.
    queued: usize,
    pub(super) enters: u64,
    pub(super) submitted: u64,
    pub(super) completions: u64,
    /// How often the completion queue was full and the kernel kept more.
    pub(super) overflows: u64,
    /// Enters that submitted something: the ordinal in the trace.
    submissions: u64,
    window: Window,
    /// A queued entry completes, or may complete, as soon as it is submitted.
    urgent: bool,
}

impl Queue {
    pub(super) fn new(uring: IoUring) -> Self {
        // Without NO_IOWAIT a waiting engine is counted as a core waiting for a disk.
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

    /// Sets the batching window.
    pub(super) fn set_window(&mut self, window: Duration, min_wait: bool, buffers: u16) {
        // Half of the pool is enough: a longer wait could only starve reads.
        let want = u32::from((buffers / 2).clamp(1, ENOUGH));
        self.window = Window { length: window, min_wait, want };
    }

    /// Whether waits continue after the first completion.
    pub(super) fn has_window(&self) -> bool {
        !self.window.length.is_zero()
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.uring.submitter()
    }

    /// The size of the submission queue.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of entries that may be pushed before the next enter.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.queued
    }

    /// The number of entries pushed and not yet submitted.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Resets the counters.
    pub(super) fn restart_counters(&mut self) {
        self.enters = 0;
        self.submitted = 0;
        self.completions = 0;
        self.overflows = 0;
    }

    /// # Safety
    ///
    /// `fd` must stay open until the entry has been submitted: the number is looked up then.
    pub(super) unsafe fn push_read_multishot(&mut self, fd: BorrowedFd<'_>, token: OpToken) {
        let fd = fd.as_raw_fd();
        // A plain descriptor: with a fixed one this builder reads the wrong file. The length
        // comes from the buffer group; any other than 0 is refused.
        let entry = opcode::ReadMulti::new(Fd(fd), 0, GROUP).build();
        // SAFETY: names no memory but the registered pool, which outlives the ring; the caller keeps
        // the descriptor.
        unsafe { self.push("READ_MULTISHOT", entry, Flags::empty(), fd, token, None) };
    }

    /// Queues a read of up to `len` bytes, the size of a pool buffer.
    ///
    /// # Safety
    ///
    /// The same as for [`push_read_multishot`](Self::push_read_multishot).
    pub(super) unsafe fn push_read(&mut self, fd: BorrowedFd<'_>, len: u32, token: OpToken) {
        let fd = fd.as_raw_fd();
        // No address, because the kernel selects a buffer of the group. The offset -1 means the file
        // position, which a pipe does not have.
        let entry = opcode::Read::new(Fd(fd), ptr::null_mut(), len).offset(u64::MAX);
        let entry = entry.buf_group(GROUP).build();
        // SAFETY: as for a multishot read.
        unsafe { self.push("READ", entry, Flags::BUFFER_SELECT, fd, token, None) };
    }

    /// Queues a read of up to `room.len()` bytes.
    ///
    /// # Safety
    ///
    /// The memory of `room` must neither move nor go nor be used before the operation's final
    /// completion, and `fd` must stay open until the entry has been submitted.
    pub(super) unsafe fn push_read_into(
        &mut self,
        fd: BorrowedFd<'_>,
        room: &mut [MaybeUninit<u8>],
        token: OpToken,
    ) {
        let fd = fd.as_raw_fd();
        let len = u32::try_from(room.len().min(MAX_RW_COUNT)).unwrap_or(u32::MAX);
        // The offset -1 means the file position, which a pipe does not have.
        let entry =
            opcode::Read::new(Fd(fd), room.as_mut_ptr().cast(), len).offset(u64::MAX).build();
        // SAFETY: the caller keeps `room`, the only memory the entry names, and the descriptor.
        unsafe { self.push("READ", entry, Flags::empty(), fd, token, None) };
    }

    /// # Safety
    ///
    /// `bytes` must neither move nor go before the operation's final completion, and `fd` must stay
    /// open until the entry has been submitted.
    pub(super) unsafe fn push_write(
        &mut self,
        fd: BorrowedFd<'_>,
        token: OpToken,
        bytes: &[u8],
        rw_flags: i32,
    ) {
        let fd = fd.as_raw_fd();
        // The kernel would shorten the write to this length itself. The rest follows as after any
        // short write. The conversion cannot fail.
        let len = u32::try_from(bytes.len().min(MAX_RW_COUNT)).unwrap_or(u32::MAX);
        // The offset -1 means the file position, which a pipe does not have.
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
    /// The same as for [`push_read_multishot`](Self::push_read_multishot).
    pub(super) unsafe fn push_poll(&mut self, fd: BorrowedFd<'_>, events: i16, token: OpToken) {
        let fd = fd.as_raw_fd();
        let entry = opcode::PollAdd::new(Fd(fd), u32::from(events.cast_unsigned())).build();
        // SAFETY: names no memory; the caller keeps the descriptor.
        unsafe { self.push("POLL_ADD", entry, Flags::empty(), fd, token, None) };
    }

    /// Queues a poll whose event also ends a wait for many completions at once. There must be room
    /// for two entries.
    ///
    /// A wait counts completions and ends early only for an expired TIMEOUT, so one is linked behind
    /// the poll. The poll is EXCLUSIVE, because the kernel runs the event of a plain poll only
    /// together with as many others as the wait is for.
    ///
    /// # Safety
    ///
    /// The same as for [`push_read_multishot`](Self::push_read_multishot).
    pub(super) unsafe fn push_poll_and_wait_end(
        &mut self,
        fd: BorrowedFd<'_>,
        token: OpToken,
        wait_end: OpToken,
    ) {
        assert!(self.room() >= 2, "a pair is never split");
        let fd = fd.as_raw_fd();
        let events = libc::EPOLLIN | libc::EPOLLEXCLUSIVE;
        let entry = opcode::PollAdd::new(Fd(fd), events.cast_unsigned()).build();
        // SAFETY: names no memory; the caller keeps the descriptor.
        unsafe { self.push("POLL_ADD", entry, Flags::IO_LINK, fd, token, None) };
        let entry = opcode::Timeout::new(&raw const AT_ONCE).build();
        // SAFETY: names a static.
        unsafe { self.push("TIMEOUT", entry, Flags::empty(), fd, wait_end, None) };
    }

    /// Queues an entry that belongs to no operation and names no memory but statics.
    #[cfg(test)]
    pub(super) fn push_foreign(&mut self, entry: Entry) {
        self.urgent = true;
        // SAFETY: the caller's entry names no memory that goes, and closes nothing.
        unsafe { self.push("test", entry, Flags::empty(), -1, OpToken::NONE, None) };
    }

    /// Queues a cancel of `of`. `fd` is for the trace only: a cancel goes by token.
    pub(super) fn push_cancel(&mut self, fd: RawFd, of: OpToken, token: OpToken) {
        self.urgent = true;
        let entry = opcode::AsyncCancel::new(of.raw()).build();
        // SAFETY: names no memory.
        unsafe { self.push("ASYNC_CANCEL", entry, Flags::empty(), fd, token, Some(of)) };
    }

    /// Queues a cancel of `of` and a close of `fd`. There must be room for both, because a link ends
    /// with its submission.
    pub(super) fn push_cancel_close(
        &mut self,
        fd: OwnedFd,
        of: OpToken,
        cancel: OpToken,
        close: OpToken,
    ) {
        assert!(self.room() >= 2, "a pair is never split");
        self.urgent = true;
        // From here the kernel closes it.
        let fd = fd.into_raw_fd();
        // Cancel by token, because a cancel by descriptor scans every pending request. A hard link,
        // because a soft link breaks if the cancel finds nothing, and the descriptor would leak.
        let entry = opcode::AsyncCancel::new(of.raw()).build();
        // SAFETY: names no memory.
        unsafe { self.push("ASYNC_CANCEL", entry, Flags::IO_HARDLINK, fd, cancel, Some(of)) };
        let entry = opcode::Close::new(Fd(fd)).build();
        // SAFETY: names no memory; the number has no owner but this entry.
        unsafe { self.push("CLOSE", entry, Flags::empty(), fd, close, None) };
    }

    /// # Safety
    ///
    /// All memory that the entry names must stay valid until the final completion, and a descriptor
    /// that it closes must have no other owner.
    unsafe fn push(
        &mut self,
        op: &'static str,
        entry: Entry,
        flags: Flags,
        fd: RawFd,
        token: OpToken,
        of: Option<OpToken>,
    ) {
        let link = match flags {
            _ if flags.contains(Flags::IO_HARDLINK) => "hard",
            _ if flags.contains(Flags::IO_LINK) => "soft",
            _ => "none",
        };
        // The enter that takes this entry is not counted yet.
        let submission = self.submissions + 1;
        let token = token.raw();
        // The target of a cancel. Tests of the close path check it in the trace.
        let of = of.map(OpToken::raw);
        crate::trace::trace!(target: "agentpipe::ring", op, fd, token, of, link, submission, "submit");
        let entry = entry.flags(flags).user_data(token);
        // SAFETY: the caller guarantees it.
        let pushed = unsafe { self.uring.submission().push(&entry) };
        // A lost entry would be a write that never ends or a descriptor that stays open. A panic
        // ends the thread instead, and its agents are killed and reported.
        assert!(pushed.is_ok(), "callers make room first");
        self.queued += 1;
    }

    /// Submits what is queued and waits for one completion, or for those of a window.
    pub(super) fn enter_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let Window { length, min_wait, want } = self.window;
        if self.urgent || length.is_zero() {
            return self.enter(1, timeout);
        }
        match timeout {
            Some(limit) if limit <= length => self.enter(want, timeout),
            _ if min_wait => self.enter_window(want, length, timeout.unwrap_or(NO_LIMIT)),
            // Older kernels: one wait for the window, and if nothing came within it, another that
            // the first completion ends.
            _ => match self.enter(want, Some(length)) {
                Err(error)
                    if error.raw_os_error() == Some(libc::ETIME) && !self.has_completions() =>
                {
                    // Shorter limits were handled by the first arm, so the difference is not
                    // negative.
                    self.enter(1, timeout.map(|limit| limit - length))
                }
                other => other,
            },
        }
    }

    /// Submits what is queued and waits for `want` completions or `timeout`.
    ///
    /// Always passes GETEVENTS, because only then the kernel runs the deferred work that finishes a
    /// cancel and its linked close.
    pub(super) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        self.enter_with(self.queued, want, timeout, Duration::ZERO)
    }

    /// Like `enter`, but waits for `want` completions only until `window` has passed, and then for one.
    pub(super) fn enter_window(
        &mut self,
        want: u32,
        window: Duration,
        timeout: Duration,
    ) -> io::Result<()> {
        self.enter_with(self.queued, want, Some(timeout), window)
    }

    /// Waits without submitting. For a kernel that is too busy to take more.
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
            // Without arguments for the kernel to copy, which makes the calls of a local engine cheaper.
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
        // Counted from the queue itself: an enter that submits and then times out is an error, too.
        let left = self.uring.submission().len();
        let taken = self.queued - left;
        // An entry that the kernel did not take completes only after a later enter, so the mark
        // must outlive this one.
        self.urgent &= left > 0;
        self.queued = left;
        self.submitted += taken as u64;
        if taken > 0 {
            self.submissions += 1;
        }
        entered.map(drop)
    }

    /// Whether the kernel holds work that an enter would run, or completions that found no room.
    pub(super) fn has_work(&mut self) -> bool {
        let submission = self.uring.submission();
        // A ring without TASKRUN_FLAG never shows the first. It needs no enter, because its kernel
        // runs the work by itself.
        submission.taskrun() || submission.cq_overflow()
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Passes on every completion in the queue.
    pub(super) fn collect(&mut self, mut each: impl FnMut(Cqe)) {
        // The kernel moves the rest into the queue at the next enter with GETEVENTS, which is every one.
        self.overflows += u64::from(self.uring.submission().cq_overflow());
        for entry in self.uring.completion() {
            self.completions += 1;
            each(Cqe {
                token: OpToken::from_raw(entry.user_data()),
                result: entry.result(),
                more: cqueue::more(entry.flags()),
                buffer: cqueue::buffer_select(entry.flags()),
            });
        }
    }

    /// Stops the kernel from writing to the registered eventfd.
    #[cfg(feature = "local")]
    pub(super) fn disable_eventfd(&mut self) {
        self.uring.completion().disable_eventfd();
    }

    /// Lets the kernel write to the registered eventfd. Returns false if a completion arrived while
    /// it was disabled.
    #[cfg(feature = "local")]
    pub(super) fn enable_eventfd(&mut self) -> bool {
        self.uring.completion().enable_eventfd();
        // The kernel posts the work and then checks the flag. This side sets the flag and then
        // checks for work, so at least one of both sees the other.
        fence(Ordering::SeqCst);
        !self.has_work() && !self.has_completions()
    }
}
