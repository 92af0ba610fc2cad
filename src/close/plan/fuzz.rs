//! A close under test, with the laws that hold in every order of events. The body of a fuzz target; the
//! unit tests walk every order to a stated depth.

use super::*;

/// Closes an agent under any policy, with any events at any times. The first bytes choose the policy and the
/// state of the agent; each event has two more, its kind and the time before it.
pub(crate) fn target(data: &[u8]) {
    let Some(([bits, limits @ ..], events)) = data.split_first_chunk::<13>() else { return };
    let now = Instant::now();
    let mut walk = Walk::begin(any_policy(*bits, limits), any_start(*bits, now), now);
    for [kind, time] in events.as_chunks::<2>().0.iter().take(300) {
        let gap = Duration::from_millis(u64::from(*time).pow(2) / 8);
        let at = usize::from(*kind) % (EVENTS.len() + 2);
        if let Some(event) = EVENTS.get(at) {
            walk.wait(gap);
            walk.step(*event);
        } else if at == EVENTS.len() {
            walk.stall(gap);
        } else {
            walk.tick_late(gap);
        }
    }
    walk.check_to_the_end();
}

fn any_policy(bits: u8, limits: &[u8; 12]) -> ClosePolicy {
    let short = |at: usize| Duration::from_millis(10 * u64::from(limits[at]));
    // A stage that does nothing meanwhile may have a limit without end.
    let any = |at: usize| if limits[at] == u8::MAX { Duration::MAX } else { short(at) };
    let begun = if bits & 1 == 0 { ClosePolicy::graceful() } else { ClosePolicy::abort() };
    let mut policy = begun
        .flush(any(0))
        .interrupt(any(1))
        .cut(any(2))
        .abort_grace(any(3))
        .remove(any(4))
        .quiet_period(short(5) / 10)
        .drain(short(6))
        .terminate(short(7))
        .min_drain(short(8))
        .kill(short(9))
        .exit_drain(short(10))
        .kill_group(bits & 128 == 0);
    if limits[11] > 0 {
        policy = policy.drain_total(short(11));
    }
    policy.container = bits & 64 != 0;
    policy
}

pub(super) fn any_start(bits: u8, now: Instant) -> CloseStart {
    CloseStart {
        exited: bits & 2 != 0,
        outputs_ended: bits & 4 != 0,
        writes_pending: bits & 8 != 0,
        turn_open: bits & 16 != 0,
        input_open: bits & 32 == 0,
        last_output: now,
    }
}

/// An abort with limits shorter than those of any policy here, so that it shortens every stage.
pub(super) const HURRIED: CloseEvent =
    CloseEvent::Abort { grace: Duration::from_millis(1), kill: Duration::from_millis(2) };

pub(super) const EVENTS: [CloseEvent; 24] = [
    CloseEvent::WritesDone,
    CloseEvent::TurnEnded,
    CloseEvent::Output,
    CloseEvent::Activity(Activity::Asleep),
    CloseEvent::Activity(Activity::AllAsleep),
    CloseEvent::Activity(Activity::Busy),
    CloseEvent::Activity(Activity::Stopped),
    CloseEvent::Activity(Activity::Unknown),
    CloseEvent::Activity(Activity::Gone),
    CloseEvent::Unread,
    CloseEvent::CheckDeferred,
    CloseEvent::OutputsEnded,
    CloseEvent::Exited,
    CloseEvent::Holders(Holders::None),
    CloseEvent::Holders(Holders::Strays),
    CloseEvent::Holders(Holders::Members),
    CloseEvent::Holders(Holders::BusyMembers),
    CloseEvent::Reaped,
    CloseEvent::NotReaped,
    CloseEvent::ContainerRemoved,
    CloseEvent::Released,
    CloseEvent::Abort { grace: Duration::from_secs(1), kill: Duration::from_secs(3) },
    HURRIED,
    CloseEvent::Tick,
];

/// A close under test, with every action it has requested.
#[derive(Clone)]
pub(super) struct Walk {
    pub(super) plan: ClosePlan,
    /// The longest close of the policy that it began with. A later abort must not exceed it.
    pub(super) bound: Duration,
    begun: Instant,
    /// When the close must have ended, if it was aborted.
    pub(super) over_by: Option<Instant>,
    pub(super) now: Instant,
    pub(super) requested: Vec<CloseAction>,
}

impl Walk {
    pub(super) fn begin(policy: ClosePolicy, known: CloseStart, now: Instant) -> Self {
        let bound = policy.max_duration();
        let plan = ClosePlan::begin(policy, known, now);
        let mut walk = Self { plan, bound, begun: now, over_by: None, now, requested: Vec::new() };
        walk.collect();
        walk
    }

    fn collect(&mut self) {
        for action in self.plan.take_actions() {
            match action {
                // Requested again after each output.
                CloseAction::CheckActivity => {
                    assert_eq!(self.plan.stage(), CloseStage::EndInput);
                    continue;
                }
                CloseAction::FindHolders => {
                    assert!(self.plan.known.exited && self.plan.stage() < CloseStage::Cut);
                    continue;
                }
                // Requested again until it is answered.
                CloseAction::Reap | CloseAction::GiveUpReap => {
                    assert_eq!(self.plan.stage(), CloseStage::Reap);
                    if self.requested.contains(&CloseAction::Reap) {
                        continue;
                    }
                }
                _ => {}
            }
            assert!(!self.requested.contains(&action), "{action:?} twice: {:?}", self.requested);
            self.requested.push(action);
        }
    }

    pub(super) fn step(&mut self, event: CloseEvent) {
        if event == CloseEvent::Tick {
            self.now = self.plan.deadline().unwrap_or(self.now).max(self.now);
        }
        self.step_now(event);
    }

