//! Delays the exit of the process until the agents that were dropped just before are gone.
//!
//! A drop does not wait. If it is the last act of `main`, the process would end before the agents are
//! killed. So `exit` waits for them, for the threads of a dropped engine, and for spawns in progress. A
//! process that ends otherwise (`_exit`, a signal, an exec) does not wait.
//!
//! The only unsafe call registers a function without arguments that never unwinds.
//!
//! Invariant: the registered function takes no argument, does not unwind, and lives as long as the
//! program.
#![expect(unsafe_code, reason = "a function is registered with atexit")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::thread::futex;

use crate::origin::Origin;

/// How long `exit` waits at most: longer than an abort with the default limits takes. A thread that a
/// waker blocks must not delay it without end.
const EXIT_MAX: Duration = Duration::from_secs(5);

/// The number of departures in the lower half, and the process that they belong to in the upper half: a
/// fork has none of them. Not a lock, which may be taken for good in a fork.
static DEPARTURES: AtomicU32 = AtomicU32::new(0);

const COUNT_MASK: u32 = 0xffff;

/// Work that `exit` waits for: the abort of an agent without handles, the end of an engine thread without
/// an engine, a spawn whose future may be gone. The thread that does the work drops it as its last act.
#[derive(Debug)]
pub(crate) struct Departure(());

impl Departure {
    pub(crate) fn begin() -> Self {
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        // Relaxed is enough: the flag guards only the registration. A fork inherits both of them.
        if !REGISTERED.swap(true, Ordering::Relaxed) {
            // SAFETY: the function takes no arguments, returns, and lives as long as the program. If
            // there is no room for it, `exit` does not wait.
            let _refused = unsafe { libc::atexit(wait) };
        }
        change(1);
        Self(())
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        change(-1);
        // At most one thread waits: the one that runs the handlers of `exit`.
        let _woken = futex::wake(&DEPARTURES, futex::Flags::PRIVATE, 1);
    }
}

fn process() -> u32 {
    Origin::here().number() << 16
}

/// Returns how many departures of this process a word counts.
fn count(word: u32) -> u32 {
    if word & !COUNT_MASK == process() { word & COUNT_MASK } else { 0 }
}

fn change(by: i32) {
    // The count of another process is dropped. A fork may drop a departure that it did not begin,
    // so the count stops at 0.
    let changed = |word| Some(process() | count(word).saturating_add_signed(by).min(COUNT_MASK));
    let _before = DEPARTURES.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed);
}

extern "C" fn wait() {
    let until = Instant::now() + EXIT_MAX;
    loop {
        let word = DEPARTURES.load(Ordering::Acquire);
        let left = until.saturating_duration_since(Instant::now());
        if count(word) == 0 || left.is_zero() {
            return;
        }
        let left = Timespec::try_from(left).ok();
        // The kernel compares the word before it sleeps, so the end of a departure in between is
        // not missed. Errors need no handling, because the loop checks the word and the time again.
        let _woken = futex::wait(&DEPARTURES, futex::Flags::PRIVATE, word, left.as_ref());
    }
}
