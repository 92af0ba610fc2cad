//! Runs a program, or goes on, under a seccomp filter, as a container does that denies io_uring.
#![expect(unsafe_code, reason = "a filter is installed between fork and exec")]

#[path = "../../../src/cli/fake/filter.rs"]
mod filter;

use std::os::unix::process::CommandExt;
use std::process::Command;

use filter::{Filter, Rule};

fn filter(call: libc::c_long, when: Option<(u8, i32)>, errno: i32) -> Filter {
    let errno = u16::try_from(errno).expect("an errno");
    let when = when.map(|(index, value)| (index, value.cast_unsigned()));
    Filter::new(&[Rule { call, when, errno }])
}

/// From its exec on the program gets `errno` from this system call.
pub(crate) fn deny(command: &mut Command, call: libc::c_long, errno: i32) -> &mut Command {
    deny_when(command, call, None, errno)
}

/// The same, for calls whose argument of this index has this value, if one is given.
pub(crate) fn deny_when(
    command: &mut Command,
    call: libc::c_long,
    when: Option<(u8, i32)>,
    errno: i32,
) -> &mut Command {
    let filter = filter(call, when, errno);
    // SAFETY: `install` makes two system calls and allocates nothing: sound after a fork.
    unsafe { command.pre_exec(move || filter.install(false)) }
}

/// From its exec on the program gets `errno` from all of these system calls.
pub(crate) fn deny_all(
    command: &mut Command,
    calls: impl Iterator<Item = libc::c_long>,
    errno: u16,
) -> &mut Command {
    let rules: Vec<Rule> = calls.map(|call| Rule { call, when: None, errno }).collect();
    let filter = Filter::new(&rules);
    // SAFETY: `install` makes two system calls and allocates nothing: sound after a fork.
    unsafe { command.pre_exec(move || filter.install(false)) }
}

/// From now on every thread of this process gets `errno` from this system call.
pub(crate) fn deny_from_now_on(call: libc::c_long, errno: i32) {
    filter(call, None, errno).install(true).expect("a filter");
}
