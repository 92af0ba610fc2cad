//! Floor 1. Why this host refuses a ring, and what its operator can do about it.

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit};

use crate::error::{Error, ErrorKind};

/// The oldest kernel with everything the ring needs.
pub(super) const NEEDS: &str = "the ring needs Linux 6.7 or later";

const STAGE: &str = "start";

/// An error of the kernel while the ring was set up. `what` failed.
pub(super) fn refused(what: &str, error: io::Error) -> Error {
    let (kind, remedy) = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => (ErrorKind::BackendDenied, denied_by()),
        Some(libc::ENOSYS) => (ErrorKind::BackendUnsupported, missing()),
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            (ErrorKind::BackendUnsupported, format!("{NEEDS}, this is {}", kernel()))
        }
        Some(libc::ENOMEM) => (ErrorKind::ResourceLimit, memlock()),
        Some(libc::EMFILE) => (ErrorKind::ResourceLimit, nofile()),
        Some(libc::ENFILE) => (
            ErrorKind::ResourceLimit,
            String::from("the host's table of open files is full: raise fs.file-max"),
        ),
        _ => return Error::new(ErrorKind::Io, STAGE, what).cause(error),
    };
    Error::new(kind, STAGE, what).cause(error).remedy(remedy)
}

/// The kernel lets us have a ring, but not one that can do what we need.
pub(super) fn unsupported(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::BackendUnsupported, STAGE, what)
        .remedy(format!("{NEEDS}, this is {}", kernel()))
}

/// Which of the two doors is shut: the sysctl or a filter.
fn denied_by() -> String {
    let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match sysctl.trim() {
        "2" => String::from(
            "kernel.io_uring_disabled is 2, which denies it to all: \
             set it to 0 with `sysctl kernel.io_uring_disabled=0`",
        ),
        "1" if !filtered() => String::from(
            "kernel.io_uring_disabled is 1, which denies it to this user: \
             join the group of kernel.io_uring_group, or set the sysctl to 0",
        ),
        _ if filtered() => String::from(
            "a seccomp filter denies it, as the default one of containers does: allow \
             io_uring_setup, io_uring_enter and io_uring_register in the container's profile",
        ),
        _ => {
            String::from("a security module (SELinux, AppArmor) denies it: allow it in its policy")
        }
    }
}

fn missing() -> String {
    if filtered() {
        format!(
            "a seccomp filter may answer so for io_uring_setup: allow it in the container's \
             profile; else {NEEDS}, this is {}",
            kernel()
        )
    } else {
        format!("{NEEDS}, built with CONFIG_IO_URING; this is {}", kernel())
    }
}

/// This process runs under a seccomp filter.
fn filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}

fn memlock() -> String {
    format!(
        "RLIMIT_MEMLOCK is {}, and rings of all processes of this user count: raise it \
         (`ulimit -l`, LimitMEMLOCK=) or run fewer engines",
        limit(Resource::Memlock, " bytes")
    )
}

fn nofile() -> String {
    format!(
        "RLIMIT_NOFILE is {}, and every agent needs four: raise it (`ulimit -n`, LimitNOFILE=)",
        limit(Resource::Nofile, " descriptors")
    )
}

fn limit(resource: Resource, unit: &str) -> String {
    getrlimit(resource)
        .current
        .map_or_else(|| String::from("unlimited"), |value| format!("{value}{unit}"))
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}
