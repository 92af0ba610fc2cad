//! The current run of the server, and the next one if it ends.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::origin::foreign;
use crate::session::executor::{Executor, with_deadline};
use crate::sync::SetOnce;

use super::connection::{Connection, Launch, has_ended_by_itself};

/// The pause before the second restart within [`RestartLimit::within`]. It doubles with each further
/// one; the first restart comes at once.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How often a server may be restarted.
#[derive(Clone, Copy, Debug)]
pub(super) struct RestartLimit {
    pub(super) max: u32,
    pub(super) within: Duration,
}

/// The restarts of the last time. Pure.
#[derive(Debug, Default)]
struct RestartHistory(VecDeque<Instant>);

impl RestartHistory {
    /// Takes one restart and returns the pause before it; `None` if there were too many.
    fn take(&mut self, limit: RestartLimit, now: Instant) -> Option<Duration> {
        let is_old = |at: &Instant| now.saturating_duration_since(*at) >= limit.within;
        while self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
        let before = u32::try_from(self.0.len()).ok().filter(|count| *count < limit.max)?;
        self.0.push_back(now);
        let doubled = |doublings| PAUSE.saturating_mul(2_u32.saturating_pow(doublings));
        Some(before.checked_sub(1).map_or(Duration::ZERO, doubled).min(PAUSE_MAX))
    }
}

/// A restart under way. All calls that need the server wait for the same one.
type Restart = Arc<SetOnce<Result<Arc<Connection>>>>;

/// The link to the server, whichever run of it is current.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) launch: Arc<Launch>,
    limit: RestartLimit,
    executor: Arc<Executor>,
    state: Mutex<LinkState>,
    /// Set once by the close of the client.
    closed: Arc<SetOnce<()>>,
}

#[derive(Debug)]
struct LinkState {
    /// The last run of the server that was reached. It may have ended.
    current: Arc<Connection>,
    restart: Option<Restart>,
    history: RestartHistory,
    restarts: u64,
}

