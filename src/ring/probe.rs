//! Floor 1. What the kernel can do: asked (opcodes, features), then tried (the self-test).

use std::fs;
use std::time::{Duration, Instant};

use io_uring::{IoUring, Parameters, Probe, opcode};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Ring;
use super::refusal::{refused, unsupported};
use crate::counters::KernelFeatures;
use crate::error::Result;
use crate::io::{Completion, EndId, PipeIo, Role, Tag};

/// What the parameters say; the self-test adds the rest.
pub(super) fn features(
    params: &Parameters,
    setup_flags: &'static str,
    buffers: u16,
    buffer_size: u32,
) -> KernelFeatures {
    KernelFeatures {
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

/// The opcodes the ring cannot do without.
const OPCODES: [(&str, u8); 5] = [
    ("READ_MULTISHOT", opcode::ReadMulti::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("WRITE", opcode::Write::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
];

/// Asks for every opcode and feature the ring rests on.
pub(super) fn require(uring: &IoUring) -> Result<()> {
    let mut probe = Probe::new();
    uring
        .submitter()
        .register_probe(&mut probe)
        .map_err(|error| refused("asking for the opcodes of io_uring", error))?;
    for (name, code) in OPCODES {
        if !probe.is_supported(code) {
            return Err(unsupported(format!("this kernel has no io_uring {name}")));
        }
    }
    if !uring.params().is_feature_nodrop() || !uring.params().is_feature_ext_arg() {
        return Err(unsupported("this kernel's io_uring may lose completions or cannot time out"));
    }
    Ok(())
}

/// How long the self-test may take. It takes about 0.1 ms.
const TEST_LIMIT: Duration = Duration::from_secs(2);
const TEST_BYTES: &[u8] = b"agentpipe self-test";
const TEST_READ: Tag = Tag { agent: u32::MAX, role: Role::Stdout };
const TEST_WRITE: Tag = Tag { agent: u32::MAX, role: Role::Stdin };

/// Sends bytes through a pipe and closes it with a read pending: some kernels offer the opcodes
/// and get this wrong, and some filters let a ring be made and not be entered.
pub(super) fn self_test(ring: &mut Ring) -> Result<()> {
    let workers = workers();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|error| refused("opening a pipe for the self-test", error.into()))?;
    let read = ring.adopt(read, TEST_READ);
    let write = ring.adopt(write, TEST_WRITE);
    ring.features.nosignal = true;
    let mut test = SelfTest { start: Instant::now(), came: Vec::new(), wrote: None, closed: 0 };

    ring.read(read);
    test.send(ring, write)?;
    if matches!(test.wrote, Some(Err(libc::EOPNOTSUPP | libc::EINVAL))) {
        ring.features.nosignal = false;
        test.send(ring, write)?;
    }
    if test.wrote != Some(Ok(TEST_BYTES.len())) {
        return Err(unsupported(format!("self-test: the write ended as {:?}", test.wrote)));
    }
    while test.came.len() < TEST_BYTES.len() {
        test.turn(ring, "no bytes came through a pipe")?;
    }
    if test.came != TEST_BYTES {
        return Err(unsupported("self-test: other bytes came than were sent"));
    }
    ring.close(&[read, write]);
    while test.closed < 2 {
        test.turn(ring, "a pending read was not cancelled")?;
    }
    if ring.in_kernel() > 0 || ring.closed_by_hand > 0 {
        return Err(unsupported("self-test: closing left something behind"));
    }
    if self::workers() > workers {
        return Err(unsupported("self-test: a read of a pipe takes a kernel thread"));
    }
    ring.queue.restart_counters();
    ring.pool.restart_minimum();
    Ok(())
}

struct SelfTest {
    start: Instant,
    came: Vec<u8>,
    /// What became of the last write: a length or an errno.
    wrote: Option<std::result::Result<usize, i32>>,
    closed: u32,
}

impl SelfTest {
    fn send(&mut self, ring: &mut Ring, write: EndId) -> Result<()> {
        self.wrote = None;
        ring.write(write, TEST_BYTES.to_vec(), 0)
            .map_err(|refusal| refused("self-test: a write", refusal.error))?;
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
        ring.wait(Some(left)).map_err(|error| refused("io_uring_enter", error))?;
        while let Some(completion) = ring.next() {
            match completion {
                Completion::Data { lease, .. } => {
                    self.came.extend_from_slice(ring.bytes(&lease));
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

/// Kernel worker threads of this thread's rings: they carry its id in their name.
fn workers() -> usize {
    let name = format!("iou-wrk-{}", rustix::thread::gettid().as_raw_nonzero());
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0 };
    let named = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    tasks.flatten().filter(named).count()
}
