//! Floor 1. Builds a ring: the best flags this kernel takes, and sizes it allows.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use io_uring::IoUring;

use super::Ring;
use super::buffer::Pool;
use super::end::Ends;
use super::op::Ops;
use super::probe;
use super::queue::Queue;
use super::refusal::refused;
use crate::counters::KernelFeatures;
use crate::error::Result;

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingConfig {
    /// Submissions per enter. The queue empties with each, so this bounds a batch, not what is
    /// in flight. Rounded up to a power of two by the kernel.
    pub(crate) entries: u32,
    /// Completions the kernel can hold: see [`for_ends`](Self::for_ends).
    pub(crate) cq_entries: u32,
    /// Pool buffers: the most chunks of data one turn can take. A power of two up to 32768.
    pub(crate) buffers: u16,
    /// Bytes per buffer. One page: a pipe hands out pages, and larger ones leave the cache.
    pub(crate) buffer_size: u32,
    /// How long a wait may go on after the first completion, for more to come. Zero: not at all.
    pub(crate) window: Duration,
    /// False: the window is made of two waits, as where the kernel has no min_wait.
    pub(crate) min_wait: bool,
}

impl RingConfig {
    const BUFFERS: u16 = 128;

    /// A longer window is a mistake, not a setting.
    const WINDOW_MAX: Duration = Duration::from_millis(100);

    /// What an engine may be asked for: as many buffers, brought into range.
    pub(crate) fn buffers_in_range(buffers: u16) -> u16 {
        buffers.clamp(8, 4096).next_power_of_two()
    }

    /// The same for a window.
    pub(crate) fn window_in_range(window: Duration) -> Duration {
        window.min(Self::WINDOW_MAX)
    }

    /// For so many descriptors at a time. More of them work too: completions that do not fit
    /// wait in the kernel, at a cost.
    pub(crate) fn for_ends(ends: u32) -> Self {
        // Each buffer may come with one completion, and each end may have three without: its
        // operation's last, its cancel's, its close's. Twice, because what one turn submits can
        // complete before what the last turn left was reaped.
        let cq_entries = ends.saturating_mul(3).saturating_add(u32::from(Self::BUFFERS));
        let cq_entries = cq_entries.saturating_mul(2).clamp(512, 65_536);
        Self {
            entries: 256,
            cq_entries,
            buffers: Self::BUFFERS,
            buffer_size: 4096,
            window: Duration::ZERO,
            min_wait: true,
        }
    }
}

impl Default for RingConfig {
    fn default() -> Self {
        Self::for_ends(1024)
    }
}

/// A set of setup flags: its name for `doctor`, and what sets it.
pub(super) type Step = (&'static str, fn(&mut io_uring::Builder));

/// Steps down from what is best.
pub(super) const LADDER: [Step; 4] = [
    ("SINGLE_ISSUER|DEFER_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", |builder| {
        builder.setup_single_issuer().setup_defer_taskrun();
        builder.setup_taskrun_flag().setup_submit_all();
    }),
    ("SINGLE_ISSUER|COOP_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", |builder| {
        builder.setup_single_issuer().setup_coop_taskrun();
        builder.setup_taskrun_flag().setup_submit_all();
    }),
    ("COOP_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", |builder| {
        builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    }),
    ("none", |_| ()),
];

/// The fewest entries tried where memory is refused.
const MIN_ENTRIES: u32 = 64;

impl Ring {
    /// Sets a ring up on the calling thread and tries it out on a pipe.
    ///
    /// An error says whether this host denies the ring, lacks it or ran out of something.
    pub(crate) fn new(config: &RingConfig) -> Result<Self> {
        Self::with_ladder(config, &LADDER)
    }

    /// Tries these steps only: older kernels stop further down.
    pub(super) fn with_ladder(config: &RingConfig, ladder: &[Step]) -> Result<Self> {
        let (uring, flags) =
            climb_down(config, ladder).map_err(|error| refused("io_uring_setup", error))?;
        probe::require(&uring)?;
        let buffers = config.buffers.clamp(1, 1 << 15).next_power_of_two();
        let buffer_size = config.buffer_size.clamp(512, 1 << 20);
        let pool = Pool::new(&uring.submitter(), buffers, buffer_size)
            .map_err(|error| refused("registering the buffer ring", error))?;
        let features = probe::features(uring.params(), flags, buffers, buffer_size);
        let mut ring = Self {
            queue: Queue::new(uring),
            pool,
            ops: Ops::default(),
            ends: Ends::default(),
            reaped: VecDeque::new(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            deferred: Vec::new(),
            features,
            starved_count: 0,
            stale: 0,
            closed_by_hand: 0,
            not_send: PhantomData,
        };
        probe::self_test(&mut ring)?;
        ring.queue.coalesce(config.window, config.min_wait && features.min_wait, buffers);
        crate::trace::info!(target: "agentpipe::ring", features = %ring.features, "io_uring");
        Ok(ring)
    }

    /// What this ring can do.
    pub(crate) fn kernel_features(&self) -> KernelFeatures {
        self.features
    }
}

/// The first step the kernel takes; on ENOMEM the same step with half the size.
fn climb_down(config: &RingConfig, ladder: &[Step]) -> io::Result<(IoUring, &'static str)> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for &(name, flags) in ladder {
        let mut entries = config.entries.clamp(2, 1 << 15);
        let mut cq_entries = config.cq_entries.max(2 * entries);
        loop {
            let mut builder = IoUring::builder();
            // A forked child must not share the queues.
            builder.dontfork().setup_clamp().setup_cqsize(cq_entries);
            flags(&mut builder);
            match builder.build(entries) {
                Ok(uring) => return Ok((uring, name)),
                Err(error) if out_of_memory(&error) && entries > MIN_ENTRIES => {
                    entries = (entries / 2).max(MIN_ENTRIES);
                    cq_entries = (cq_entries / 2).max(2 * entries);
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    last = error;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Err(last)
}

fn out_of_memory(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOMEM)
}
