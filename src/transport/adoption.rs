//! A spawned child on its way to its driver, and the reports of agents that no driver serves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::backend::Found;
use crate::close::{CloseMode, CloseReason, CloseReport, CloseStage, ExitStatus, ReportData};
use crate::command::AgentCommand;
use crate::counters::AgentStats;
use crate::error::{Error, ErrorKind};
use crate::origin::Origin;
use crate::process::Spawned;
use crate::record::Event;

use super::channel::Channel;
use super::label;

/// The number of living agents of an engine, or of one of its threads. Clones share it.
///
/// An agent counts from the moment a driver is chosen for it until its close report is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveAgents(Arc<AtomicUsize>);

impl LiveAgents {
    pub(crate) fn get(&self) -> usize {
        // Relaxed, because the count guards no other memory. A closer that has its report sees the
        // count without the agent: the lock of the report orders the two.
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) -> LiveAgent {
        self.0.fetch_add(1, Ordering::Relaxed);
        LiveAgent(self.clone())
    }
}

/// One agent that is counted. Dropped once it is not living any more.
#[derive(Debug)]
pub(crate) struct LiveAgent(LiveAgents);

impl Drop for LiveAgent {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Boxed, because it passes through queues whose other commands are small.
type ChildWithCommand = Box<(Spawned, AgentCommand)>;

/// A child that no driver has taken over yet. Dropped, it is killed and reaped, its place is free
/// again, and its handles get a report of how it ended.
#[derive(Debug)]
pub(crate) struct Adoption {
    child: Option<ChildWithCommand>,
    pub(crate) channel: Arc<Channel>,
    live: Option<LiveAgent>,
    origin: Origin,
}

impl Adoption {
    pub(crate) fn new(child: Spawned, command: AgentCommand, found: &Found) -> Self {
        let (framing, limits) = (command.framing, command.limits);
        let channel = Channel::new(child.pid(), label(&child), found, framing, limits);
        let channel = Arc::new(channel);
        Self {
            child: Some(Box::new((child, command))),
            channel,
            live: None,
            origin: Origin::here(),
        }
    }

    /// Counts the agent among those of the driver that it goes to, and no longer among others.
    pub(crate) fn count_among(&mut self, live: &LiveAgents) {
        self.live = Some(live.add());
    }

    /// Hands the child on, once.
    pub(super) fn take(&mut self) -> Option<(ChildWithCommand, Option<LiveAgent>)> {
        Some((self.child.take()?, self.live.take()))
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
        // Before its closers have the report: they find it not counted any more.
        self.live = None;
        self.channel.never_adopted(exit, alive);
    }
}

impl Channel {
    /// Reports an agent whose engine ended before a driver took the child over. The child was killed
    /// and reaped; `alive` tells whether it had not ended by itself before.
    pub(super) fn never_adopted(&self, exit: ExitStatus, alive: bool) {
        let error = Error::new(ErrorKind::EngineStopped, "write", "the engine was shut down");
        self.outbox.refuse(error.on_agent(self.label.as_str()));
        // After the refusal: a frame that was accepted after this would let its flush wait without
        // end.
        self.outbox.lose();
        self.closing.set(CloseReason::Shutdown);
        let exited = Event::Exit(exit);
        let weight = exited.weight();
        self.inbox.deliver(&mut VecDeque::from([exited]), weight, &AgentStats::default());
        self.inbox.end();
        // No driver has taken any frame, so what was accepted is all in the outbox.
        let mut unsent = VecDeque::new();
        self.outbox.take_frames(&mut unsent);
        self.outcome.set(CloseReport(Arc::new(ReportData {
            ended_by: if alive { CloseStage::Kill } else { CloseStage::Refuse },
            exit,
            unsent_bytes: unsent.iter().map(|frame| frame.len() as u64).sum(),
            unsent_records: unsent.len() as u64,
            ..self.nothing_done(CloseReason::Shutdown)
        })));
    }

    /// Returns the report of a close in a forked child, where nothing was done.
    pub(super) fn foreign_report(&self) -> CloseReport {
        let exit_note = Some("the agent is another process's".to_owned());
        CloseReport(Arc::new(ReportData { exit_note, ..self.nothing_done(CloseReason::Forked) }))
    }

    fn nothing_done(&self, reason: CloseReason) -> ReportData {
        ReportData {
            backend: self.backend,
            fallback: self.fallback.clone(),
            pid: self.pid,
            command: self.label.clone(),
            mode: CloseMode::Abort,
            reason,
            ended_by: CloseStage::Refuse,
            stages: Vec::new(),
            stalled: Duration::ZERO,
            exit: ExitStatus::Unknown,
            exit_note: None,
            stopped: false,
            interrupt_answered: None,
            input_ended_while_busy: None,
            output_may_be_lost: true,
            stats: AgentStats::default(),
            unsent_bytes: 0,
            unsent_records: 0,
            killed_extra: 0,
            strays_killed: 0,
            left_running: None,
            signals_refused: None,
            outputs_held: None,
            container: None,
            stderr_tail: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use crate::process::spawn_admitted;
    use crate::sync::Permits;
    use crate::sync::WaitKey;
    use crate::transport::Offer;

    use super::*;

    /// Checks what is left of a child whose engine thread ended while the child was on its way.
    fn check_undone(script: &str, exit: ExitStatus, stage: CloseStage) {
        let places = Permits::new(Some(1));
        let command = AgentCommand::new("/bin/sh").args(["-c", script]);
        let permit = places.acquire().expect("the only place");
        let child = spawn_admitted(&command, None, permit).expect("spawns");
        let adoption = Adoption::new(child, command, &Found::default());
        if stage == CloseStage::Refuse {
            // The child exits before anything is done to it.
            while !std::fs::read_to_string(format!("/proc/{}/stat", adoption.channel.pid))
                .expect("not reaped")
                .contains(") Z ")
            {
                std::thread::yield_now();
            }
        }
        let channel = Arc::clone(&adoption.channel);
        let offered =
            channel.outbox.offer(b"{}\n".to_vec(), &mut WaitKey::default(), Waker::noop());
        assert!(matches!(offered, Offer::Accepted { .. }));
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
        assert!(channel.inbox.take_events(&mut events, Waker::noop()));
        assert_eq!(events, [Event::Exit(exit)]);
        assert!(
            !channel.inbox.take_events(&mut VecDeque::new(), Waker::noop()),
            "and nothing after it"
        );
        let refused =
            channel.outbox.offer(b"{}\n".to_vec(), &mut WaitKey::default(), Waker::noop());
        assert!(matches!(refused, Offer::Refused(_)));
    }

    #[test]
    fn child_that_no_driver_took_over_is_killed_and_reported() {
        // The report must not say that another process reaped a child that was killed here.
        check_undone("exec sleep 1000", ExitStatus::Signal(9), CloseStage::Kill);
        check_undone("exit 3", ExitStatus::Code(3), CloseStage::Refuse);
    }
}