impl Link {
    pub(super) fn new(launch: Launch, first: Connection, limit: RestartLimit) -> Result<Arc<Self>> {
        let state = LinkState {
            current: Arc::new(first),
            restart: None,
            history: RestartHistory::default(),
            restarts: 0,
        };
        Ok(Arc::new(Self {
            launch: Arc::new(launch),
            limit,
            executor: Executor::get()?,
            state: Mutex::new(state),
            closed: Arc::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        // No code that holds this lock panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the last run of the server, and the number of restarts.
    pub(super) fn current(&self) -> (Arc<Connection>, u64) {
        let state = self.lock();
        (Arc::clone(&state.current), state.restarts)
    }

    /// Returns a run of the server that has not ended, as far as this process knows. Restarts the
    /// server if it has to.
    pub(super) async fn live(self: &Arc<Self>) -> Result<Arc<Connection>> {
        // In a forked child the lock may be held for good.
        if !self.closed.is_here() {
            return Err(foreign("request"));
        }
        loop {
            let (current, _) = self.current();
            let Some(reason) = current.end() else { return Ok(current) };
            // A run that has closed its stdout is waited for, so that no two of them are there.
            if self.closed.get().is_some() || !has_ended_by_itself(&current.session, &reason).await
            {
                return Err(reason);
            }
            let Some(restart) = self.restart(&current, &reason)? else { continue };
            return restart.wait().await.unwrap_or_else(|| Err(foreign("request")));
        }
    }

    /// Joins the restart that is under way, or begins one. `None` if there is a new run already.
    fn restart(self: &Arc<Self>, ended: &Arc<Connection>, why: &Error) -> Result<Option<Restart>> {
        let (restart, pause) = {
            let mut state = self.lock();
            if !Arc::ptr_eq(&state.current, ended) {
                return Ok(None);
            }
            if let Some(restart) = &state.restart {
                return Ok(Some(Arc::clone(restart)));
            }
            let pause = state.history.take(self.limit, self.executor.now());
            let pause = pause.ok_or_else(|| self.too_often(why))?;
            let restart = Restart::default();
            state.restart = Some(Arc::clone(&restart));
            (restart, pause)
        };
        let task = RestartTask {
            link: Arc::downgrade(self),
            ended: Arc::clone(ended),
            restart: Arc::clone(&restart),
        };
        let (launch, executor) = (Arc::clone(&self.launch), Arc::clone(&self.executor));
        let closed = Arc::clone(&self.closed);
        // A task of its own: the call that found the server gone may be dropped, and others wait.
        self.executor.spawn(Box::pin(task.run(launch, executor, closed, pause)));
        Ok(Some(restart))
    }

    fn too_often(&self, why: &Error) -> Error {
        let RestartLimit { max, within } = self.limit;
        match max {
            0 => why.clone(),
            _ => {
                let what =
                    format!("the server ended again, after {max} restarts within {within:?}");
                why.with_what("restart", what).remedy("see its stderr, or raise Builder::restarts")
            }
        }
    }

    /// Lets no restart begin, and gives up one that is under way.
    pub(super) fn close(&self) -> Arc<Connection> {
        self.closed.set(());
        self.current().0
    }
}

/// The last handle is gone. A restart that is under way would start a server for no caller.
impl Drop for Link {
    fn drop(&mut self) {
        self.closed.set(());
    }
}

/// A restart. However its task ends, those who wait hear of it.
struct RestartTask {
    link: Weak<Link>,
    ended: Arc<Connection>,
    restart: Restart,
}

impl RestartTask {
    async fn run(
        self,
        launch: Arc<Launch>,
        executor: Arc<Executor>,
        closed: Arc<SetOnce<()>>,
        pause: Duration,
    ) {
        let mut closed = pin!(closed.wait());
        let mut work = pin!(async {
            let _over = with_deadline(&executor, executor.now() + pause, pending::<()>()).await;
            launch.reconnect(&self.ended.server).await
        });
        let outcome = poll_fn(|context| match closed.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => work.as_mut().poll(context).map(Some),
        });
        if let Some(outcome) = outcome.await {
            self.finish(outcome.map(Arc::new));
        }
    }

    fn finish(&self, outcome: Result<Arc<Connection>>) {
        if let Some(link) = self.link.upgrade() {
            let mut state = link.lock();
            state.restart = None;
            // A close looks for the current run after it has set `closed`, so it either finds this run
            // there, or this run is dropped here.
            if let (Ok(connection), None) = (&outcome, link.closed.get()) {
                state.current = Arc::clone(connection);
                state.restarts += 1;
            }
        }
        self.restart.set(outcome);
    }
}

impl Drop for RestartTask {
    fn drop(&mut self) {
        // Without effect if the restart has its outcome.
        if self.restart.get().is_none() {
            let what = "the client was closed while its server was restarted";
            self.finish(Err(Error::new(ErrorKind::Closed, "restart", what)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_limited_within_a_time() {
        // A server that ends over and over must neither spin nor be given up for good.
        let limit = RestartLimit { max: 4, within: Duration::from_secs(60) };
        let (begun, mut history) = (Instant::now(), RestartHistory::default());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let pauses: Vec<_> = (0..5).map(|second| history.take(limit, at(second))).collect();
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(pauses, [millis(0), millis(100), millis(200), millis(400), None]);
        assert_eq!(history.take(limit, at(59)), None);
        assert_eq!(history.take(limit, at(61)), millis(200), "two of four are old");
        assert_eq!(history.take(limit, at(1000)), millis(0));
        let never = RestartLimit { max: 0, within: Duration::from_secs(60) };
        assert_eq!(RestartHistory::default().take(never, begun), None);
        let many = RestartLimit { max: u32::MAX, within: Duration::MAX };
        let pause = (0..100).filter_map(|_| history.take(many, at(1000))).last();
        assert_eq!(pause, Some(PAUSE_MAX));
    }
}
