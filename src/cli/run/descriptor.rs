//! The descriptors of the event loop: stdin, stdout and stderr without a call that blocks, whatever file
//! they are, and the waker.
//!
//! The standard descriptors are shared with the parent, its shell and other children, and so is their
//! O_NONBLOCK flag. Setting it would break processes that expect reads and writes to block, and it would
//! remain set after this process has exited. The method depends on the file instead:
//!
//! | file | how | why |
//! | --- | --- | --- |
//! | pipe | `RWF_NOWAIT` | pipes honour it since Linux 6.4 |
//! | socket | `MSG_DONTWAIT` | sockets honour it |
//! | FIFO, terminal | opened again through /proc, with O_NONBLOCK | they refuse `RWF_NOWAIT` |
//! | FIFO or terminal that cannot be opened | a small piece after poll(2) reports room | see `PIPE_PIECE` |
//! | regular file, disk, /dev/null, /dev/full | plain calls | they do not wait for a process |
//!
//! A file that is opened again has a new open file description, whose flags other processes do not share.
//! Opening fails without /proc, and if the file belongs to another user (`su`). The fallback has a race:
//! another writer may take the room between poll(2) and write(2).

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::{Errno, ReadWriteFlags, ioctl_fionread, preadv2, pwritev2, read, write};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// The current file offset, for `preadv2` and `pwritev2`.
const CURRENT: u64 = u64::MAX;
/// Bytes that a pipe accepts if poll(2) reports room: at least one page.
const PIPE_PIECE: usize = 4096;
/// Bytes that a terminal accepts if poll(2) reports room. It reports only that there is some.
const TERMINAL_PIECE: usize = 64;
/// The device of a pseudo-terminal master. Opening it again would create another terminal.
const PTMX: (u32, u32) = (5, 2);
/// How long a descriptor is not polled after poll(2) reported it ready and the call would have blocked.
/// Another process was faster, and poll(2) may continue to report it ready.
pub(super) const BACK_OFF: Duration = Duration::from_millis(5);

/// stdin, stdout or stderr.
pub(super) struct Descriptor {
    shared: BorrowedFd<'static>,
    direction: Direction,
    method: Method,
    /// The next call may succeed.
    ready: bool,
    /// poll(2) reported it ready, and no call has been made since.
    polled: bool,
    /// Until when it is not polled.
    rests_until: Option<Instant>,
    /// Device and inode.
    file: (u64, u64),
}

enum Method {
    Plain,
    Socket,
    NoWait,
    Own(OwnedFd),
    /// At most this many bytes, and only after poll(2) reports room.
    Piece(usize),
}

/// Whether a descriptor is read or written.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Direction {
    Read,
    Write,
}

impl Descriptor {
    pub(super) fn new(shared: BorrowedFd<'static>, direction: Direction) -> Self {
        let stat = fstat(shared).ok();
        let kind = stat.as_ref().map(|stat| FileType::from_raw_mode(stat.st_mode));
        let method = match (kind, stat.as_ref()) {
            (Some(FileType::Socket), _) => Method::Socket,
            // fstat(2) does not distinguish a pipe from a FIFO. The first call does: a FIFO
            // refuses.
            (Some(FileType::Fifo), _) => Method::NoWait,
            (Some(FileType::CharacterDevice), Some(stat)) if shared.is_terminal() => {
                let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                let again = (device != PTMX).then(|| open_again(shared, direction)).flatten();
                again.map_or(Method::Piece(TERMINAL_PIECE), Method::Own)
            }
            _ => Method::Plain,
        };
        let file = stat.map_or((u64::MAX, u64::MAX), |stat| (stat.st_dev, stat.st_ino));
        let mut made =
            Self { shared, direction, method, ready: true, polled: false, rests_until: None, file };
        made.ready = !made.asks_first();
        made
    }

