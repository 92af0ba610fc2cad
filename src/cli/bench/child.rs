//! The agent as a plain child process, for limits and peers. Every wait is bounded.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::read_buffer::ReadBuffer;
use super::wait::{BenchResult, PATIENCE};

/// The pause between two checks whether an agent is blocked.
const PAUSE: Duration = Duration::from_micros(250);

/// A child that is killed and reaped at the end of its sample.
#[derive(Debug)]
pub(super) struct PlainChild(pub(super) Child);

impl Drop for PlainChild {
    fn drop(&mut self) {
        // Both fail if the child is reaped already, which is fine.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl PlainChild {
    pub(super) fn spawn(command: &mut Command) -> BenchResult<Self> {
        let spawned = command.spawn();
        let name = command.get_program().to_string_lossy();
        Ok(spawned.map(Self).map_err(|error| format!("cannot spawn {name}: {error}"))?)
    }

    pub(super) fn take_stdout(&mut self) -> BenchResult<ChildStdout> {
        Ok(self.0.stdout.take().ok_or("stdout was taken before")?)
    }

    /// Closes stdin, reads to the end and reaps. Returns the number of bytes read.
    pub(super) fn end(&mut self) -> BenchResult<u64> {
        let exit = exit_of(self.0.id())?;
        drop(self.0.stdin.take());
        let bytes = self.read_to_end()?;
        await_ready(&exit, Instant::now() + PATIENCE)?;
        self.reap()?;
        Ok(bytes)
    }

    /// Closes stdin, reads for `drain`, sends SIGTERM, reads to the end and reaps.
    pub(super) fn end_reading(&mut self, drain: Duration) -> BenchResult<()> {
        drop(self.0.stdin.take());
        let until = Instant::now() + drain;
        let mut buffer = ReadBuffer::new();
        let stdout = self.0.stdout.as_mut().ok_or("stdout was taken before")?;
        while Instant::now() < until && is_ready(&*stdout, until)? {
            if stdout.read(buffer.bytes())? == 0 {
                return Err("the agent left by itself".into());
            }
        }
        self.terminate()?;
        self.read_to_end()?;
        self.reap()
    }

    /// Does what most hosts do: closes stdin and waits, SIGTERM and waits, SIGKILL. Reads nothing.
    pub(super) fn end_unread(&mut self, wait: Duration) -> BenchResult<()> {
        let exit = exit_of(self.0.id())?;
        drop(self.0.stdin.take());
        if !is_ready(&exit, Instant::now() + wait)? {
            self.terminate()?;
            if !is_ready(&exit, Instant::now() + wait)? {
                self.0.kill()?;
            }
        }
        self.reap()
    }

    /// Closes stdout, which breaks the pipe of a blocked writer, and reaps.
    pub(super) fn end_broken(&mut self) -> BenchResult<()> {
        drop(self.0.stdout.take());
        self.reap()
    }

    /// Sends SIGKILL and reaps.
    pub(super) fn end_killed(&mut self) -> BenchResult<()> {
        self.0.kill()?;
        self.reap()
    }

    pub(super) fn reap(&mut self) -> BenchResult<()> {
        self.0.wait()?;
        Ok(())
    }

    fn terminate(&self) -> BenchResult<()> {
        Ok(kill_process(pid(self.0.id())?, Signal::TERM)?)
    }

    fn read_to_end(&mut self) -> BenchResult<u64> {
        let until = Instant::now() + PATIENCE;
        let Some(stdout) = &mut self.0.stdout else { return Ok(0) };
        let (mut bytes, mut buffer) = (0, ReadBuffer::new());
        loop {
            await_ready(&*stdout, until)?;
            match stdout.read(buffer.bytes())? {
                0 => return Ok(bytes),
                count => bytes += count as u64,
            }
        }
    }

    /// Reads until `line` has a newline.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>) -> BenchResult<()> {
        let stdout = self.0.stdout.as_mut().ok_or("stdout was taken before")?;
        line.clear();
        let until = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while memchr::memchr(b'\n', line).is_none() {
            await_ready(&*stdout, until)?;
            match stdout.read(&mut buffer)? {
                0 => return Err("the agent left instead of answering".into()),
                count => line.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(())
    }

    /// Waits until the pipe is full and its writer is blocked.
    pub(super) fn await_full(&self) -> BenchResult<()> {
        let stdout = self.0.stdout.as_ref().ok_or("stdout was taken before")?;
        await_blocked(self.0.id(), || Ok(ioctl_fionread(stdout)? >= 60_000))
    }
}

/// Waits until the agent's pipe `is_full` and the agent has slept for a millisecond. The built-in agent
/// sleeps in write(2) only. No event reports this. Every contestant waits in the same way, because an
/// agent that ran a moment ago exits sooner than one that has slept.
pub(super) fn await_blocked(
    pid: u32,
    mut is_full: impl FnMut() -> BenchResult<bool>,
) -> BenchResult<()> {
    let stat = format!("/proc/{pid}/stat");
    let until = Instant::now() + PATIENCE;
    let mut asleep = 0;
    while asleep < 4 {
        if Instant::now() >= until {
            return Err("the built-in agent never blocked".into());
        }
        // Not a yield, which costs a time slice of each busy process on this CPU.
        await_alive(pid, PAUSE)?;
        let sleeps = std::fs::read_to_string(&stat).is_ok_and(|text| text.contains(") S "));
        asleep = if is_full()? && sleeps { asleep + 1 } else { 0 };
    }
    Ok(())
}

/// Waits for `time`, and fails if the process exits meanwhile.
pub(super) fn await_alive(id: u32, time: Duration) -> BenchResult<()> {
    match is_ready(&exit_of(id)?, Instant::now() + time)? {
        false => Ok(()),
        true => Err("the agent left before it was closed".into()),
    }
}

fn pid(id: u32) -> BenchResult<Pid> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    Ok(pid.ok_or("a process id beyond the kernel's")?)
}

/// A descriptor that is readable once the process has exited.
fn exit_of(id: u32) -> BenchResult<OwnedFd> {
    let opened = pidfd_open(pid(id)?, PidfdFlags::empty());
    Ok(opened.map_err(|error| format!("the agent left before it was closed: {error}"))?)
}

fn is_ready(what: impl AsFd, until: Instant) -> BenchResult<bool> {
    let left = until.saturating_duration_since(Instant::now());
    let limit = Timespec::try_from(left)?;
    Ok(poll(&mut [PollFd::new(&what, PollFlags::IN)], Some(&limit))? > 0)
}

fn await_ready(what: impl AsFd, until: Instant) -> BenchResult<()> {
    match is_ready(what, until)? {
        true => Ok(()),
        false => Err(format!(
            "the agent as a plain child did not end or write within {} s",
            PATIENCE.as_secs()
        )
        .into()),
    }
}
