//! What no safe function does, and hosts do: fork without an exec, put a file into the place of a
//! descriptor of another owner, end without a clean-up.
#![expect(unsafe_code, reason = "fork, dup2 and exit are to be had raw only")]

use std::os::fd::{AsRawFd, RawFd};

/// The child's pid in the parent; `None` in the child, which has this thread alone.
pub(crate) fn fork() -> Option<i32> {
    // SAFETY: the child of a test that runs in its own process; it goes on with this thread,
    // and glibc makes its allocator usable there.
    match unsafe { libc::fork() } {
        0 => None,
        pid => {
            assert!(pid > 0, "fork: {}", std::io::Error::last_os_error());
            Some(pid)
        }
    }
}

/// Ends the process as a return from `main` does, but for destructors of Rust.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: no other thread of this process calls it.
    unsafe { libc::exit(code) }
}

/// Waits for a child within `tries` milliseconds: its exit code. It is killed where it hangs.
pub(crate) fn wait_for(pid: i32, tries: u32) -> Result<i32, String> {
    let mut status = 0;
    for _ in 0..tries {
        // SAFETY: `status` lives until the call returns.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if waited == pid {
            return if libc::WIFEXITED(status) {
                Ok(libc::WEXITSTATUS(status))
            } else {
                Err(format!("it died of signal {}", libc::WTERMSIG(status)))
            };
        }
        assert_eq!(waited, 0, "waitpid: {}", std::io::Error::last_os_error());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    // SAFETY: passes numbers only; the child is not reaped yet.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    // SAFETY: `status` lives until the call returns.
    unsafe { libc::waitpid(pid, &raw mut status, 0) };
    Err("it hung".into())
}

/// Closes a descriptor behind its owner's back, and gives the number to another file.
pub(crate) fn replace(fd: RawFd) {
    let other = std::fs::File::open("/dev/null").expect("a file");
    // SAFETY: passes numbers only. The owner goes on to use and to close the number: the kernel
    // refuses the one, and the other closes this copy.
    let replaced = unsafe { libc::dup2(other.as_raw_fd(), fd) };
    assert_eq!(replaced, fd, "dup2: {}", std::io::Error::last_os_error());
}
