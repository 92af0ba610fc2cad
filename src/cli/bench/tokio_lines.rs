//! F5, bench: the peer of `throughput`, as most hosts read: tokio's `lines()` on one thread.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::Receiver;
use tokio::runtime::{Builder, Runtime};

use super::patience::PATIENCE;
use super::plain::{Plain, timed};
use super::scenario::Failed;

/// A child's lines; it has said one already.
pub(super) struct TokioLines {
    runtime: Runtime,
    lines: Lines<BufReader<Receiver>>,
    /// It does not outlive its lines.
    _child: Plain,
}

impl TokioLines {
    pub(super) fn of(mut child: Plain) -> Failed<Self> {
        let say = |error: std::io::Error| error.to_string();
        let runtime = Builder::new_current_thread().enable_all().build().map_err(say)?;
        let stdout = OwnedFd::from(child.stdout()?);
        let entered = runtime.enter();
        let lines = BufReader::new(Receiver::from_owned_fd(stdout).map_err(say)?).lines();
        drop(entered);
        let mut lines = Self { runtime, lines, _child: child };
        lines.take(1, |_| Ok(()))?;
        Ok(lines)
    }

    /// How long it takes to look at so many.
    pub(super) fn take(
        &mut self,
        count: u64,
        look: impl Fn(&str) -> Failed<()>,
    ) -> Failed<Duration> {
        let Self { runtime, lines, .. } = self;
        let all = async {
            for _ in 0..count {
                match lines.next_line().await {
                    Ok(Some(line)) => look(&line)?,
                    Ok(None) => return Err("the output ended".to_owned()),
                    Err(error) => return Err(error.to_string()),
                }
            }
            Ok(())
        };
        let late = |_| format!("the lines did not come within {} s", PATIENCE.as_secs());
        let bounded = async { tokio::time::timeout(PATIENCE, all).await.map_err(late)? };
        Ok(timed(|| runtime.block_on(bounded))?.0)
    }
}
