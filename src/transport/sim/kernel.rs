//! The simulated kernel: descriptors and their operations, behind [`PipeIo`].
//!
//! A submission takes effect in the next wait. A completion comes later, and those of different
//! descriptors in any order. The kernel shortens, delays and fails operations.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::io::Errno;

use super::process::State;
use super::world::{Happening, MS, Object, SEC, US, World};
use crate::counters::IoCounters;
use crate::io::{Completion, EndId, Lease, PipeIo, ReadEnd, Role, Tag, WriteRefused};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndState {
    Open,
    Closing,
    Closed,
}

/// A descriptor of the driver.
#[derive(Debug)]
pub(super) struct EndSlot {
    pub(super) tag: Tag,
    pub(super) object: Object,
    pub(super) state: EndState,
    pub(super) want_read: bool,
    armed: bool,
    pub(super) read_over: bool,
    /// The memory of a read into it, and whether that is submitted.
    into: Option<(BytesMut, usize)>,
    into_armed: bool,
    /// A completion of the read is on its way.
    reading: bool,
    pub(super) write: Option<(Vec<u8>, usize)>,
    writing: bool,
    watched: bool,
    fired: bool,
    pub(super) closes: u32,
}

/// A submission that the driver has queued.
#[derive(Debug)]
enum Submission {
    Arm(usize),
    ReadInto(usize),
    Cancel(usize),
    Write(usize),
    Watch(usize),
    /// Each a cancel and a close.
    Close(Vec<usize>),
}

/// The queues between the driver and the kernel, and the pool.
#[derive(Debug)]
pub(super) struct Queues {
    submissions: Vec<Submission>,
    pub(super) completions: VecDeque<Completion>,
    /// What is in each buffer that is not free.
    buffers: Vec<Option<Vec<u8>>>,
    starved: VecDeque<usize>,
    counters: IoCounters,
}

impl Queues {
    pub(super) fn new(buffers: usize) -> Self {
        Self {
            submissions: Vec::new(),
            completions: VecDeque::new(),
            buffers: vec![None; buffers],
            starved: VecDeque::new(),
            counters: IoCounters::default(),
        }
    }

    fn free(&self) -> Option<usize> {
        self.buffers.iter().position(Option::is_none)
    }
}

impl World {
    /// Returns the end, which must be open.
    fn open_end(&mut self, id: EndId, what: &str) -> Option<usize> {
        let index = id.slot as usize;
        let (tag, state) = (self.ends[index].tag, self.ends[index].state);
        if state != EndState::Open {
            self.violate(|| format!("{what} of {tag:?}, which is {state:?}"));
            return None;
        }
        Some(index)
    }

    fn submit(&mut self) {
        for submission in std::mem::take(&mut self.kernel.submissions) {
            self.log(|| format!("kernel: {submission:?}"));
            match submission {
                Submission::Arm(end) => {
                    if self.ends[end].state == EndState::Open && self.ends[end].want_read {
                        self.ends[end].armed = true;
                        self.kick_read(end);
                    }
                }
                Submission::ReadInto(end) => {
                    if self.ends[end].into.is_some() {
                        self.ends[end].into_armed = true;
                        self.ends[end].armed = true;
                        self.kick_read(end);
                    }
                }
                Submission::Cancel(end) => {
                    // The cancel may come too late for a read that completes.
                    let late = self.ends[end].reading && self.rng.one_in(2);
                    if !self.ends[end].want_read && !late {
                        self.ends[end].armed = false;
                        self.give_room_back(end);
                    }
                }
                Submission::Write(end) => self.kick_write(end),
                Submission::Watch(end) => {
                    self.ends[end].watched = true;
                    self.kick_watch(end);
                }
                Submission::Close(ends) => ends.into_iter().for_each(|end| self.close_end(end)),
            }
        }
    }

