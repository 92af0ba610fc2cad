//! A seccomp filter that answers system calls with an errno. Names nothing of this crate, because the tests
//! that need a filter compile this file, too.
//!
//! Invariant for the unsafe code: the kernel copies the program during the call that passes it.
#![expect(unsafe_code, reason = "seccomp(2) has no safe form")]

use std::ffi::{c_long, c_uint};
use std::io;

/// The architecture of this build, as the kernel reports it. Calls of another one (32-bit programs) have
/// other numbers, and are let through.
const ARCH: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

// Offsets of the fields of `struct seccomp_data`.
const NR_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS_AT: u32 = 16;

/// One system call and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) call: c_long,
    /// Only calls whose argument of this index (from 0) has this value. The lower 32 bits count, as they do
    /// for an `int` or a set of flags.
    pub(crate) when: Option<(u8, u32)>,
    pub(crate) errno: u16,
}

/// A filter, ready to be installed. It stays for the life of the thread, and its children inherit it.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let (load, equals) =
            (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ);
        let answer = libc::BPF_RET | libc::BPF_K;
        let allow = statement(answer, libc::SECCOMP_RET_ALLOW, 0, 0);
        let mut program = vec![
            statement(load, ARCH_AT, 0, 0),
            statement(equals, ARCH, 1, 0),
            allow,
            statement(load, NR_AT, 0, 0),
        ];
        for rule in rules {
            let call = u32::try_from(rule.call).unwrap_or(u32::MAX);
            let refuse = statement(answer, libc::SECCOMP_RET_ERRNO | u32::from(rule.errno), 0, 0);
            match rule.when {
                None => program.extend([statement(equals, call, 0, 1), refuse]),
                Some((index, value)) => program.extend([
                    statement(equals, call, 0, 4),
                    statement(load, ARGS_AT + 8 * u32::from(index), 0, 0),
                    statement(equals, value, 0, 1),
                    refuse,
                    statement(load, NR_AT, 0, 0),
                ]),
            }
        }
        program.push(allow);
        Self(program)
    }

    /// Installs it for this thread, or for all threads of this process. Allocates nothing, so it may run
    /// between fork and exec. Without CAP_SYS_ADMIN the kernel demands that no program gains privileges by an
    /// exec any more.
    pub(crate) fn install(&self, all_threads: bool) -> io::Result<()> {
        match self.load(all_threads) {
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                rustix::thread::set_no_new_privs(true)?;
                self.load(all_threads)
            }
            loaded => loaded,
        }
    }

    fn load(&self, all_threads: bool) -> io::Result<()> {
        let program = libc::sock_fprog {
            // A longer one is none: the kernel answers EINVAL.
            len: u16::try_from(self.0.len()).unwrap_or(0),
            filter: self.0.as_ptr().cast_mut(),
        };
        let flags = if all_threads { libc::SECCOMP_FILTER_FLAG_TSYNC } else { 0 };
        let mode: c_uint = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `program` and the filter it points to live until the call returns, and the kernel only
        // reads them.
        match unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The codes fit 16 bits.
fn statement(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k }
}
