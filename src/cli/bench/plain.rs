//! F5, bench: what limits and peers do with a plain child. Bounded, as everything.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::asleep::await_blocked;
use super::patience::PATIENCE;
use super::read_buffer::ReadBuffer;
use super::scenario::Failed;

/// A plain child that does not outlive its sample.
#[derive(Debug)]
pub(super) struct Plain(pub(super) Child);

impl Drop for Plain {
    fn drop(&mut self) {
        // Both fail where it is gone already, and that is the aim.
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

impl Plain {
    pub(super) fn spawn(command: &mut Command) -> Failed<Self> {
        let spawned = command.spawn();
        let name = command.get_program().to_string_lossy();
        spawned.map(Self).map_err(|error| format!("cannot spawn {name}: {error}"))
    }

    pub(super) fn stdout(&mut self) -> Failed<ChildStdout> {
        self.0.stdout.take().ok_or_else(|| "stdout was taken before".to_owned())
    }

    /// Closes stdin, reads to the end and reaps: how many bytes came.
    pub(super) fn end(&mut self) -> Failed<u64> {
        let gone = watch(self.0.id())?;
        drop(self.0.stdin.take());
        let bytes = self.read_until(Instant::now() + PATIENCE)?;
        await_ready(&gone, Instant::now() + PATIENCE)?;
        self.reap()?;
        Ok(bytes)
    }

    /// Closes stdin, reads for `rung`, sends SIGTERM, reads to the end and reaps.
    pub(super) fn end_reading(&mut self, rung: Duration) -> Failed<()> {
        drop(self.0.stdin.take());
        let until = Instant::now() + rung;
        let mut buffer = ReadBuffer::new();
        let stdout = self.0.stdout.as_mut().ok_or("stdout was taken before")?;
        while Instant::now() < until && is_ready(&*stdout, until)? {
            if stdout.read(buffer.bytes()).map_err(|error| error.to_string())? == 0 {
                return Err("the agent left by itself".to_owned());
            }
        }
        self.terminate()?;
        self.read_until(Instant::now() + PATIENCE)?;
        self.reap()
    }

    /// What most hosts do: closes stdin and waits, SIGTERM and waits, SIGKILL. Reads nothing.
    pub(super) fn end_unread(&mut self, rung: Duration) -> Failed<()> {
        let gone = watch(self.0.id())?;
        drop(self.0.stdin.take());
        if !is_ready(&gone, Instant::now() + rung)? {
            self.terminate()?;
            if !is_ready(&gone, Instant::now() + rung)? {
                self.0.kill().map_err(|error| error.to_string())?;
            }
        }
        self.reap()
    }

    /// Closes stdout, which breaks the pipe of a blocked writer, and reaps.
    pub(super) fn end_broken(&mut self) -> Failed<()> {
        drop(self.0.stdout.take());
        self.reap()
    }

    /// SIGKILL, and reaps.
    pub(super) fn end_killed(&mut self) -> Failed<()> {
        self.0.kill().map_err(|error| error.to_string())?;
        self.reap()
    }

    /// Waits for a child that was told to leave.
    pub(super) fn reap(&mut self) -> Failed<()> {
        self.0.wait().map(drop).map_err(|error| error.to_string())
    }

    fn terminate(&self) -> Failed<()> {
        let told = kill_process(pid(self.0.id())?, Signal::TERM);
        told.map_err(|error| error.to_string())
    }

    fn read_until(&mut self, until: Instant) -> Failed<u64> {
        let Some(stdout) = &mut self.0.stdout else { return Ok(0) };
        let (mut bytes, mut buffer) = (0, ReadBuffer::new());
        loop {
            await_ready(&*stdout, until)?;
            match stdout.read(buffer.bytes()).map_err(|error| error.to_string())? {
                0 => return Ok(bytes),
                count => bytes += count as u64,
            }
        }
    }

    /// Reads up to and with the first newline.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>) -> Failed<()> {
        let stdout = self.0.stdout.as_mut().ok_or("stdout was taken before")?;
        line.clear();
        let until = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while memchr::memchr(b'\n', line).is_none() {
            await_ready(&*stdout, until)?;
            match stdout.read(&mut buffer).map_err(|error| error.to_string())? {
                0 => return Err("the agent left instead of answering".to_owned()),
                count => line.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(())
    }

    /// Waits until the pipe holds all that it can and its writer is blocked.
    pub(super) fn await_full(&self) -> Failed<()> {
        let stdout = self.0.stdout.as_ref().ok_or("stdout was taken before")?;
        let full = || Ok(ioctl_fionread(stdout).map_err(|error| error.to_string())? >= 60_000);
        await_blocked(self.0.id(), full)
    }
}

fn pid(id: u32) -> Failed<Pid> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| "a process id beyond the kernel's".to_owned())
}

/// Readable once the process has ended.
fn watch(id: u32) -> Failed<OwnedFd> {
    pidfd_open(pid(id)?, PidfdFlags::empty())
        .map_err(|error| format!("the agent left before it was closed: {error}"))
}

/// Sees that a process stays for this long.
pub(super) fn stays(id: u32, time: Duration) -> Failed<()> {
    match is_ready(&watch(id)?, Instant::now() + time)? {
        false => Ok(()),
        true => Err("the agent left before it was closed".to_owned()),
    }
}

fn is_ready(what: impl AsFd, until: Instant) -> Failed<bool> {
    let left = until.saturating_duration_since(Instant::now());
    let limit = Timespec::try_from(left).map_err(|error| error.to_string())?;
    let ready = poll(&mut [PollFd::new(&what, PollFlags::IN)], Some(&limit));
    ready.map(|count| count > 0).map_err(|error| error.to_string())
}

fn await_ready(what: impl AsFd, until: Instant) -> Failed<()> {
    match is_ready(what, until)? {
        true => Ok(()),
        false => Err(format!(
            "the agent as a plain child did not end or write within {} s",
            PATIENCE.as_secs()
        )),
    }
}

/// How long it took.
pub(super) fn timed<T>(act: impl FnOnce() -> Failed<T>) -> Failed<(Duration, T)> {
    let start = Instant::now();
    let value = act()?;
    Ok((start.elapsed(), value))
}
