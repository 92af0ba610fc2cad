//! Tests with real pipes and a real ring. Where the host denies io_uring they say that they are skipped.
//!
//! Compiled twice: as `tests` with multishot reads, as `tests_single` with single reads.

mod busy;
mod cancel;
mod close;
mod deferred;
mod drain;
mod error;
#[cfg(feature = "local")]
mod eventfd;
mod flag_sets;
mod overflow;
mod poll;
mod pool;
mod random_script;
mod rare;
mod read;
mod read_into;
mod refused;
mod restrict;
mod trace;
mod window;
mod write;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::setup::{FLAG_SETS, FlagSet, is_denied};
use super::{Ring, RingConfig};
use crate::io::{Completion, EndId, PipeIo, ReadEnd, Role, Tag};

/// The longest that a test waits for anything: a ceiling, not an expectation.
const LIMIT: Duration = Duration::from_secs(20);

/// Long enough for an operation that is wrongly in flight to complete.
const QUIET: Duration = Duration::from_millis(30);

/// Whether the rings of this module use multishot reads.
fn multishot() -> bool {
    !module_path!().contains("single")
}

fn config() -> RingConfig {
    RingConfig { multishot: multishot(), single_factor: 1, ..RingConfig::default() }
}

/// Whether the kernel gives this process a ring. If not, reports the calling test as skipped.
fn has_ring() -> bool {
    let has_ring = !is_denied();
    if !has_ring {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("of the ring");
        writeln!(std::io::stderr(), "\n-- SKIPPED: test {test}: io_uring is denied").unwrap();
    }
    has_ring
}

/// Checks that the writer gets EPIPE. Returns whether it did at once: a child that another test is
/// spawning holds copies of all pipes until its exec.
fn must_break(write: &OwnedFd) -> bool {
    let epipe = || rustix::io::write(write, b"x") == Err(rustix::io::Errno::PIPE);
    if epipe() {
        return true;
    }
    let limit = Timespec::try_from(LIMIT).expect("a time");
    // POLLERR is always reported.
    let polled = poll(&mut [PollFd::new(write, PollFlags::empty())], Some(&limit));
    assert_eq!(polled, Ok(1), "the pipe still has a reader");
    assert!(epipe());
    false
}

/// A completion with its bytes taken and its errors as numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Data(u32, Vec<u8>),
    Filled(u32, Vec<u8>),
    ReadEnd(u32, ReadEnd),
    /// The length of the payload, and the result.
    Wrote(u32, usize, Result<usize, i32>),
    Ready(u32, Result<(), i32>),
    Closed(u32, Result<(), i32>),
}

/// A ring and all its completions.
struct Rig {
    ring: Ring,
    seen: Vec<Seen>,
}

impl Rig {
    /// `None`, like the other constructors, where the host denies io_uring.
    fn new() -> Option<Self> {
        Self::with(config())
    }

    fn with(config: RingConfig) -> Option<Self> {
        Self::with_flag_sets(config, &FLAG_SETS)
    }

    /// A ring as on an older kernel, with one set of setup flags.
    fn with_flags(config: RingConfig, set: usize) -> Option<Self> {
        Self::with_flag_sets(config, &FLAG_SETS[set..=set])
    }

    fn with_flag_sets(config: RingConfig, sets: &[FlagSet]) -> Option<Self> {
        if !has_ring() {
            return None;
        }
        Some(Self { ring: Ring::with_flag_sets(&config, sets).unwrap(), seen: Vec::new() })
    }

    fn adopt(&mut self, fd: OwnedFd, agent: u32, role: Role) -> EndId {
        self.ring.adopt(fd, Tag { agent, role })
    }

    /// Adopts the read end of a new pipe and starts reading. Returns the write end.
    fn reading(&mut self, agent: u32) -> (EndId, OwnedFd) {
        let (read, write) = pipe();
        let end = self.adopt(read, agent, Role::Stdout);
        self.ring.read(end);
        (end, write)
    }

    /// Adopts the write end of a new pipe. Returns the read end.
    fn writing(&mut self, agent: u32) -> (EndId, OwnedFd) {
        let (read, write) = pipe();
        (self.adopt(write, agent, Role::Stdin), read)
    }

    /// Waits once and records all completions.
    fn turn(&mut self, timeout: Duration) {
        self.ring.wait(Some(timeout)).unwrap();
        while let Some(completion) = self.ring.next() {
            let seen = match completion {
                Completion::Data { tag, lease } => {
                    let bytes = self.ring.bytes(&lease).to_vec();
                    self.ring.give_back(lease);
                    Seen::Data(tag.agent, bytes)
                }
                Completion::Filled { tag, buf } => Seen::Filled(tag.agent, buf.to_vec()),
                Completion::ReadEnd { tag, why } => Seen::ReadEnd(tag.agent, why),
                Completion::Wrote { tag, buf, result } => {
                    Seen::Wrote(tag.agent, buf.len(), result.map_err(errno))
                }
                Completion::Ready { tag, result } => Seen::Ready(tag.agent, result.map_err(errno)),
                Completion::Closed { tag, result } => {
                    Seen::Closed(tag.agent, result.map_err(errno))
                }
            };
            self.seen.push(seen);
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&[Seen]) -> bool) {
        let start = Instant::now();
        while !done(&self.seen) {
            assert!(start.elapsed() < LIMIT, "waited for {what}; seen {:?}", self.seen);
            self.turn(LIMIT);
        }
    }

    /// Runs turns until no completion arrives for [`QUIET`].
    fn run_until_quiet(&mut self) {
        let start = Instant::now();
        let mut quiet = Instant::now();
        while quiet.elapsed() < QUIET {
            assert!(start.elapsed() < LIMIT, "never quiet");
            let before = self.seen.len();
            self.turn(QUIET);
            if self.seen.len() > before {
                quiet = Instant::now();
            }
        }
    }

    /// All bytes of one agent.
    fn bytes(&self, agent: u32) -> Vec<u8> {
        bytes(&self.seen, agent)
    }

    /// All completions but data, in order.
    fn others(&self) -> Vec<Seen> {
        self.seen.iter().filter(|seen| !matches!(seen, Seen::Data(..))).cloned().collect()
    }
}

fn bytes(seen: &[Seen], agent: u32) -> Vec<u8> {
    let mut all = Vec::new();
    for seen in seen {
        if let Seen::Data(of, bytes) = seen
            && *of == agent
        {
            all.extend_from_slice(bytes);
        }
    }
    all
}

fn count(seen: &[Seen], like: impl Fn(&Seen) -> bool) -> usize {
    seen.iter().filter(|seen| like(seen)).count()
}

fn closed(seen: &Seen) -> bool {
    matches!(seen, Seen::Closed(..))
}

fn errno(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

/// A pipe: read end, write end. Both do not block, which makes no difference to the ring.
fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
}

/// Writes all bytes.
fn put(fd: &OwnedFd, bytes: &[u8]) {
    assert_eq!(rustix::io::write(fd, bytes), Ok(bytes.len()));
}

/// Returns the bytes in the pipe, and whether its end was reached.
fn get(fd: &OwnedFd) -> (Vec<u8>, bool) {
    let (mut all, mut chunk) = (Vec::new(), vec![0; 65_536]);
    loop {
        match rustix::io::read(fd, &mut chunk) {
            Ok(0) => return (all, true),
            Ok(len) => all.extend_from_slice(&chunk[..len]),
            Err(rustix::io::Errno::AGAIN) => return (all, false),
            Err(error) => panic!("read: {error}"),
        }
    }
}

/// Bytes that show their position.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}
