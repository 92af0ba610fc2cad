//! agentpipe: the io_uring transport engine for stdio agents on Linux.
//!
//! An *agent* is a child process that speaks records on stdin and stdout: Claude Code, an MCP
//! server, a language server. An [`Engine`] spawns agents and carries their pipes on its own
//! threads. Closing an agent takes a bounded time, keeps the output that the agent still has to
//! write, and returns a report.
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
//! - [`AgentCommand`] describes what to spawn: program, environment, [`Framing`], [`Limits`].
//! - [`Engine::spawn`] returns an [`Agent`]; [`Agent::split`] returns its two halves, for two tasks.
//! - [`AgentReader::next`] returns [`Event`]s in order, [`AgentReader::next_record`] only the
//!   [`Record`]s. A record is the bytes of one message; its JSON is parsed when you ask for it.
//! - [`AgentWriter::send`] queues a record whole, or refuses it before a byte is sent.
//! - [`Agent::close`] follows a [`ClosePolicy`] and returns a [`CloseReport`].
//! - [`Engine::shutdown`] closes all agents at once.
//! - [`session`] matches requests and responses over an agent: JSON-RPC, MCP servers with the feature
//!   `mcp`, and Claude Code with the feature `claude`.
//! - [`WarmPool`] keeps idle agents of one command ready.
//! - `LocalEngine` (feature `local`) hosts agents on the caller's own thread.
//!
//! The guide is at [`_docs`] (in the repository: `docs/guide`): the stages of a close, limits, errors,
//! operation. Programs to start from are in `docs/examples`.
//!
//! # Guarantees
//!
//! - Every async call of an engine and its agents has a blocking twin and needs no runtime. Futures
//!   of sessions need no runtime either; their only twin is `close_blocking`.
//! - All futures are cancel-safe.
//! - A close runs in the engine: dropping its future or the handle does not stop it. An agent whose
//!   handles are all dropped is aborted.
//! - One bad record is one event, never the end of the stream.
//! - Every buffer has a limit ([`Limits`]).
//! - Every [`Error`] says what failed, on which agent, and what to do about it where it can.
//!
//! Not guaranteed: that an agent acted on what was written to it.
//!
//! # Requirements
//!
//! Linux 5.10 or later. io_uring carries the pipes from Linux 6.4 on, with single reads before 6.7. On
//! older kernels, and where it is denied, as by the default seccomp profiles of containers, epoll does:
//! see [`Backend`], [`Engine::fallback`] and [`EngineBuilder::require_io_uring`].
//!
//! # Features
//!
//! No feature is on by default.
//!
//! | feature | adds |
//! | --- | --- |
//! | `claude` | `session::claude`, `AgentCommand::claude` |
//! | `mcp` | `session::mcp`, a client of MCP servers of both eras |
//! | `local` | `LocalEngine`, for tokio's current-thread runtime |
//! | `tokio-uring` | `LocalEngine::run`, inside a tokio-uring runtime |
//! | `stream` | `Stream` for readers and sessions, `Sink` for writers |
//! | `serde` | `Serialize` and `Deserialize` for settings, `Serialize` for statistics and reports |
//! | `cli` | the command `agentpipe`: `run`, `doctor`, `fake` |
//! | `bench` | `agentpipe bench` and `agentpipe gate` |
//! | `full` | all of these |

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        mod close;
        mod command;
        mod config;
        mod contain;
        mod counters;
        mod deadline;
        mod error;
        mod exit;
        mod framing;
        #[cfg(test)]
        #[path = "../tests/fuzz/stable.rs"]
        mod fuzz_driver;
        #[cfg(test)]
        #[path = "cli/fake/filter.rs"]
        mod seccomp;
        #[cfg(fuzzing)]
        #[doc(hidden)]
        pub mod fuzz_targets;
        mod io;
        mod json;
        mod origin;
        mod record;
        mod stats;
        mod sync;
        mod trace;

        mod epoll;
        mod frame;
        mod process;
        mod ring;

        mod backend;
        mod transport;

        mod agent;
        mod engine;
        #[cfg(feature = "local")]
        mod local;

        pub mod session;

        #[cfg(feature = "local")]
        pub use agent::Local;
        pub use agent::{Agent, AgentReader, AgentWriter, EngineKind, Remote};
        pub use close::{
            CloseMode, ClosePolicy, CloseReason, CloseReport, CloseStage, ExitStatus, ShutdownReport,
        };
        pub use command::{AgentCommand, ResourceLimit};
        pub use config::{JsonCheck, Limits};
        pub use counters::{AgentStats, Backend, IoCounters, KernelFeatures};
        pub use engine::{Acquired, WarmPool, WarmPoolSettings, WarmPoolStats};
        pub use engine::{Engine, EngineBuilder, EngineMetrics};
        pub use error::{Error, ErrorKind, Result};
        pub use frame::Deframer;
        pub use framing::Framing;
        #[cfg(feature = "local")]
        pub use local::{LocalAgent, LocalAgentReader, LocalAgentWriter, LocalEngine, LocalEngineBuilder};
        pub use record::{Envelope, Event, MalformedReason, Preview, Record, StderrLine};
        pub use stats::{Capacity, CapacityLimit, EngineStats, Histogram};
    } else {
        compile_error!("agentpipe needs Linux");
    }
}

/// The guide: the pages of `docs/guide`, beside the reference.
///
/// Each page begins with the targets that its links have here; in the repository they lead to files.
#[cfg(any(doc, doctest))]
pub mod _docs {
    #[doc = include_str!("../docs/guide/records.md")]
    pub mod records {}

    #[doc = "[operating.md]: crate::_docs::operating\n\n"]
    #[doc = include_str!("../docs/guide/close.md")]
    pub mod close {}

    #[cfg(all(feature = "claude", feature = "mcp"))]
    #[doc = "[claude.md]: crate::_docs::claude\n[mcp.md]: crate::_docs::mcp\n\n"]
    #[doc = include_str!("../docs/guide/sessions.md")]
    pub mod sessions {}

    #[cfg(feature = "mcp")]
    #[doc = include_str!("../docs/guide/mcp.md")]
    pub mod mcp {}

    #[cfg(feature = "claude")]
    #[doc = "[sessions.md]: crate::_docs::sessions\n\n"]
    #[doc = include_str!("../docs/guide/claude.md")]
    pub mod claude {}

    #[doc = include_str!("../docs/guide/security.md")]
    pub mod security {}

    #[doc = "[close.md]: crate::_docs::close\n[containers.md]: crate::_docs::containers\n"]
    #[doc = "[sdk-shim.md]: crate::_docs::sdk_shim\n\n"]
    #[doc = include_str!("../docs/guide/operating.md")]
    pub mod operating {}

    #[doc = "[operating.md]: crate::_docs::operating\n[security.md]: crate::_docs::security\n\n"]
    #[doc = include_str!("../docs/guide/containers.md")]
    pub mod containers {}

    #[cfg(feature = "tokio-uring")]
    #[doc = "[close.md]: crate::_docs::close\n\n"]
    #[doc = include_str!("../docs/guide/local.md")]
    pub mod local {}

    #[doc = include_str!("../docs/guide/sdk-shim.md")]
    pub mod sdk_shim {}

    #[doc = include_str!("../docs/guide/fake.md")]
    pub mod fake {}

    #[doc = "[operating.md]: crate::_docs::operating\n\n"]
    #[doc = include_str!("../docs/guide/latency-gate.md")]
    pub mod latency_gate {}
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
