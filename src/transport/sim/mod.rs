//! A deterministic simulation of the transport: the real driver, transports, close plans, framers and
//! channels on a simulated kernel, with simulated processes and users, in virtual time.
//!
//! A seed decides everything. `AGENTPIPE_SIM_SEEDS` is the number of seeds that the test runs,
//! `AGENTPIPE_SIM_SEED` the one seed that it replays with a trace.
//!
//! | file | holds |
//! | --- | --- |
//! | `world` | clock, chance, pipes, what is going to happen |
//! | `kernel` | descriptors and their operations: `PipeIo` |
//! | `process`, `child` | what processes do; `AgentProcess` and `/proc` |
//! | `user` | readers, writers, closes |
//! | `scenario` | makes the agents and users of a seed |
//! | `check` | what must hold |

#![expect(
    clippy::cast_possible_truncation,
    reason = "the sizes and times of a simulation are small"
)]

mod check;
mod child;
mod kernel;
mod process;
mod scenario;
mod user;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::bulk::BulkLimits;
use super::{DrainBudget, Driver, Request};
use crate::close::{CloseMode, ClosePolicy, CloseStage};
use crate::command::AgentCommand;
use crate::process::Parts;

use child::{SimChild, descriptor};
use kernel::SimIo;
use world::{Closing, Command, Object, Rng, US, World};

/// How many seeds the test runs by default: about 4 s on one core, and six times that without optimisation.
const SEEDS: u64 = 10_000;

/// A driver that takes more turns spins.
const TURNS_MAX: u64 = 200_000;

/// The commands that are taken in one turn, as by an engine thread.
const COMMANDS: usize = 3;

/// One seed.
struct Simulation {
    world: Rc<RefCell<World>>,
    driver: Driver,
    commands: Vec<AgentCommand>,
    stages: Vec<CloseStage>,
}

/// Every second seed reads in bulk, with chunks that hold a few records.
fn bulk_limits(rng: &mut Rng) -> BulkLimits {
    BulkLimits {
        burst: rng.pick(&[usize::MAX, 1, 100]),
        held: 0,
        in_pipe: 0,
        chunk: rng.size(1, 4000),
        // A seed must not depend on addresses.
        align: 1,
        room: rng.size(1, 200),
        slice: rng.pick(&[5, 1000]),
        agents: rng.size(1, 3),
    }
}

impl Simulation {
    fn new(seed: u64, traced: bool) -> Self {
        let world = Rc::new(RefCell::new(World::new(seed, traced, Instant::now())));
        let commands = scenario::prepare(&mut world.borrow_mut());
        let budget = DrainBudget::new(world.borrow_mut().rng.pick(&[0, 1 << 20]));
        let mut driver = Driver::new(Box::new(SimIo::new(&world)), budget);
        driver.buffers.bulk.limits = bulk_limits(&mut world.borrow_mut().rng);
        let eventfd = descriptor(&mut world.borrow_mut(), Object::Wake);
        driver.listen(eventfd);
        Self { world, driver, commands, stages: Vec::new() }
    }

    /// Runs to the end: the turns of an engine thread.
    fn run(&mut self) {
        let mut turns = 0;
        loop {
            turns += 1;
            for _ in 0..COMMANDS {
                let Some(command) = self.next_command() else { break };
                self.execute(command);
            }
            self.after_phase();
            let now = self.now();
            self.driver.end_turn(now);
            self.after_phase();
            if self.driver.is_shut_down() || self.is_broken() {
                break;
            }
            if turns > TURNS_MAX || self.world.borrow().is_endless() {
                self.world.borrow_mut().violate(|| format!("{turns} turns and no end"));
                break;
            }
            self.world.borrow_mut().asleep = true;
            let command = self.next_command();
            let timeout = match command {
                Some(command) => {
                    self.world.borrow_mut().asleep = false;
                    self.execute(command);
                    Some(Duration::ZERO)
                }
                None => self.driver.until_deadline(now),
            };
            let has_work = !self.driver.checks.is_empty() || !self.driver.reaps.is_empty();
            if has_work && timeout != Some(Duration::ZERO) {
                let mut world = self.world.borrow_mut();
                world.violate(|| "lost wake-up: the driver sleeps with work to do".to_owned());
            }
            if self.driver.wait(timeout).is_err() {
                break;
            }
            self.world.borrow_mut().asleep = false;
            let now = self.now();
            self.driver.dispatch(now);
            if self.driver.take_woken() {
                self.world.borrow_mut().eventfd = false;
                self.driver.rewatch();
            }
        }
    }

