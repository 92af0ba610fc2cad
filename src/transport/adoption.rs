//! A spawned child on its way to the thread that will serve it.

use std::sync::Arc;

use crate::command::AgentCommand;
use crate::origin::Origin;
use crate::process::Spawned;

use super::channel::Channel;
use super::connect::label;

/// A child that no core has taken over yet. Dropped, it is killed and reaped, its place is free
/// again, and its handles are told how it ended.
#[derive(Debug)]
pub(crate) struct Adoption {
    child: Option<Box<(Spawned, AgentCommand)>>,
    pub(crate) channel: Arc<Channel>,
    origin: Origin,
}

impl Adoption {
    pub(crate) fn new(child: Spawned, command: AgentCommand) -> Self {
        let (framing, limits) = (command.framing, command.limits);
        let channel = Arc::new(Channel::new(child.pid(), label(&child), framing, limits));
        Self { child: Some(Box::new((child, command))), channel, origin: Origin::here() }
    }

    /// Hands the child on, once.
    pub(super) fn take(&mut self) -> Option<Box<(Spawned, AgentCommand)>> {
        self.child.take()
    }
}

impl Drop for Adoption {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        if !self.origin.is_here() {
            #[expect(clippy::mem_forget, reason = "in a forked child: it is the parent's to kill")]
            std::mem::forget(child);
            return;
        }
        let (exit, alive) = child.0.destroy();
        self.channel.never_adopted(exit, alive);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::Waker;

    use crate::close::ExitStatus;
    use crate::close::{CloseReason, CloseStage};
    use crate::process::spawn_admitted;
    use crate::record::Event;
    use crate::sync::Permits;
    use crate::sync::WaitKey;
    use crate::transport::channel::Offer;

    use super::*;

    /// What is left of a child whose engine thread ended while it was on its way.
    fn check_undone(script: &str, exit: ExitStatus, stage: CloseStage) {
        let places = Permits::new(Some(1));
        let command = AgentCommand::new("/bin/sh").args(["-c", script]);
        let permit = places.acquire().expect("the only place");
        let child = spawn_admitted(&command, permit).expect("spawns");
        let adoption = Adoption::new(child, command);
        if stage == CloseStage::Refuse {
            // Gone before anything was done to it.
            while !std::fs::read_to_string(format!("/proc/{}/stat", adoption.channel.pid))
                .expect("not reaped")
                .contains(") Z ")
            {
                std::thread::yield_now();
            }
        }
        let channel = Arc::clone(&adoption.channel);
        let offered = channel.offer(b"{}\n".to_vec(), &mut WaitKey::default(), Waker::noop());
        assert!(matches!(offered, Offer::Acquired { .. }));
        assert!(places.acquire().is_err());
        drop(adoption);

        assert!(
            !std::fs::exists(format!("/proc/{}", channel.pid)).expect("proc"),
            "killed and reaped"
        );
        assert!(places.acquire().is_ok(), "its place is free");
        let report = channel.close_report().expect("the handles wait for it");
        assert_eq!((report.exit(), report.stage()), (exit, stage), "{report}");
        assert_eq!(report.reason(), CloseReason::Shutdown);
        assert_eq!((report.unsent_bytes(), report.unsent_records()), (3, 1));
        let mut events = VecDeque::new();
        assert!(channel.take_events(&mut events, Waker::noop()));
        assert_eq!(events, [Event::Exit(exit)]);
        assert!(!channel.take_events(&mut VecDeque::new(), Waker::noop()), "and nothing after it");
        let refused = channel.offer(b"{}\n".to_vec(), &mut WaitKey::default(), Waker::noop());
        assert!(matches!(refused, Offer::Refused(_)));
    }

    #[test]
    fn a_child_that_no_core_took_over_is_undone_and_reported() {
        // The story: the report said that another process had reaped it. We had killed it.
        check_undone("exec sleep 1000", ExitStatus::Signal(9), CloseStage::Kill);
        check_undone("exit 3", ExitStatus::Code(3), CloseStage::Refuse);
    }
}
