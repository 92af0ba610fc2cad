//! Setup: the best flags that the kernel accepts, and the sizes that it allows.

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use io_uring::IoUring;

use super::buffer::BufferPool;
use super::error::setup_error;
use super::inflight::InFlight;
use super::probe;
use super::queue::Queue;
use super::restrict::restrict_and_enable;
use super::turn::Ring;
use crate::counters::KernelFeatures;
use crate::error::{Error, ErrorKind, Result};

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingConfig {
    /// Submissions per enter. Every enter empties the queue, so this bounds a batch and not the
    /// operations in flight. The kernel rounds it up to a power of two.
    pub(crate) entries: u32,
    /// Completions that the kernel can hold: see [`for_ends`](Self::for_ends).
    pub(crate) cq_entries: u32,
    /// Pool buffers: the most chunks of data per turn. A power of two up to 32768.
    pub(crate) buffers: u16,
    /// Bytes per buffer. One page, because a pipe delivers pages and larger buffers leave the cache.
    pub(crate) buffer_size: u32,
    /// How many times larger a buffer is with single reads. Each of them costs a submission and a turn, and
    /// fills one buffer at most. Tests set it to 1.
    pub(crate) single_factor: u32,
    /// The batching window: how long a wait continues after the first completion. Zero: none.
    pub(crate) window: Duration,
    /// Uses multishot reads if the kernel has them (6.7), else single ones.
    pub(crate) multishot: bool,
    /// Uses the kernel's minimum wait if there is one. Tests turn it off.
    pub(crate) min_wait: bool,
}

impl RingConfig {
    /// The default number of buffers of an engine.
    pub(crate) const BUFFERS: u16 = 128;

    /// The longest batching window.
    const WINDOW_MAX: Duration = Duration::from_millis(100);

    /// The fewest and the most buffers of an engine.
    const BUFFERS_MIN: u16 = 8;
    const BUFFERS_MAX: u16 = 4096;

    /// Returns the configuration for these settings of an engine.
    pub(crate) fn with(buffers: u16, window: Duration) -> Result<Self> {
        let what = if !(Self::BUFFERS_MIN..=Self::BUFFERS_MAX).contains(&buffers) {
            let (min, max) = (Self::BUFFERS_MIN, Self::BUFFERS_MAX);
            format!("buffers is {buffers}, and must be {min} to {max}")
        } else if window > Self::WINDOW_MAX {
            format!("batch_window is {window:?}, and may be at most {:?}", Self::WINDOW_MAX)
        } else {
            return Ok(Self { buffers: buffers.next_power_of_two(), window, ..Self::default() });
        };
        Err(Error::new(ErrorKind::InvalidSettings, "start", what))
    }

    /// Sizes for `ends` descriptors at a time. More work, too, but completions that do not fit wait in
    /// the kernel, at a cost.
    pub(crate) fn for_ends(ends: u32) -> Self {
        // Each buffer may have one completion, and each descriptor three more: the last of its
        // operation, of its cancel and of its close. Twice that, because the submissions of one turn
        // can complete before the completions of the last turn are collected.
        let cq_entries = ends.saturating_mul(3).saturating_add(u32::from(Self::BUFFERS));
        let cq_entries = cq_entries.saturating_mul(2).clamp(512, 65_536);
        Self {
            entries: 256,
            cq_entries,
            buffers: Self::BUFFERS,
            buffer_size: 4096,
            single_factor: 4,
            window: Duration::ZERO,
            multishot: true,
            min_wait: true,
        }
    }
}

impl Default for RingConfig {
    fn default() -> Self {
        Self::for_ends(1024)
    }
}

