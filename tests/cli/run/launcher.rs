//! Launchers that leave their own signal state behind: `nohup`, a daemon that ignores SIGCHLD, a
//! program that starts others while it has signals blocked.
#![expect(unsafe_code, reason = "signals are ignored and blocked between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The signals that this process itself may have been started with as ignored, by `nohup` or as a background
/// job.
const INHERITED: [i32; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];

/// The program begins with these signals ignored, and those blocked.
pub(crate) fn inheriting<'a>(
    command: &'a mut Command,
    ignored: &'static [i32],
    blocked: &'static [i32],
) -> &'a mut Command {
    let leave_behind = move || {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: writes the whole set, which is on this stack.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in blocked {
            // SAFETY: the set is initialised, and the number is one of a signal.
            unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
        }
        // SAFETY: reads the set; a null third argument asks for nothing back.
        if unsafe { libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) } != 0
        {
            return Err(io::Error::last_os_error());
        }
        for signal in &INHERITED {
            // SAFETY: SIG_DFL runs no code.
            if unsafe { libc::signal(*signal, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        for signal in ignored {
            // SAFETY: SIG_IGN runs no code.
            if unsafe { libc::signal(*signal, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `leave_behind` makes system calls and allocates nothing: sound after a fork.
    unsafe { command.pre_exec(leave_behind) }
}
