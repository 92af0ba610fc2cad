//! Runs a program, or goes on, under a seccomp filter, as a container does that denies io_uring.
#![expect(unsafe_code, reason = "a filter is installed between fork and exec, by raw prctl")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Loads the system call's number, compares, and answers with an error or lets it pass.
fn filter(call: u32, errno: u16) -> [libc::sock_filter; 4] {
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(code).expect("a BPF code"),
        jt,
        jf,
        k,
    };
    [
        // The number stands at the start of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | u32::from(errno), 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ]
}

/// From its exec on the program gets `errno` from this system call.
pub(crate) fn deny(command: &mut Command, call: libc::c_long, errno: i32) -> &mut Command {
    let call = u32::try_from(call).expect("a call number");
    let mut filter = filter(call, u16::try_from(errno).expect("an errno"));
    let install = move || {
        let program = libc::sock_fprog {
            len: u16::try_from(filter.len()).unwrap_or_default(),
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: no pointer is passed; the call only sets a flag of this thread.
        let no_new_privs = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if no_new_privs != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `program` and the filter it points to live until the call returns.
        let set = unsafe {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
        };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: `install` makes two system calls and allocates nothing: sound after a fork.
    unsafe { command.pre_exec(install) }
}

/// From now on every thread of this process gets `errno` from this system call.
pub(crate) fn deny_from_now_on(call: libc::c_long, errno: i32) {
    let call = u32::try_from(call).expect("a call number");
    let mut filter = filter(call, u16::try_from(errno).expect("an errno"));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a short filter"),
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: no pointer is passed; the call only sets a flag of this thread.
    let no_new_privs = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(no_new_privs, 0, "{}", io::Error::last_os_error());
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: `program` and the filter it points to live until the call returns.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    assert_eq!(set, 0, "{}", io::Error::last_os_error());
}
