//! Floor 1. The three pipes of an agent.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

/// No descriptor below this is used: a host that closed its 0, 1 or 2 would otherwise get our
/// pipe there, and print into an agent; and the child could overwrite one before it is in place.
const FIRST_DESCRIPTOR: i32 = 3;

/// One pipe. Both ends close on exec. Ours does not block; the agent's does: each end has
/// an open file description, and so its flags, to itself.
pub(super) struct Pipe {
    pub(super) ours: OwnedFd,
    pub(super) theirs: OwnedFd,
    /// The bytes it holds, as the kernel granted it.
    pub(super) size: usize,
}

/// A pipe from us to the agent.
pub(super) fn to_agent(size: Option<usize>) -> Result<Pipe, Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    pipe(write, read, size)
}

/// A pipe from the agent to us.
pub(super) fn from_agent(size: Option<usize>) -> Result<Pipe, Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    pipe(read, write, size)
}

fn pipe(ours: OwnedFd, theirs: OwnedFd, size: Option<usize>) -> Result<Pipe, Errno> {
    let ours = above_standard(ours)?;
    let theirs = above_standard(theirs)?;
    fcntl_setfl(&ours, fcntl_getfl(&ours)? | OFlags::NONBLOCK)?;
    if let Some(size) = size {
        ask_for(&ours, size)?;
    }
    let size = fcntl_getpipe_size(&ours)?;
    Ok(Pipe { ours, theirs, size })
}

/// Asks for a size. The kernel grants all of it or refuses (EPERM above the limit of the user or
/// of `pipe-max-size`), so it is asked for half as much until it agrees.
fn ask_for(pipe: &OwnedFd, mut size: usize) -> Result<(), Errno> {
    let now = fcntl_getpipe_size(pipe)?;
    if fcntl_setpipe_size(pipe, size).is_ok() {
        return Ok(());
    }
    while size / 2 > now {
        size /= 2;
        if fcntl_setpipe_size(pipe, size).is_ok() {
            break;
        }
    }
    Ok(())
}

/// The same descriptor, moved out of the way of 0, 1 and 2.
pub(super) fn above_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= FIRST_DESCRIPTOR {
        return Ok(fd);
    }
    fcntl_dupfd_cloexec(fd.as_fd(), FIRST_DESCRIPTOR)
}
