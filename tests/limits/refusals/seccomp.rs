//! Runs a program, or goes on, under a seccomp filter, as a container does that denies io_uring.
#![expect(unsafe_code, reason = "a filter is installed between fork and exec")]

#[path = "../../../src/cli/fake/filter.rs"]
mod filter;

use std::os::unix::process::CommandExt;
use std::process::Command;

use filter::{Filter, Rule};

fn filter(call: libc::c_long, errno: i32) -> Filter {
    let errno = u16::try_from(errno).expect("an errno");
    Filter::new(&[Rule { call, when: None, errno }])
}

/// From its exec on the program gets `errno` from this system call.
pub(crate) fn deny(command: &mut Command, call: libc::c_long, errno: i32) -> &mut Command {
    let filter = filter(call, errno);
    // SAFETY: `install` makes two system calls and allocates nothing: sound after a fork.
    unsafe { command.pre_exec(move || filter.install(false)) }
}

/// From now on every thread of this process gets `errno` from this system call.
pub(crate) fn deny_from_now_on(call: libc::c_long, errno: i32) {
    filter(call, errno).install(true).expect("a filter");
}
