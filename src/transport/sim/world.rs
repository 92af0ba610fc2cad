//! The simulated host: a virtual clock, a seeded source of chance, pipes, and everything that is still
//! going to happen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kernel::{EndSlot, Queues};
use super::process::SimProcess;
use super::user::User;
use crate::close::ClosePolicy;
use crate::transport::{Channel, Request};

/// Virtual time is in nanoseconds since the start.
pub(super) const US: u64 = 1_000;
pub(super) const MS: u64 = 1_000 * US;
pub(super) const SEC: u64 = 1_000 * MS;

/// The source of chance: splitmix64.
#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, or 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    pub(super) fn size(&mut self, low: usize, high: usize) -> usize {
        self.between(low as u64, high as u64) as usize
    }

    /// True once in `n` times.
    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// How long the kernel or a process takes for a small step.
    pub(super) fn delay(&mut self) -> u64 {
        match self.below(16) {
            0 => 0,
            1 => self.below(2 * MS),
            _ => self.below(40 * US),
        }
    }
}

/// Something that happens at a time. The numbers are indices of processes, ends or agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happening {
    Step(usize),
    Die(usize),
    Read(usize),
    Write(usize),
    Ready(usize),
    Closed(usize),
    ContainerGone(usize),
    User(usize),
    Reader(usize),
}

/// A pipe. What is written to it is kept, for the accounts.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    pub(super) agent: usize,
    pub(super) capacity: usize,
    pub(super) written: Vec<u8>,
    /// How much of that was read.
    pub(super) read: usize,
    pub(super) readers: u32,
    pub(super) writers: u32,
    /// The end that the driver has.
    pub(super) end: Option<usize>,
}

impl Pipe {
    pub(super) fn len(&self) -> usize {
        self.written.len() - self.read
    }

    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len())
    }
}

/// What a descriptor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Pipe(usize),
    /// The pidfd of a process.
    Exit(usize),
    Cgroup(usize),
    Container(usize),
    Wake,
}

/// One agent, as the simulation knows it.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) pid: u32,
    pub(super) channel: Arc<Channel>,
    pub(super) policy: ClosePolicy,
    pub(super) stdin: usize,
    pub(super) stdout: usize,
    pub(super) stderr: usize,
    /// The index of its first process.
    pub(super) leader: usize,
    pub(super) tag: Option<u64>,
    pub(super) has_cgroup: bool,
    pub(super) stderr_events: bool,
    pub(super) has_forks: bool,
    pub(super) traced_until: u64,
    pub(super) container_gone: bool,
    pub(super) adopted: bool,
    pub(super) reaps: u32,
    /// A process that was not the leader held an output, now or before.
    pub(super) was_held: bool,
    /// The same when stdout was closed.
    pub(super) held_at_cut: bool,
    /// The user ended the input, or the pipe broke.
    pub(super) has_ended_input: bool,
    /// Bytes of output that the agent had queued and dropped when its input ended.
    pub(super) dropped: usize,
    pub(super) closing: Option<Closing>,
    pub(super) reported: bool,
}

/// A close, as the simulation times it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) until: u64,
    pub(super) is_abort: bool,
}

/// A command to the driver.
#[derive(Debug)]
pub(super) enum Command {
    Adopt(usize),
    Agent(usize, Request),
    Shutdown(Duration),
}

