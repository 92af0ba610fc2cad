//! The simulated processes: what they do, and how they answer to signals.

use std::collections::VecDeque;

use super::world::{Happening, MS, Object, US, World};
use crate::close::ExitStatus;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    /// It has exited, and its parent has not collected its status.
    Zombie,
    Gone,
}

/// Something that a process does at a time.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Exit(ExitStatus),
    CloseOutputs,
    CloseStdin,
    Stop,
    /// Uninterruptible sleep until this time.
    Hang(u64),
    Fork(Box<Plan>),
    /// Output, with or without a line end.
    Say(Vec<u8>),
    Warn(Vec<u8>),
}

/// What a process does.
#[derive(Clone, Debug, Default)]
pub(super) struct Habits {
    pub(super) reads: bool,
    /// Answers each line with a record, after this time.
    pub(super) answers: Option<u64>,
    /// Exits this long after the end of its input. `None`: ignores it.
    pub(super) eof: Option<u64>,
    /// Records that it writes after the end of its input.
    pub(super) last_words: u64,
    /// Drops what it has queued at the end of its input.
    pub(super) drops: bool,
    /// Exits this long after SIGTERM: by itself, or killed by the signal. `None`: ignores it.
    pub(super) term: Option<(u64, ExitStatus)>,
    pub(super) ignores_pipe: bool,
    /// Writes a record each time that this has passed.
    pub(super) flood: Option<u64>,
    pub(super) deeds: VecDeque<(u64, Deed)>,
}

/// A process to be started.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) habits: Habits,
    pub(super) in_group: bool,
    pub(super) has_outputs: bool,
    /// Its parent is not of the agent.
    pub(super) is_orphan: bool,
}

#[derive(Debug)]
pub(super) struct SimProcess {
    pub(super) agent: usize,
    pub(super) pid: u32,
    pub(super) group: u32,
    pub(super) parent: Option<usize>,
    pub(super) state: State,
    pub(super) status: ExitStatus,
    /// SIGKILL was sent.
    pub(super) killed: bool,
    pub(super) stopped: bool,
    pub(super) hangs_until: u64,
    /// How it exits once it does not hang and is not stopped.
    doom: Option<(u64, ExitStatus)>,
    pub(super) has_input: bool,
    pub(super) has_outputs: bool,
    habits: Habits,
    /// Lines to be written, and how much of the first is.
    queue: VecDeque<Vec<u8>>,
    begun: usize,
    answers_due: u64,
    busy_until: u64,
    saw_eof: bool,
    flood_at: u64,
    step_at: Option<u64>,
    /// A pipe has changed, and it has not run since.
    pub(super) woken: bool,
    said: u64,
}

impl SimProcess {
    pub(super) fn waits_for_pipes(&self) -> bool {
        self.state == State::Running && (self.has_input || !self.queue.is_empty())
    }

    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running
    }
}

impl World {
    pub(super) fn start(&mut self, agent: usize, parent: Option<usize>, plan: Plan) -> usize {
        let index = self.processes.len();
        let pid = 1000 + index as u32;
        let is_leader = parent.is_none();
        // A child is born in the group of its parent.
        let group = parent.filter(|_| plan.in_group).map_or(pid, |it| self.processes[it].group);
        let mut habits = plan.habits;
        for (at, _) in &mut habits.deeds {
            *at += self.now;
        }
        habits.deeds.make_contiguous().sort_by_key(|(at, _)| *at);
        self.log(|| format!("{pid}: starts in group {group}: {habits:?}"));
        self.processes.push(SimProcess {
            agent,
            pid,
            group,
            parent: parent.filter(|_| !plan.is_orphan),
            state: State::Running,
            status: ExitStatus::Unknown,
            killed: false,
            stopped: false,
            hangs_until: 0,
            doom: None,
            has_input: is_leader,
            has_outputs: plan.has_outputs,
            flood_at: self.now + habits.flood.unwrap_or(0),
            habits,
            queue: VecDeque::new(),
            begun: 0,
            answers_due: 0,
            busy_until: 0,
            saw_eof: false,
            step_at: None,
            woken: false,
            said: 0,
        });
        self.poke(index, 0);
        index
    }

