//! Floor 3. One spare: an agent that nobody has yet.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::close::ClosePolicy;
use crate::close::CloseReason;
use crate::deadline;
use crate::process::Meaning;
use crate::record::Event;
use crate::transport::Line;

use super::super::agent::Agent;
use super::super::writer::AgentWriter;
use super::pool::Pool;

pub(super) struct Spare {
    agent: Agent,
    /// What its command meant when it was spawned.
    meaning: Meaning,
    born: Instant,
    /// Kept so that its waker is; dropped, it is forgotten.
    _watch: Pin<Box<dyn Future<Output = CloseReason> + Send>>,
}

/// Why a spare is not handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    Ended,
    Stale,
    Changed,
}

impl Spare {
    /// `watcher` is woken when it ends, or begins to be closed.
    pub(super) fn new(
        agent: Agent,
        meaning: Meaning,
        watcher: Arc<impl Wake + Send + Sync + 'static>,
    ) -> Self {
        let writer = agent.writer().clone();
        let mut watch: Pin<Box<dyn Future<Output = CloseReason> + Send>> =
            Box::pin(async move { writer.closing().await });
        let waker = Waker::from(watcher);
        if watch.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            // It is over already.
            waker.wake();
            watch = Box::pin(std::future::pending());
        }
        Self { agent, meaning, born: Instant::now(), _watch: watch }
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    pub(super) fn due(&self, max_age: Duration) -> Instant {
        deadline::after(self.born, max_age)
    }

    /// Why its close began, if it did.
    pub(super) fn ended(&self) -> Option<CloseReason> {
        self.agent.writer().control.channel().close_reason()
    }

    /// Whether it will do, for somebody who means this now.
    pub(super) fn check(
        &self,
        meaning: Option<&Meaning>,
        max_age: Duration,
        now: Instant,
    ) -> Result<(), Unfit> {
        match () {
            () if self.ended().is_some() => Err(Unfit::Ended),
            () if self.due(max_age) <= now => Err(Unfit::Stale),
            () if Some(&self.meaning) != meaning => Err(Unfit::Changed),
            () => Ok(()),
        }
    }

    /// Drops what it wrote: how many records that was.
    pub(super) fn silence(&mut self) -> u64 {
        let mut records = 0;
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(event)) = self.agent.poll_next(&mut context) {
            records += u64::from(matches!(event, Event::Record(_)));
        }
        records
    }

    /// Closes it in the engine, whether or not it has begun to end by itself.
    pub(super) fn close(self, policy: ClosePolicy) -> AgentWriter {
        let writer = self.agent.writer().clone();
        match self.ended() {
            // That close has its own policy.
            Some(_) => writer.control.let_go(),
            None => writer.control.close_unattended(policy),
        }
        writer
    }
}

/// A spare on its way to whoever takes it. If nobody does, it is closed: it may have been seen.
pub(super) struct Handed {
    spare: Option<Spare>,
    pool: Arc<Pool>,
}

impl Handed {
    pub(super) fn new(spare: Spare, pool: Arc<Pool>) -> Self {
        Self { spare: Some(spare), pool }
    }

    pub(super) fn hand_out(mut self) -> Agent {
        let spare = self.spare.take().expect("taken once, by value");
        self.pool.count(|counts| counts.warm += 1);
        spare.agent
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take()
            && self.pool.is_here()
        {
            self.pool.count(|counts| counts.unused += 1);
            spare.close(self.pool.command.close);
            self.pool.refill();
        }
    }
}