    /// Whether both are one file, as after `2>&1`.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        self.file == other.file
    }

    /// Whether a call may succeed.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Returns the descriptor for poll(2), or `None` while it rests.
    pub(super) fn poll_fd(&self, events: PollFlags, now: Instant) -> Option<PollFd<'_>> {
        let rests = self.rests_until.is_some_and(|until| until > now);
        let fd = match &self.method {
            Method::Own(own) => own.as_fd(),
            _ => self.shared,
        };
        (!rests).then(|| PollFd::from_borrowed_fd(fd, events))
    }

    /// Returns until when it rests.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Notes the events that poll(2) returned.
    pub(super) fn polled(&mut self, events: PollFlags) {
        if !events.is_empty() {
            self.ready = true;
            self.polled = true;
        }
    }

    /// Reads what is available, or fails with `WouldBlock`.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let result = match &self.method {
            Method::Plain | Method::Piece(_) => read(self.shared, into),
            Method::Socket => recv(self.shared, into, RecvFlags::DONTWAIT).map(|(len, _)| len),
            Method::NoWait => {
                let mut parts = [IoSliceMut::new(into)];
                preadv2(self.shared, &mut parts, CURRENT, ReadWriteFlags::NOWAIT)
            }
            Method::Own(own) => read(own, into),
        };
        match result {
            // Every caller repeats an interrupted call, and the next one uses the new method.
            Err(errno) if self.refuses_no_wait(errno) => Err(io::ErrorKind::Interrupted.into()),
            result => self.noted(result),
        }
    }

    /// Writes what fits, or fails with `WouldBlock`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = match &self.method {
            Method::Plain => write(self.shared, bytes),
            Method::Piece(most) => write(self.shared, &bytes[..bytes.len().min(*most)]),
            Method::Socket => send(self.shared, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Method::NoWait => {
                let parts = [IoSlice::new(bytes)];
                pwritev2(self.shared, &parts, CURRENT, ReadWriteFlags::NOWAIT)
            }
            Method::Own(own) => write(own, bytes),
        };
        match result {
            Err(errno) if self.refuses_no_wait(errno) => Err(io::ErrorKind::Interrupted.into()),
            result => self.noted(result),
        }
    }

    /// Whether the file is a FIFO, which refuses `RWF_NOWAIT`. Changes the method; the caller tries again.
    fn refuses_no_wait(&mut self, errno: Errno) -> bool {
        let refused = matches!(self.method, Method::NoWait)
            && matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS);
        if refused {
            self.method = open_again(self.shared, self.direction)
                .map_or(Method::Piece(PIPE_PIECE), Method::Own);
            self.ready = !self.asks_first();
        }
        refused
    }

    /// Returns how many bytes are in the pipe, or 0 if the file is none.
    pub(super) fn unread(&self) -> u64 {
        match self.method {
            Method::Plain | Method::Socket => 0,
            _ => ioctl_fionread(self.shared).unwrap_or(0),
        }
    }

    /// Whether calls never wait for another process.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.method, Method::Plain)
    }

    /// Whether a call may block unless poll(2) reports it ready. A device may have nothing to read.
    fn asks_first(&self) -> bool {
        match self.method {
            Method::Plain => self.direction == Direction::Read,
            Method::Piece(_) => true,
            Method::Socket | Method::NoWait | Method::Own(_) => false,
        }
    }

    fn noted(&mut self, result: Result<usize, Errno>) -> io::Result<usize> {
        // A shortage of kernel memory passes. It counts as a full stream, and not as a failure.
        let blocked = result
            .as_ref()
            .is_err_and(|errno| matches!(*errno, Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM));
        if blocked {
            self.rests_until = self.polled.then(|| Instant::now() + BACK_OFF);
        }
        self.ready = !blocked && !self.asks_first();
        self.polled = false;
        match result {
            Err(_) if blocked => Err(io::ErrorKind::WouldBlock.into()),
            result => Ok(result?),
        }
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({})", self.shared.as_raw_fd())
    }
}

/// Opens the file again, with a new open file description.
fn open_again(shared: BorrowedFd<'_>, direction: Direction) -> Option<OwnedFd> {
    let access = if direction == Direction::Read { OFlags::RDONLY } else { OFlags::WRONLY };
    // O_NOCTTY, because a session leader without a terminal would get this one as its controlling
    // terminal.
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", shared.as_raw_fd()), flags, Mode::empty()).ok()
}

/// Waits in poll(2), at most for `limit`. An interrupted call returns early.
pub(super) fn poll_for(fds: &mut [PollFd<'_>], limit: Option<Duration>) {
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let _interrupted = poll(fds, limit.as_ref());
}

/// The waker of the event loop: a wake-up from the engine ends the wait in poll(2).
#[derive(Debug)]
pub(super) struct LoopWaker {
    eventfd: OwnedFd,
    /// Set between a wake-up and the next `reset`. A second wake-up needs no system call.
    woken: AtomicBool,
}

impl LoopWaker {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { eventfd, woken: AtomicBool::new(false) }))
    }

    pub(super) fn notify(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            // Fails only if the counter is at its maximum, and then the loop wakes anyway.
            let _written = write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Takes the wake-up back. Must precede the check for work, so that work which arrives after the check
    /// wakes the loop again.
    pub(super) fn reset(&self) {
        if self.woken.load(Ordering::SeqCst) {
            // The eventfd is emptied before the flag is cleared. In the reverse order the read
            // could swallow a new wake-up and leave the flag set, which would silence all later
            // ones.
            let mut count = [0; 8];
            let _emptied = read(&self.eventfd, &mut count);
            // A swap and not a store: it reads the flag of a wake-up that came meanwhile, so the
            // check for work sees what that wake-up announces.
            self.woken.swap(false, Ordering::SeqCst);
        }
    }

    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.eventfd, PollFlags::IN)
    }
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}
