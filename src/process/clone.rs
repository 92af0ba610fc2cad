//! Floor 1. clone and exec at vfork cost, whatever this process holds in memory.
//!
//! The child shares our memory until it execs, and our thread stands still meanwhile. So it runs
//! on a stack of its own, touches only what [`Plan`] prepared, and takes no signal: a handler of
//! ours would run in it, on our data.
#![expect(unsafe_code, reason = "clone(2), execve(2) and signal dispositions have no safe form")]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::process::Pid;

use super::child::Unclaimed;

/// Signals are numbered 1 to this; the kernel's set of them is one 64-bit word.
const LAST_SIGNAL: c_int = 64;
/// The kernel's `struct sigaction` is at most this long where we run.
const SIGACTION_WORDS: usize = 8;
const STACK: usize = 64 * 1024;
/// At least a page, on every page size Linux has.
const GUARD: usize = 64 * 1024;

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
#[repr(u8)]
pub(super) enum Step {
    Group = 1,
    Directory,
    Descriptors,
    Exec,
}

/// Why there is no child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloneFailure {
    /// No memory for the stack.
    Stack(Errno),
    /// No process.
    Clone(Errno),
    /// No pidfd came with it: the kernel is older than 5.2.
    NoPidfd,
    /// The child gave up, and is reaped.
    Child(Step, Errno),
}

/// What the two sides share.
struct Shared<'a> {
    plan: &'a Plan,
    /// A `Step` and an errno, written by a child that gives up; 0 if it did not.
    step: AtomicU8,
    errno: AtomicI32,
}

/// Starts the program. Returns when it runs, or when it is sure that it never will.
pub(super) fn clone(plan: &Plan) -> Result<(Unclaimed, OwnedFd), CloneFailure> {
    let stack = Stack::new().map_err(CloneFailure::Stack)?;
    let shared = Shared { plan, step: AtomicU8::new(0), errno: AtomicI32::new(0) };
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;

    // The child's failed calls write to the errno of this thread, which it shares.
    let errno = SavedErrno::new();
    let blocked = BlockedSignals::new();
    // SAFETY: `stack` is mapped until the end of this function and is the child's alone;
    // `shared` and `pidfd` outlive the call, and with CLONE_VFORK the call outlives the child's
    // use of them; `child` keeps to what may be done in memory that is not its own.
    let pid = unsafe {
        libc::clone(
            child,
            stack.top(),
            flags,
            ptr::from_ref(&shared).cast_mut().cast::<c_void>(),
            ptr::from_mut(&mut pidfd),
        )
    };
    let refused = errno_of_last_call();
    drop(blocked);
    drop(errno);

    // Negative is a refusal; `Pid` may not even be asked about it.
    let Some(pid) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
        return Err(CloneFailure::Clone(Errno::from_raw_os_error(refused)));
    };
    // From here on a return of any kind kills and reaps.
    let unclaimed = Unclaimed::new(pid);
    if pidfd < 0 {
        return Err(CloneFailure::NoPidfd);
    }
    // SAFETY: the kernel put a new descriptor into `pidfd`, and nobody else knows of it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match shared.failure() {
        None => Ok((unclaimed, pidfd)),
        Some((step, errno)) => Err(CloneFailure::Child(step, errno)),
    }
}

impl Shared<'_> {
    fn failure(&self) -> Option<(Step, Errno)> {
        let step = match self.step.load(Ordering::Acquire) {
            0 => return None,
            1 => Step::Group,
            2 => Step::Directory,
            3 => Step::Descriptors,
            _ => Step::Exec,
        };
        Some((step, Errno::from_raw_os_error(self.errno.load(Ordering::Relaxed))))
    }
}

/// The child, from its first instruction. Returning from here ends it.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: `clone` passed a pointer to its `Shared`, which lives as long as it is suspended,
    // and it is suspended until this process execs or ends.
    let shared = unsafe { &*shared.cast_const().cast::<Shared<'_>>() };
    let (step, errno) = prepare_and_exec(shared.plan);
    shared.errno.store(errno.raw_os_error(), Ordering::Relaxed);
    shared.step.store(step as u8, Ordering::Release);
    127
}

/// Returns only if something failed. System calls only: no allocation, no lock, no panic.
fn prepare_and_exec(plan: &Plan) -> (Step, Errno) {
    if let Err(errno) = rustix::process::setpgid(None, None) {
        return (Step::Group, errno);
    }
    default_dispositions();
    if let Some(dir) = &plan.cwd
        && let Err(errno) = rustix::process::chdir(dir.as_c_str())
    {
        return (Step::Directory, errno);
    }
    if let Err(errno) = rustix::stdio::dup2_stdin(&plan.stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(&plan.stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(&plan.stderr))
    {
        return (Step::Descriptors, errno);
    }
    close_others_on_exec();
    // Last, and after the handlers are gone: what was pending now acts as in any new process.
    set_signal_mask(0);
    // SAFETY: `program`, and both arrays with all they point to, are held by `plan`; each array
    // ends with a null pointer (`Strings::new`).
    unsafe {
        libc::execve(plan.program.as_ptr(), plan.args.pointers.as_ptr(), plan.env.pointers.as_ptr())
    };
    (Step::Exec, Errno::from_raw_os_error(errno_of_last_call()))
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
/// have forgotten. A kernel before 5.11 refuses; what is ours is close-on-exec anyway.
fn close_others_on_exec() {
    // SAFETY: takes no pointers, and only marks descriptors in this process's own table.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3 as c_long,
            c_long::from(u32::MAX),
            libc::CLOSE_RANGE_CLOEXEC as c_long,
        )
    };
}

/// Sets the mask of this thread and returns the old one. The raw call, because the C library
/// keeps two signals for itself out of every mask.
fn set_signal_mask(mask: u64) -> u64 {
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

/// No signal reaches this thread while it lives, nor the child, which inherits the mask.
struct BlockedSignals {
    before: u64,
}

impl BlockedSignals {
    fn new() -> Self {
        Self { before: set_signal_mask(u64::MAX) }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        set_signal_mask(self.before);
    }
}

/// The errno of this thread, put back when dropped.
struct SavedErrno {
    before: c_int,
}

impl SavedErrno {
    fn new() -> Self {
        Self { before: errno_of_last_call() }
    }
}

impl Drop for SavedErrno {
    fn drop(&mut self) {
        // SAFETY: the C library gives a pointer to this thread's errno, valid while it runs.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: see above; no other thread writes there.
        unsafe { *errno = self.before };
    }
}

/// As the C library left it. Reads one word: allowed in the child.
fn errno_of_last_call() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The child's stack, with pages below it that nobody may touch: an overflow ends the child
/// instead of writing into our memory.
struct Stack {
    base: *mut c_void,
}

impl Stack {
    fn new() -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), GUARD + STACK, protection, flags)? };
        let stack = Self { base };
        // SAFETY: the lower part of the mapping just made; nothing lives there.
        unsafe { mprotect(base, GUARD, MprotectFlags::empty())? };
        Ok(stack)
    }

    /// The end of it: a stack grows down. Page-aligned, so aligned for any calling convention.
    fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD + STACK)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, whole; the child that used it has execed or ended.
        // A failure would only leave it mapped.
        let _ = unsafe { munmap(self.base, GUARD + STACK) };
    }
}
