//! Floor 3. A local engine with a tokio-uring runtime around it.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

use super::builder::LocalEngineBuilder;
use super::engine::LocalEngine;

impl LocalEngineBuilder {
    /// Starts a tokio-uring runtime with an engine on this thread, runs `program` in it, aborts
    /// the agents it left open, and ends both. Inside, tokio-uring's files and sockets work
    /// as in `tokio_uring::start`.
    ///
    /// # Errors
    /// As [`build`](Self::build), and where tokio-uring gets no ring of its own.
    ///
    /// # Panics
    /// Inside a runtime.
    pub fn run<T>(self, program: impl AsyncFnOnce(LocalEngine) -> T) -> Result<T> {
        // First, because its refusals say what to do.
        let ring = self.open()?;
        let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(|error| {
            Error::new(ErrorKind::ResourceLimit, "start", "tokio-uring did not start")
                .cause(error)
                .remedy("raise RLIMIT_MEMLOCK and RLIMIT_NOFILE: it has a ring of its own")
        })?;
        runtime.block_on(async {
            let engine = self.attach(ring)?;
            let outcome = program(engine.clone()).await;
            engine.shutdown(Duration::ZERO).await;
            Ok(outcome)
        })
    }
}

impl LocalEngine {
    /// [`LocalEngineBuilder::run`] with the default settings.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn run<T>(program: impl AsyncFnOnce(Self) -> T) -> Result<T> {
        Self::builder().run(program)
    }
}
