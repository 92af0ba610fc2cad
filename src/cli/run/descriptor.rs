//! Own stdin, stdout and stderr without a call that blocks, whatever stands behind them.
//!
//! These descriptors are shared with the parent, its shell and others of its children, and so is
//! their O_NONBLOCK flag: to set it would break those who expect reads and writes to block, and it
//! would stay behind when this process dies. What is used instead depends on the file:
//!
//! | file | how | why |
//! | --- | --- | --- |
//! | pipe | `RWF_NOWAIT` | pipes honour it for each call since Linux 6.4 |
//! | socket | `MSG_DONTWAIT` | the same for sockets |
//! | FIFO, terminal | opened again by /proc, with O_NONBLOCK | they refuse `RWF_NOWAIT` |
//! | the same where that fails | a small piece once poll(2) sees room | see `PIPE_PIECE` |
//! | regular file, disk, /dev/null, /dev/full | plain | they wait for no process |
//!
//! A file that is opened again has a new open file description, whose flags no other process sees.
//! That fails without /proc, and where the file belongs to another user by now (`su`). What is left
//! then is a race: another writer may take the room between poll(2) and write(2).

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2, read, write};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// The kernel's word for "where the file stands", for `preadv2` and `pwritev2`.
const CURRENT: u64 = u64::MAX;
/// What a pipe takes where poll(2) says that it takes anything: one page at the least.
const PIPE_PIECE: usize = 4096;
/// The same of a terminal, which says no more than that it has some room.
const TERMINAL_PIECE: usize = 64;
/// The end of a pseudo-terminal that a terminal program holds. Opened again it would be another.
const PTMX: (u32, u32) = (5, 2);
/// How long a descriptor rests that was ready and then would have blocked: another process
/// was faster, and poll(2) may go on calling it ready.
pub(super) const BACK_OFF: Duration = Duration::from_millis(5);

/// One of the three.
pub(super) struct Descriptor {
    shared: BorrowedFd<'static>,
    purpose: Use,
    way: Way,
    /// The next call is worth a try.
    ready: bool,
    /// It was ready by poll(2), and nothing has been moved since.
    polled: bool,
    rests_until: Option<Instant>,
    file: (u64, u64),
}

enum Way {
    Plain,
    Socket,
    NoWait,
    Own(OwnedFd),
    /// At most this much, and only once poll(2) says so.
    Piece(usize),
}

/// What a descriptor is for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Use {
    Read,
    Write,
}

impl Descriptor {
    pub(super) fn new(shared: BorrowedFd<'static>, purpose: Use) -> Self {
        let stat = fstat(shared).ok();
        let kind = stat.as_ref().map(|stat| FileType::from_raw_mode(stat.st_mode));
        let way = match (kind, stat.as_ref()) {
            (Some(FileType::Socket), _) => Way::Socket,
            (Some(FileType::Fifo), _) => Way::NoWait,
            (Some(FileType::CharacterDevice), Some(stat)) if shared.is_terminal() => {
                let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                let again = (device != PTMX).then(|| open_again(shared, purpose)).flatten();
                again.map_or(Way::Piece(TERMINAL_PIECE), Way::Own)
            }
            _ => Way::Plain,
        };
        let file = stat.map_or((u64::MAX, u64::MAX), |stat| (stat.st_dev, stat.st_ino));
        let mut made =
            Self { shared, purpose, way, ready: true, polled: false, rests_until: None, file };
        made.ready = !made.asks_first();
        made
    }

    /// Both lead to the same place, as after `2>&1`.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        self.file == other.file
    }

    /// Whether a call is worth a try.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// As poll(2) wants it; `None` while it rests.
    pub(super) fn poll_fd(&self, events: PollFlags, now: Instant) -> Option<PollFd<'_>> {
        let rests = self.rests_until.is_some_and(|until| until > now);
        let fd = match &self.way {
            Way::Own(own) => own.as_fd(),
            _ => self.shared,
        };
        (!rests).then(|| PollFd::from_borrowed_fd(fd, events))
    }

    /// Until when it rests.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// What poll(2) said of it.
    pub(super) fn polled(&mut self, events: PollFlags) {
        if !events.is_empty() {
            self.ready = true;
            self.polled = true;
        }
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let result = match &self.way {
            Way::Plain | Way::Piece(_) => read(self.shared, into),
            Way::Socket => recv(self.shared, into, RecvFlags::DONTWAIT).map(|(len, _)| len),
            Way::NoWait => {
                let mut parts = [IoSliceMut::new(into)];
                preadv2(self.shared, &mut parts, CURRENT, ReadWriteFlags::NOWAIT)
            }
            Way::Own(own) => read(own, into),
        };
        match result {
            Err(errno) if self.refuses_no_wait(errno) => Err(io::ErrorKind::Interrupted.into()),
            result => self.noted(result),
        }
    }

    /// Writes what fits; `WouldBlock` if nothing does.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = match &self.way {
            Way::Plain => write(self.shared, bytes),
            Way::Piece(most) => write(self.shared, &bytes[..bytes.len().min(*most)]),
            Way::Socket => send(self.shared, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Way::NoWait => {
                let parts = [IoSlice::new(bytes)];
                pwritev2(self.shared, &parts, CURRENT, ReadWriteFlags::NOWAIT)
            }
            Way::Own(own) => write(own, bytes),
        };
        match result {
            Err(errno) if self.refuses_no_wait(errno) => Err(io::ErrorKind::Interrupted.into()),
            result => self.noted(result),
        }
    }

    /// A FIFO: from now on another way, and the call is made again.
    fn refuses_no_wait(&mut self, errno: Errno) -> bool {
        let refused =
            matches!(self.way, Way::NoWait) && matches!(errno, Errno::OPNOTSUPP | Errno::NOSYS);
        if refused {
            self.way =
                open_again(self.shared, self.purpose).map_or(Way::Piece(PIPE_PIECE), Way::Own);
            self.ready = !self.asks_first();
        }
        refused
    }

    /// It never waits for another process.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.way, Way::Plain)
    }

    /// Whether only poll(2) can say that a call will not block. A device may have nothing to read.
    fn asks_first(&self) -> bool {
        match self.way {
            Way::Plain => self.purpose == Use::Read,
            Way::Piece(_) => true,
            Way::Socket | Way::NoWait | Way::Own(_) => false,
        }
    }

    fn noted(&mut self, result: Result<usize, Errno>) -> io::Result<usize> {
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

/// The same file with an open file description of its own.
fn open_again(shared: BorrowedFd<'_>, purpose: Use) -> Option<OwnedFd> {
    let access = if purpose == Use::Read { OFlags::RDONLY } else { OFlags::WRONLY };
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(format!("/proc/self/fd/{}", shared.as_raw_fd()), flags, Mode::empty()).ok()
}

/// poll(2), at most for `limit`. What ends it early is seen in the next turn.
pub(super) fn poll_for(fds: &mut [PollFd<'_>], limit: Option<Duration>) {
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let _interrupted = poll(fds, limit.as_ref());
}
