//! Floor 1. clone at vfork cost, whatever this process holds in memory.
//!
//! The child shares our memory until it execs, and our thread stands still meanwhile. So it runs
//! on a stack of its own, touches only what [`Plan`] prepared, and takes no signal: a handler of
//! ours would run in it, on our data. What it does is in `child_setup`.
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
use super::child_setup::{Plan, Step, errno_of_last_call, set_signal_mask, set_up_and_exec};

const STACK: usize = 64 * 1024;
/// At least a page, on every page size Linux has.
const GUARD: usize = 64 * 1024;

/// Why there is no child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloneFailure {
    /// No memory for the stack.
    Stack(Errno),
    /// No process.
    Clone(Errno),
    /// clone3 is denied, or knows no cgroups: the child must join by itself.
    NoBirthInCgroup,
    /// No pidfd came with it: the kernel is older than 5.2.
    NoPidfd,
    /// The child gave up, and is reaped.
    Child(Step, Errno),
}

/// What the two sides share.
struct Shared<'a> {
    plan: &'a Plan,
    /// A `Step` with its detail and an errno, written by a child that gives up; 0 if it did not.
    step: AtomicU8,
    detail: AtomicU8,
    errno: AtomicI32,
}

/// Starts the program. Returns when it runs, or when it is sure that it never will. With
/// `cgroup`, the folder of one, it is born in there.
pub(super) fn clone(
    plan: &Plan,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<(Unclaimed, OwnedFd), CloneFailure> {
    let stack = Stack::take().map_err(CloneFailure::Stack)?;
    let shared =
        Shared { plan, step: AtomicU8::new(0), detail: AtomicU8::new(0), errno: AtomicI32::new(0) };
    let mut pidfd: c_int = -1;

    // The child's failed calls write to the errno of this thread, which it shares.
    let errno = SavedErrno::new();
    let blocked = BlockedSignals::new();
    let result = match cgroup {
        None => plain_clone(&stack, &shared, &mut pidfd),
        Some(cgroup) => clone_into(cgroup, &stack, &shared, &mut pidfd),
    };
    drop(blocked);
    drop(errno);
    stack.keep();

    // From here on a return of any kind kills and reaps.
    let unclaimed = Unclaimed::new(result?);
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

/// Signals are blocked and errno is put back by the caller.
fn plain_clone(stack: &Stack, shared: &Shared<'_>, pidfd: &mut c_int) -> Result<Pid, CloneFailure> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: `stack` is mapped while it is borrowed and is the child's alone; `shared` and
    // `pidfd` outlive the call, and with CLONE_VFORK the call outlives the child's use of them;
    // `child` keeps to what may be done in memory that is not its own.
    let pid = unsafe {
        libc::clone(
            child,
            stack.top(),
            flags,
            ptr::from_ref(shared).cast_mut().cast::<c_void>(),
            ptr::from_mut(pidfd),
        )
    };
    // Negative is a refusal; `Pid` may not even be asked about it.
    match (pid > 0).then(|| Pid::from_raw(pid)).flatten() {
        Some(pid) => Ok(pid),
        None => Err(CloneFailure::Clone(Errno::from_raw_os_error(errno_of_last_call()))),
    }
}

/// The same by clone3, which alone can have a child born in a cgroup: to move it there afterwards
/// would wait for every CPU of the host. The C library offers no clone3, and its `syscall` cannot
/// return on a new stack; so this is the one place with an instruction of its own.
#[cfg(target_arch = "x86_64")]
fn clone_into(
    cgroup: BorrowedFd<'_>,
    stack: &Stack,
    shared: &Shared<'_>,
    pidfd: &mut c_int,
) -> Result<Pid, CloneFailure> {
    use std::os::fd::AsRawFd as _;

    let number = |pointer: *mut c_void| pointer.expose_provenance() as u64;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    let mut args = [0_u64; CLONE_ARGS];
    args[0] = u64::from(flags.cast_unsigned()) | CLONE_INTO_CGROUP;
    args[1] = number(ptr::from_mut(pidfd).cast());
    args[4] = u64::from(libc::SIGCHLD.cast_unsigned());
    args[5] = number(stack.base.wrapping_byte_add(GUARD));
    args[6] = STACK as u64;
    args[10] = u64::from(cgroup.as_raw_fd().cast_unsigned());
    let mut result = libc::SYS_clone3;
    // SAFETY: as for clone(2) above: the child runs on `stack`, on nothing of ours, calls
    // `child` with `shared` and ends with exit_group, or execs; it never comes back to this code.
    // This thread goes on at 2 with three registers changed, all declared. `args` is as long as
    // is said.
    unsafe {
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
        // ENOSYS is also what container filters answer, so that the C library tries clone(2).
        Errno::NOSYS | Errno::TOOBIG | Errno::INVAL => Err(CloneFailure::NoBirthInCgroup),
        errno => Err(CloneFailure::Clone(errno)),
    }
}

/// `struct clone_args` of Linux 5.7, in words: the first that knows of cgroups.
#[cfg(target_arch = "x86_64")]
const CLONE_ARGS: usize = 11;
#[cfg(target_arch = "x86_64")]
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Not written for this machine: the child joins by itself.
#[cfg(not(target_arch = "x86_64"))]
fn clone_into(
    _: BorrowedFd<'_>,
    _: &Stack,
    _: &Shared<'_>,
    _: &mut c_int,
) -> Result<Pid, CloneFailure> {
    Err(CloneFailure::NoBirthInCgroup)
}

impl Shared<'_> {
    fn note(&self, step: Step, errno: Errno) {
        let (number, detail) = step.encode();
        self.errno.store(errno.raw_os_error(), Ordering::Relaxed);
        self.detail.store(detail, Ordering::Relaxed);
        self.step.store(number, Ordering::Release);
    }

    fn failure(&self) -> Option<(Step, Errno)> {
        let number = self.step.load(Ordering::Acquire);
        let step = Step::decode(number, self.detail.load(Ordering::Relaxed))?;
        Some((step, Errno::from_raw_os_error(self.errno.load(Ordering::Relaxed))))
    }
}

/// The child, from its first instruction. Returning from here ends it.
extern "C" fn child(shared: *mut c_void) -> c_int {
    // SAFETY: `clone` passed a pointer to its `Shared`, which lives as long as it is suspended,
    // and it is suspended until this process execs or ends.
    let shared = unsafe { &*shared.cast_const().cast::<Shared<'_>>() };
    let (step, errno) = set_up_and_exec(shared.plan);
    shared.note(step, errno);
    127
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

/// The child's stack, with pages below it that nobody may touch: an overflow ends the child
/// instead of writing into our memory.
///
/// A thread that spawns keeps one: to unmap it would interrupt every processor that runs a thread
/// of this process.
struct Stack {
    base: *mut c_void,
}

thread_local! {
    static KEPT: Cell<Option<Stack>> = const { Cell::new(None) };
}

impl Stack {
    fn take() -> Result<Self, Errno> {
        // A thread that is ending has none.
        KEPT.try_with(Cell::take).ok().flatten().map_or_else(Self::new, Ok)
    }

    /// The child that used it has execed or ended: the next may.
    fn keep(self) {
        let _ = KEPT.try_with(|kept| kept.set(Some(self)));
    }

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
