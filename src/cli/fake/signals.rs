//! The SIGTERM handlers of the fake, and its only wait.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGTERM;

use super::args::FakeArgs;

/// The state of a handled SIGTERM. Without one of the options the default action applies.
#[derive(Debug)]
pub(super) struct TermSignal {
    term: Option<(Arc<AtomicBool>, UnixStream)>,
}

/// What is ready after a wait. All false means that the time is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) input: bool,
    pub(super) term: bool,
}

impl TermSignal {
    pub(super) fn install(args: &FakeArgs) -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        if args.deaf.ignore_sigterm {
            // A handler instead of SIG_IGN, so that the write is interrupted and restarted.
            signal_hook::flag::register(SIGTERM, flag)?;
            return Ok(Self { term: None });
        }
        if !args.deaf.sigterm_restart && args.claude.like.is_none() {
            return Ok(Self { term: None });
        }
        signal_hook::flag::register(SIGTERM, Arc::clone(&flag))?;
        // Without the pipe a signal between the check of the flag and poll(2) would be missed.
        let (reader, writer) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGTERM, writer)?;
        Ok(Self { term: Some((flag, reader)) })
    }

    /// Whether a SIGTERM has arrived and is not ignored.
    pub(super) fn terminated(&self) -> bool {
        self.term.as_ref().is_some_and(|(flag, _)| flag.load(Ordering::Relaxed))
    }

    /// Whether a wait can be ended by SIGTERM, so that it must precede a blocking read.
    pub(super) fn watched(&self) -> bool {
        self.term.is_some()
    }

    /// Waits for stdin, stdout, a SIGTERM or the deadline, if there is one.
    pub(super) fn wait(
        &self,
        input: bool,
        output: bool,
        until: Option<Instant>,
    ) -> io::Result<Ready> {
        wait_for(input, output, self.term.as_ref().map(|(_, wake)| wake), until)
    }

    /// Waits like `wait` but ignores SIGTERM, for a mode that has handled one: it stays pending and would end
    /// every wait.
    pub(super) fn wait_on(
        &self,
        input: bool,
        output: bool,
        until: Option<Instant>,
    ) -> io::Result<Ready> {
        wait_for(input, output, None, until)
    }
}

fn wait_for(
    input: bool,
    output: bool,
    wake: Option<&UnixStream>,
    until: Option<Instant>,
) -> io::Result<Ready> {
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    loop {
        let mut fds = Vec::with_capacity(3);
        if input {
            fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
        }
        if output {
            fds.push(PollFd::from_borrowed_fd(stdout, PollFlags::OUT));
        }
        if let Some(wake) = wake {
            fds.push(PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN));
        }
        let timeout = until.map(remaining);
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // Hang-up and error count as ready, because the read or write returns the cause.
        let mut hits = fds.iter().map(|fd| !fd.revents().is_empty());
        let input = input && hits.next() == Some(true);
        if output {
            // Not returned: after any wait the caller tries to write.
            hits.next();
        }
        return Ok(Ready { input, term: hits.next() == Some(true) });
    }
}

fn remaining(until: Instant) -> Timespec {
    let left = until.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}
