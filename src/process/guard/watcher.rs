//! The watcher: a process of the host's program with memory of its own, which waits for the host's death.
//!
//! It is cloned without CLONE_VM and then runs like a signal handler: system calls only, no allocation,
//! no lock, nothing that can panic, because another thread may have held any lock at the clone. It sends
//! no SIGCHLD, so a `waitpid(-1)` of the host does not find it.
//!
//! Invariant for the unsafe code: the child uses its own stack, what `WatcherPlan` holds, the files of
//! the program and its libraries, and the memory that it maps itself. It unmaps nothing else of these:
//! the regions to unmap are anonymous or shared, and none holds the stacks, the errno or data that
//! belongs to a file.
#![expect(unsafe_code, reason = "clone(2), munmap(2) and the memory of the census")]

use std::ffi::{c_int, c_void};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, chdir, setsid};

use super::super::child_setup::errno_of_last_call;
use super::super::clone::{BlockedSignals, ChildStack, SavedErrno};
use super::super::descriptors::close_all_but;
use super::census::Process;
use super::hunt::Hunt;
use super::tag::Word;

/// The most processes of a host that the census takes: 10 MiB of address space, used as it fills.
const PROCESSES_MAX: usize = 1 << 18;
/// Smaller regions of the host's memory are kept: not worth a system call.
const REGION_MIN: usize = 128 * 1024;

/// What the watcher knows. Descriptors are copies of the host's, with the same numbers.
#[derive(Debug)]
pub(super) struct WatcherPlan<'a> {
    /// A pidfd.
    pub(super) host: BorrowedFd<'a>,
    /// The watcher's end of the socket.
    pub(super) line: BorrowedFd<'a>,
    pub(super) ledger: BorrowedFd<'a>,
    pub(super) host_pid: u32,
    pub(super) host_session: u32,
    pub(super) word: Word,
}

struct Start<'a> {
    plan: &'a WatcherPlan<'a>,
    /// The regions to unmap, as pairs of addresses in a pipe: the child cannot unmap a list while it reads
    /// it, and the host may limit the size of files.
    regions: BorrowedFd<'a>,
}

