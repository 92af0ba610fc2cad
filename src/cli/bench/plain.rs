//! F5, bench: what the limits do with a plain child. Bounded, as everything.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::scenario::Failed;

/// The longest that a plain child may take for anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

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
    pub(super) fn stdout(&mut self) -> Failed<ChildStdout> {
        self.0.stdout.take().ok_or_else(|| "stdout was taken before".to_owned())
    }

    /// Closes stdin, reads to the end and reaps: how many bytes came.
    pub(super) fn end(&mut self) -> Failed<u64> {
        let failed = |error: std::io::Error| error.to_string();
        let gone = watch(self.0.id())?;
        drop(self.0.stdin.take());
        let mut stdout = self.0.stdout.take();
        let (mut bytes, mut buffer) = (0, vec![0; 64 << 10]);
        let until = Instant::now() + PATIENCE;
        loop {
            let Some(output) = &mut stdout else {
                await_ready(&gone, until)?;
                self.0.wait().map_err(failed)?;
                return Ok(bytes);
            };
            await_ready(&*output, until)?;
            match output.read(&mut buffer).map_err(failed)? {
                0 => stdout = None,
                count => bytes += count as u64,
            }
        }
    }

    /// Waits until the pipe holds all that it can: then its writer is blocked.
    pub(super) fn await_full(&self) -> Failed<()> {
        let stdout = self.0.stdout.as_ref().ok_or("stdout was taken before")?;
        let until = Instant::now() + PATIENCE;
        while ioctl_fionread(stdout).map_err(|error| error.to_string())? < 60_000 {
            await_ready(stdout, until)?;
            std::thread::yield_now();
        }
        Ok(())
    }
}

/// Readable once the process has ended.
fn watch(pid: u32) -> Failed<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or("a process id beyond the kernel's")?;
    pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| format!("the agent left before it was closed: {error}"))
}

/// Sees that a process stays for this long.
pub(super) fn stays(pid: u32, time: Duration) -> Failed<()> {
    let gone = watch(pid)?;
    let limit = Timespec::try_from(time).map_err(|error| error.to_string())?;
    match poll(&mut [PollFd::new(&gone, PollFlags::IN)], Some(&limit)) {
        Ok(0) => Ok(()),
        Ok(_) => Err("the agent left before it was closed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn await_ready(what: impl AsFd, until: Instant) -> Failed<()> {
    let left = until.saturating_duration_since(Instant::now());
    let limit = Timespec::try_from(left).map_err(|error| error.to_string())?;
    let mut wanted = [PollFd::new(&what, PollFlags::IN)];
    match poll(&mut wanted, Some(&limit)) {
        Ok(0) => Err(format!(
            "the agent as a plain child did not end or write within {} s of the end of its input",
            PATIENCE.as_secs()
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// How long it took.
pub(super) fn timed<T>(act: impl FnOnce() -> Failed<T>) -> Failed<(Duration, T)> {
    let start = Instant::now();
    let value = act()?;
    Ok((start.elapsed(), value))
}
