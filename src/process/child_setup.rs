//! Floor 1. What the child does between its clone and its exec.
//!
//! It runs in the memory of this process: system calls only, no allocation, no lock, no panic.
//! All it needs lies in [`Plan`]. Ids are set by the raw calls: the C library's would have every
//! thread of this process change its user.
#![expect(unsafe_code, reason = "execve(2) and signal dispositions have no safe form")]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid};

/// Signals are numbered 1 to this; the kernel's set of them is one 64-bit word.
const LAST_SIGNAL: c_int = 64;
/// The kernel's `struct sigaction` is at most this long where we run.
const SIGACTION_WORDS: usize = 8;

/// All that the child needs, laid out before there is a child.
pub(super) struct Plan {
    pub(super) program: CString,
    pub(super) args: Strings,
    pub(super) env: Strings,
    pub(super) cwd: Option<CString>,
    /// The agent's ends, all above 2, so that putting one in place overwrites no other.
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) limits: Vec<(Resource, Rlimit)>,
    pub(super) groups: Option<Vec<Gid>>,
    pub(super) user: Option<(Uid, Gid)>,
    /// `cgroup.procs` of its cgroup, where it could not be born in it.
    pub(super) join: Option<OwnedFd>,
    /// Who it dies with: this process.
    pub(super) dies_with: Option<Pid>,
}

/// Strings, and the null-terminated array of pointers to them.
pub(super) struct Strings {
    owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Strings {
    pub(super) fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { owned, pointers }
    }

    /// The strings.
    pub(super) fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.owned.iter().map(CString::as_c_str)
    }
}

/// What the child was about when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Session,
    Cgroup,
    Descriptors,
    /// The limit with this number in the plan.
    Limit(u8),
    Groups,
    GroupId,
    UserId,
    DeathSignal,
    /// This process ended meanwhile.
    Orphaned,
    Directory,
    Exec,
}

/// In the order of their numbers, which begin at 1.
const STEPS: [Step; 11] = [
    Step::Session,
    Step::Cgroup,
    Step::Descriptors,
    Step::Limit(0),
    Step::Groups,
    Step::GroupId,
    Step::UserId,
    Step::DeathSignal,
    Step::Orphaned,
    Step::Directory,
    Step::Exec,
];

impl Step {
    /// Its number and, for a limit, which.
    pub(super) fn encode(self) -> (u8, u8) {
        let (plain, detail) = match self {
            Self::Limit(which) => (Self::Limit(0), which),
            other => (other, 0),
        };
        let number = (1_u8..).zip(&STEPS).find(|(_, step)| **step == plain);
        (number.map_or(u8::MAX, |(number, _)| number), detail)
    }

    /// `None` for 0: no step failed.
    pub(super) fn decode(number: u8, detail: u8) -> Option<Self> {
        let step = STEPS.get(usize::from(number.checked_sub(1)?)).copied();
        match step {
            Some(Self::Limit(_)) => Some(Self::Limit(detail)),
            // Nobody writes another number.
            step => Some(step.unwrap_or(Self::Exec)),
        }
    }
}

/// Returns only if something failed. Must keep to what the head of this file says.
pub(super) fn set_up_and_exec(plan: &Plan) -> (Step, Errno) {
    if let Err(failed) = set_up(plan) {
        return failed;
    }
    // SAFETY: `program`, and both arrays with all they point to, are held by `plan`; each array
    // ends with a null pointer (`Strings::new`).
    unsafe {
        libc::execve(plan.program.as_ptr(), plan.args.pointers.as_ptr(), plan.env.pointers.as_ptr())
    };
    (Step::Exec, Errno::from_raw_os_error(errno_of_last_call()))
}

fn set_up(plan: &Plan) -> Result<(), (Step, Errno)> {
    let at = |step: Step| move |errno: Errno| (step, errno);
    // A new session is also a new process group, both with the number of the agent. The terminal of
    // this process stays behind: an agent that has it can type into the user's shell.
    rustix::process::setsid().map_err(at(Step::Session))?;
    default_dispositions();
    if let Some(procs) = &plan.join {
        rustix::io::write(procs, b"0").map_err(at(Step::Cgroup))?;
    }
    rustix::stdio::dup2_stdin(&plan.stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(&plan.stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(&plan.stderr))
        .map_err(at(Step::Descriptors))?;
    close_others();
    // After the descriptors, which a low limit would refuse; before the user, who may not raise.
    for (number, (resource, limit)) in (0_u8..).zip(&plan.limits) {
        rustix::process::setrlimit(*resource, *limit).map_err(at(Step::Limit(number)))?;
    }
    // Groups first, the user last: afterwards there is no right to either.
    if let Some(groups) = &plan.groups {
        rustix::thread::set_thread_groups(groups).map_err(at(Step::Groups))?;
    }
    if let Some((uid, gid)) = plan.user {
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at(Step::GroupId))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at(Step::UserId))?;
    }
    // A change of the user clears it, so it comes after.
    if let Some(host) = plan.dies_with {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(at(Step::DeathSignal))?;
        // The host may have died before; then nobody will send it.
        if rustix::process::getppid() != Some(host) {
            return Err((Step::Orphaned, Errno::SRCH));
        }
    }
    // As the agent's user: whether that one may enter is the question.
    if let Some(dir) = &plan.cwd {
        rustix::process::chdir(dir.as_c_str()).map_err(at(Step::Directory))?;
    }
    // Last, and after the handlers are gone: what was pending now acts as in any new process.
    set_signal_mask(0);
    Ok(())
}

/// An ignored signal stays ignored over exec, and a handler of ours must not run in the child.
/// Dispositions are per process, so this leaves ours alone.
fn default_dispositions() {
    // All zero is SIG_DFL, no flags, an empty mask: in whatever order the fields come.
    let default = [0_u64; SIGACTION_WORDS];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: reads `default`, which is as long as the kernel's structure; a null third
        // argument asks for nothing back. SIGKILL and SIGSTOP are refused, which is right.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<c_void>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Not all that our process has open was opened with close-on-exec: a library of the host may
/// have forgotten. And an exec may hang: until it is through, the child would hold the pipes of
/// all other agents open, and none of them would see the end of its input.
///
/// A kernel before 5.9 refuses; what is ours is close-on-exec anyway.
fn close_others() {
    // SAFETY: takes no pointers, and closes descriptors in this process's own table, which is a
    // copy of ours.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3 as c_long, c_long::from(u32::MAX), 0 as c_long)
    };
}

/// Sets the mask of this thread and returns the old one. The raw call, because the C library
/// keeps two signals for itself out of every mask.
pub(super) fn set_signal_mask(mask: u64) -> u64 {
    let mut old = 0_u64;
    // SAFETY: both pointers are to one 64-bit word on this stack, as long as the size says.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            ptr::from_ref(&mask),
            ptr::from_mut(&mut old),
            size_of::<u64>(),
        )
    };
    old
}

/// As the C library left it. Reads one word: allowed in the child.
pub(super) fn errno_of_last_call() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
