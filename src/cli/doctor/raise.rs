//! The commands that raise limits, for a shell of the user that runs this process.

use std::path::PathBuf;

use rustix::process::{Resource, geteuid, getrlimit};

use super::host::number;

/// The largest value of `kernel.pid_max`.
const PID_MAX: u64 = 1 << 22;

/// How a limit is raised.
#[derive(Debug)]
pub(super) enum Raise {
    /// By no command.
    Never,
    Descriptors,
    Processes,
    LockedMemory,
    /// The setting with this name.
    Sysctl(&'static str),
    File(PathBuf),
}

impl Raise {
    /// Returns the command that sets the limit to `value`.
    pub(super) fn command(&self, value: u64) -> Option<String> {
        match self {
            Self::Never => None,
            Self::Descriptors => Some(descriptors(value)),
            // `ulimit -u` has another letter in some shells.
            Self::Processes if allowed(Resource::Nproc, value) => {
                Some(format!("prlimit --pid $$ --nproc={value}:"))
            }
            Self::Processes => Some(as_root(&format!("prlimit --pid $$ --nproc={value}:{value}"))),
            Self::LockedMemory if allowed(Resource::Memlock, value) => {
                Some(format!("ulimit -S -l {}", value.div_ceil(1 << 10)))
            }
            Self::LockedMemory => {
                Some(as_root(&format!("prlimit --pid $$ --memlock={value}:{value}")))
            }
            Self::Sysctl("kernel.pid_max") if value > PID_MAX => None,
            Self::Sysctl(name) => Some(as_root(&format!("sysctl -w {name}={value}"))),
            Self::File(path) if geteuid().is_root() => {
                Some(format!("echo {value} > {}", path.display()))
            }
            Self::File(path) => Some(format!("echo {value} | sudo tee {}", path.display())),
        }
    }
}

fn descriptors(value: u64) -> String {
    if allowed(Resource::Nofile, value) {
        return format!("ulimit -S -n {value}");
    }
    let raise = as_root(&format!("prlimit --pid $$ --nofile={value}:{value}"));
    // The kernel allows no hard limit above this setting.
    match number("/proc/sys/fs/nr_open") {
        Some(most) if most < value => {
            format!("{} && {raise}", as_root(&format!("sysctl -w fs.nr_open={value}")))
        }
        _ => raise,
    }
}

/// Whether the hard limit allows the value.
fn allowed(resource: Resource, value: u64) -> bool {
    getrlimit(resource).maximum.is_none_or(|hard| value <= hard)
}

fn as_root(command: &str) -> String {
    let sudo = if geteuid().is_root() { "" } else { "sudo " };
    format!("{sudo}{command}")
}
