//! agentpipe: the io_uring transport engine for stdio agents on Linux.
//!
//! An *agent* is a child process that speaks records on stdin and stdout: Claude Code, an MCP
//! server, a language server. An [`Engine`] spawns agents and carries their pipes on threads of
//! its own. `close()` is bounded, keeps what the agent still has to say, and reports what it did.
//!
//! ```
//! use agentpipe::{AgentCommand, Engine};
//!
//! let engine = Engine::new()?;
//! let mut agent = engine.spawn_blocking(AgentCommand::new("cat"))?;
//! agent.send_blocking(r#"{"question":1}"#)?;
//! let answer = agent.next_record_blocking().expect("cat answers");
//! assert_eq!(answer.as_bytes(), br#"{"question":1}"#);
//!
//! let report = agent.close_blocking();
//! assert!(report.exit().success());
//! # Ok::<(), agentpipe::Error>(())
//! ```
//!
//! # Where to begin
//!
//! - [`AgentCommand`] is what to spawn: program, environment, [`Framing`], [`Limits`].
//! - [`Engine::spawn`] gives an [`Agent`]; [`Agent::split`] gives its two halves, for two tasks.
//! - [`AgentReader::next`] gives [`Event`]s, in order; [`AgentReader::next_record`] only the
//!   [`Record`]s. A record is the bytes of one message; its JSON is parsed when you ask for it.
//! - [`AgentWriter::send`] queues a record whole or refuses it before a byte is sent.
//! - [`Agent::close`] follows a [`ClosePolicy`] and gives a [`CloseReport`].
//! - [`Engine::shutdown`] closes all agents at once.
//! - [`session`] is requests and responses over an agent: JSON-RPC, and with the feature `claude`
//!   the control protocol of Claude Code.
//! - [`WarmPool`] keeps spare agents of one command ready.
//! - `LocalEngine` (feature `local`) hosts agents on the caller's own thread.
//!
//! # Promises
//!
//! Every async call of an engine and its agents has a blocking twin and needs no runtime of any
//! kind; so do the futures of sessions, whose only twin is `close_blocking`. All futures are
//! cancel-safe. A close runs in the engine: dropping its future or the handle does not stop it,
//! and an agent whose handles are all dropped is aborted. One bad record is one event, never the
//! end of the stream. Every buffer has a limit ([`Limits`]); every [`Error`] says what failed, on
//! which agent, and where it can, what to do about it.
//!
//! Not promised: that an agent acted on what was written to it.
//!
//! # What it needs
//!
//! Linux 6.7 or later with io_uring allowed: the default seccomp profiles of containers deny it,
//! and then [`Engine::new`] fails with [`ErrorKind::BackendDenied`]. There is no fallback yet.
//!
//! # Floors
//!
//! The crate root only re-exports. Floors, lowest first; a file names lower floors only:
//! F0 config, errors, records, the close policy and report | F1 `ring`, `process`, `frame` |
//! F2 `transport` | F3 `engine`, `local` | F4 `session` | F5 the command line.

mod close;
mod command;
mod config;
mod contain;
mod counters;
mod deadline;
mod error;
mod exit;
mod io;
mod json;
mod origin;
mod record;
mod stats;
mod sync;
mod trace;

mod frame;
mod process;
mod ring;
mod transport;

mod engine;
#[cfg(feature = "local")]
mod local;

pub mod session;

pub use close::{
    CloseMode, ClosePolicy, CloseReason, CloseReport, CloseStage, ExitStatus, ShutdownReport,
};
pub use command::{AgentCommand, ResourceLimit};
pub use config::{Framing, JsonCheck, Limits};
pub use counters::{AgentStats, Backend, IoCounters, KernelFeatures};
pub use engine::{Acquired, WarmPool, WarmPoolSettings, WarmPoolStats};
pub use engine::{Agent, AgentReader, AgentWriter, Engine, EngineBuilder};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "local")]
pub use local::{LocalAgent, LocalAgentReader, LocalAgentWriter, LocalEngine, LocalEngineBuilder};
pub use record::{Envelope, Event, MalformedReason, Preview, Record};
pub use stats::{Capacity, CapacityLimit, EngineStats, Histogram};

/// For benches/frame.rs and benches/spawn.rs, and for nobody else: no release keeps it as it is.
#[cfg(feature = "__bench")]
#[doc(hidden)]
pub mod __bench {
    pub use crate::process::spawn_here;
    pub use crate::transport::RecordPath;
}

/// The long documents: as pages beside the reference, and so that their samples are tested.
///
/// Each begins with the targets that its links have here; in the repository they lead to files.
#[cfg(any(doc, doctest))]
pub mod _docs {
    #[doc = "[records.md]: crate::_docs::records\n[operating.md]: crate::_docs::operating\n\n"]
    #[doc = include_str!("../docs/architecture.md")]
    pub mod architecture {}

    #[doc = include_str!("../docs/records.md")]
    pub mod records {}

    #[doc = include_str!("../docs/close.md")]
    pub mod close {}

    #[doc = "[operating.md]: crate::_docs::operating\n\n"]
    #[doc = include_str!("../docs/kernel.md")]
    pub mod kernel {}

    #[doc = "[kernel.md]: crate::_docs::kernel\n[scale.md]: crate::_docs::scale\n\n"]
    #[doc = include_str!("../docs/operating.md")]
    pub mod operating {}

    #[doc = include_str!("../docs/scale.md")]
    pub mod scale {}

    #[doc = include_str!("../docs/fake.md")]
    pub mod fake {}

    #[cfg(feature = "claude")]
    #[doc = "[claude.md]: crate::_docs::claude\n\n"]
    #[doc = include_str!("../docs/sessions.md")]
    pub mod sessions {}

    #[doc = "[close.md]: crate::_docs::close\n[kernel.md]: crate::_docs::kernel\n"]
    #[doc = "[scale.md]: crate::_docs::scale\n"]
    #[cfg_attr(feature = "tokio-uring", doc = "[local.md]: crate::_docs::local\n\n")]
    #[doc = include_str!("../docs/benchmarks.md")]
    pub mod benchmarks {}

    #[doc = "[operating.md]: crate::_docs::operating\n[benchmarks.md]: crate::_docs::benchmarks\n\n"]
    #[doc = include_str!("../docs/latency-ci.md")]
    pub mod latency_ci {}

    #[cfg(feature = "claude")]
    #[doc = "[sessions.md]: crate::_docs::sessions\n\n"]
    #[doc = include_str!("../docs/claude.md")]
    pub mod claude {}

    #[cfg(feature = "tokio-uring")]
    #[doc = "[close.md]: crate::_docs::close\n\n"]
    #[doc = include_str!("../docs/local.md")]
    pub mod local {}

    #[doc = include_str!("../docs/unsafe.md")]
    pub mod unsafe_code {}
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