    fn now(&self) -> Instant {
        self.world.borrow().instant()
    }

    fn is_broken(&self) -> bool {
        self.world.borrow().violation.is_some()
    }

    fn next_command(&self) -> Option<Command> {
        self.world.borrow_mut().mailbox.pop_front()
    }

    fn execute(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Adopt(agent) => {
                let parts = self.parts(agent);
                let channel = Arc::clone(&self.world.borrow().agents[agent].channel);
                self.driver.host(parts, &self.commands[agent], &channel, None, now);
            }
            Command::Agent(agent, request) => {
                let close = match &request {
                    Request::Close(limits, _) => Some(limits.policy(self.commands[agent].close)),
                    _ => None,
                };
                let channel = Arc::clone(&self.world.borrow().agents[agent].channel);
                self.driver.request(&channel, request, now);
                self.note_closes(agent, close);
            }
            Command::Shutdown(limit) => self.driver.shutdown(limit, now),
        }
    }

    fn parts(&self, agent: usize) -> Parts<SimChild> {
        let world = &mut *self.world.borrow_mut();
        let facts = &world.agents[agent];
        let (leader, pipes) = (facts.leader, [facts.stdin, facts.stdout, facts.stderr]);
        let [stdin, stdout, stderr] = pipes.map(|pipe| descriptor(world, Object::Pipe(pipe)));
        Parts {
            child: SimChild::new(&self.world, agent),
            pidfd: descriptor(world, Object::Exit(leader)),
            stdin,
            stdout,
            stderr,
            stdin_pipe_size: world.pipes[pipes[0]].capacity,
            stdout_pipe_size: world.pipes[pipes[1]].capacity,
            program: PathBuf::from("/sim"),
        }
    }

    /// Notes the closes that have begun, or have become aborts, and by when they must be over.
    fn note_closes(&mut self, agent: usize, given: Option<ClosePolicy>) {
        let world = &mut *self.world.borrow_mut();
        let facts = &mut world.agents[agent];
        let mut transports = self.driver.agents.iter();
        let transport = transports.find(|(_, it)| Arc::ptr_eq(&it.channel, &facts.channel));
        let Some(close) = transport.and_then(|(_, it)| it.close.as_ref()) else { return };
        let mode = close.plan.mode();
        let policy = ClosePolicy { mode, ..given.unwrap_or(facts.policy) };
        let policy = ClosePolicy { container: facts.policy.container, ..policy };
        let limit = u64::try_from(policy.max_duration().as_nanos()).unwrap_or(u64::MAX);
        let until = world.now.saturating_add(limit);
        let is_abort = mode == CloseMode::Abort;
        match &mut facts.closing {
            None => facts.closing = Some(Closing { until, is_abort }),
            Some(closing) if is_abort && !closing.is_abort => {
                closing.is_abort = true;
                closing.until = closing.until.min(until);
            }
            Some(_) => {}
        }
    }

    /// Looks at what a phase of the turn has done, and lets the others run for a while.
    fn after_phase(&mut self) {
        for agent in 0..self.commands.len() {
            self.note_closes(agent, None);
            let channel = Arc::clone(&self.world.borrow().agents[agent].channel);
            let is_new = !self.world.borrow().agents[agent].reported;
            if is_new && let Some(report) = channel.close_report() {
                self.world.borrow_mut().check_report(agent, &report);
                self.stages.push(report.stage());
            }
        }
        self.check_bulk_reads();
        let world = &mut *self.world.borrow_mut();
        world.run_woken();
        let others = world.rng.pick(&[0, 0, 2 * US, 30 * US]);
        world.pass(others);
    }

    fn check_bulk_reads(&self) {
        let agents = || self.driver.agents.iter().map(|(_, agent)| agent);
        let in_bulk = agents().filter(|agent| agent.bulk.is_active()).count();
        self.driver.buffers.bulk.check(in_bulk);
        for agent in agents().filter(|agent| !agent.stdout_ended) {
            let held = agent.framer.held() + agent.bulk.held();
            assert_eq!(agent.intake.stats.unfinished_bytes, held as u64, "unfinished bytes");
        }
    }

    /// Drains the kernel, drops the driver, lets the readers read to the end and checks the accounts.
    fn finish(self) {
        let Self { mut driver, world, .. } = self;
        driver.drain();
        // What is in the mailbox is dropped with it.
        let commands = std::mem::take(&mut world.borrow_mut().mailbox);
        drop(commands);
        drop(driver);
        let world = &mut *world.borrow_mut();
        let until = world.now + 60 * world::SEC;
        loop {
            world.run_woken();
            if world.next_at().is_none_or(|at| at > until) {
                break;
            }
            world.happen();
        }
        world.mailbox.clear();
        world.check_end();
    }
}

