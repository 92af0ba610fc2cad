//! A host without standard descriptors, as a daemon is that closed them.
#![expect(unsafe_code, reason = "to close a standard descriptor is not safe: anything may use it")]

use std::fs;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::stdio;

use super::check_close;
use crate::support::own_process::{alone, test_name};
use crate::support::{check_alive, engine, fake};

// A daemon closes 0, 1 and 2, and the next three descriptors get these numbers. If they were pipes
// of an agent, the daemon's `println!` would be a line of its input.
#[test]
fn closed_stdio_does_not_leak_into_agents() {
    if !alone(test_name!()) {
        return;
    }
    let engine = engine();
    let keep = |fd| fcntl_dupfd_cloexec(fd, 10).expect("a descriptor");
    let kept: [OwnedFd; 3] = [keep(stdio::stdin()), keep(stdio::stdout()), keep(stdio::stderr())];
    for number in 0..3 {
        // SAFETY: nothing owns them, and what uses them meanwhile fails; they are put back below.
        unsafe { rustix::io::close(number) };
    }
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut agents: Vec<_> =
            (0..2).map(|_| engine.spawn_blocking(fake(&[])).expect("spawns")).collect();
        let taken: Vec<_> = (0..3)
            .filter_map(|number| fs::read_link(format!("/proc/self/fd/{number}")).ok())
            .collect();
        assert!(taken.is_empty(), "{taken:?}");
        assert_eq!(rustix::io::write(stdio::stdout(), b"a log line\n"), Err(Errno::BADF));
        assert_eq!(rustix::io::write(stdio::stderr(), b"a log line\n"), Err(Errno::BADF));
        for agent in &mut agents {
            check_alive(agent);
            check_close(agent);
        }
    }));
    stdio::dup2_stdin(&kept[0]).expect("put back");
    stdio::dup2_stdout(&kept[1]).expect("put back");
    stdio::dup2_stderr(&kept[2]).expect("put back");
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().map_or("no message", String::as_str);
        panic!("{text}");
    }
}
