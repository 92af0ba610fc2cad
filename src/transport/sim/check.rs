//! What must hold: after each step, when nothing happens, and at the end.

use std::sync::Arc;
use std::time::Duration;

use super::kernel::EndState;
use super::process::State;
use super::user::INTERRUPT;
use super::world::{MS, Object, SEC, World};
use crate::close::{CloseReport, ExitStatus};
use crate::io::Role;
use crate::record::Event;

/// How much later than its limit a close may end: waits end a little late.
const SLACK: u64 = 100 * MS;

impl World {
    /// A descriptor is being closed.
    pub(super) fn note_close(&mut self, end: usize) {
        let object = self.ends[end].object;
        let Object::Exit(leader) = object else { return };
        let agent = self.processes[leader].agent;
        let facts = &self.agents[agent];
        let group = facts.pid;
        let unswept =
            self.processes.iter().find(|it| it.group == group && it.is_running() && !it.killed);
        if facts.policy.kill_group
            && let Some(left) = unswept.map(|it| it.pid)
        {
            self.violate(|| format!("the pidfd of {group} is closed before {left} is killed"));
        }
    }

    /// Descriptors are being closed in one submission.
    pub(super) fn note_cut(&mut self, closing: &[usize]) {
        for end in closing {
            let Object::Pipe(pipe) = self.ends[*end].object else { continue };
            let agent = self.pipes[pipe].agent;
            if self.ends[*end].tag.role != Role::Stdout {
                continue;
            }
            let facts = &self.agents[agent];
            let stderr = self.pipes[facts.stderr].end;
            if stderr.is_some_and(|end| self.ends[end].state == EndState::Open) {
                self.violate(|| "the outputs are cut in two submissions".to_owned());
            }
            let leader = self.agents[agent].leader;
            let holds = |at: usize| {
                let it = &self.processes[at];
                at != leader && it.agent == agent && it.has_outputs && it.is_running()
            };
            self.agents[agent].held_at_cut = (0..self.processes.len()).any(holds);
        }
    }

    /// The driver is about to sleep, and the kernel has nothing for it: nothing may be left to do.
    pub(super) fn check_quiet(&mut self) {
        if !self.mailbox.is_empty() {
            return;
        }
        for agent in 0..self.agents.len() {
            let facts = &self.agents[agent];
            let is_dead = self.processes[facts.leader].state == State::Zombie;
            if facts.reported && is_dead && facts.traced_until == 0 {
                let pid = facts.pid;
                self.violate(|| format!("{pid} has exited after its close and is not reaped"));
            }
            let facts = &self.agents[agent];
            if !facts.adopted || facts.reported {
                continue;
            }
            let user = &self.users[agent];
            let channel = Arc::clone(&facts.channel);
            let (stdin, stdout) = (&self.pipes[facts.stdin], &self.pipes[facts.stdout]);
            let end_of = |pipe: &super::world::Pipe| {
                pipe.end.map(|end| &self.ends[end]).filter(|end| end.state == EndState::Open)
            };
            let is_closing = channel.close_reason().is_some();
            let mut lost = None;
            if user.waits_for_events() && channel.inbox.unread() > 0 {
                lost = Some("events are delivered and the reader sleeps");
            }
            if let Some(end) = end_of(stdout)
                && !end.read_over
                && !end.want_read
                && (user.waits_for_events() || !user.has_reader)
            {
                lost = Some("the reader has read everything and stdout is not read");
            }
            if end_of(stdout).is_some_and(|end| !end.read_over && !end.want_read) && is_closing {
                lost = Some("the agent is being closed and stdout is not read");
            }
            let pending = stdin.written.len() < user.accepted.len();
            if let Some(end) = end_of(stdin)
                && !is_closing
                && pending
                && end.write.is_none()
            {
                lost = Some("frames are accepted and not written");
            }
            if user.is_blocked && !user.is_due && !pending && !is_closing {
                lost = Some("there is room and the writer sleeps");
            }
            if user.flushing.is_some() && !user.is_due && (!pending || end_of(stdin).is_none()) {
                lost = Some("everything is written or lost and the flush sleeps");
            }
            let leader = &self.processes[facts.leader];
            if leader.state != State::Running && !is_closing {
                lost = Some("the agent has exited and no close has begun");
            }
            if let Some(lost) = lost {
                self.violate(|| format!("lost wake-up: agent {agent}: {lost}"));
            }
        }
    }

