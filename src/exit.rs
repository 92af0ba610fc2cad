//! Keeps a process that exits until the agents that were dropped a moment before are gone.
//!
//! A drop does not wait. Where it is the last thing that `main` does, the process would end before the
//! agents are killed: so `exit` waits for them, for the threads of a dropped engine, and for spawns
//! under way. A process that ends in another way (`_exit`, a signal, an exec) does not.
//!
//! Invariant: the registered function takes no argument, does not unwind, and lives as long as the
//! program.
#![expect(unsafe_code, reason = "a function is registered with atexit")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::thread::futex;

use crate::origin::Origin;

/// How long `exit` waits at most: longer than an abort with the default limits takes. A thread that
/// is blocked by a waker would hold it for ever.
const EXIT_MAX: Duration = Duration::from_secs(5);

/// Those that `exit` waits for, in the lower half; above it the process that they are counted
/// in: a fork has none of them. No lock, because a fork may find it taken for good.
static DEPARTING: AtomicU32 = AtomicU32::new(0);

const COUNT: u32 = 0xffff;

/// Work that `exit` waits for: the abort of an agent without handles, the end of an engine thread
/// without an engine, a spawn whose future may be gone. Dropped by the thread that does it, as its last
/// act.
#[derive(Debug)]
pub(crate) struct Departure(());

impl Departure {
    pub(crate) fn begin() -> Self {
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        if !REGISTERED.swap(true, Ordering::Relaxed) {
            // SAFETY: the function takes nothing, returns, and lives as long as the program.
            // Where there is no room for it, `exit` does not wait.
            let _refused = unsafe { libc::atexit(wait) };
        }
        change(1);
        Self(())
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        change(-1);
        let _woken = futex::wake(&DEPARTING, futex::Flags::PRIVATE, 1);
    }
}

fn process() -> u32 {
    Origin::here().number() << 16
}

/// How many of them run in this process.
fn count(word: u32) -> u32 {
    if word & !COUNT == process() { word & COUNT } else { 0 }
}

fn change(by: i32) {
    let changed = |word| Some(process() | count(word).saturating_add_signed(by).min(COUNT));
    let _before = DEPARTING.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed);
}

extern "C" fn wait() {
    let until = Instant::now() + EXIT_MAX;
    loop {
        let word = DEPARTING.load(Ordering::Acquire);
        let left = until.saturating_duration_since(Instant::now());
        if count(word) == 0 || left.is_zero() {
            return;
        }
        let left = Timespec::try_from(left).ok();
        let _woken = futex::wait(&DEPARTING, futex::Flags::PRIVATE, word, left.as_ref());
    }
}