/// How the kernel and the host of this seed are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knobs {
    /// The kernel cannot signal a group whose leader is reaped.
    pub(super) old_kernel: bool,
    /// `/proc` shows nothing.
    pub(super) hidden: bool,
    pub(super) buffer: usize,
    /// One of this number of calls meets a fault of the kernel.
    pub(super) rare: u64,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) base: Instant,
    pub(super) now: u64,
    pub(super) knobs: Knobs,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    seq: u64,
    pub(super) pipes: Vec<Pipe>,
    pub(super) processes: Vec<SimProcess>,
    pub(super) ends: Vec<EndSlot>,
    pub(super) objects: BTreeMap<RawFd, Object>,
    pub(super) kernel: Queues,
    pub(super) agents: Vec<Facts>,
    pub(super) users: Vec<User>,
    pub(super) mailbox: VecDeque<Command>,
    /// The driver has announced that it sleeps.
    pub(super) asleep: bool,
    pub(super) eventfd: bool,
    /// The engine is being shut down.
    pub(super) is_ending: bool,
    pub(super) violation: Option<String>,
    pub(super) trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64, traced: bool, base: Instant) -> Self {
        let mut rng = Rng::new(seed);
        let knobs = Knobs {
            old_kernel: rng.one_in(3),
            hidden: rng.one_in(10),
            buffer: rng.pick(&[16, 64, 256, 4096]),
            rare: rng.pick(&[50, 400, 1 << 40]),
        };
        let buffers = rng.pick(&[2, 4, 16]);
        Self {
            rng,
            base,
            now: 0,
            knobs,
            queue: BinaryHeap::new(),
            seq: 0,
            pipes: Vec::new(),
            processes: Vec::new(),
            ends: Vec::new(),
            objects: BTreeMap::new(),
            kernel: Queues::new(buffers),
            agents: Vec::new(),
            users: Vec::new(),
            mailbox: VecDeque::new(),
            asleep: false,
            eventfd: false,
            is_ending: false,
            violation: None,
            trace: traced.then(Vec::new),
        }
    }

    pub(super) fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.now)
    }

    /// Adds a line to the trace, if there is one.
    pub(super) fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let (ms, us) = (self.now / MS, self.now % MS / US);
            trace.push(format!("{ms:>6}.{us:03} ms  {}", line()));
        }
    }

    /// Notes what must not be. The first one counts.
    pub(super) fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.log(|| format!("VIOLATION: {what}"));
            self.violation = Some(what);
        }
    }

    pub(super) fn after(&mut self, delay: u64, happening: Happening) {
        self.seq += 1;
        self.queue.push(Reverse((self.now.saturating_add(delay), self.seq, happening)));
    }

    pub(super) fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// Lets the next thing happen.
    pub(super) fn happen(&mut self) {
        let Some(Reverse((at, _, happening))) = self.queue.pop() else { return };
        self.now = self.now.max(at);
        match happening {
            Happening::Step(process) => self.step(process),
            Happening::Die(process) => self.die(process),
            Happening::Read(end) => self.complete_read(end),
            Happening::Write(end) => self.complete_write(end),
            Happening::Ready(end) => self.complete_watch(end),
            Happening::Closed(end) => self.complete_close(end),
            Happening::ContainerGone(agent) => self.lose_container(agent),
            Happening::User(agent) => self.act(agent),
            Happening::Reader(agent) => self.read_events(agent),
        }
    }

    /// Lets everything happen that happens within this time.
    pub(super) fn pass(&mut self, time: u64) {
        let until = self.now + time;
        while self.next_at().is_some_and(|at| at <= until) {
            self.happen();
        }
        self.now = until;
    }

    /// Sends a command to the driver, as the handles do.
    pub(super) fn send(&mut self, command: Command) {
        self.log(|| format!("handle: {command:?}"));
        self.mailbox.push_back(command);
        if std::mem::take(&mut self.asleep) {
            self.eventfd = true;
            self.kick_watches(Object::Wake);
        }
    }

    pub(super) fn request(&mut self, agent: usize, request: Request) {
        let bit = request.bit();
        if self.agents[agent].channel.note_request(bit) {
            self.send(Command::Agent(agent, request));
        }
    }

    /// Acts on a change of a pipe: both sides may have something to do.
    pub(super) fn pipe_changed(&mut self, pipe: usize) {
        if let Some(end) = self.pipes[pipe].end {
            self.kick_read(end);
            self.kick_write(end);
        }
        let agent = self.pipes[pipe].agent;
        for index in 0..self.processes.len() {
            if self.processes[index].agent == agent && self.processes[index].waits_for_pipes() {
                self.processes[index].woken = true;
                let delay = self.rng.delay();
                self.poke(index, delay);
            }
        }
    }
}
