//! Errors of the setup: why the host refuses a ring, and what its operator can do.

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit};

use crate::error::{Error, ErrorKind};

/// The requirement, for error texts.
pub(super) const NEEDS: &str = "the ring needs Linux 6.4 or later";

const OPERATION: &str = "start";

/// Converts an error of the kernel during the setup of a backend. `what` names the call that failed.
pub(crate) fn setup_error(what: &str, error: io::Error) -> Error {
    let (kind, remedy) = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            // The text is empty on a kernel without this sysctl (before 6.6) or a host that hides it,
            // and the other causes are left.
            let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            (ErrorKind::BackendDenied, denied_by(&sysctl.unwrap_or_default(), filtered()).into())
        }
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
        _ => return Error::new(ErrorKind::Io, OPERATION, what).cause(error),
    };
    Error::new(kind, OPERATION, what).cause(error).remedy(remedy)
}

/// Reports a ring that lacks a feature.
pub(super) fn unsupported(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::BackendUnsupported, OPERATION, what)
        .remedy(format!("{NEEDS}, this is {}", kernel()))
}

/// Says whether the sysctl, a seccomp filter or a security module denies io_uring.
pub(super) fn denied_by(sysctl: &str, filtered: bool) -> &'static str {
    match sysctl.trim() {
        "2" => {
            "kernel.io_uring_disabled is 2, which denies it to all: \
             set it to 0 with `sysctl kernel.io_uring_disabled=0`"
        }
        "1" if !filtered => {
            "kernel.io_uring_disabled is 1, which denies it to this user: \
             join the group of kernel.io_uring_group, or set the sysctl to 0"
        }
        _ if filtered => {
            "a seccomp filter denies it (containers have one by default): allow \
             io_uring_setup, io_uring_enter and io_uring_register in the container's profile"
        }
        _ => "a security module (SELinux, AppArmor) denies it: allow it in its policy",
    }
}

fn missing() -> String {
    // A seccomp filter may answer ENOSYS, so the kernel may well have io_uring.
    if filtered() {
        format!(
            "a seccomp filter may deny io_uring_setup: allow it in the container's \
             profile; otherwise {NEEDS}, this is {}",
            kernel()
        )
    } else {
        format!("{NEEDS}, built with CONFIG_IO_URING; this is {}", kernel())
    }
}

/// Whether this thread, which made the call, runs under a seccomp filter.
fn filtered() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    // 2 is SECCOMP_MODE_FILTER. Under strict mode (1) this process could not even open the file.
    mode.is_some_and(|mode| mode.trim() == "2")
}

fn memlock() -> String {
    format!(
        "RLIMIT_MEMLOCK is {}, and the rings of all processes of this user count: raise it \
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