/// A set of setup flags: the name that `doctor` prints, and the function that sets it.
pub(super) type FlagSet = (&'static str, fn(&mut io_uring::Builder));

/// The sets of setup flags, the best first.
pub(super) const FLAG_SETS: [FlagSet; 4] = [
    // DEFER_TASKRUN processes completions in the engine's own wait, in batches. TASKRUN_FLAG shows
    // a turn without a wait whether an enter has work to run. With SUBMIT_ALL, an entry that fails
    // does not hold back the entries behind it, such as the close of another agent.
    ("SINGLE_ISSUER|DEFER_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", |builder| {
        builder.setup_single_issuer().setup_defer_taskrun();
        builder.setup_taskrun_flag().setup_submit_all();
    }),
    // COOP_TASKRUN processes completions at the thread's next system call, without an interrupt.
    ("SINGLE_ISSUER|COOP_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", |builder| {
        builder.setup_single_issuer().setup_coop_taskrun();
        builder.setup_taskrun_flag().setup_submit_all();
    }),
    ("COOP_TASKRUN|TASKRUN_FLAG|SUBMIT_ALL", |builder| {
        builder.setup_coop_taskrun().setup_taskrun_flag().setup_submit_all();
    }),
    ("none", |_| ()),
];

/// The fewest entries tried if the kernel refuses memory.
const MIN_ENTRIES: u32 = 64;

impl Ring {
    /// Sets up a ring on the calling thread and tests it with a pipe.
    ///
    /// # Errors
    ///
    /// Says whether the host denies io_uring, lacks it, or ran out of a resource.
    pub(crate) fn new(config: &RingConfig) -> Result<Self> {
        Self::with_flag_sets(config, &FLAG_SETS)
    }

    /// Tries these flag sets only. Older kernels accept only the later ones.
    pub(super) fn with_flag_sets(config: &RingConfig, flag_sets: &[FlagSet]) -> Result<Self> {
        let (uring, flags) =
            build(config, flag_sets).map_err(|error| setup_error("io_uring_setup", error))?;
        let multishot = probe::require(&uring)? && config.multishot;
        // The kernel takes powers of two up to 32768, because the tail has 16 bits.
        let buffers = config.buffers.clamp(1, 1 << 15).next_power_of_two();
        let factor = if multishot { 1 } else { config.single_factor };
        let buffer_size = config.buffer_size.saturating_mul(factor).clamp(512, 1 << 20);
        let pool = BufferPool::new(&uring.submitter(), buffers, buffer_size)
            .map_err(|error| setup_error("registering the buffer ring", error))?;
        let restricted = restrict_and_enable(&uring, multishot, !config.window.is_zero())?;
        let features = KernelFeatures {
            multishot,
            restricted,
            ..probe::features(uring.params(), flags, buffers, buffer_size)
        };
        let mut ring = Self {
            inflight: InFlight::new(Queue::new(uring), pool, multishot),
            features,
            stale: 0,
            not_send: PhantomData,
        };
        probe::self_test(&mut ring)?;
        let min_wait = config.min_wait && features.min_wait;
        ring.inflight.queue.set_window(config.window, min_wait, buffers);
        crate::trace::info!(target: "agentpipe::ring", features = %ring.kernel_features(), "io_uring");
        Ok(ring)
    }

    /// Returns what the kernel offered to this ring.
    pub(crate) fn kernel_features(&self) -> KernelFeatures {
        KernelFeatures { nosignal: self.inflight.nosignal, ..self.features }
    }
}

/// Builds a ring with the first flag set that the kernel accepts; on ENOMEM tries half the size.
fn build(config: &RingConfig, flag_sets: &[FlagSet]) -> io::Result<(IoUring, &'static str)> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for &(name, flags) in flag_sets {
        let mut entries = config.entries.clamp(2, 1 << 15);
        // Twice the submissions is the kernel's own default, and it refuses fewer than once.
        let mut cq_entries = config.cq_entries.max(2 * entries);
        loop {
            let mut builder = IoUring::builder();
            // A forked child must not share the queues.
            // CLAMP lowers a size that is above the kernel's maximum, which would be an error
            // otherwise.
            builder.dontfork().setup_clamp().setup_cqsize(cq_entries);
            // Restrictions can be set only before the ring is enabled.
            builder.setup_r_disabled();
            flags(&mut builder);
            match builder.build(entries) {
                Ok(uring) => return Ok((uring, name)),
                // ENOMEM means a low RLIMIT_MEMLOCK. A smaller ring needs more enters, but works.
                Err(error) if out_of_memory(&error) && entries > MIN_ENTRIES => {
                    entries = (entries / 2).max(MIN_ENTRIES);
                    // Still twice the submissions, rounded up to a power of two as by the kernel.
                    cq_entries /= 2;
                }
                // The kernel does not know a flag of this set. Other errors do not depend on the
                // flags.
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

/// Whether the kernel denies this process any ring, whatever this crate asks of it.
#[cfg(test)]
pub(crate) fn is_denied() -> bool {
    let denied = |error: io::Error| error.raw_os_error();
    let errno = IoUring::new(2).err().and_then(denied);
    matches!(errno, Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
}
