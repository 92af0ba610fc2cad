//! A local engine with a tokio-uring runtime around it.

use std::io;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

use super::{LocalEngine, LocalEngineBuilder};

impl LocalEngineBuilder {
    /// Starts a tokio-uring runtime with an engine on this thread, runs `program` in it, aborts
    /// the agents that it left open, and ends both. Inside, tokio-uring's files and sockets work
    /// as in `tokio_uring::start`.
    ///
    /// # Errors
    /// See [`build`](Self::build). tokio-uring has a ring of its own, whatever the backend of the engine:
    /// [`BackendDenied`](ErrorKind::BackendDenied) or [`BackendUnsupported`](ErrorKind::BackendUnsupported)
    /// where io_uring is denied or missing, [`ResourceLimit`](ErrorKind::ResourceLimit) at a limit.
    ///
    /// # Panics
    /// Inside a runtime.
    pub fn run<T>(self, program: impl AsyncFnOnce(LocalEngine) -> T) -> Result<T> {
        // First, because its errors say what to do.
        let opened = self.open()?;
        let runtime = ::tokio_uring::Runtime::new(&::tokio_uring::builder()).map_err(refused)?;
        runtime.block_on(async {
            let engine = self.start(opened)?;
            let outcome = program(engine.clone()).await;
            // This runs inside the runtime, which drives the task that carries it out.
            engine.shutdown(Duration::ZERO).await;
            Ok(outcome)
        })
    }
}

impl LocalEngine {
    /// Runs `program` with the default settings. See [`LocalEngineBuilder::run`].
    ///
    /// # Errors
    /// See [`LocalEngineBuilder::run`].
    ///
    /// # Panics
    /// Inside a runtime.
    pub fn run<T>(program: impl AsyncFnOnce(Self) -> T) -> Result<T> {
        Self::builder().run(program)
    }
}

/// Converts the error of a runtime that gets no ring.
fn refused(error: io::Error) -> Error {
    const DENIED: &str = "tokio-uring needs io_uring: use LocalEngine::new inside tokio's LocalSet";
    let (kind, remedy) = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => (ErrorKind::BackendDenied, DENIED),
        Some(libc::ENOSYS) => (ErrorKind::BackendUnsupported, DENIED),
        _ => (
            ErrorKind::ResourceLimit,
            "raise RLIMIT_MEMLOCK and RLIMIT_NOFILE: it has a ring of its own",
        ),
    };
    Error::new(kind, "start", "tokio-uring did not start").cause(error).remedy(remedy)
}