/// Clones the watcher. It reports on `plan.line` when it is ready.
pub(super) fn start(plan: &WatcherPlan<'_>) -> Result<(Pid, OwnedFd), Errno> {
    let stack = ChildStack::new()?;
    let (regions, filled) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let start = Start { plan, regions: regions.as_fd() };
    // SAFETY: returns a pointer to the errno of this thread, and reads nothing.
    let errno = unsafe { libc::__errno_location() };
    let kept =
        [stack.base.addr(), stack.top().addr() - 1, errno.addr(), ptr::from_ref(&start).addr()];
    let maps = fs::read("/proc/self/maps").unwrap_or_default();
    let mut large: Vec<_> = unneeded(&maps, &kept).collect();
    large.sort_by_key(|(from, to)| from.wrapping_sub(*to));
    let list = large.iter().flat_map(|(from, to)| [*from, *to]).flat_map(usize::to_ne_bytes);
    // The watcher keeps the regions that do not fit into the pipe: the smallest of thousands.
    rustix::io::write(&filled, &list.collect::<Vec<u8>>())?;

    let mut pidfd: c_int = -1;
    let restored = SavedErrno::new();
    // The watcher keeps all signals blocked: it ends by itself, or by SIGKILL.
    let blocked = BlockedSignals::new();
    // SAFETY: without CLONE_VM the child has copies of the stack, of `start` and of all that it refers
    // to. `watch` makes system calls only. `pidfd` outlives the call.
    let pid = unsafe {
        libc::clone(
            watch,
            stack.top(),
            // No exit signal.
            libc::CLONE_PIDFD,
            ptr::from_ref(&start).cast_mut().cast::<c_void>(),
            ptr::from_mut(&mut pidfd),
        )
    };
    let errno = errno_of_last_call();
    drop(blocked);
    drop(restored);
    let pid = (pid > 0).then(|| Pid::from_raw(pid)).flatten();
    let pid = pid.ok_or_else(|| Errno::from_raw_os_error(errno))?;
    if pidfd < 0 {
        return Err(Errno::NOSYS);
    }
    // SAFETY: the kernel put a new descriptor into `pidfd`, which nothing else owns.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The life of the watcher. A return ends it.
extern "C" fn watch(start: *mut c_void) -> c_int {
    // SAFETY: `start` passed a pointer to its `Start`, of which this process has a copy that it does
    // not unmap.
    let Start { plan, regions } = unsafe { &*start.cast_const().cast::<Start<'_>>() };
    let Ok(table) = set_up(plan, *regions) else { return 1 };
    let Ok(mut hunt) = Hunt::prepare(plan, table) else { return 1 };
    if send(plan.line, b"r", SendFlags::NOSIGNAL).is_err() {
        return 1;
    }
    let mut events =
        [PollFd::new(&plan.host, PollFlags::IN), PollFd::new(&plan.line, PollFlags::IN)];
    if retry_on_intr(|| poll(&mut events, None)).is_err() {
        // The host sees that the watcher is gone at its next spawn.
        return 1;
    }
    // A byte says that the engine has ended. The host may have died after it. Otherwise the host is
    // dead, or its program is another one, which has closed the socket.
    let mut byte = [0; 1];
    match recv(plan.line, &mut byte, RecvFlags::DONTWAIT) {
        Ok((1, _)) => {}
        _ => hunt.run(),
    }
    0
}

/// Lets go of all that is the host's, and maps the memory of the census.
fn set_up(
    plan: &WatcherPlan<'_>,
    regions: BorrowedFd<'_>,
) -> Result<&'static mut [Process], Errno> {
    // A session of its own: no signal of a terminal, no signal to the host's group.
    setsid()?;
    rustix::thread::set_name(c"agentpipe-guard")?;
    // No mount is kept busy.
    chdir(c"/")?;
    unmap(regions);
    // Also the pipes of a parent that waits for their end.
    let mut kept = [plan.host, plan.line, plan.ledger].map(|fd| fd.as_raw_fd());
    kept.sort_unstable();
    close_all_but(0, kept.into_iter());
    let size = PROCESSES_MAX * size_of::<Process>();
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let table =
        unsafe { mmap_anonymous(ptr::null_mut(), size, protection, flags | MapFlags::NORESERVE) }?;
    // SAFETY: the whole new mapping, page-aligned and never unmapped; nothing else refers to it. All
    // fields of `Process` may be zero.
    Ok(unsafe { std::slice::from_raw_parts_mut(table.cast(), PROCESSES_MAX) })
}

/// Unmaps the host's memory. It would be kept from the host's death on, and each page that the host
/// writes before would be copied.
fn unmap(regions: BorrowedFd<'_>) {
    const WORD: usize = size_of::<usize>();
    let number = |bytes: &[u8]| {
        let mut number = [0; WORD];
        number.copy_from_slice(bytes);
        usize::from_ne_bytes(number)
    };
    let mut buffer = [0; 256 * 2 * WORD];
    // The pipe does not block.
    while let Ok(len @ 1..) = read(regions, &mut buffer) {
        for region in buffer.get(..len).unwrap_or_default().chunks_exact(2 * WORD) {
            let (from, to) = region.split_at(WORD);
            let (from, to) = (number(from), number(to));
            // SAFETY: `unneeded` left out what this process uses. Memory that the host has mapped there
            // since is not used either.
            let _unmapped = unsafe { munmap(ptr::with_exposed_provenance_mut(from), to - from) };
        }
    }
}

/// Returns the regions of the host's memory that the watcher does not need, from the text of
/// `/proc/self/maps`: large ones that are shared, or writable and of no file. One that begins where
/// a region of a file ends holds variables of that file and is kept, as is each with an address of `kept`.
fn unneeded<'a>(maps: &'a [u8], kept: &'a [usize]) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut file_end = 0;
    maps.split(|byte| *byte == b'\n').filter_map(move |line| {
        let line = str::from_utf8(line).ok()?;
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let from = usize::from_str_radix(from, 16).ok()?;
        let to = usize::from_str_radix(to, 16).ok()?;
        let rights = fields.next()?;
        let is_file = fields.nth(2)? != "0";
        let name = fields.next().unwrap_or_default();
        let follows_file = from == file_end;
        if is_file || follows_file {
            file_end = to;
        }
        let is_memory = name.is_empty() || name == "[heap]" || name.starts_with("[anon");
        let is_host_memory = rights.starts_with("rw-p") && !is_file && is_memory && !follows_file;
        let is_shared = rights.ends_with('s');
        let is_kept = kept.iter().any(|address| (from..to).contains(address));
        let is_large = to - from >= REGION_MIN;
        ((is_host_memory || is_shared) && is_large && !is_kept).then_some((from, to))
    })
}

#[cfg(test)]
mod tests {
    use super::unneeded;

    #[test]
    fn variables_and_stacks_are_kept() {
        // The watcher would die of a fault when it is needed.
        let maps = b"\
00400000-00500000 r-xp 00000000 08:01 77 /bin/host
00500000-00600000 rw-p 00100000 08:01 77 /bin/host
00600000-00900000 rw-p 00000000 00:00 0 
00900000-01900000 rw-p 00000000 00:00 0 [heap]
10000000-20000000 rw-p 00000000 00:00 0 
30000000-30001000 rw-p 00000000 00:00 0 
40000000-50000000 ---p 00000000 00:00 0 
50000000-60000000 rw-p 00000000 00:00 0 
60000000-70000000 rw-s 00000000 00:01 9 /dev/zero (deleted)
7f0000000000-7f0001000000 rw-p 00000000 00:00 0 [anon: glibc malloc]
7ff000000000-7ff001000000 rw-p 00000000 00:00 0 [stack]
";
        let found: Vec<_> = unneeded(maps, &[0x5000_1234]).collect();
        let heap_follows = (0x0090_0000, 0x0190_0000);
        assert!(!found.contains(&heap_follows), "it may hold variables as well");
        let wanted = [
            (0x1000_0000, 0x2000_0000),
            (0x6000_0000, 0x7000_0000),
            (0x7f00_0000_0000, 0x7f00_0100_0000),
        ];
        assert_eq!(found, wanted);
    }
}