    fn step_now(&mut self, event: CloseEvent) {
        let before = self.plan.stage();
        if let CloseEvent::Abort { grace, kill } = event
            && before < CloseStage::Reap
        {
            // The longest abort. It does not wait for other holders of the outputs.
            let mut limit = self.now + grace + kill + ClosePolicy::RELEASE_MAX;
            if self.plan.policy.container {
                limit += self.plan.policy.remove;
            }
            self.over_by = Some(self.over_by.map_or(limit, |known| known.min(limit)));
        }
        self.plan.handle(event, self.now);
        assert!(self.plan.stage() >= before, "went back from {before} to {}", self.plan.stage());
        // A deadline that has passed, in the same stage and with nothing to do, would be a busy loop.
        let is_due = self.plan.deadline().is_some_and(|due| due <= self.now);
        let moves = !self.plan.actions.is_empty() || self.plan.stage() > before;
        assert!(event != CloseEvent::Tick || !is_due || moves, "{:?} is due again", self.plan);
        self.collect();
    }

    /// Lets time pass, up to the deadline.
    fn wait(&mut self, gap: Duration) {
        // Without a deadline, the plan waits for an answer that comes at once.
        if let Some(due) = self.plan.deadline() {
            self.now = self.now.max(due.min(self.now + gap));
        }
    }

    /// The engine does not run for a time, and the limits move by it.
    fn stall(&mut self, gap: Duration) {
        self.now += gap;
        self.plan.postpone(gap);
        self.allow(gap);
    }

    /// The engine is late for a deadline. All that follows is later by as much, not more.
    fn tick_late(&mut self, gap: Duration) {
        if let Some(due) = self.plan.deadline() {
            self.now = self.now.max(due + gap);
            self.allow(gap);
            self.step_now(CloseEvent::Tick);
        }
    }

    fn allow(&mut self, gap: Duration) {
        self.bound = self.bound.saturating_add(gap);
        self.over_by = self.over_by.map(|limit| limit + gap);
    }

    /// Answers Reap when its time is over, and lets Release run into its limit: the slowest answers.
    fn answer(&mut self) {
        if self.plan.stage() == CloseStage::Reap {
            match self.plan.deadline() {
                Some(_) => self.step(CloseEvent::NotReaped),
                None => self.step(CloseEvent::Reaped),
            }
        }
    }

    fn done(&self) -> bool {
        self.plan.stage() == CloseStage::Done
    }

    fn position(&self, action: CloseAction) -> usize {
        self.requested.iter().position(|requested| *requested == action).unwrap_or_else(|| {
            panic!("{action:?} was never requested: {:?}", self.requested);
        })
    }

    /// Lets time pass until the close ends, then checks all of it.
    pub(super) fn check_to_the_end(mut self) {
        let policy = self.plan.policy;
        for _ in 0..10_000 {
            self.answer();
            if self.done() {
                break;
            }
            if self.plan.deadline().is_some() {
                self.step(CloseEvent::Tick);
            } else {
                // Only the last attempt to reap has no deadline; it is answered at once.
                assert_eq!(self.plan.stage(), CloseStage::Reap, "it never ends");
            }
        }
        assert!(self.done(), "stuck in {}", self.plan.stage());
        let took = self.now.duration_since(self.begun);
        assert!(took <= self.bound, "took {took:?}, bound {:?}", self.bound);
        if let Some(limit) = self.over_by {
            assert!(self.now <= limit, "{:?} later than its abort allows", self.now - limit);
        }
        // This order holds in every close.
        let cut = self.position(CloseAction::Cut);
        let reap = self.position(CloseAction::Reap);
        let release = self.position(CloseAction::Release);
        let finish = self.position(CloseAction::Finish);
        assert!(cut < reap && reap < release && release < finish, "{:?}", self.requested);
        assert_eq!(finish, self.requested.len() - 1);
        // The container is removed in every close, also in an abort, and after its client is gone.
        assert_eq!(self.requested.contains(&CloseAction::RemoveContainer), policy.container);
        if policy.container {
            let remove = self.position(CloseAction::RemoveContainer);
            assert!(reap < remove && remove < release, "{:?}", self.requested);
        }
        let stages: Vec<_> = self.plan.spent().iter().map(|(stage, _)| *stage).collect();
        assert!(stages.is_sorted(), "{stages:?}");
        assert!(stages.contains(&CloseStage::Release), "{stages:?}");
        self.check_actions(&stages);
    }

    /// Checks that each stage has done its work.
    fn check_actions(&self, stages: &[CloseStage]) {
        for (stage, action) in [
            (CloseStage::Interrupt, CloseAction::Interrupt),
            (CloseStage::Terminate, CloseAction::Terminate),
            (CloseStage::Kill, CloseAction::Kill),
        ] {
            let (entered, acted) = (stages.contains(&stage), self.requested.contains(&action));
            assert_eq!(entered, acted, "{stage} and {action:?}: {:?}", self.requested);
        }
        let spent = |of| self.plan.spent().iter().find(|(stage, _)| *stage == of).map(|it| it.1);
        if stages.contains(&CloseStage::Terminate) {
            let drained = spent(CloseStage::Drain).unwrap_or_default();
            assert!(drained >= self.plan.policy.min_drain, "SIGTERM after {drained:?}");
        }
        // An agent that lives is told to end before its outputs are waited for, and with full pipes it
        // could not see that.
        if stages.contains(&CloseStage::Drain) {
            assert_eq!(self.requested[0], CloseAction::ReadOn);
            let ended = self.requested.contains(&CloseAction::EndInput);
            assert!(ended || self.plan.known.exited, "{:?}", self.requested);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_events_and_times_end_within_the_limit() {
        crate::fuzz_driver::run("close", super::target);
    }
}