    /// Cancels what is pending and closes the descriptor. Its completions come later.
    fn close_end(&mut self, index: usize) {
        let tag = self.ends[index].tag;
        if self.ends[index].reading && self.rng.one_in(2) {
            // The read was completing as it was cancelled.
            self.complete_read(index);
        }
        self.ends[index].armed = false;
        // Or with the close itself, which may take longer than the transport waits.
        if self.rng.one_in(2) {
            self.give_room_back(index);
        }
        if let Some((buf, from)) = self.ends[index].write.take() {
            let Object::Pipe(pipe) = self.ends[index].object else { return };
            let fits = self.pipes[pipe].room().min(buf.len() - from);
            let result = if fits > 0 && self.pipes[pipe].readers > 0 && self.rng.one_in(3) {
                let count = self.rng.size(1, fits);
                self.pipes[pipe].written.extend_from_slice(&buf[from..from + count]);
                Ok(count)
            } else {
                Err(io::Error::from(Errno::CANCELED))
            };
            self.complete(Completion::Wrote { tag, buf, result });
        }
        if let Object::Pipe(pipe) = self.ends[index].object {
            let pipe_state = &mut self.pipes[pipe];
            if tag.role == Role::Stdin {
                pipe_state.writers = 0
            } else {
                pipe_state.readers = 0
            }
            pipe_state.end = None;
            self.pipe_changed(pipe);
        }
        let delay = if self.rng.one_in(self.knobs.rare.saturating_mul(4)) {
            self.rng.between(500 * MS, 3 * SEC)
        } else {
            self.rng.delay()
        };
        self.after(delay, Happening::Closed(index));
    }

    pub(super) fn complete_close(&mut self, index: usize) {
        self.give_room_back(index);
        self.ends[index].state = EndState::Closed;
        let tag = self.ends[index].tag;
        let result = if self.rng.one_in(self.knobs.rare) {
            Err(io::Error::from(Errno::INTR))
        } else {
            Ok(())
        };
        self.complete(Completion::Closed { tag, result });
    }

    fn complete(&mut self, completion: Completion) {
        self.log(|| format!("kernel: {}", brief(&completion)));
        self.kernel.counters.completions += 1;
        self.kernel.completions.push_back(completion);
    }

    pub(super) fn kick_read(&mut self, index: usize) {
        let end = &self.ends[index];
        let Object::Pipe(pipe) = end.object else { return };
        let pipe = &self.pipes[pipe];
        if !end.armed || end.reading || end.read_over || (pipe.len() == 0 && pipe.writers > 0) {
            return;
        }
        self.ends[index].reading = true;
        let delay = self.rng.delay();
        self.after(delay, Happening::Read(index));
    }

    pub(super) fn complete_read(&mut self, index: usize) {
        let Object::Pipe(pipe) = self.ends[index].object else { return };
        self.ends[index].reading = false;
        if !self.ends[index].armed || self.ends[index].read_over {
            return;
        }
        let tag = self.ends[index].tag;
        if self.rng.one_in(self.knobs.rare.saturating_mul(20)) {
            return self.end_read(index, ReadEnd::Failed(Errno::IO.raw_os_error()));
        }
        let waiting = self.pipes[pipe].len();
        if waiting == 0 {
            if self.pipes[pipe].writers == 0 {
                self.end_read(index, ReadEnd::Eof);
            }
            return;
        }
        if self.ends[index].into_armed {
            return self.fill(index, pipe);
        }
        let Some(buffer) = self.kernel.free() else {
            self.kernel.counters.starved += 1;
            self.kernel.starved.push_back(index);
            return;
        };
        let most = waiting.min(self.knobs.buffer);
        let len = if self.rng.one_in(4) { self.rng.size(1, most) } else { most };
        let from = self.pipes[pipe].read;
        self.kernel.buffers[buffer] = Some(self.pipes[pipe].written[from..from + len].to_vec());
        self.pipes[pipe].read += len;
        let lease = Lease { buffer: buffer as u16, len: len as u32 };
        self.complete(Completion::Data { tag, lease });
        // It was cancelled while it completed.
        self.ends[index].armed &= self.ends[index].want_read;
        self.pipe_changed(pipe);
    }

    /// Completes a read into memory of the caller.
    fn fill(&mut self, index: usize, pipe: usize) {
        let Some((mut buf, len)) = self.ends[index].into.take() else { return };
        let waiting = self.pipes[pipe].len();
        let most = waiting.min(len).min(buf.capacity() - buf.len());
        if most == 0 {
            self.violate(|| format!("a read of {len} bytes without room"));
        }
        let len = if self.rng.one_in(4) { self.rng.size(1, most) } else { most };
        let from = self.pipes[pipe].read;
        buf.extend_from_slice(&self.pipes[pipe].written[from..from + len]);
        self.pipes[pipe].read += len;
        self.ends[index].into = Some((buf, len));
        self.give_room_back(index);
        self.pipe_changed(pipe);
    }

    /// Ends a read into memory of the caller.
    fn give_room_back(&mut self, index: usize) {
        let end = &mut self.ends[index];
        let Some((buf, _)) = end.into.take() else { return };
        (end.into_armed, end.armed, end.want_read) = (false, false, false);
        let tag = end.tag;
        self.complete(Completion::Filled { tag, buf });
    }