    /// The report of an agent has come.
    pub(super) fn check_report(&mut self, agent: usize, report: &CloseReport) {
        self.agents[agent].reported = true;
        let text = format!("{report:?}");
        self.log(|| format!("agent {agent}: {text}"));
        let facts = &self.agents[agent];
        let group = facts.pid;
        let mut wrong = Vec::new();
        match facts.closing {
            None => wrong.push("a report without a close".to_owned()),
            Some(closing) => {
                let stalled = u64::try_from(report.stalled().as_nanos()).unwrap_or(u64::MAX);
                let until = closing.until.saturating_add(stalled).saturating_add(SLACK);
                if self.now > until {
                    let late = Duration::from_nanos(self.now - until);
                    wrong.push(format!("the close of {group} is over {late:?} after its limit"));
                }
            }
        }
        let alive = |at: &&super::process::SimProcess| at.group == group && at.is_running();
        if facts.policy.kill_group
            && let Some(left) = self.processes.iter().filter(alive).find(|it| !it.killed)
        {
            wrong.push(format!("{} of group {group} was not killed", left.pid));
        }
        let leader = &self.processes[facts.leader];
        let is_right = match report.exit() {
            ExitStatus::StillRunning => leader.state == State::Running || facts.reaps == 0,
            ExitStatus::Unknown => facts.traced_until > 0 && leader.state == State::Zombie,
            exit => exit == leader.status && leader.state == State::Gone && facts.reaps == 1,
        };
        if !is_right {
            let (state, status) = (leader.state, leader.status);
            wrong.push(format!("{:?} for {state:?} {status:?}", report.exit()));
        }
        if report.outputs_held() == Some(true) && !facts.was_held {
            wrong.push("outputs held by no process".to_owned());
        }
        if report.outputs_held() == Some(false) && facts.held_at_cut {
            wrong.push("outputs held, and the report denies it".to_owned());
        }
        if !report.output_may_be_lost() && facts.held_at_cut {
            wrong.push("a process could still write, and the report denies it".to_owned());
        }
        if !report.output_may_be_lost() && !matches!(leader.status, ExitStatus::Code(_)) {
            wrong.push("it did not end by itself, and the report denies a loss".to_owned());
        }
        if report.input_ended_while_busy() == Some(false)
            && facts.dropped > 0
            && !facts.has_ended_input
        {
            wrong.push(format!("the input ended while {} was queued", facts.dropped));
        }
        for what in wrong {
            self.violate(|| format!("agent {agent}: {what}"));
        }
    }

    /// Everything is over.
    pub(super) fn check_end(&mut self) {
        for index in 0..self.ends.len() {
            let end = &self.ends[index];
            if end.closes != 1 || end.state != EndState::Closed {
                let (tag, closes, state) = (end.tag, end.closes, end.state);
                self.violate(|| format!("{tag:?} was closed {closes} times and is {state:?}"));
            }
        }
        for agent in 0..self.agents.len() {
            if !self.agents[agent].adopted {
                continue;
            }
            let Some(report) = self.agents[agent].channel.close_report() else {
                self.violate(|| format!("agent {agent} has no report"));
                continue;
            };
            let mut wrong = Vec::new();
            self.account_output(agent, &report, &mut wrong);
            self.account_input(agent, &report, &mut wrong);
            let (facts, user) = (&self.agents[agent], &self.users[agent]);
            if facts.reaps > 1 {
                wrong.push("reaped twice".to_owned());
            }
            if user.has_reader && !user.ended {
                wrong.push("the reader waits for the end".to_owned());
            }
            if user.ended && !matches!(user.last, Some(Event::Exit(exit)) if exit == report.exit())
            {
                wrong.push(format!("the last event is {:?}", user.last));
            }
            if user.flushing.is_some() || user.is_blocked {
                wrong.push("a writer waits".to_owned());
            }
            if user.questions.iter().any(|answer| answer.get().is_none()) {
                wrong.push("a question is not answered".to_owned());
            }
            for what in wrong {
                self.violate(|| format!("agent {agent}: {what}: {report:?}"));
            }
        }
    }

