//! The backend with real pipes: what it reports, and that it never spins.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Epoll;
use crate::io::{Completion, EndId, PipeIo, ReadEnd, Role, Tag};
use crate::seccomp::{Filter, Rule};

/// A pipe holds this much, and a read takes as much.
const READ_MAX: usize = super::READ_MAX as usize;

const QUIET: Duration = Duration::from_millis(20);

fn epoll() -> Epoll {
    Epoll::new(Duration::ZERO).expect("epoll")
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).expect("a pipe")
}

fn adopt(epoll: &mut Epoll, fd: OwnedFd, role: Role) -> EndId {
    epoll.adopt(fd, Tag { agent: 7, role })
}

/// What one turn brings: data as its length, and the kinds of the other completions.
fn turn(epoll: &mut Epoll, timeout: Duration) -> Vec<String> {
    epoll.wait(Some(timeout)).expect("it waits");
    let mut came = Vec::new();
    while let Some(completion) = epoll.next() {
        came.push(match completion {
            Completion::Data { lease, .. } => {
                let len = epoll.bytes(&lease).len();
                epoll.give_back(lease);
                format!("data {len}")
            }
            Completion::Filled { buf, .. } => format!("filled {}", buf.len()),
            Completion::ReadEnd { why: ReadEnd::Eof, .. } => "eof".to_owned(),
            Completion::ReadEnd { why: ReadEnd::Failed(errno), .. } => format!("failed {errno}"),
            Completion::Wrote { buf, result, .. } => {
                let errno = |error: io::Error| error.raw_os_error().unwrap_or(0);
                format!("wrote {:?} of {}", result.map_err(errno), buf.len())
            }
            Completion::Ready { .. } => "ready".to_owned(),
            Completion::Closed { .. } => "closed".to_owned(),
        });
    }
    came
}

/// Returns whether a wait sleeps to its end and brings nothing.
fn is_quiet(epoll: &mut Epoll) -> bool {
    let begun = Instant::now();
    turn(epoll, QUIET).is_empty() && begun.elapsed() >= QUIET
}

#[test]
fn paused_read_takes_nothing_and_does_not_spin() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let stdout = adopt(&mut epoll, reader, Role::Stdout);
    epoll.read(stdout);
    write(&writer, b"first").expect("room");
    assert_eq!(turn(&mut epoll, QUIET), ["data 5"]);
    epoll.pause(stdout);
    write(&writer, b"second").expect("room");
    // The hang-up of the writer is an event that epoll always reports.
    drop(writer);
    assert!(is_quiet(&mut epoll));
    assert!(epoll.has_unread(stdout));
    assert_eq!(epoll.in_kernel(), 0);
    epoll.read(stdout);
    assert_eq!(turn(&mut epoll, QUIET), ["data 6"]);
    assert_eq!(turn(&mut epoll, QUIET), ["eof"]);
    epoll.read(stdout);
    assert!(is_quiet(&mut epoll), "the end is reported once");
}

#[test]
fn pause_between_event_and_read_takes_nothing() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let stdout = adopt(&mut epoll, reader, Role::Stdout);
    epoll.read(stdout);
    write(&writer, b"unread").expect("room");
    epoll.wait(Some(QUIET)).expect("it waits");
    epoll.pause(stdout);
    assert!(epoll.next().is_none());
    assert!(epoll.has_unread(stdout));
}

/// Memory with room for eight bytes behind three.
fn room() -> BytesMut {
    let mut room = BytesMut::with_capacity(11);
    room.extend_from_slice(b"abc");
    room
}

#[test]
fn read_into_appends_what_is_there_once() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let stdout = adopt(&mut epoll, reader, Role::Stdout);
    epoll.read(stdout);
    assert!(is_quiet(&mut epoll));
    for is_there in [true, false] {
        if is_there {
            write(&writer, b"defg").expect("room");
        }
        epoll.read_into(stdout, room(), 4);
        if !is_there {
            assert!(is_quiet(&mut epoll));
            write(&writer, b"defghi").expect("room");
        }
        assert_eq!(turn(&mut epoll, QUIET), ["filled 7"]);
        assert!(is_quiet(&mut epoll), "it reads once");
        assert_eq!(epoll.in_kernel(), 0);
    }
    epoll.read(stdout);
    assert_eq!(turn(&mut epoll, QUIET), ["data 2"]);
}

