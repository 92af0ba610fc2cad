//! The steps of the child between its clone and its exec.
//!
//! The child runs in the memory of this process, so it makes system calls only: no allocation, no lock,
//! nothing that can panic. All its data is prepared in [`ExecPlan`]. User and group are set by the raw
//! system calls, because the functions of the C library would change every thread of this process.
//!
//! Invariant for the unsafe code: the child makes system calls only, on what the plan holds. Both arrays
//! of strings end with a null pointer.
#![expect(unsafe_code, reason = "execve(2) and signal dispositions have no safe form")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;

use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid};

use super::descriptors::close_all_but;
use super::guard::GuardEntry;

/// Signals are numbered from 1 to this; a set of them is one 64-bit word.
const LAST_SIGNAL: c_int = 64;
/// No architecture has a longer kernel `struct sigaction`.
const SIGACTION_WORDS: usize = 8;

/// How often, and after which pause, an exec is tried again while the program is being written: for
/// 100 ms in all. Only the spawning thread waits.
const BUSY_PAUSES: u32 = 50;
const BUSY_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// All that the child needs, prepared before the clone.
pub(super) struct ExecPlan {
    pub(super) program: CString,
    pub(super) args: ExecStrings,
    pub(super) env: ExecStrings,
    pub(super) cwd: Option<CString>,
    /// The agent's ends of the pipes: all above 2, so that no dup2 overwrites another of them.
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Further descriptors and their numbers in the agent, ascending: above 2, and below all these
    /// descriptors, so that no dup2 overwrites another of them.
    pub(super) passed: Vec<(OwnedFd, c_int)>,
    pub(super) limits: Vec<(Resource, Rlimit)>,
    pub(super) groups: Option<Vec<Gid>>,
    pub(super) user: Option<(Uid, Gid)>,
    /// `cgroup.procs` of the agent's cgroup, if the child could not be cloned into it.
    pub(super) join: Option<OwnedFd>,
    /// This process, if the agent is to die with it.
    pub(super) dies_with: Option<Pid>,
    pub(super) no_new_privs: bool,
    /// This process, and what the guard of the engine knows of the agent, if there is one.
    pub(super) guard: Option<(Pid, GuardEntry)>,
}

/// C strings and the null-terminated array of pointers to them, as execve(2) takes it.
pub(super) struct ExecStrings {
    owned: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl ExecStrings {
    pub(super) fn new(owned: Vec<CString>) -> Self {
        let pointers = owned.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { owned, pointers }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &CStr> {
        self.owned.iter().map(CString::as_c_str)
    }
}

/// One step of the child, for the error if it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetupStep {
    Session,
    /// The tag by which the guard finds it.
    Guard,
    Cgroup,
    Descriptors,
    /// The limit with this index in the plan.
    Limit(u8),
    Groups,
    GroupId,
    UserId,
    DeathSignal,
    /// This process ended before the child asked for its death signal.
    Orphaned,
    NoNewPrivs,
    Directory,
    Exec,
}

/// Why there is no child that runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloneFailure {
    /// No memory for the stack.
    Stack(Errno),
    /// The kernel made no process.
    Clone(Errno),
    /// clone3 is denied, or knows no cgroups: the child must join its cgroup by itself.
    NoBirthInCgroup,
    /// The kernel is older than 5.2 and gave no pidfd.
    NoPidfd,
    /// A step of the child failed, and the child is reaped.
    Child(SetupStep, Errno),
}

/// The steps in the order of their numbers, which begin at 1.
const STEPS: [SetupStep; 13] = [
    SetupStep::Session,
    SetupStep::Guard,
    SetupStep::Cgroup,
    SetupStep::Descriptors,
    SetupStep::Limit(0),
    SetupStep::Groups,
    SetupStep::GroupId,
    SetupStep::UserId,
    SetupStep::DeathSignal,
    SetupStep::Orphaned,
    SetupStep::NoNewPrivs,
    SetupStep::Directory,
    SetupStep::Exec,
];

impl SetupStep {
    /// Returns the number of the step and, for a limit, the index.
    pub(super) fn encode(self) -> (u8, u8) {
        let (plain, detail) = match self {
            Self::Limit(which) => (Self::Limit(0), which),
            other => (other, 0),
        };
        let number = (1_u8..).zip(&STEPS).find(|(_, step)| **step == plain);
        // Every step is in the table. The fallback is there because the child must not panic.
        (number.map_or(u8::MAX, |(number, _)| number), detail)
    }

    /// Returns `None` for 0: no step failed.
    pub(super) fn decode(number: u8, detail: u8) -> Option<Self> {
        let step = STEPS.get(usize::from(number.checked_sub(1)?)).copied();
        match step {
            Some(Self::Limit(_)) => Some(Self::Limit(detail)),
            // No other number is written.
            step => Some(step.unwrap_or(Self::Exec)),
        }
    }
}

/// Returns only if a step failed.
pub(super) fn set_up_and_exec(plan: &ExecPlan) -> (SetupStep, Errno) {
    if let Err(failed) = set_up(plan) {
        return failed;
    }
    let mut pauses = 0..BUSY_PAUSES;
    loop {
        let errno = exec(plan);
        // A writer of the program holds it open. Often that is a child of this process between its
        // clone and its exec, when this process has just written the file. No event reports the
        // end of it.
        if errno != Errno::TXTBSY || pauses.next().is_none() {
            return (SetupStep::Exec, errno);
        }
        // Nothing is polled: this only waits. An error makes the pause shorter.
        let _ready = rustix::event::poll(&mut [], Some(&BUSY_PAUSE));
    }
}

