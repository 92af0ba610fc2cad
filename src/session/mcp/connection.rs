//! One run of the server: its session, and how the first requests find out its era.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use crate::close::CloseReason;
use crate::command::AgentCommand;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::session::executor::{Executor, with_deadline};
use crate::session::jsonrpc::{Cancellation, JsonRpcProtocol, call};
use crate::session::protocol::Observer;
use crate::session::{Session, SessionSetup};

use super::bus::{Bus, Notify};
use super::era::{Era, Identity, LEGACY, MODERN, Object, Probed, Server, initialized, probed};

/// What is needed to start the server, again and again.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) engine: Engine,
    pub(super) command: AgentCommand,
    pub(super) setup: SessionSetup,
    pub(super) identity: Identity,
    pub(super) probe_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) input_rounds_max: u32,
    pub(super) on_notification: Option<Notify>,
}

/// A server that runs, and whose era is known.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: Session,
    pub(super) server: Server,
    pub(super) bus: Arc<Bus>,
}

/// A server that runs.
struct Spawned {
    session: Session,
    bus: Arc<Bus>,
}

impl Launch {
    /// Starts the server and finds out its era, unless that is known.
    pub(super) async fn connect(&self, known: Option<Era>) -> Result<Connection> {
        let spawned = self.spawn().await?;
        match known {
            Some(Era::Legacy) => self.initialize(spawned, LEGACY[0]).await,
            Some(Era::Modern) => match probed(self.discover(&spawned.session).await) {
                Probed::Modern(server) => Ok(spawned.modern(server)),
                Probed::Failed(error) => Err(error),
                Probed::Legacy(_) => {
                    let what = "the server is not of the modern era, which Builder::era names";
                    Err(Error::new(ErrorKind::AgentError, "connect", what))
                }
            },
            None => self.probe(spawned).await,
        }
    }

    /// Starts the server again. A server of the modern era keeps no state, so nothing is sent to it.
    pub(super) async fn reconnect(&self, known: &Server) -> Result<Connection> {
        let spawned = self.spawn().await?;
        match known.era() {
            Era::Modern => Ok(spawned.modern(known.clone())),
            Era::Legacy => self.initialize(spawned, LEGACY[0]).await,
        }
    }

    async fn spawn(&self) -> Result<Spawned> {
        let agent = self.engine.spawn(self.command.clone()).await?;
        let is_modern = Arc::new(AtomicBool::new(false));
        let mut protocol = JsonRpcProtocol::new(Cancellation::Mcp);
        protocol.is_one_way = Some(Arc::clone(&is_modern));
        let bus = Arc::new(Bus::new(is_modern, self.on_notification.clone()));
        let observer = Arc::clone(&bus) as Arc<dyn Observer>;
        let session = self.setup.clone().attach(agent, Box::new(protocol), Some(observer))?;
        Ok(Spawned { session, bus })
    }

    async fn discover(&self, session: &Session) -> Result<Record> {
        let mut params = Object::new();
        self.identity.stamp(MODERN[0], &mut params)?;
        session.request_with_timeout("server/discover", params, self.connect_timeout).await
    }

    async fn probe(&self, spawned: Spawned) -> Result<Connection> {
        let session = spawned.session.clone();
        let executor = Executor::get()?;
        let mut discover = pin!(self.discover(&session));
        let limit = executor.now() + self.probe_timeout;
        match with_deadline(&executor, limit, discover.as_mut()).await.map(probed) {
            Some(Probed::Modern(server)) => Ok(spawned.modern(server)),
            Some(Probed::Legacy(version)) => self.initialize(spawned, version).await,
            // Some servers of the legacy era end if the first request is not `initialize`.
            Some(Probed::Failed(error)) if has_ended_by_itself(&session, &error).await => {
                self.initialize(self.spawn().await?, LEGACY[0]).await
            }
            Some(Probed::Failed(error)) => Err(error),
            None => self.probe_both(spawned, &executor, discover).await,
        }
    }

    /// The server has not answered in the time of the probe: it ignores the method, or it has not
    /// started yet. So both questions are open from here on, and the first good answer counts.
    async fn probe_both(
        &self,
        spawned: Spawned,
        executor: &Arc<Executor>,
        mut discover: Pin<&mut (impl Future<Output = Result<Record>> + Send)>,
    ) -> Result<Connection> {
        let session = spawned.session.clone();
        let mut initialize = pin!(self.ask_initialize(&session, LEGACY[0]));
        let first = poll_fn(|context| match discover.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Ok(probed(answer))),
            Poll::Pending => initialize.as_mut().poll(context).map(Err),
        });
        match first.await {
            Ok(Probed::Modern(server)) => Ok(spawned.modern(server)),
            Ok(Probed::Failed(error)) => Err(error),
            Ok(Probed::Legacy(_)) => spawned.legacy(initialize.await?).await,
            Err(Ok(server)) => spawned.legacy(server).await,
            // A server of the modern era refuses `initialize`. Its other answer is on the way.
            Err(Err(refused)) => {
                let limit = executor.now() + self.probe_timeout;
                match with_deadline(executor, limit, discover).await.map(probed) {
                    Some(Probed::Modern(server)) => Ok(spawned.modern(server)),
                    _ => Err(refused),
                }
            }
        }
    }

    async fn initialize(&self, spawned: Spawned, version: &str) -> Result<Connection> {
        let server = self.ask_initialize(&spawned.session, version).await?;
        spawned.legacy(server).await
    }

    async fn ask_initialize(&self, session: &Session, version: &str) -> Result<Server> {
        let params = self.identity.handshake(version)?;
        let about =
            session.request_with_timeout("initialize", params, self.connect_timeout).await?;
        initialized(&about)
    }
}

impl Spawned {
    fn modern(self, server: Server) -> Connection {
        self.bus.is_modern.store(true, Ordering::Release);
        Connection { session: self.session, server, bus: self.bus }
    }

    async fn legacy(self, server: Server) -> Result<Connection> {
        self.session.send(call(None, "notifications/initialized", b"null")).await?;
        Ok(Connection { session: self.session, server, bus: self.bus })
    }
}

impl Connection {
    /// Returns why the server can take no request; `None` while it can.
    pub(super) fn end(&self) -> Option<Error> {
        self.session.close_reason().or_else(|| {
            // The session is about to learn of it.
            let report = self.session.close_report()?;
            let what = format!("the agent ended: {}", report.exit());
            let error = self.session.state().error(ErrorKind::Closed, what);
            Some(error.exit(report.exit()).stderr(report.stderr_tail()))
        })
    }
}

/// How long a server that has closed its stdin may take to end.
const END_MAX: Duration = Duration::from_secs(1);

/// Returns whether a request failed because the server ended, and not because of a close.
pub(super) async fn has_ended_by_itself(session: &Session, error: &Error) -> bool {
    let report = match (error.kind(), Executor::get()) {
        (ErrorKind::Closed, _) => Some(session.closed().await),
        // A server that ends closes its stdin first, and a write may see that before the exit.
        (ErrorKind::InputEnded, Ok(executor)) => {
            with_deadline(&executor, executor.now() + END_MAX, session.closed()).await
        }
        _ => None,
    };
    let by_itself = [CloseReason::Exited, CloseReason::OutputEnded];
    report.is_some_and(|report| by_itself.contains(&report.reason()))
}