/// Runs a seed. Returns the stages in which its agents have ended, or what was violated and the trace.
fn run(seed: u64, traced: bool) -> Result<Vec<CloseStage>, (String, Vec<String>)> {
    let mut simulation = Simulation::new(seed, traced);
    let world = Rc::clone(&simulation.world);
    let ended = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let stages = std::mem::take(&mut simulation.stages);
    let ended = match ended {
        Ok(()) if world.borrow().violation.is_none() => {
            catch_unwind(AssertUnwindSafe(|| simulation.finish()))
        }
        Ok(()) => Ok(()),
        Err(panic) => {
            #[expect(clippy::mem_forget, reason = "after a panic its state may be anything")]
            std::mem::forget(simulation);
            Err(panic)
        }
    };
    let (violation, trace) = match world.try_borrow_mut() {
        Ok(mut world) => (world.violation.take(), world.trace.take().unwrap_or_default()),
        Err(_) => (None, Vec::new()),
    };
    let panic = ended.err().map(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        format!(
            "panic: {}",
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
        )
    });
    match violation.or(panic) {
        Some(violation) => Err((violation, trace)),
        None => Ok(stages),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_seed_keeps_the_laws_of_a_close() {
    if let Some(seed) = number("AGENTPIPE_SIM_SEED") {
        if let Err((violation, trace)) = run(seed, true) {
            panic!("{}\nseed {seed}: {violation}", trace.join("\n"));
        }
        return;
    }
    let seeds = number("AGENTPIPE_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut ended = BTreeMap::new();
        let mut broken = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            match run(seed, false) {
                Ok(stages) => stages.iter().for_each(|it| *ended.entry(*it).or_insert(0_u64) += 1),
                Err((violation, _)) => {
                    failed.store(true, Ordering::Relaxed);
                    broken.push((seed, violation));
                }
            }
        }
        (ended, broken)
    };
    let done: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let mut broken: Vec<_> = done.iter().flat_map(|(_, broken)| broken).collect();
    broken.sort();
    if let Some((seed, violation)) = broken.first() {
        panic!(
            "seed {seed}: {violation}\nreplay: AGENTPIPE_SIM_SEED={seed} cargo test --features full \
             --lib transport::sim"
        );
    }
    let mut ended = BTreeMap::new();
    for (stage, count) in done.iter().flat_map(|(ended, _)| ended) {
        *ended.entry(*stage).or_insert(0) += count;
    }
    // Chance must reach every way in which an agent can end.
    let reached: Vec<CloseStage> = ended.keys().copied().collect();
    if seeds >= SEEDS {
        assert!(reached.len() >= 8, "{ended:?}");
    }
}
