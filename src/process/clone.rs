//! clone(2) at the cost of a vfork, however much memory this process has.
//!
//! Until its exec the child shares the memory of this process, and the calling thread is suspended. So
//! the child runs on a separate stack, touches only what [`ExecPlan`] holds, and takes no signal: a
//! handler of this process would run in the child, on the parent's data. `child_setup` has its steps.
//!
//! Invariant for the unsafe code: until its exec the child uses its own stack, which has a guard page, and
//! reads only what was prepared before the clone. All signals are blocked around the clone, and the shared
//! errno is restored.
#![expect(unsafe_code, reason = "clone(2) and clone3(2) have no safe form")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use rustix::process::Pid;

use super::child::Unclaimed;
use super::child_setup::{
    CloneFailure, ExecPlan, SetupStep, errno_of_last_call, set_signal_mask, set_up_and_exec,
};

const STACK: usize = 64 * 1024;
/// At least a page, on every page size Linux has.
const GUARD: usize = 64 * 1024;

/// The memory that the parent and the child share.
struct CloneShared<'a> {
    plan: &'a ExecPlan,
    /// A [`SetupStep`], its detail and an errno, written by a child that fails; 0 otherwise.
    step: AtomicU8,
    detail: AtomicU8,
    errno: AtomicI32,
}

/// Starts the program. Returns once the exec has succeeded or failed. With `cgroup`, the folder of a
/// cgroup, the child is cloned into it.
pub(super) fn clone(
    plan: &ExecPlan,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<(Unclaimed, OwnedFd), CloneFailure> {
    let stack = ChildStack::take().map_err(CloneFailure::Stack)?;
    let shared = CloneShared {
        plan,
        step: AtomicU8::new(0),
        detail: AtomicU8::new(0),
        errno: AtomicI32::new(0),
    };
    // A kernel before 5.2 ignores CLONE_PIDFD and leaves -1 here.
    let mut pidfd: c_int = -1;

    // Failed calls of the child write to the errno of this thread, which it shares.
    let errno = SavedErrno::new();
    let blocked = BlockedSignals::new();
    let result = match cgroup {
        None => plain_clone(&stack, &shared, &mut pidfd),
        Some(cgroup) => clone_into(cgroup, &stack, &shared, &mut pidfd),
    };
    // The signals are unblocked first: a pending handler runs at this point and may change errno.
    drop(blocked);
    drop(errno);
    stack.keep();

    // From here on every error return kills and reaps the child.
    let unclaimed = Unclaimed::new(result?);
    if pidfd < 0 {
        return Err(CloneFailure::NoPidfd);
    }
    // SAFETY: the kernel put a new descriptor into `pidfd`, which nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match shared.failure() {
        None => Ok((unclaimed, pidfd)),
        Some((step, errno)) => Err(CloneFailure::Child(step, errno)),
    }
}

/// By clone(2). The caller blocks signals and restores errno.
fn plain_clone(
    stack: &ChildStack,
    shared: &CloneShared<'_>,
    pidfd: &mut c_int,
) -> Result<Pid, CloneFailure> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: `stack` is mapped while it is borrowed, and only the child uses it; `shared` and `pidfd`
    // outlive the call, and with CLONE_VFORK the call outlives the child's use of them; `child` makes
    // system calls only, as `child_setup` says.
    let pid = unsafe {
        libc::clone(
            child,
            stack.top(),
            flags,
            ptr::from_ref(shared).cast_mut().cast::<c_void>(),
            ptr::from_mut(pidfd),
        )
    };
    // `Pid::from_raw` must not be called with a negative number.
    match (pid > 0).then(|| Pid::from_raw(pid)).flatten() {
        Some(pid) => Ok(pid),
        None => Err(CloneFailure::Clone(Errno::from_raw_os_error(errno_of_last_call()))),
    }
}

/// By clone3(2), which alone can make a child inside a cgroup; to move it there afterwards would wait
/// for every CPU of the host. The C library offers no clone3, and its `syscall` cannot return on a new
/// stack, so this function has the instruction itself.
#[cfg(target_arch = "x86_64")]
fn clone_into(
    cgroup: BorrowedFd<'_>,
    stack: &ChildStack,
    shared: &CloneShared<'_>,
    pidfd: &mut c_int,
) -> Result<Pid, CloneFailure> {
    use std::os::fd::AsRawFd as _;

    let number = |pointer: *mut c_void| pointer.expose_provenance() as u64;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    let mut args = [0_u64; CLONE_ARGS];
    // The fields of `struct clone_args`: 0 flags, 1 pidfd, 4 exit signal, 5 stack, 6 its size, 10
    // cgroup. Unlike clone(2), clone3(2) refuses an exit signal among the flags and takes the lower
    // end of the stack.
    args[0] = u64::from(flags.cast_unsigned()) | CLONE_INTO_CGROUP;
    args[1] = number(ptr::from_mut(pidfd).cast());
    args[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    args[5] = number(stack.base.wrapping_byte_add(GUARD));
    args[6] = STACK as u64;
    args[10] = u64::from(cgroup.as_raw_fd().cast_unsigned());
    let mut result = libc::SYS_clone3;
    // SAFETY: as for clone(2) above. The child runs on `stack`, calls `child` with `shared`, and execs
    // or ends with exit_group; it never returns to this code. The parent continues at label 2 with
    // three registers changed, all declared. `args` has the given length.
    unsafe {
        // The kernel preserves r12 and r13 over the call, so the child finds its argument and
        // function in them. A zero in rbp ends the chain of frames. The upper end of the stack is
        // page-aligned, and so has the alignment that a call needs.
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "mov edi, eax",
            "mov eax, {exit_group}",
            "syscall",
            "ud2",
            "2:",
            exit_group = const libc::SYS_exit_group,
            inlateout("rax") result,
            in("rdi") args.as_ptr(),
            in("rsi") size_of_val(&args),
            in("r12") ptr::from_ref(shared),
            in("r13") child as extern "C" fn(*mut c_void) -> c_int,
            lateout("rcx") _,
            lateout("r11") _,
        )
    };
    let result = c_int::try_from(result).unwrap_or(-libc::EOVERFLOW);
    if let Some(pid) = (result > 0).then(|| Pid::from_raw(result)).flatten() {
        return Ok(pid);
    }
    match Errno::from_raw_os_error(-result) {
        // Container filters answer ENOSYS, too, so that the C library tries clone(2), and some EPERM. If
        // it was the cgroup that was refused, the child is refused, too, when it joins.
        // A kernel before 5.7 knows no cgroup in its arguments and answers E2BIG or EINVAL.
        Errno::NOSYS | Errno::PERM | Errno::TOOBIG | Errno::INVAL => {
            Err(CloneFailure::NoBirthInCgroup)
        }
        errno => Err(CloneFailure::Clone(errno)),
    }
}

