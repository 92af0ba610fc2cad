//! Signals that the host handles, while its engine waits and while it spawns.
#![expect(unsafe_code, reason = "handlers, and signals to one thread, are to be had by libc only")]

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::thread;

use agentpipe::{AgentCommand, Backend, ExitStatus};
use rustix::process::{Signal, getpgrp, getpid, kill_process_group};

use super::check_close;
use crate::support::own_process::{alone, check_passed, is_alone, test_name, this_test};
use crate::support::process::engine_thread;
use crate::support::{check_alive, engine, fake, wait_until};

fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: the handlers of this file store to atomics and ask for the process id: both may be
    // done in a handler.
    let before = unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR, "{}", std::io::Error::last_os_error());
}

static TAKEN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: libc::c_int) {
    TAKEN.fetch_add(1, Ordering::SeqCst);
}

/// The thread sleeps in this system call.
fn is_in(thread: &Path, call: libc::c_long) -> bool {
    let said = fs::read_to_string(thread.join("syscall")).unwrap_or_default();
    said.split(' ').next() == Some(call.to_string().as_str())
}

// The signal of a profiler or of a child handler lands on the thread that sleeps in io_uring_enter.
// The interrupted call is not a failure.
#[test]
fn signal_to_an_engine_thread_ends_no_agent() {
    if !alone(test_name!()) {
        return;
    }
    handle(libc::SIGUSR1, count);
    let engine = engine();
    let mut agent = engine.spawn_blocking(fake(&[])).expect("spawns");
    check_alive(&mut agent);
    let thread = engine_thread();
    let tid = thread.file_name().and_then(|name| name.to_str()?.parse::<libc::c_long>().ok());
    let tid = tid.expect("a thread id");
    let is_ring = engine.backend() == Backend::IoUring;
    let call = if is_ring { libc::SYS_io_uring_enter } else { libc::SYS_epoll_pwait };
    for sent in 1..=50 {
        wait_until("the engine sleeps", || is_in(&thread, call));
        let pid = libc::c_long::from(getpid().as_raw_pid());
        let signal = libc::c_long::from(libc::SIGUSR1);
        // SAFETY: passes numbers only.
        assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) }, 0);
        wait_until("the engine took the signal", || TAKEN.load(Ordering::SeqCst) == sent);
        check_alive(&mut agent);
    }
    check_close(&agent);
}

static HOST: AtomicI32 = AtomicI32::new(0);
static TAKEN_BY_HOST: AtomicUsize = AtomicUsize::new(0);
static TAKEN_BY_CHILDREN: AtomicUsize = AtomicUsize::new(0);

/// Until its exec a child shares the memory of the host, and so these counters.
extern "C" fn count_by_process(_: libc::c_int) {
    // SAFETY: takes no arguments and cannot fail.
    let own = unsafe { libc::getpid() };
    let is_host = own == HOST.load(Ordering::SeqCst);
    let counter = if is_host { &TAKEN_BY_HOST } else { &TAKEN_BY_CHILDREN };
    counter.fetch_add(1, Ordering::SeqCst);
}

// A terminal is resized, and its whole process group gets a signal, also a child before its exec.
// There the host's handler would run on the host's memory.
#[test]
fn host_handler_never_runs_in_a_new_child() {
    if is_alone() {
        check_no_handler_runs_in_a_child();
    } else {
        // A group of its own: the signal is for all of it.
        check_passed(&this_test(test_name!()).process_group(0).output().expect("runs"));
    }
}

fn check_no_handler_runs_in_a_child() {
    assert_eq!(getpgrp(), getpid());
    HOST.store(getpid().as_raw_pid(), Ordering::SeqCst);
    // A process that does not handle it ignores it.
    handle(libc::SIGWINCH, count_by_process);
    let engine = engine();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                kill_process_group(getpgrp(), Signal::WINCH).expect("our own group");
            }
        });
        for _ in 0..300 {
            let agent = engine.spawn_blocking(AgentCommand::new("true")).expect("spawns");
            assert_eq!(agent.closed_blocking().exit(), ExitStatus::Code(0));
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(TAKEN_BY_HOST.load(Ordering::SeqCst) > 300, "there were signals all the time");
    assert_eq!(TAKEN_BY_CHILDREN.load(Ordering::SeqCst), 0, "by children, in the host's memory");
}
