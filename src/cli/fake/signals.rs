//! F5, fake: the SIGTERM handlers and the one place that waits.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGTERM;

use super::args::Args;

/// What a noticed SIGTERM leaves behind. Without one of the flags the default action stands.
#[derive(Debug)]
pub(super) struct Signals {
    term: Option<(Arc<AtomicBool>, UnixStream)>,
}

/// What a wait found ready. All false: the time is up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) input: bool,
    pub(super) term: bool,
}

impl Signals {
    pub(super) fn install(args: &Args) -> io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        if args.deaf.ignore_sigterm {
            // A handler, not SIG_IGN: the write is interrupted and restarted, as in the field.
            signal_hook::flag::register(SIGTERM, flag)?;
            return Ok(Self { term: None });
        }
        if !args.deaf.sigterm_restart && args.claude.like.is_none() {
            return Ok(Self { term: None });
        }
        signal_hook::flag::register(SIGTERM, Arc::clone(&flag))?;
        // A flag alone would be missed between the look and the poll.
        let (reader, writer) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(SIGTERM, writer)?;
        Ok(Self { term: Some((flag, reader)) })
    }

    /// Whether a SIGTERM came that is not ignored.
    pub(super) fn terminated(&self) -> bool {
        self.term.as_ref().is_some_and(|(flag, _)| flag.load(Ordering::Relaxed))
    }

    /// Whether a wait can be ended by SIGTERM, so that it must precede a blocking read.
    pub(super) fn watched(&self) -> bool {
        self.term.is_some()
    }

    /// Waits for stdin, stdout, a SIGTERM or the deadline; `None` waits for ever.
    pub(super) fn wait(
        &self,
        input: bool,
        output: bool,
        until: Option<Instant>,
    ) -> io::Result<Ready> {
        wait_for(input, output, self.term.as_ref().map(|(_, wake)| wake), until)
    }

    /// The same for one who has seen the SIGTERM: it stays pending and would end every wait.
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
        // Hang-up and error count as ready: the read or write will say which.
        let mut hits = fds.iter().map(|fd| !fd.revents().is_empty());
        let input = input && hits.next() == Some(true);
        if output {
            // Who has something to write tries it, whatever ended the wait.
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
