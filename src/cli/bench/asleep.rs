//! F5, bench: when the built-in agent is blocked in write(2). All contestants wait for it alike: an
//! agent that still ran a moment ago is gone sooner than one that has slept.

use std::time::{Duration, Instant};

use super::patience::PATIENCE;
use super::plain::stays;
use super::scenario::Failed;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_micros(250);

/// Waits until its pipe `is_full` and it has slept for a millisecond: this agent sleeps nowhere but
/// in write(2). No event tells it.
pub(super) fn await_blocked(pid: u32, mut is_full: impl FnMut() -> Failed<bool>) -> Failed<()> {
    let stat = format!("/proc/{pid}/stat");
    let until = Instant::now() + PATIENCE;
    let mut asleep = 0;
    while asleep < 4 {
        if Instant::now() >= until {
            return Err("the built-in agent never blocked".to_owned());
        }
        // Not a yield, which costs a turn of each busy process beside this one.
        stays(pid, PAUSE)?;
        let sleeps = std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") S "));
        asleep = if is_full()? && sleeps { asleep + 1 } else { 0 };
    }
    Ok(())
}