#[test]
fn memory_of_a_read_comes_back_in_any_case() {
    for turns in [0, 1] {
        let mut epoll = epoll();
        let (reader, writer) = pipe();
        let stdout = adopt(&mut epoll, reader, Role::Stdout);
        epoll.read_into(stdout, room(), 4);
        (0..turns).for_each(|_| assert_eq!(turn(&mut epoll, Duration::ZERO), [""; 0]));
        epoll.pause(stdout);
        assert_eq!(turn(&mut epoll, Duration::ZERO), ["filled 3"]);
        write(&writer, b"later").expect("room");
        assert!(is_quiet(&mut epoll), "a paused read takes nothing");
        epoll.read(stdout);
        assert_eq!(turn(&mut epoll, QUIET), ["data 5"]);
        drop(writer);
        epoll.read_into(stdout, room(), 4);
        assert_eq!(turn(&mut epoll, QUIET), ["filled 3", "eof"]);
        epoll.read_into(stdout, room(), 4);
        assert_eq!(turn(&mut epoll, QUIET), ["filled 3"]);
        let (reader, _writer) = pipe();
        let stdout = adopt(&mut epoll, reader, Role::Stdout);
        epoll.read_into(stdout, room(), 4);
        (0..turns).for_each(|_| assert_eq!(turn(&mut epoll, Duration::ZERO), [""; 0]));
        epoll.close(&[stdout]);
        assert_eq!(turn(&mut epoll, QUIET), ["filled 3", "closed"]);
        assert_eq!(epoll.in_kernel(), 0);
    }
}

#[test]
fn flood_is_read_a_buffer_a_turn() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    rustix::pipe::fcntl_setpipe_size(&writer, 4 * READ_MAX).expect("1 MiB is allowed");
    let stdout = adopt(&mut epoll, reader, Role::Stdout);
    epoll.read(stdout);
    assert_eq!(write(&writer, &vec![b'x'; 2 * READ_MAX]).expect("room"), 2 * READ_MAX);
    assert_eq!(turn(&mut epoll, QUIET), [format!("data {READ_MAX}")]);
    assert_eq!(turn(&mut epoll, QUIET), [format!("data {READ_MAX}")]);
    assert!(is_quiet(&mut epoll));
}

#[test]
fn blocked_write_goes_on_when_there_is_room() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let stdin = adopt(&mut epoll, writer, Role::Stdin);
    let payload = vec![b'x'; READ_MAX + 10];
    epoll.write(stdin, payload.clone(), 0).expect("accepted");
    assert!(epoll.write(stdin, vec![0], 0).is_err(), "one at a time");
    assert_eq!(turn(&mut epoll, QUIET), [format!("wrote Ok({READ_MAX}) of {}", payload.len())]);
    epoll.write(stdin, payload, READ_MAX).expect("accepted");
    assert!(is_quiet(&mut epoll));
    assert_eq!(epoll.in_kernel(), 1);
    assert_eq!(read(&reader, &mut vec![0; READ_MAX][..]).expect("full"), READ_MAX);
    assert_eq!(turn(&mut epoll, QUIET), [format!("wrote Ok(10) of {}", READ_MAX + 10)]);
    assert_eq!(epoll.in_kernel(), 0);
}

#[test]
fn close_gives_a_blocked_payload_back() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let stdin = adopt(&mut epoll, writer, Role::Stdin);
    epoll.write(stdin, vec![b'x'; READ_MAX], 0).expect("accepted");
    assert_eq!(turn(&mut epoll, QUIET).len(), 1);
    epoll.write(stdin, vec![b'x'; 3], 0).expect("accepted");
    assert!(is_quiet(&mut epoll));
    epoll.close(&[stdin, stdin]);
    let cancelled = format!("wrote Err({}) of 3", libc::ECANCELED);
    assert_eq!(turn(&mut epoll, QUIET), [cancelled.as_str(), "closed"]);
    assert!(epoll.descriptor(stdin).is_none());
    assert!(epoll.write(stdin, vec![1], 0).is_err());
    // The other end sees the end behind what was written.
    assert_eq!(read(&reader, &mut vec![0; READ_MAX][..]), Ok(READ_MAX));
    assert_eq!(read(&reader, &mut [0; 1]), Ok(0));
}

#[test]
fn queued_write_goes_before_its_close() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let stdin = adopt(&mut epoll, writer, Role::Stdin);
    epoll.write(stdin, b"last words".to_vec(), 0).expect("accepted");
    epoll.close(&[stdin]);
    assert_eq!(turn(&mut epoll, QUIET), ["wrote Ok(10) of 10", "closed"]);
    assert_eq!(read(&reader, &mut [0; 99]), Ok(10));
}

