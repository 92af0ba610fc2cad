//! What the kernel can do: its opcodes and features, and a self-test that uses them.

use std::fs;
use std::time::{Duration, Instant};

use io_uring::{IoUring, Parameters, Probe, opcode};
use rustix::pipe::{PipeFlags, pipe_with};

use super::error::{setup_error, unsupported};
use super::turn::Ring;
use crate::counters::{Backend, KernelFeatures};
use crate::error::Result;
use crate::io::{Completion, EndId, PipeIo, Role, Tag};

/// Returns the features that the setup parameters tell. The probe and the self-test add the rest.
pub(super) fn features(
    params: &Parameters,
    setup_flags: &'static str,
    buffers: u16,
    buffer_size: u32,
) -> KernelFeatures {
    KernelFeatures {
        backend: Backend::IoUring,
        multishot: false,
        restricted: false,
        setup_flags,
        sq_entries: params.sq_entries(),
        cq_entries: params.cq_entries(),
        buffers,
        buffer_size,
        min_wait: params.is_feature_min_timeout(),
        no_iowait: params.is_feature_no_iowait(),
        nosignal: false,
    }
}

/// The opcodes that the ring needs. READ_MULTISHOT (6.7) replaces READ if it is there.
const OPCODES: [(&str, u8); 5] = [
    ("READ", opcode::Read::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("WRITE", opcode::Write::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
];

/// Checks every opcode and feature that the ring needs. Returns whether it has READ_MULTISHOT.
pub(super) fn require(uring: &IoUring) -> Result<bool> {
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(|error| setup_error("probing the opcodes of io_uring", error))?;
    for (name, code) in OPCODES {
        if !probe.is_supported(code) {
            return Err(unsupported(format!("this kernel has no io_uring {name}")));
        }
    }
    if !uring.params().is_feature_nodrop() || !uring.params().is_feature_ext_arg() {
        return Err(unsupported("this kernel's io_uring may lose completions or cannot time out"));
    }
    Ok(probe.is_supported(opcode::ReadMulti::CODE))
}

/// The time limit of the self-test, which takes about 0.1 ms.
const TEST_LIMIT: Duration = Duration::from_secs(2);
const TEST_BYTES: &[u8] = b"agentpipe self-test";
const TEST_READ: Tag = Tag { agent: u32::MAX, role: Role::Stdout };
const TEST_WRITE: Tag = Tag { agent: u32::MAX, role: Role::Stdin };

/// Sends bytes through a pipe and closes it with a read pending. Some kernels offer the opcodes and
/// fail this, and some seccomp filters allow a ring to be made but not to be entered.
pub(super) fn self_test(ring: &mut Ring) -> Result<()> {
    // Another ring of this thread may have workers already, so the test compares two counts.
    let workers = workers();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| setup_error("opening a pipe for the self-test", error.into()))?;
    let read = ring.adopt(read, TEST_READ);
    let write = ring.adopt(write, TEST_WRITE);
    // The kernel does not report whether it takes the flag. An older one refuses the write before
    // it moves a byte, so the write is repeated without the flag.
    ring.inflight.nosignal = true;
    let mut test = SelfTest { start: Instant::now(), received: Vec::new(), wrote: None, closed: 0 };

    // The read is queued before the write, so it finds an empty pipe, as the reads of idle agents
    // do.
    ring.read(read);
    test.send(ring, write)?;
    if matches!(test.wrote, Some(Err(libc::EOPNOTSUPP | libc::EINVAL))) {
        ring.inflight.nosignal = false;
        test.send(ring, write)?;
    }
    if test.wrote != Some(Ok(TEST_BYTES.len())) {
        return Err(unsupported(format!("self-test: the write ended as {:?}", test.wrote)));
    }
    while test.received.len() < TEST_BYTES.len() {
        test.turn(ring, "no bytes arrived through a pipe")?;
    }
    if test.received != TEST_BYTES {
        return Err(unsupported("self-test: the bytes received differ from those sent"));
    }
    // The read is still armed here: its cancel is part of the test.
    ring.close(&[read, write]);
    while test.closed < 2 {
        test.turn(ring, "a pending read was not cancelled")?;
    }
    if ring.in_kernel() > 0 || ring.inflight.closed_by_hand > 0 {
        return Err(unsupported("self-test: closing left something behind"));
    }
    if self::workers() > workers {
        return Err(unsupported("self-test: a read of a pipe takes a kernel thread"));
    }
    // The counters of an engine begin with its own work.
    ring.inflight.queue.restart_counters();
    ring.inflight.pool.restart_minimum();
    Ok(())
}

struct SelfTest {
    start: Instant,
    received: Vec<u8>,
    /// The result of the last write: a length or an errno.
    wrote: Option<std::result::Result<usize, i32>>,
    closed: u32,
}

impl SelfTest {
    fn send(&mut self, ring: &mut Ring, write: EndId) -> Result<()> {
        self.wrote = None;
        ring.write(write, TEST_BYTES.to_vec(), 0)
            .map_err(|refusal| setup_error("self-test: a write", refusal.error))?;
        while self.wrote.is_none() {
            self.turn(ring, "a write did not end")?;
        }
        Ok(())
    }

    fn turn(&mut self, ring: &mut Ring, otherwise: &str) -> Result<()> {
        let left = TEST_LIMIT.saturating_sub(self.start.elapsed());
        if left.is_zero() {
            return Err(unsupported(format!("self-test: {otherwise}")));
        }
        ring.wait(Some(left)).map_err(|error| setup_error("io_uring_enter", error))?;
        while let Some(completion) = ring.next() {
            match completion {
                Completion::Data { lease, .. } => {
                    self.received.extend_from_slice(ring.bytes(&lease));
                    ring.give_back(lease);
                }
                Completion::Wrote { result, .. } => {
                    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
                    self.wrote = Some(result.map_err(errno));
                }
                Completion::Closed { result: Ok(()), .. } => self.closed += 1,
                other => return Err(unsupported(format!("self-test: {other:?}"))),
            }
        }
        Ok(())
    }
}

/// Counts the kernel worker threads of this thread's rings, which have its id in their name.
pub(super) fn workers() -> usize {
    let name = format!("iou-wrk-{}", rustix::thread::gettid().as_raw_nonzero());
    // Without /proc both counts are 0, and the ring is accepted without this check.
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    let named = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    tasks.flatten().filter(named).count()
}