/// Returns why the program was not executed.
fn exec(plan: &ExecPlan) -> Errno {
    // SAFETY: `program`, and both arrays with all they point to, are held by `plan`; each array
    // ends with a null pointer (`ExecStrings::new`).
    unsafe {
        libc::execve(plan.program.as_ptr(), plan.args.pointers.as_ptr(), plan.env.pointers.as_ptr())
    };
    Errno::from_raw_os_error(errno_of_last_call())
}

fn set_up(plan: &ExecPlan) -> Result<(), (SetupStep, Errno)> {
    let at = |step: SetupStep| move |errno: Errno| (step, errno);
    // A new session is also a new process group, both with the number of the agent. It has no
    // controlling terminal: an agent with that of this process could type into the user's shell.
    rustix::process::setsid().map_err(at(SetupStep::Session))?;
    default_dispositions();
    if let Some((host, entry)) = &plan.guard {
        enter_guard(*host, entry)?;
    }
    // This precedes the descriptors: the file may have any number, which a dup2 or `close_all_but`
    // takes away. The kernel takes 0 for the process that writes it.
    if let Some(procs) = &plan.join {
        rustix::io::write(procs, b"0").map_err(at(SetupStep::Cgroup))?;
    }
    // The plan's descriptors are above 2, so no dup2 overwrites a later source. The copies are not
    // close-on-exec.
    rustix::stdio::dup2_stdin(&plan.stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(&plan.stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(&plan.stderr))
        .map_err(at(SetupStep::Descriptors))?;
    for (fd, number) in &plan.passed {
        // SAFETY: takes no pointers. What has the number in the child's own table is closed below
        // otherwise.
        if unsafe { libc::dup2(fd.as_raw_fd(), *number) } < 0 {
            let errno = Errno::from_raw_os_error(errno_of_last_call());
            return Err((SetupStep::Descriptors, errno));
        }
    }
    // A library of the host may have opened one without close-on-exec. And an exec may hang: until it
    // succeeds, the child would hold the pipes of all other agents open, and none of them would see the
    // end of its input.
    close_all_but(3, plan.passed.iter().map(|(_, number)| *number));
    // After the descriptors, which a low limit would refuse, and before the change of the user, who
    // may not raise a limit.
    for (number, (resource, limit)) in (0_u8..).zip(&plan.limits) {
        rustix::process::setrlimit(*resource, *limit).map_err(at(SetupStep::Limit(number)))?;
    }
    // The user last: it has no right to change its groups.
    if let Some(groups) = &plan.groups {
        rustix::thread::set_thread_groups(groups).map_err(at(SetupStep::Groups))?;
    }
    if let Some((uid, gid)) = plan.user {
        // The group is set first: the new user may not be allowed to change it.
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at(SetupStep::GroupId))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at(SetupStep::UserId))?;
    }
    // After the change of the user, which clears the death signal.
    if let Some(host) = plan.dies_with {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(at(SetupStep::DeathSignal))?;
        // If this process ended before the call, the kernel does not send the signal.
        if rustix::process::getppid() != Some(host) {
            return Err((SetupStep::Orphaned, Errno::SRCH));
        }
    }
    if plan.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(at(SetupStep::NoNewPrivs))?;
    }
    // As the agent's user, whose permissions count.
    if let Some(dir) = &plan.cwd {
        rustix::process::chdir(dir.as_c_str()).map_err(at(SetupStep::Directory))?;
    }
    // Last, when no handler is left: a pending signal now acts as in any new process.
    set_signal_mask(0);
    Ok(())
}

/// Makes the agent known to the guard. After the new session: the guard kills that of an agent, too.
fn enter_guard(host: Pid, entry: &GuardEntry) -> Result<(), (SetupStep, Errno)> {
    // All that the agent ever starts inherits it, whatever becomes of its session, its parent and its
    // environment.
    rustix::process::setrlimit(Resource::Locks, entry.tag())
        .map_err(|errno| (SetupStep::Guard, errno))?;
    // If the host ended before, the guard may have looked already.
    if rustix::process::getppid() == Some(host) {
        Ok(())
    } else {
        Err((SetupStep::Orphaned, Errno::SRCH))
    }
}

/// Resets all signal dispositions: an ignored signal stays ignored over exec, and a handler of this
/// process must not run in the child. The child has its own copy of the dispositions.
fn default_dispositions() {
    // All zero is SIG_DFL, no flags, an empty mask, whatever the order of the fields.
    let default = [0_u64; SIGACTION_WORDS];
    // The C library refuses to change the two signals that it uses itself, so the call is raw.
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: the kernel reads `default`, which is as long as its structure; with a null third
        // argument it writes nothing. It refuses SIGKILL and SIGSTOP, which keep their default.
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

/// Sets the signal mask of this thread and returns the old one. Uses the raw call, because the C
/// library keeps two signals out of every mask.
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

/// Returns the errno of this thread. Reads one word, which is allowed in the child.
pub(super) fn errno_of_last_call() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