    fn end_read(&mut self, index: usize, why: ReadEnd) {
        self.give_room_back(index);
        self.ends[index].read_over = true;
        self.ends[index].want_read = false;
        self.complete(Completion::ReadEnd { tag: self.ends[index].tag, why });
    }

    pub(super) fn kick_write(&mut self, index: usize) {
        let end = &self.ends[index];
        let (Object::Pipe(pipe), Some(_), false) = (end.object, &end.write, end.writing) else {
            return;
        };
        if self.pipes[pipe].room() > 0 || self.pipes[pipe].readers == 0 {
            self.ends[index].writing = true;
            let delay = self.rng.delay();
            self.after(delay, Happening::Write(index));
        }
    }

    pub(super) fn complete_write(&mut self, index: usize) {
        self.ends[index].writing = false;
        let Object::Pipe(pipe) = self.ends[index].object else { return };
        // Cancelled by a close meanwhile.
        let Some((buf, from)) = self.ends[index].write.take() else { return };
        let tag = self.ends[index].tag;
        let result = if self.pipes[pipe].readers == 0 {
            Err(io::Error::from(Errno::PIPE))
        } else if self.rng.one_in(self.knobs.rare.saturating_mul(10)) {
            let agent = self.pipes[pipe].agent;
            self.agents[agent].has_ended_input = true;
            Err(io::Error::from(Errno::IO))
        } else {
            let fits = self.pipes[pipe].room().min(buf.len() - from);
            let count = if self.rng.one_in(3) { self.rng.size(1, fits) } else { fits };
            self.pipes[pipe].written.extend_from_slice(&buf[from..from + count]);
            Ok(count)
        };
        self.complete(Completion::Wrote { tag, buf, result });
        self.pipe_changed(pipe);
    }

    pub(super) fn kick_watches(&mut self, object: Object) {
        for index in 0..self.ends.len() {
            if self.ends[index].object == object {
                self.kick_watch(index);
            }
        }
    }

    fn kick_watch(&mut self, index: usize) {
        let end = &self.ends[index];
        if !end.watched || end.fired || end.state != EndState::Open {
            return;
        }
        let is_ready = match end.object {
            Object::Exit(process) => self.processes[process].state != State::Running,
            Object::Wake => self.eventfd,
            Object::Container(agent) => self.agents[agent].container_gone,
            // Only a change fires it: see `cgroup_changed`.
            Object::Cgroup(_) | Object::Pipe(_) => false,
        };
        if is_ready {
            self.fire(index);
        }
    }

    fn fire(&mut self, index: usize) {
        self.ends[index].fired = true;
        let delay = self.rng.delay();
        self.after(delay, Happening::Ready(index));
    }

    pub(super) fn cgroup_changed(&mut self, agent: usize) {
        for index in 0..self.ends.len() {
            let end = &self.ends[index];
            if end.object == Object::Cgroup(agent) && end.watched && !end.fired {
                self.fire(index);
            }
        }
    }

    pub(super) fn complete_watch(&mut self, index: usize) {
        if self.ends[index].state != EndState::Open {
            return;
        }
        self.ends[index].watched = false;
        self.ends[index].fired = false;
        self.complete(Completion::Ready { tag: self.ends[index].tag, result: Ok(()) });
    }

    pub(super) fn lose_container(&mut self, agent: usize) {
        self.agents[agent].container_gone = true;
        self.kick_watches(Object::Container(agent));
    }
}

fn brief(completion: &Completion) -> String {
    match completion {
        Completion::Wrote { tag, buf, result } => {
            format!("Wrote {tag:?} {result:?} of {}", buf.len())
        }
        Completion::Filled { tag, buf } => format!("Filled {tag:?} {}", buf.len()),
        other => format!("{other:?}"),
    }
}

/// The kernel, as the driver sees it.
pub(super) struct SimIo {
    world: Rc<RefCell<World>>,
    /// The descriptor of each end. They only stand for what they name.
    fds: Vec<Option<OwnedFd>>,
    /// The bytes of the buffers that are lent out.
    lent: Vec<Option<Vec<u8>>>,
}

impl SimIo {
    pub(super) fn new(world: &Rc<RefCell<World>>) -> Self {
        let buffers = world.borrow().kernel.buffers.len();
        Self { world: Rc::clone(world), fds: Vec::new(), lent: vec![None; buffers] }
    }

