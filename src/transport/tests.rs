//! The driver with a real agent: what a user is told at a turn, and if the driver is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{Adoption, CatchUp, Channel, DrainBudget, Driver, Request};
use crate::backend::{Choice, Found, open};
use crate::close::{CloseMode, CloseReason, CloseStage, ExitStatus};
use crate::command::AgentCommand;
use crate::counters::Backend;
use crate::process::spawn_admitted;
use crate::record::Event;
use crate::ring::RingConfig;
use crate::sync::Permits;

/// Longer than anything here takes.
const HANG: Duration = Duration::from_secs(10);

/// A driver with one agent, which is this shell.
fn driver(script: &str) -> (Driver, Arc<Channel>) {
    let command = AgentCommand::new("sh").args(["-c", script]);
    let permit = Permits::new(None).acquire().expect("a place");
    let spawned = spawn_admitted(&command, None, permit).expect("spawns");
    let adoption = Adoption::new(spawned, command, &Found::default());
    let channel = Arc::clone(&adoption.channel);
    let choice = Choice::new(Backend::Auto).expect("a backend");
    let (io, _) = open(choice, &RingConfig::default()).expect("it opens");
    let mut driver = Driver::new(io, DrainBudget::new(0));
    driver.adopt(adoption, Instant::now());
    (driver, channel)
}

/// A turn of an engine thread, which sleeps for no longer than this.
fn turn(driver: &mut Driver, at_most: Duration) {
    let now = Instant::now();
    driver.end_turn(now);
    let wait = driver.until_deadline(now).map_or(at_most, |wait| wait.min(at_most));
    driver.wait(Some(wait)).expect("it waits");
    driver.dispatch(Instant::now());
}

#[test]
fn catch_up_waits_for_what_is_in_the_pipe() {
    let (mut driver, channel) = driver("echo '{\"a\":1}'; read end");
    let stdout = driver.agents[0].ends.stdout.open().expect("open");
    // The record is in the pipe, and this thread has not read it yet.
    let begun = Instant::now();
    while !driver.io.has_unread(stdout) {
        assert!(begun.elapsed() < HANG, "the agent has not written");
        std::thread::yield_now();
    }
    let (question, answer) = CatchUp::new();
    driver.request(&channel, Request::CatchUp(question), Instant::now());
    driver.end_turn(Instant::now());
    assert_eq!(answer.get(), None, "nothing was read yet");
    assert_eq!(
        driver.until_deadline(Instant::now()),
        Some(Duration::ZERO),
        "the driver would sleep"
    );
    while answer.get().is_none() {
        assert!(begun.elapsed() < HANG, "the record is not read");
        turn(&mut driver, Duration::ZERO);
    }
    assert!(answer.get().is_some_and(|it| it.all));
    let mut events = VecDeque::new();
    assert!(channel.inbox.take_events(&mut events, Waker::noop()));
    assert!(matches!(events.front(), Some(Event::Record(_))), "{events:?}");
    // With an empty pipe, or an agent that is gone, the answer comes at once.
    let (question, answer) = CatchUp::new();
    driver.request(&channel, Request::CatchUp(question), Instant::now());
    driver.end_turn(Instant::now());
    assert!(answer.get().is_some_and(|it| it.all));
    driver.close_all(Some(CloseMode::Abort), CloseReason::Shutdown, Instant::now());
    while driver.open() > 0 {
        assert!(begun.elapsed() < HANG, "the agent is not closed");
        turn(&mut driver, Duration::from_millis(5));
    }
    let (question, answer) = CatchUp::new();
    driver.request(&channel, Request::CatchUp(question), Instant::now());
    assert!(answer.get().is_some_and(|it| it.all));
}

// A panic of the engine thread drops the driver between two stages of a close. The leader has exited by itself
// and a process of its group still has the outputs: no stage has cut them, and the report denied a loss.
#[test]
fn dropped_driver_denies_no_loss() {
    let (mut driver, channel) = driver("sleep 1000 & exit 3");
    let begun = Instant::now();
    let stage = |driver: &Driver| Some(driver.agents[0].close.as_ref()?.plan.stage());
    while stage(&driver) != Some(CloseStage::Drain) {
        assert!(begun.elapsed() < HANG, "{:?}", stage(&driver));
        turn(&mut driver, Duration::from_millis(5));
    }
    drop(driver);
    let report = channel.close_report().expect("the report is there");
    assert_eq!(report.exit(), ExitStatus::Code(3), "{report}");
    assert_eq!(report.input_ended_while_busy(), Some(false), "{report}");
    assert!(report.output_may_be_lost(), "{report}");
}