    /// Lets a process run after a delay.
    pub(super) fn poke(&mut self, index: usize, delay: u64) {
        let at = self.now + delay;
        let process = &mut self.processes[index];
        if process.state == State::Running && process.step_at.is_none_or(|before| at < before) {
            process.step_at = Some(at);
            self.after(delay, Happening::Step(index));
        }
    }

    /// A process runs.
    pub(super) fn step(&mut self, index: usize) {
        let now = self.now;
        let process = &mut self.processes[index];
        if process.state != State::Running || process.step_at != Some(now) {
            return;
        }
        process.step_at = None;
        process.woken = false;
        if process.hangs_until > now {
            let left = process.hangs_until - now;
            return if left < 100_000 * MS {
                self.poke(index, left)
            };
        }
        if process.killed {
            return self.after(0, Happening::Die(index));
        }
        if process.stopped {
            return;
        }
        if let Some((at, _)) = process.doom
            && now >= at
        {
            return self.after(0, Happening::Die(index));
        }
        self.do_deeds(index);
        let process = &self.processes[index];
        if process.state != State::Running || process.stopped || process.hangs_until > now {
            return self.poke_next(index);
        }
        self.read_input(index);
        self.write_output(index);
        self.poke_next(index);
    }

    /// Arms the timer of a process.
    fn poke_next(&mut self, index: usize) {
        let now = self.now;
        let process = &self.processes[index];
        if process.stopped {
            return;
        }
        let doom = process.doom.map(|(at, _)| at);
        let deed = process.habits.deeds.front().map(|(at, _)| *at);
        let flood =
            process.habits.flood.filter(|_| process.queue.is_empty() && process.has_outputs);
        let flood = flood.map(|_| process.flood_at);
        let busy = (process.busy_until > now).then_some(process.busy_until);
        let hangs = (process.hangs_until > now && process.hangs_until < now + 100_000 * MS)
            .then_some(process.hangs_until);
        let next = [doom, deed, flood, busy, hangs].into_iter().flatten().min();
        if let Some(at) = next {
            self.poke(index, at.saturating_sub(now).max(1));
        }
    }