    fn submission(&mut self, id: EndId, what: &str, make: impl FnOnce(usize) -> Submission) {
        let mut world = self.world.borrow_mut();
        if let Some(index) = world.open_end(id, what) {
            world.kernel.submissions.push(make(index));
        }
    }
}

impl PipeIo for SimIo {
    fn adopt(&mut self, fd: OwnedFd, tag: Tag) -> EndId {
        let mut world = self.world.borrow_mut();
        let object = *world.objects.get(&fd.as_raw_fd()).expect("a descriptor of the simulation");
        let index = world.ends.len();
        if let Object::Pipe(pipe) = object {
            world.pipes[pipe].end = Some(index);
        }
        world.ends.push(EndSlot {
            tag,
            object,
            state: EndState::Open,
            want_read: false,
            armed: false,
            read_over: false,
            into: None,
            into_armed: false,
            reading: false,
            write: None,
            writing: false,
            watched: false,
            fired: false,
            closes: 0,
        });
        self.fds.push(Some(fd));
        EndId { slot: index as u32, generation: 0 }
    }

    fn read(&mut self, end: EndId) {
        let mut world = self.world.borrow_mut();
        let Some(index) = world.open_end(end, "read") else { return };
        if !world.ends[index].read_over {
            world.ends[index].want_read = true;
            world.kernel.submissions.push(Submission::Arm(index));
        }
    }

    fn read_into(&mut self, end: EndId, buf: BytesMut, len: usize) {
        let mut world = self.world.borrow_mut();
        let Some(index) = world.open_end(end, "read into") else { return };
        if world.ends[index].into.replace((buf, len)).is_some() {
            world.violate(|| "a second read into memory".to_owned());
        }
        if world.ends[index].read_over {
            return world.give_room_back(index);
        }
        world.ends[index].want_read = true;
        world.kernel.submissions.push(Submission::ReadInto(index));
    }

    fn pause(&mut self, end: EndId) {
        let mut world = self.world.borrow_mut();
        let Some(index) = world.open_end(end, "pause") else { return };
        world.ends[index].want_read = false;
        world.kernel.submissions.push(Submission::Cancel(index));
    }

    fn has_unread(&mut self, end: EndId) -> bool {
        let mut world = self.world.borrow_mut();
        let Some(index) = world.open_end(end, "query") else { return false };
        let tag = world.ends[index].tag;
        let Object::Pipe(pipe) = world.ends[index].object else { return false };
        let is_of = |it: &Completion| matches!(it, Completion::Data { tag: of, .. } | Completion::Filled { tag: of, .. } if *of == tag);
        world.pipes[pipe].len() > 0 || world.kernel.completions.iter().any(is_of)
    }

    fn has_writer(&self, end: EndId) -> bool {
        let mut world = self.world.borrow_mut();
        let Some(index) = world.open_end(end, "query") else { return false };
        let Object::Pipe(pipe) = world.ends[index].object else { return false };
        world.pipes[pipe].writers > 0
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.lent[usize::from(lease.buffer)].as_deref().expect("lent")
    }

    fn give_back(&mut self, lease: Lease) {
        let mut world = self.world.borrow_mut();
        let buffer = usize::from(lease.buffer);
        if self.lent[buffer].take().is_none() {
            world.violate(|| format!("{lease:?} was given back twice"));
        }
        world.kernel.buffers[buffer] = None;
        if let Some(starved) = world.kernel.starved.pop_front() {
            world.kick_read(starved);
        }
    }

    fn write(&mut self, end: EndId, buf: Vec<u8>, from: usize) -> Result<(), WriteRefused> {
        let mut world = self.world.borrow_mut();
        let Some(index) = world.open_end(end, "write") else {
            return Err(WriteRefused { error: Errno::BADF.into(), buf });
        };
        if world.ends[index].write.is_some() || from >= buf.len() {
            world.violate(|| format!("a second or an empty write, at {from} of {}", buf.len()));
        }
        let rare = world.knobs.rare;
        if world.rng.one_in(rare.saturating_mul(10)) {
            if let Object::Pipe(pipe) = world.ends[index].object {
                let agent = world.pipes[pipe].agent;
                world.agents[agent].has_ended_input = true;
            }
            return Err(WriteRefused { error: Errno::AGAIN.into(), buf });
        }
        world.ends[index].write = Some((buf, from));
        world.kernel.submissions.push(Submission::Write(index));
        Ok(())
    }

    fn watch(&mut self, end: EndId) {
        self.submission(end, "watch", Submission::Watch);
    }

