//! What happens in a seed: the agents, what they do, and what their users do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::process::{Deed, Habits, Plan};
use super::user::{Act, User};
use super::world::{Facts, MS, Pipe, Rng, SEC, US, World};
use crate::backend::Found;
use crate::close::{CloseMode, ClosePolicy, CloseReason, ExitStatus};
use crate::command::AgentCommand;
use crate::config::Limits;

use crate::transport::{Channel, CloseLimits};

/// When the engine is shut down at the latest.
const LAST: u64 = 3 * SEC;

pub(super) fn prepare(world: &mut World) -> Vec<AgentCommand> {
    let agents = world.rng.size(1, 3);
    let mut commands: Vec<_> = (0..agents).map(|agent| add_agent(world, agent)).collect();
    let at = if world.rng.one_in(3) { world.rng.below(50 * MS) } else { LAST };
    let limit = world.rng.pick(&[0, 1, 20, 5_000]);
    let shutdown = (at, Act::Shutdown(Duration::from_millis(limit)));
    world.users[0].acts.push_back(shutdown);
    for agent in 0..agents {
        world.users[agent].acts.make_contiguous().sort_by_key(|(at, _)| *at);
        let times: Vec<u64> = world.users[agent].acts.iter().map(|(at, _)| *at).collect();
        for at in times {
            world.after(at, super::world::Happening::User(agent));
        }
    }
    for (agent, command) in commands.iter_mut().enumerate() {
        command.close = world.agents[agent].policy;
    }
    commands
}

fn add_agent(world: &mut World, agent: usize) -> AgentCommand {
    let rng = &mut world.rng;
    let limits = Limits::new()
        .inbox_high(rng.pick(&[1, 200, 2000, 1 << 20]))
        .outbox_high(rng.pick(&[1, 300, 1 << 20]))
        .drain_max(rng.pick(&[100, 1 << 20]))
        .record_max(rng.pick(&[500, 1 << 20]));
    let policy = policy(rng);
    let plan = plan(rng, 0);
    let acts = acts(rng);
    let (in_size, out_size) = (rng.pick(&[64, 512, 4096]), rng.pick(&[1000, 4096]));
    let tag = rng.one_in(3).then_some(agent as u64 + 1);
    let has_cgroup = rng.one_in(4);
    let traced_until = if rng.one_in(30) { rng.below(4 * SEC) } else { 0 };
    let mut command = AgentCommand::new("sim").limits(limits);
    command.stderr_events = rng.one_in(2);
    command.stderr_backpressure = rng.one_in(3);
    let first = world.pipes.len();
    for (capacity, readers, writers) in [(in_size, 1, 1), (out_size, 1, 1), (out_size, 1, 1)] {
        world.pipes.push(Pipe { agent, capacity, readers, writers, ..Pipe::default() });
    }
    let leader = world.processes.len();
    let pid = 1000 + leader as u32;
    let label = format!("pid {pid} (sim)");
    let channel = Channel::new(pid, label, &Found::default(), command.framing, limits);
    world.agents.push(Facts {
        pid,
        channel: Arc::new(channel),
        policy,
        stdin: first,
        stdout: first + 1,
        stderr: first + 2,
        leader,
        tag,
        has_cgroup,
        stderr_events: command.stderr_events,
        has_forks: plan.habits.deeds.iter().any(|(_, deed)| matches!(deed, Deed::Fork(_))),
        traced_until,
        container_gone: false,
        adopted: false,
        reaps: 0,
        was_held: false,
        held_at_cut: false,
        has_ended_input: false,
        dropped: 0,
        closing: None,
        reported: false,
    });
    world.users.push(User::new(acts));
    world.start(agent, None, plan);
    command
}

fn millis(rng: &mut Rng, of: &[u64]) -> Duration {
    Duration::from_millis(rng.pick(of))
}

fn policy(rng: &mut Rng) -> ClosePolicy {
    let mut policy = ClosePolicy::graceful()
        .flush(millis(rng, &[0, 1, 50, 500]))
        .quiet_period(millis(rng, &[0, 1, 5, 5]))
        .interrupt(millis(rng, &[5, 100, 1000]))
        .drain(millis(rng, &[1, 20, 200, 2000]))
        .terminate(millis(rng, &[0, 10, 1000]))
        .min_drain(millis(rng, &[0, 20]))
        .cut(millis(rng, &[1, 250]))
        .kill(millis(rng, &[10, 100, 2000]))
        .exit_drain(millis(rng, &[0, 20, 1500]))
        .kill_group(!rng.one_in(6));
    policy.abort_grace = millis(rng, &[0, 50]);
    policy.remove = millis(rng, &[20, 1000]);
    policy.container = rng.one_in(8);
    if rng.one_in(4) {
        policy.mode = CloseMode::Abort;
    }
    if rng.one_in(3) {
        policy = policy.drain_total(millis(rng, &[1, 50, 1000]));
    }
    policy
}