    /// Each byte that was written is delivered or counted once, or the report says that output may be lost.
    fn account_output(&self, agent: usize, report: &CloseReport, wrong: &mut Vec<String>) {
        let (facts, user) = (&self.agents[agent], &self.users[agent]);
        let (stdout, stderr) = (&self.pipes[facts.stdout], &self.pipes[facts.stderr]);
        let stats = report.stats();
        if (stats.bytes_in, stats.stderr_bytes) != (stdout.read as u64, stderr.read as u64) {
            wrong.push(format!("read {} and {} bytes", stdout.read, stderr.read));
        }
        let left = stdout.len() + stderr.len();
        if left > 0 && !report.output_may_be_lost() {
            wrong.push(format!("{left} bytes are lost, and the report denies it"));
        }
        let hears = facts.stderr_events && user.has_reader && stats.stderr_lines_dropped == 0;
        if user.stderr > stderr.read || (hears && user.stderr < stderr.read) {
            wrong.push(format!("{} bytes of stderr, {} delivered", stderr.read, user.stderr));
        }
        let read = &stdout.written[..stdout.read];
        let is_record = |line: &[u8]| {
            line.starts_with(b"{") && serde_json::from_slice::<serde_json::Value>(line).is_ok()
        };
        let mut lines: Vec<&[u8]> = read.split(|byte| *byte == b'\n').collect();
        let tail = lines.pop().unwrap_or_default();
        lines.extend((!tail.is_empty()).then_some(tail));
        let counted =
            stats.records_in + stats.noise + stats.malformed + stats.oversized + stats.truncated;
        if counted != lines.len() as u64 {
            wrong.push(format!("{} lines, {counted} counted", lines.len()));
        }
        lines.retain(|line| is_record(line));
        // The delivered records are among those written, in their order.
        let mut written = lines.iter();
        for record in &user.records {
            if !written.any(|line| *line == &record[..]) {
                wrong.push(format!("a record twice or out of order: {}", text(record)));
                break;
            }
        }
        let delivered: usize = user.records.iter().map(Vec::len).sum();
        let taken = (
            user.records.len() as u64 + stats.records_discarded,
            delivered as u64 + stats.bytes_discarded,
        );
        let bytes: usize = lines.iter().map(|line| line.len()).sum();
        if user.has_reader && stats.oversized == 0 && taken != (lines.len() as u64, bytes as u64) {
            wrong.push(format!("{} records of {bytes} bytes, {taken:?} accounted", lines.len()));
        }
    }

    /// Each byte that was accepted is in the pipe, once, or counted as unsent.
    fn account_input(&self, agent: usize, report: &CloseReport, wrong: &mut Vec<String>) {
        let (facts, user) = (&self.agents[agent], &self.users[agent]);
        let written = &self.pipes[facts.stdin].written;
        let mut accepted = user.accepted.clone();
        let unsent = usize::try_from(report.unsent_bytes()).unwrap_or(usize::MAX);
        // The close refuses writes first, so its interrupt comes after all that was accepted.
        if user.interrupts && written.len() + unsent == accepted.len() + INTERRUPT.len() {
            accepted.extend_from_slice(INTERRUPT);
        }
        if !accepted.starts_with(written) {
            wrong.push("the agent got something else than was sent".to_owned());
        }
        if written.len() + unsent != accepted.len() {
            wrong.push(format!("{} accepted, {} written", accepted.len(), written.len()));
        }
        if report.stats().bytes_out != written.len() as u64 {
            wrong.push(format!("{} bytes written", written.len()));
        }
        let whole = written.iter().filter(|byte| **byte == b'\n').count() as u64;
        if report.stats().records_out != whole {
            wrong.push(format!("{whole} records written"));
        }
        let records = accepted.iter().filter(|byte| **byte == b'\n').count() as u64;
        if report.unsent_records() != records - whole {
            wrong.push(format!("{records} records accepted, {whole} written"));
        }
    }

    /// The longest time that a seed may take.
    pub(super) fn is_endless(&self) -> bool {
        self.now > 10_000 * SEC
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