    fn descriptor(&self, end: EndId) -> Option<BorrowedFd<'_>> {
        let index = end.slot as usize;
        let is_open = self.world.borrow().ends[index].state == EndState::Open;
        self.fds[index].as_ref().filter(|_| is_open).map(AsFd::as_fd)
    }

    fn close(&mut self, ends: &[EndId]) {
        let mut world = self.world.borrow_mut();
        let mut closing = Vec::new();
        for id in ends {
            if let Some(index) = world.open_end(*id, "close") {
                world.ends[index].state = EndState::Closing;
                world.ends[index].closes += 1;
                world.note_close(index);
                closing.push(index);
            }
        }
        world.note_cut(&closing);
        world.kernel.submissions.push(Submission::Close(closing));
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        if let Some(lease) = self.lent.iter().position(Option::is_some) {
            world.violate(|| format!("the lease of buffer {lease} is kept over a turn"));
        }
        world.kernel.counters.enters += 1;
        world.submit();
        if world.kernel.completions.is_empty() {
            let limit = timeout.map(|timeout| {
                let late = if world.rng.one_in(20) { world.rng.below(MS) } else { 0 };
                // The host is stopped.
                let rare = world.knobs.rare.saturating_mul(4);
                let stopped = world.rng.one_in(rare);
                let stopped = if stopped { world.rng.between(MS, SEC) } else { 0 };
                world.now.saturating_add(nanos(timeout)).saturating_add(late + stopped)
            });
            world.sleep(limit);
        }
        if world.violation.is_some() {
            return Err(Errno::CANCELED.into());
        }
        Ok(())
    }

    #[cfg(feature = "local")]
    fn readiness(&mut self) -> io::Result<OwnedFd> {
        Err(Errno::NOSYS.into())
    }

    #[cfg(feature = "local")]
    fn turn(&mut self) -> io::Result<()> {
        self.wait(Some(Duration::ZERO))
    }

    #[cfg(feature = "local")]
    fn wants_turn(&self) -> bool {
        !self.world.borrow().kernel.submissions.is_empty()
    }

    #[cfg(feature = "local")]
    fn notify(&mut self) -> bool {
        self.world.borrow().kernel.completions.is_empty()
    }

    fn next(&mut self) -> Option<Completion> {
        let mut world = self.world.borrow_mut();
        let completion = world.kernel.completions.pop_front()?;
        if let Completion::Data { lease, .. } = &completion {
            let buffer = usize::from(lease.buffer);
            self.lent[buffer] = world.kernel.buffers[buffer].clone();
        }
        if let Completion::Closed { tag, .. } = &completion {
            let of = |end: &EndSlot| end.tag == *tag && end.state == EndState::Closed;
            let closed =
                (0..self.fds.len()).find(|at| self.fds[*at].is_some() && of(&world.ends[*at]));
            if let Some(fd) = closed.and_then(|at| self.fds[at].take()) {
                world.objects.remove(&fd.as_raw_fd());
            }
        }
        Some(completion)
    }

    fn in_kernel(&self) -> usize {
        self.world.borrow().ends.iter().filter(|end| end.state != EndState::Closed).count()
    }

    fn counters(&self) -> IoCounters {
        self.world.borrow().kernel.counters
    }

    fn drain(&mut self, _limit: Duration) -> bool {
        let open: Vec<EndId> = {
            let world = self.world.borrow();
            let is_open = |at: &usize| world.ends[*at].state == EndState::Open;
            let id = |at| EndId { slot: at as u32, generation: 0 };
            (0..world.ends.len()).filter(is_open).map(id).collect()
        };
        self.close(&open);
        self.world.borrow_mut().submit();
        while self.in_kernel() > 0 && self.world.borrow().violation.is_none() {
            self.world.borrow_mut().happen();
        }
        true
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl World {
    /// Lets time pass until there is a completion, or until the limit.
    fn sleep(&mut self, limit: Option<u64>) {
        loop {
            let next = self.next_at();
            let quiet = next.is_none_or(|at| at > self.now + 3 * MS);
            if quiet && limit != Some(self.now) {
                self.check_quiet();
            }
            match (next, limit) {
                (Some(at), _) if limit.is_none_or(|limit| at <= limit) => self.happen(),
                (_, Some(limit)) => return self.now = self.now.max(limit),
                _ => return self.violate(|| "stuck: the driver sleeps for ever".to_owned()),
            }
            if self.violation.is_some() {
                return;
            }
            if !self.kernel.completions.is_empty() {
                // More may come before the driver has the processor.
                let more = self.rng.pick(&[0, 0, 5 * US, 100 * US]);
                return self.pass(more);
            }
        }
    }
}
