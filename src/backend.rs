//! Chooses the backend of a driver: io_uring, or epoll where the host has no io_uring for this process.

use std::env;
use std::sync::Arc;

use crate::counters::{Backend, KernelFeatures};
use crate::epoll::Epoll;
use crate::error::{Error, ErrorKind, Result};
use crate::io::PipeIo;
use crate::ring::{Ring, RingConfig};

/// Decides for every engine whose program leaves the choice to [`Backend::Auto`].
const VARIABLE: &str = "AGENTPIPE_BACKEND";

/// The backends that an engine may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    backend: Backend,
    /// A ring may use multishot reads.
    multishot: bool,
}

impl Choice {
    /// # Errors
    /// [`InvalidSettings`](ErrorKind::InvalidSettings) if the variable has an unknown value.
    pub(crate) fn new(backend: Backend) -> Result<Self> {
        let choice = |backend, multishot| Ok(Self { backend, multishot });
        let Some(name) = env::var_os(VARIABLE).filter(|_| backend == Backend::Auto) else {
            return choice(backend, true);
        };
        match name.to_str() {
            Some("auto" | "") => choice(Backend::Auto, true),
            Some("io_uring") => choice(Backend::IoUring, true),
            Some("io_uring_single") => choice(Backend::IoUring, false),
            Some("epoll") => choice(Backend::Epoll, true),
            _ => {
                let what = format!("{VARIABLE} is {}", name.display());
                let remedy = "set it to auto, io_uring, io_uring_single or epoll";
                Err(Error::new(ErrorKind::InvalidSettings, "start", what).remedy(remedy))
            }
        }
    }

    /// Returns the choice for the other threads of an engine whose first one has this backend.
    pub(crate) fn like(self, found: &Found) -> Self {
        Self { backend: found.features.backend, ..self }
    }
}

/// What an engine has found when it started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) features: KernelFeatures,
    /// Why it is not io_uring, if that was tried.
    pub(crate) fallback: Option<Arc<str>>,
}

/// Opens a backend on the calling thread.
///
/// # Errors
/// See [`EngineBuilder::build`](crate::EngineBuilder::build).
pub(crate) fn open(choice: Choice, config: &RingConfig) -> Result<(Box<dyn PipeIo>, Found)> {
    if choice.backend == Backend::Epoll {
        return open_epoll(config, None);
    }
    let config = RingConfig { multishot: config.multishot && choice.multishot, ..*config };
    match Ring::new(&config) {
        Ok(ring) => {
            let found = Found { features: ring.kernel_features(), fallback: None };
            Ok((Box::new(ring), found))
        }
        Err(error) if choice.backend == Backend::Auto && is_of_io_uring(&error) => {
            let reason = error.to_string();
            crate::trace::warn!(reason, "no io_uring for this process: epoll carries the pipes");
            open_epoll(&config, Some(reason.into()))
        }
        Err(error) => Err(error),
    }
}

fn open_epoll(config: &RingConfig, fallback: Option<Arc<str>>) -> Result<(Box<dyn PipeIo>, Found)> {
    let epoll = Epoll::new(config.window)?;
    Ok((Box::new(epoll), Found { features: Epoll::features(), fallback }))
}

/// Whether another backend may work where the ring failed. A lack of descriptors meets both.
fn is_of_io_uring(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::BackendDenied | ErrorKind::BackendUnsupported => true,
        // RLIMIT_MEMLOCK counts the memory of rings, and of nothing else here.
        ErrorKind::ResourceLimit => error.raw_os_error() == Some(libc::ENOMEM),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The tests of the ring are skipped where io_uring is denied, and the others run on epoll. Without this
    // test a ring that is refused by mistake would pass unseen.
    #[test]
    fn auto_takes_io_uring_where_the_kernel_gives_a_ring() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let version = (numbers.next().unwrap().unwrap(), numbers.next().unwrap().unwrap());
        let has_ring = version >= (6, 4) && !crate::ring::is_denied();
        let choice = Choice { backend: Backend::Auto, multishot: true };
        let (_, found) = open(choice, &RingConfig::default()).expect("a backend");
        assert_eq!(found.features.backend == Backend::IoUring, has_ring, "{found:?} on {release}");
        assert_eq!(found.fallback.is_none(), has_ring, "{found:?}");
    }
}