/// A process with a few habits, of which one may be bad.
fn plan(rng: &mut Rng, depth: u32) -> Plan {
    let soon = |rng: &mut Rng| rng.pick(&[0, 30 * US, MS, 20 * MS]) + rng.below(5 * MS);
    let mut habits = Habits {
        reads: true,
        answers: (depth == 0 && !rng.one_in(4)).then(|| rng.pick(&[0, 20 * US, 2 * MS, 40 * MS])),
        eof: Some(rng.pick(&[0, 20 * US, 3 * MS, 300 * MS])),
        last_words: if rng.one_in(2) { rng.below(20) } else { 0 },
        drops: rng.one_in(4),
        term: Some((rng.pick(&[0, MS]), rng.pick(&[ExitStatus::Code(3), ExitStatus::Signal(15)]))),
        ignores_pipe: rng.one_in(5),
        flood: None,
        deeds: VecDeque::new(),
    };
    let mut deeds = Vec::new();
    for _ in 0..rng.below(3) {
        match rng.below(13) {
            0 => habits.reads = false,
            1 => habits.eof = None,
            2 => habits.term = None,
            3 => habits.flood = Some(rng.pick(&[200 * US, 2 * MS])),
            4 => deeds.push((soon(rng), Deed::Exit(ExitStatus::Code(rng.below(4) as i32)))),
            5 => deeds.push((soon(rng), Deed::Exit(ExitStatus::Signal(11)))),
            6 => deeds.push((soon(rng), Deed::CloseOutputs)),
            7 => deeds.push((soon(rng), Deed::CloseStdin)),
            8 => deeds.push((soon(rng), Deed::Stop)),
            9 => {
                let until = rng.pick(&[5 * MS, 500 * MS, 5 * SEC, u64::MAX]);
                deeds.push((soon(rng), Deed::Hang(until)));
            }
            10 => deeds.push((soon(rng), Deed::Say(b"{\"tail\":tr".to_vec()))),
            _ if depth < 2 => {
                let mut child = plan(rng, depth + 1);
                child.in_group = !rng.one_in(3);
                child.has_outputs = !rng.one_in(3);
                child.is_orphan = rng.one_in(3);
                child.habits.reads = false;
                deeds.push((soon(rng), Deed::Fork(Box::new(child))));
            }
            _ => {}
        }
    }
    for _ in 0..rng.below(4) {
        let text: &[u8] = rng.pick(&[
            b"starting up\n",
            b"{\"hello\":1}\n",
            b"[1,2\n",
            b"{\"a\":{\"b\":[1,2,3]}}\n",
        ]);
        deeds.push((soon(rng), Deed::Say(text.to_vec())));
    }
    if rng.one_in(2) {
        let len = rng.size(1, 300);
        let end: &[u8] = if rng.one_in(3) { b"" } else { b"\n" };
        deeds.push((soon(rng), Deed::Warn([&vec![b'w'; len][..], end].concat())));
    }
    habits.deeds = deeds.into();
    // A process without a task of its own ends some day.
    if depth > 0 && !rng.one_in(3) {
        let at = rng.pick(&[MS, 30 * MS, SEC]);
        habits.deeds.push_back((at, Deed::Exit(ExitStatus::Code(0))));
    }
    Plan { habits, in_group: true, has_outputs: true, is_orphan: false }
}

fn frames(rng: &mut Rng) -> Vec<Vec<u8>> {
    let frame = |rng: &mut Rng| {
        let pad = if rng.one_in(5) { rng.size(0, 3000) } else { rng.size(0, 40) };
        format!("{{\"ask\":{},\"pad\":\"{}\"}}\n", rng.below(1 << 30), "y".repeat(pad)).into_bytes()
    };
    (0..rng.between(1, 6)).map(|_| frame(rng)).collect()
}

fn acts(rng: &mut Rng) -> VecDeque<(u64, Act)> {
    let adopted = if rng.one_in(3) { rng.below(3 * MS) } else { 0 };
    let at = |rng: &mut Rng| {
        adopted + rng.pick(&[0, MS, 20 * MS, 100 * MS]) * rng.below(2) + rng.below(2 * MS)
    };
    let mut acts = VecDeque::from([(adopted, Act::Adopt)]);
    for _ in 0..rng.below(6) {
        let act = match rng.below(16) {
            0 => Act::EndInput,
            1 => Act::DropReader,
            2 | 3 => {
                let until = adopted + rng.pick(&[5 * MS, 200 * MS, 10 * SEC]);
                Act::Stall(until)
            }
            4 => Act::HoldStderr(rng.one_in(2)),
            5 => Act::OpenTurn,
            6 => Act::EndTurn,
            7 => Act::CatchUp,
            8 => Act::Flush,
            _ => Act::Send(frames(rng)),
        };
        acts.push_back((at(rng) + 1, act));
    }
    if rng.one_in(3) {
        let act = if rng.one_in(2) { Act::CatchUp } else { Act::EndTurn };
        acts.push_back((at(rng) + rng.pick(&[0, 100 * MS]), act));
    }
    for _ in 0..rng.pick(&[0, 1, 1, 1, 2, 3]) {
        let mode = rng.pick(&[CloseMode::Graceful, CloseMode::Graceful, CloseMode::Abort]);
        let reason = rng.pick(&[CloseReason::Requested, CloseReason::Dropped]);
        let later = if rng.one_in(4) { rng.below(300 * MS) } else { 0 };
        acts.push_back((at(rng) + later, Act::Close(CloseLimits::Own(mode), reason)));
    }
    acts
}
