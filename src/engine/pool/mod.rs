//! Floor 3: spare agents of one command, spawned before they are asked for.
//!
//! `pool.rs` holds the spares and says what becomes of each, `spare.rs` is one of them, `room.rs`
//! lets a spawn go before them. No thread is theirs: whatever takes a while (looking at the file,
//! spawning, what is due by age) is done by the spawning threads, and the engine tells of an exit
//! through a waker.

mod pool;
mod room;
mod settings;
mod spare;
mod stats;

use std::fmt;
use std::sync::Arc;

use crate::command::AgentCommand;
use crate::error::Result;
use crate::process::open_parcel;

use super::agent::Agent;
use super::handle::Engine;

use pool::Pool;
pub(super) use room::{Pools, spawn_before_spares};
pub use settings::WarmPoolSettings;
pub use stats::WarmPoolStats;

/// Keeps spare agents of one exact command ready, because some take seconds to begin. Cheap to
/// clone.
///
/// A spare is handed out once and belongs to whoever took it: it never comes back and is never
/// passed on. It is closed instead of handed out when it is too old
/// ([`WarmPoolSettings::max_age`]), when it has ended, or when its command would run another file or
/// with another environment by now. What the file itself loads is not looked at: the age bounds that.
///
/// Taken or closed ones are replaced in the background, one that ended young or could not be
/// spawned only with the next [`take`](Self::take): a program that ends at once is not started
/// over and over.
///
/// Spares are agents of the engine: they count for
/// [`max_agents`](super::EngineBuilder::max_agents), [`Engine::agents`] and the stats. But a spawn
/// that finds a limit reached closes spares to make room, whosever they are, and none is spawned
/// for a place that a spawn waits for.
///
/// Dropping the last one closes all spares by the command's
/// [`close_policy`](AgentCommand::close_policy), inside the engine and within its worst case. It
/// keeps the engine's threads, as an [`Agent`] does.
///
/// ```
/// use agentpipe::{AgentCommand, Engine, WarmPool, WarmPoolSettings};
///
/// let engine = Engine::new()?;
/// let warm = WarmPool::new(&engine, AgentCommand::new("cat"), WarmPoolSettings::new().size(2));
/// let mut agent = warm.acquire_blocking()?.agent;
/// agent.send_blocking(r#"{"question":1}"#)?;
/// assert!(agent.next_record_blocking().is_some());
/// agent.close_blocking();
/// # Ok::<(), agentpipe::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WarmPool {
    owner: Arc<Owner>,
}

/// With the last of these no spare is wanted any more.
struct Owner(Arc<Pool>);

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owner").field(&self.0.stats()).finish()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// An agent, and whether it stood ready.
#[derive(Debug)]
#[non_exhaustive]
pub struct Acquired {
    /// The agent, and nobody else's.
    pub agent: Agent,
    /// It was a spare. False: there was none that would do, and this one was spawned now.
    pub warm: bool,
}

/// Replaces what was taken, whatever becomes of the take.
struct Refill<'a>(&'a Arc<Pool>);

impl Drop for Refill<'_> {
    fn drop(&mut self) {
        self.0.refill();
    }
}

impl WarmPool {
    /// Begins to spawn spares of this command, in the background.
    #[must_use]
    pub fn new(engine: &Engine, command: AgentCommand, settings: WarmPoolSettings) -> Self {
        let pool = Pool::new(Arc::clone(&engine.inner), command, settings);
        engine.inner.pools.add(&pool);
        pool.refill();
        Self { owner: Arc::new(Owner(pool)) }
    }

    /// Gives the oldest spare that will do, or spawns an agent where there is none.
    ///
    /// A spare costs a search for the program's file, on a thread of the engine. What it wrote
    /// before comes first (see [`WarmPoolSettings::discard_startup_output`]). It was alive at that
    /// moment as far as the engine had seen; as any agent it may end at the next.
    ///
    /// Cancel-safe: a spare that was on its way to a future that is dropped is closed.
    ///
    /// # Errors
    /// As [`Engine::spawn`].
    pub async fn acquire(&self) -> Result<Acquired> {
        let pool = &self.owner.0;
        pool.engine.check()?;
        let _replaced = Refill(pool);
        let picking = Arc::clone(pool);
        let parcel = pool.engine.spawner.ask(move || Ok(picking.pick())).wait().await;
        let picked = parcel.and_then(|parcel| open_parcel(&parcel));
        let engine = Engine { inner: Arc::clone(&pool.engine) };
        if let Some(spare) = picked.unwrap_or_else(|| Err(engine.gone()))? {
            return Ok(Acquired { agent: spare.hand_out(), warm: true });
        }
        let agent = engine.spawn(pool.command.clone()).await?;
        pool.count(|counts| counts.misses += 1);
        Ok(Acquired { agent, warm: false })
    }

    /// [`take`](Self::take) for callers without a runtime. Blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn acquire_blocking(&self) -> Result<Acquired> {
        pollster::block_on(self.acquire())
    }

    /// Asks for the spares that are missing, as every take does. Does not wait.
    pub fn refill(&self) {
        self.owner.0.refill();
    }

    /// What became of the spares so far.
    #[must_use]
    pub fn stats(&self) -> WarmPoolStats {
        self.owner.0.stats()
    }
}
