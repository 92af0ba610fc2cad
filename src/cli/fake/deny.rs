//! `agentpipe fake deny`: executes a command for which the kernel refuses some system calls, as the filter of
//! a container or an older kernel does.

use std::ffi::{OsString, c_long};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::ends::complain;
use super::filter::{Filter, Rule};

/// Executes a command for which the kernel answers some system calls with an error, as under the filter of a
/// container or on an older kernel. The command's descendants inherit the refusals.
#[derive(Debug, clap::Args)]
pub(super) struct DenyArgs {
    /// What to refuse: `io_uring_setup=EPERM`, `clone3=ENOSYS`. With `close_range:2:4=EINVAL` only calls
    /// whose argument 2, counted from 0, is 4. Call and errno may be numbers.
    #[arg(required = true, value_name = "SYSCALL=ERRNO", value_parser = parse_rule)]
    rules: Vec<Rule>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Returns only if the command cannot be executed.
pub(super) fn main(args: &DenyArgs) -> ExitCode {
    let Some((program, rest)) = args.command.split_first() else { return ExitCode::FAILURE };
    let mut command = Command::new(program);
    command.args(rest);
    match Filter::new(&args.rules).install(false) {
        Ok(()) => complain(&format!("deny: {}: {}", program.to_string_lossy(), command.exec())),
        Err(error) => complain(&format!("deny: the kernel takes no filter: {error}")),
    }
    ExitCode::FAILURE
}

/// The system calls that have a name here. Their numbers differ between architectures.
macro_rules! named_calls {
    ($($name:ident = $number:ident),* $(,)?) => {
        const CALLS: &[(&str, c_long)] = &[$((stringify!($name), libc::$number)),*];
    };
}

named_calls! {
    clone = SYS_clone,
    clone3 = SYS_clone3,
    close_range = SYS_close_range,
    dup3 = SYS_dup3,
    epoll_create1 = SYS_epoll_create1,
    epoll_ctl = SYS_epoll_ctl,
    epoll_pwait = SYS_epoll_pwait,
    epoll_pwait2 = SYS_epoll_pwait2,
    eventfd2 = SYS_eventfd2,
    faccessat2 = SYS_faccessat2,
    io_uring_enter = SYS_io_uring_enter,
    io_uring_register = SYS_io_uring_register,
    io_uring_setup = SYS_io_uring_setup,
    ioctl = SYS_ioctl,
    kill = SYS_kill,
    memfd_create = SYS_memfd_create,
    openat = SYS_openat,
    pidfd_open = SYS_pidfd_open,
    pidfd_send_signal = SYS_pidfd_send_signal,
    pipe2 = SYS_pipe2,
    ppoll = SYS_ppoll,
    prctl = SYS_prctl,
    prlimit64 = SYS_prlimit64,
    setsid = SYS_setsid,
    splice = SYS_splice,
    statx = SYS_statx,
    timerfd_create = SYS_timerfd_create,
    waitid = SYS_waitid,
}

/// The errors that kernels and filters answer.
const ERRNOS: &[(&str, i32)] = &[
    ("EACCES", libc::EACCES),
    ("EAGAIN", libc::EAGAIN),
    ("EBUSY", libc::EBUSY),
    ("EINTR", libc::EINTR),
    ("EINVAL", libc::EINVAL),
    ("EIO", libc::EIO),
    ("EMFILE", libc::EMFILE),
    ("ENFILE", libc::ENFILE),
    ("ENOENT", libc::ENOENT),
    ("ENOMEM", libc::ENOMEM),
    ("ENOSPC", libc::ENOSPC),
    ("ENOSYS", libc::ENOSYS),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ("EPERM", libc::EPERM),
    ("ESRCH", libc::ESRCH),
];

/// The largest errno that the kernel lets a filter answer.
const ERRNO_MAX: i32 = 4095;
/// A system call has six arguments.
const ARGS: u8 = 6;

fn parse_rule(text: &str) -> Result<Rule, String> {
    let (call, errno) = text.split_once('=').ok_or("expected SYSCALL=ERRNO")?;
    let (call, when) = match call.split_once(':') {
        None => (call, None),
        Some((call, when)) => (call, Some(parse_condition(when)?)),
    };
    let call = number_of(call, CALLS).filter(|call| *call >= 0);
    let call = call.ok_or_else(|| format!("unknown system call; known are {}", names(CALLS)))?;
    let errno = number_of(errno, ERRNOS).filter(|errno| (1..=ERRNO_MAX).contains(errno));
    let errno = errno.and_then(|errno| u16::try_from(errno).ok());
    let errno = errno.ok_or_else(|| format!("unknown errno; known are {}", names(ERRNOS)))?;
    Ok(Rule { call, when, errno })
}

fn parse_condition(text: &str) -> Result<(u8, u32), String> {
    let parts = text.split_once(':').and_then(|(index, value)| {
        let index = index.parse().ok().filter(|index| *index < ARGS)?;
        Some((index, value.parse().ok()?))
    });
    parts
        .ok_or_else(|| "expected SYSCALL:ARGUMENT:VALUE=ERRNO, with an argument from 0 to 5".into())
}

fn number_of<N: Copy + std::str::FromStr>(text: &str, known: &[(&str, N)]) -> Option<N> {
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    found.or_else(|| text.parse().ok())
}

fn names<N>(known: &[(&str, N)]) -> String {
    known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}
