//! What something takes, for this command and for `benches/`.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Wall time, and the CPU time of this process in it, user and kernel: without that of its children.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Took {
    pub(crate) fn mul_f64(self, factor: f64) -> Self {
        Self { wall: self.wall.mul_f64(factor), cpu: self.cpu.mul_f64(factor) }
    }
}

/// Measures a [`Took`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    begun: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        let cpu = cpu_time();
        Self { begun: Instant::now(), cpu }
    }

    pub(crate) fn stop(self) -> Took {
        Took { wall: self.begun.elapsed(), cpu: cpu_time().saturating_sub(self.cpu) }
    }
}

/// Returns the CPU time of this process since its start.
pub(crate) fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