    fn do_deeds(&mut self, index: usize) {
        while self.processes[index].habits.deeds.front().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, deed)) = self.processes[index].habits.deeds.pop_front() else { return };
            let (agent, pid) = (self.processes[index].agent, self.processes[index].pid);
            self.log(|| format!("{pid}: {deed:?}"));
            let process = &mut self.processes[index];
            match deed {
                Deed::Exit(status) => {
                    process.doom = Some((self.now, status));
                    return self.after(0, Happening::Die(index));
                }
                Deed::CloseOutputs => self.let_go_of_outputs(index),
                Deed::CloseStdin => self.let_go_of_input(index),
                Deed::Stop => return process.stopped = true,
                Deed::Hang(until) => return process.hangs_until = until,
                Deed::Fork(plan) => {
                    if plan.has_outputs && !process.has_outputs {
                        continue;
                    }
                    let outputs = plan.has_outputs;
                    self.start(agent, Some(index), *plan);
                    if outputs {
                        self.agents[agent].was_held = true;
                        let (stdout, stderr) =
                            (self.agents[agent].stdout, self.agents[agent].stderr);
                        self.pipes[stdout].writers += 1;
                        self.pipes[stderr].writers += 1;
                    }
                }
                Deed::Say(bytes) => process.queue.push_back(bytes),
                Deed::Warn(bytes) => {
                    let stderr = self.agents[agent].stderr;
                    let room = self.pipes[stderr].room().min(bytes.len());
                    if self.processes[index].has_outputs && self.pipes[stderr].readers > 0 {
                        self.pipes[stderr].written.extend_from_slice(&bytes[..room]);
                        self.pipe_changed(stderr);
                    }
                }
            }
        }
    }

    fn record(&mut self, index: usize) -> Vec<u8> {
        let process = &mut self.processes[index];
        process.said += 1;
        let (pid, said) = (process.pid, process.said);
        let pad = if self.rng.one_in(6) { self.rng.size(0, 900) } else { self.rng.size(0, 30) };
        format!("{{\"n\":{said},\"of\":{pid},\"pad\":\"{}\"}}\n", "x".repeat(pad)).into_bytes()
    }

    fn read_input(&mut self, index: usize) {
        let process = &self.processes[index];
        if !process.has_input || !process.habits.reads || process.saw_eof {
            return;
        }
        let stdin = self.agents[process.agent].stdin;
        let waiting = self.pipes[stdin].len();
        if waiting > 0 {
            let len = if self.rng.one_in(3) { self.rng.size(1, waiting) } else { waiting };
            let from = self.pipes[stdin].read;
            let lines = self.pipes[stdin].written[from..from + len].iter();
            let lines = lines.filter(|byte| **byte == b'\n').count() as u64;
            self.pipes[stdin].read += len;
            let now = self.now;
            let process = &mut self.processes[index];
            if let Some(think) = process.habits.answers
                && lines > 0
            {
                process.answers_due += lines;
                process.busy_until = process.busy_until.max(now + think);
            }
            self.poke(index, 1);
            self.pipe_changed(stdin);
        } else if self.pipes[stdin].writers == 0 {
            self.see_eof(index);
        }
    }

    fn see_eof(&mut self, index: usize) {
        let words = self.processes[index].habits.last_words;
        let process = &mut self.processes[index];
        process.saw_eof = true;
        let pid = process.pid;
        if process.habits.drops {
            // As Node programs do: what is queued is gone, and so are the answers under way.
            // Only answers count: what a timer brings may come between the look at it and the end.
            let answers = process.queue.iter().filter(|line| line.starts_with(b"{\"n\""));
            let timed = process.habits.flood.is_some();
            let dropped = if timed { 0 } else { answers.count() } + process.answers_due as usize;
            // The rest of a line that was begun is dropped, too.
            process.queue.clear();
            process.begun = 0;
            process.answers_due = 0;
            if process.has_outputs {
                self.agents[process.agent].dropped += dropped;
            }
            self.log(|| format!("{pid}: sees its input end and drops {dropped}"));
        } else {
            self.log(|| format!("{pid}: sees its input end"));
            for _ in 0..words {
                let line = self.record(index);
                self.processes[index].queue.push_back(line);
            }
        }
        let now = self.now;
        let process = &mut self.processes[index];
        if let Some(delay) = process.habits.eof {
            // It exits once its queue is written: see `write_output`.
            process.busy_until = process.busy_until.max(now + delay);
        }
    }

    fn write_output(&mut self, index: usize) {
        let now = self.now;
        let process = &self.processes[index];
        let agent = process.agent;
        if process.busy_until <= now && process.answers_due > 0 {
            for _ in 0..std::mem::take(&mut self.processes[index].answers_due) {
                let line = self.record(index);
                self.processes[index].queue.push_back(line);
            }
        }
        let process = &self.processes[index];
        if let Some(interval) = process.habits.flood
            && process.queue.is_empty()
            && process.has_outputs
            && process.flood_at <= now
        {
            let line = self.record(index);
            let process = &mut self.processes[index];
            process.queue.push_back(line);
            process.flood_at = now + interval;
        }
        if !self.processes[index].has_outputs {
            self.processes[index].queue.clear();
            self.processes[index].begun = 0;
        }
        let stdout = self.agents[agent].stdout;
        while let Some(line) = self.processes[index].queue.front() {
            if self.pipes[stdout].readers == 0 {
                return self.break_pipe(index);
            }
            let begun = self.processes[index].begun;
            let left = line.len() - begun;
            let room = self.pipes[stdout].room();
            // A short write is atomic, so that the lines of several processes do not mix.
            let is_whole = left <= room;
            if !is_whole && (self.agents[agent].has_forks || room == 0) {
                break;
            }
            let count = left.min(room);
            let bytes = line[begun..begun + count].to_vec();
            self.pipes[stdout].written.extend_from_slice(&bytes);
            let process = &mut self.processes[index];
            if is_whole {
                process.queue.pop_front();
                process.begun = 0;
            } else {
                process.begun += count;
            }
            self.pipe_changed(stdout);
            if self.rng.one_in(3) {
                let delay = self.rng.below(30 * US);
                self.poke(index, delay + 1);
                break;
            }
        }
        let process = &mut self.processes[index];
        let is_done = process.queue.is_empty() && process.answers_due == 0;
        if process.saw_eof && process.habits.eof.is_some() && is_done && process.busy_until <= now {
            process.doom = Some((now, ExitStatus::Code(0)));
            self.after(0, Happening::Die(index));
        }
    }

    fn break_pipe(&mut self, index: usize) {
        let process = &mut self.processes[index];
        process.queue.clear();
        process.begun = 0;
        if !process.habits.ignores_pipe {
            process.doom = Some((self.now, ExitStatus::Signal(13)));
            self.after(0, Happening::Die(index));
        }
    }

    /// Whether it has something to do that may bring output: runnable, or in an uninterruptible sleep.
    pub(super) fn is_busy(&self, index: usize) -> bool {
        let process = &self.processes[index];
        let agent = &self.agents[process.agent];
        let stdin = &self.pipes[agent.stdin];
        let reads = process.has_input && process.habits.reads && !process.saw_eof;
        let line = process.queue.front().map_or(0, |line| line.len() - process.begun);
        let room = self.pipes[agent.stdout].room();
        let can_write = line > 0 && (line <= room || (room > 0 && !agent.has_forks));
        process.hangs_until > self.now
            || process.busy_until > self.now
            || process.answers_due > 0
            || (reads && (stdin.len() > 0 || stdin.writers == 0))
            || can_write
            || process.woken
            || process.step_at.is_some_and(|at| at <= self.now + US)
            || process.doom.is_some()
    }

    /// Sends a signal. Returns whether there was a process to receive it.
    pub(super) fn signal(&mut self, index: usize, signal: i32) -> bool {
        let now = self.now;
        let process = &mut self.processes[index];
        if process.state != State::Running {
            return process.state == State::Zombie;
        }
        let pid = process.pid;
        match signal {
            9 => {
                process.killed = true;
                process.stopped = false;
                process.step_at = None;
                let hangs = process.hangs_until.saturating_sub(now);
                let delay = hangs.max(self.rng.delay());
                if hangs < 100_000 * MS {
                    self.poke(index, delay);
                }
            }
            15 => {
                if let Some((delay, status)) = process.habits.term {
                    process.doom.get_or_insert((now + delay, status));
                    self.poke(index, delay);
                }
            }
            // SIGCONT.
            _ => {
                process.stopped = false;
                self.poke(index, 0);
            }
        }
        self.log(|| format!("{pid}: gets signal {signal}"));
        true
    }

    pub(super) fn die(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if process.state != State::Running {
            return;
        }
        let agent = process.agent;
        let is_leader = self.agents[agent].leader == index;
        process.status = match process.doom {
            _ if process.killed => ExitStatus::Signal(9),
            Some((_, status)) => status,
            None => ExitStatus::Unknown,
        };
        process.state = if is_leader { State::Zombie } else { State::Gone };
        let (pid, status) = (process.pid, process.status);
        self.log(|| format!("{pid}: is dead: {status:?}"));
        self.let_go_of_outputs(index);
        self.let_go_of_input(index);
        for other in &mut self.processes {
            if other.parent == Some(index) {
                other.parent = None;
            }
        }
        self.kick_watches(Object::Exit(index));
        self.cgroup_changed(agent);
    }

    fn let_go_of_outputs(&mut self, index: usize) {
        if std::mem::take(&mut self.processes[index].has_outputs) {
            let facts = &self.agents[self.processes[index].agent];
            for pipe in [facts.stdout, facts.stderr] {
                self.pipes[pipe].writers -= 1;
                self.pipe_changed(pipe);
            }
        }
    }

    fn let_go_of_input(&mut self, index: usize) {
        if std::mem::take(&mut self.processes[index].has_input) {
            let stdin = self.agents[self.processes[index].agent].stdin;
            self.pipes[stdin].readers = 0;
            self.pipe_changed(stdin);
        }
    }
}
