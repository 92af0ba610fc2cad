//! Floor 3. What all handles of one agent share; the last one dropped aborts the agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::close::ClosePolicy;
use crate::close::CloseReason;
use crate::exit::Departure;
use crate::process::Executable;
use crate::transport::{Channel, CloseLimits, Line, Request, abandon};

use super::handle::Inner;
use super::mailbox::{Command, Mailbox};

#[derive(Debug)]
pub(super) struct Control {
    pub(super) channel: Arc<Channel>,
    #[cfg_attr(
        not(feature = "claude"),
        expect(dead_code, reason = "only Claude sessions ask for the version of their program")
    )]
    pub(super) program: Executable,
    mailbox: Mailbox,
    load: Arc<AtomicUsize>,
    abandoned: AtomicBool,
    /// Keeps the engine threads while a handle is there.
    engine: Arc<Inner>,
}

impl Control {
    pub(super) fn new(
        channel: Arc<Channel>,
        program: Executable,
        mailbox: Mailbox,
        load: Arc<AtomicUsize>,
        engine: Arc<Inner>,
    ) -> Arc<Self> {
        Arc::new(Self {
            channel,
            program,
            mailbox,
            load,
            abandoned: AtomicBool::new(false),
            engine,
        })
    }
}

impl Line for Control {
    fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    fn request(&self, request: Request) {
        if self.is_here() && self.channel.ask(request.bit()) {
            self.mailbox.send(Command::Agent(Arc::clone(&self.channel), request));
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.abandon();
    }
}

impl Control {
    /// Closes it without a handle: the last one dropped neither aborts nor counts.
    pub(super) fn close_unattended(&self, policy: ClosePolicy) {
        self.let_go();
        self.request(Request::Close(CloseLimits::Given(policy), CloseReason::Requested));
    }

    pub(super) fn is_here(&self) -> bool {
        self.engine.origin.is_here()
    }

    /// Its close is under way, and nobody will ask how it went.
    pub(super) fn let_go(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Nobody will close the agent: it is aborted and counted, once.
    pub(super) fn abandon(&self) {
        if !self.abandoned.swap(true, Ordering::Relaxed) && abandon(self) {
            self.channel.keep_process(Departure::begin());
            self.engine.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}