/// The words of `struct clone_args` of Linux 5.7, the first with a cgroup.
#[cfg(target_arch = "x86_64")]
const CLONE_ARGS: usize = 11;
#[cfg(target_arch = "x86_64")]
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Without clone3 on this architecture the child joins its cgroup by itself.
#[cfg(not(target_arch = "x86_64"))]
fn clone_into(
    _: BorrowedFd<'_>,
    _: &ChildStack,
    _: &CloneShared<'_>,
    _: &mut c_int,
) -> Result<Pid, CloneFailure> {
    Err(CloneFailure::NoBirthInCgroup)
}

impl CloneShared<'_> {
    fn note(&self, step: SetupStep, errno: Errno) {
        let (number, detail) = step.encode();
        self.errno.store(errno.raw_os_error(), Ordering::Relaxed);
        self.detail.store(detail, Ordering::Relaxed);
        // The step is stored last: a step that is seen has its errno and its detail.
        self.step.store(number, Ordering::Release);
    }

    fn failure(&self) -> Option<(SetupStep, Errno)> {
        let number = self.step.load(Ordering::Acquire);
        let step = SetupStep::decode(number, self.detail.load(Ordering::Relaxed))?;
        Some((step, Errno::from_raw_os_error(self.errno.load(Ordering::Relaxed))))
    }
}

/// The entry point of the child. A return ends it.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: `clone` passed a pointer to its `CloneShared`, which lives while the parent thread is
    // suspended, and that is until this process execs or ends.
    let shared = unsafe { &*shared.cast_const().cast::<CloneShared<'_>>() };
    let (step, errno) = set_up_and_exec(shared.plan);
    // The parent reads the step from the shared memory and ignores the exit code.
    shared.note(step, errno);
    127
}

/// Blocks all signals for this thread, and for the child, which inherits the mask.
pub(super) struct BlockedSignals {
    before: u64,
}

impl BlockedSignals {
    pub(super) fn new() -> Self {
        Self { before: set_signal_mask(u64::MAX) }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        set_signal_mask(self.before);
    }
}

/// Restores the errno of this thread when it is dropped.
pub(super) struct SavedErrno {
    before: c_int,
}

impl SavedErrno {
    pub(super) fn new() -> Self {
        Self { before: errno_of_last_call() }
    }
}

impl Drop for SavedErrno {
    fn drop(&mut self) {
        // SAFETY: returns a pointer to the errno of this thread, valid while the thread runs.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: valid as stated above; no other thread accesses it.
        unsafe { *errno = self.before };
    }
}

/// The stack of a child, with guard pages below it: an overflow ends the child instead of overwriting
/// memory of this process.
///
/// Each thread that spawns keeps one, because munmap(2) interrupts every processor that runs a thread of
/// this process.
pub(super) struct ChildStack {
    pub(super) base: *mut c_void,
}

thread_local! {
    static KEPT: Cell<Option<ChildStack>> = const { Cell::new(None) };
}

impl ChildStack {
    fn take() -> Result<Self, Errno> {
        // The thread-local is gone while the thread ends.
        KEPT.try_with(Cell::take).ok().flatten().map_or_else(Self::new, Ok)
    }

    /// Keeps it for the next child of this thread. The one that used it has execed or ended.
    fn keep(self) {
        // If the thread ends and the thread-local is gone, the closure drops, and so unmaps, it.
        let _ = KEPT.try_with(|kept| kept.set(Some(self)));
    }

    pub(super) fn new() -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // A child touches little of its stack, so no swap space is reserved for all of it.
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), GUARD + STACK, protection, flags)? };
        // The mapping has an owner before mprotect(2), so a failure unmaps it.
        let stack = Self { base };
        // SAFETY: the lower part of the new mapping, which nothing uses yet.
        unsafe { mprotect(base, GUARD, MprotectFlags::empty())? };
        Ok(stack)
    }

    /// Returns the upper end: a stack grows down. Page-aligned, so aligned for any calling convention.
    pub(super) fn top(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD + STACK)
    }
}

impl Drop for ChildStack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping of `new`; the child that used it has execed or ended. A failure
        // would only leave it mapped.
        let _ = unsafe { munmap(self.base, GUARD + STACK) };
    }
}
