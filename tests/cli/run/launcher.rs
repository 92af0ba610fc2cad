//! Launchers that leave their own signal state behind: `nohup`, a daemon that ignores SIGCHLD, a
//! program that starts others while it has signals blocked. And the launcher of a container.
#![expect(unsafe_code, reason = "signals and namespaces are set between fork and exec")]

use std::ffi::CStr;
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

/// The program becomes the first process of a PID namespace with a `/proc` of its own, in a user namespace,
/// so that no privilege is needed. A launcher passes its exit code on.
pub(crate) fn first_process(command: &mut Command) -> &mut Command {
    in_container(command, &[], true)
}

/// The same with all namespaces of a container. An empty file system hides each of these folders, and all
/// file systems are read-only unless they are `writable`.
pub(crate) fn in_container<'a>(
    command: &'a mut Command,
    hidden: &'static [&'static CStr],
    writable: bool,
) -> &'a mut Command {
    let failed = || Err(io::Error::last_os_error());
    let enter = move || {
        let kinds = libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWUTS;
        // SAFETY: takes a number. This child of a fork has one thread.
        if unsafe { libc::unshare(kinds) } != 0 {
            return failed();
        }
        // SAFETY: the child goes on as this process would; only system calls follow in both.
        match unsafe { libc::fork() } {
            0 => {}
            -1 => return failed(),
            first => await_and_exit(first),
        }
        mount(c"proc", c"/proc")?;
        for folder in hidden {
            mount(c"tmpfs", folder)?;
        }
        if writable { Ok(()) } else { deny_writing() }
    };
    // SAFETY: `enter` makes system calls and allocates nothing: sound after a fork.
    unsafe { command.pre_exec(enter) }
}

fn mount(kind: &CStr, folder: &CStr) -> io::Result<()> {
    let (kind, flags) = (kind.as_ptr(), libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC);
    // SAFETY: the strings end in a NUL and outlive the call; no data is passed.
    match unsafe { libc::mount(kind, folder.as_ptr(), kind, flags, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes every mount read-only. Their other flags stay, as the kernel demands.
fn deny_writing() -> io::Result<()> {
    let (all, size) = (libc::AT_RECURSIVE, size_of::<libc::mount_attr>());
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let (call, root) = (libc::SYS_mount_setattr, c"/".as_ptr());
    // SAFETY: the string and the attributes outlive the call, which reads `size` bytes of the latter.
    match unsafe { libc::syscall(call, libc::AT_FDCWD, root, all, &raw const attributes, size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for a child and ends with its exit code.
fn await_and_exit(child: libc::pid_t) -> ! {
    // SAFETY: takes numbers. The pipe on which the exec is awaited must end with it.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    let mut status = 0;
    // SAFETY: `status` lives until the call returns.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 255 };
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}