// Epoll watches the open file, and a forked copy of the host has a second descriptor of it.
#[test]
fn closed_descriptor_with_a_copy_is_not_reported() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let copy = reader.try_clone().expect("a copy");
    let stdout = adopt(&mut epoll, reader, Role::Stdout);
    epoll.read(stdout);
    write(&writer, b"unread").expect("room");
    epoll.close(&[stdout]);
    assert_eq!(turn(&mut epoll, QUIET), ["closed"]);
    assert!(is_quiet(&mut epoll));
    drop(copy);
}

#[test]
fn watch_reports_once() {
    let mut epoll = epoll();
    let bell = eventfd(1, EventfdFlags::CLOEXEC).expect("an eventfd");
    let wake = adopt(&mut epoll, bell, Role::Wake);
    epoll.watch(wake);
    assert_eq!(turn(&mut epoll, QUIET), ["ready"]);
    assert!(is_quiet(&mut epoll), "it is readable still, and was reported");
    epoll.watch(wake);
    assert_eq!(turn(&mut epoll, QUIET), ["ready"]);
}

#[test]
fn broken_pipe_is_an_error_of_the_write() {
    let mut epoll = epoll();
    crate::ring::block_sigpipe().expect("blocked");
    let (reader, writer) = pipe();
    let stdin = adopt(&mut epoll, writer, Role::Stdin);
    drop(reader);
    epoll.write(stdin, vec![b'x'], 0).expect("accepted");
    assert_eq!(turn(&mut epoll, QUIET), [format!("wrote Err({}) of 1", libc::EPIPE)]);
}

#[test]
fn window_collects_what_follows_and_ends_with_a_wake_up() {
    const WINDOW: Duration = Duration::from_millis(100);
    let mut epoll = Epoll::new(WINDOW).expect("epoll");
    let (reader, writer) = pipe();
    let stdout = adopt(&mut epoll, reader, Role::Stdout);
    epoll.read(stdout);
    write(&writer, b"a").expect("room");
    let begun = Instant::now();
    assert_eq!(turn(&mut epoll, Duration::from_secs(60)), ["data 1"]);
    assert!(begun.elapsed() >= WINDOW);
    let bell = eventfd(1, EventfdFlags::CLOEXEC).expect("an eventfd");
    let wake = adopt(&mut epoll, bell, Role::Wake);
    epoll.watch(wake);
    epoll.waiter.window = Duration::from_secs(3600);
    assert_eq!(turn(&mut epoll, Duration::from_secs(3600)), ["ready"]);
}

// A limit of months is allowed. rustix makes epoll_pwait2 of one that epoll_wait does not take, and
// Linux 5.10 has no such call: the engine thread ended.
#[test]
fn wait_of_months_works_on_older_kernels() {
    // On a thread of its own, because a filter stays.
    let waits = std::thread::spawn(|| {
        let errno = u16::try_from(libc::ENOSYS).expect("an errno");
        let rule = Rule { call: libc::SYS_epoll_pwait2, when: None, errno };
        Filter::new(&[rule]).install(false).expect("the kernel takes a filter");
        let mut epoll = epoll();
        let (reader, writer) = pipe();
        let stdout = adopt(&mut epoll, reader, Role::Stdout);
        epoll.read(stdout);
        write(&writer, b"a").expect("room");
        turn(&mut epoll, Duration::from_secs(365 * 24 * 3600))
    });
    assert_eq!(waits.join().expect("it waits"), ["data 1"]);
}

#[test]
fn readiness_signals_each_event_anew() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let stdout = adopt(&mut epoll, reader, Role::Stdout);
    epoll.read(stdout);
    let signal = epoll.readiness().expect("a descriptor");
    let is_signalled = || {
        let mut polled = [rustix::event::PollFd::new(&signal, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())) == Ok(1)
    };
    assert!(epoll.notify() && !is_signalled());
    write(&writer, b"a").expect("room");
    assert!(is_signalled());
    assert!(!epoll.notify(), "there is something to collect");
    epoll.turn().expect("it collects");
    let Some(Completion::Data { lease, .. }) = epoll.next() else { panic!("no data") };
    epoll.give_back(lease);
    assert!(epoll.notify() && !is_signalled());
}

#[test]
fn drain_closes_everything() {
    let mut epoll = epoll();
    let (reader, writer) = pipe();
    let stdout = adopt(&mut epoll, reader, Role::Stdout);
    epoll.read(stdout);
    assert!(epoll.drain(Duration::ZERO));
    crate::ring::block_sigpipe().expect("blocked");
    assert_eq!(write(&writer, b"a"), Err(rustix::io::Errno::PIPE));
    assert_eq!((epoll.in_kernel(), epoll.ends.is_empty()), (0, true));
}
