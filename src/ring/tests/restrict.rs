//! A restricted ring: the kernel refuses what the engine does not use.

use io_uring::opcode;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::Fd;

use super::*;
use crate::ring::op::OpToken;
use crate::seccomp::{Filter, Rule};

/// Submits an entry that names no memory, and returns its result.
fn result_of(rig: &mut Rig, entry: Entry) -> i32 {
    rig.ring.inflight.queue.push_foreign(entry);
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < LIMIT);
        rig.ring.inflight.submit_and_collect();
        if let Some(cqe) = rig.ring.inflight.cqes.pop_front() {
            assert_eq!(cqe.token, OpToken::NONE);
            return cqe.result;
        }
    }
}

/// A ring that can open files is a way around the filter of a container.
#[test]
fn foreign_opcodes_and_flags_are_refused() {
    for set in 0..FLAG_SETS.len() {
        let Some(mut rig) = Rig::with_flags(config(), set) else { return };
        let features = rig.ring.kernel_features();
        assert!(features.restricted && features.to_string().contains("restricted yes"));
        // Of nothing. The entry itself has the token NONE.
        let cancel = || opcode::AsyncCancel::new(OpToken::NONE.raw() - 1).build();
        let refused = [
            opcode::Nop::new().build(),
            opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/".as_ptr()).build(),
            opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build(),
            opcode::Shutdown::new(Fd(-1), 0).build(),
            opcode::PollRemove::new(0).build(),
            opcode::Readv::new(Fd(-1), std::ptr::null(), 0).build(),
            cancel().flags(Flags::ASYNC),
            cancel().flags(Flags::IO_DRAIN),
        ];
        for entry in refused {
            let what = format!("set {set}: {entry:?}");
            assert_eq!(result_of(&mut rig, entry), -libc::EACCES, "{what}");
        }
        assert_eq!(result_of(&mut rig, cancel()), -libc::ENOENT, "set {set}");
        assert_eq!(rig.ring.in_kernel(), 0);
    }
}

/// Only a window needs TIMEOUT.
#[test]
fn timeout_is_allowed_with_a_window_only() {
    static ZERO: io_uring::types::Timespec = io_uring::types::Timespec::new();
    let timeout = || opcode::Timeout::new(&raw const ZERO).build();
    let Some(mut rig) = Rig::new() else { return };
    assert_eq!(result_of(&mut rig, timeout()), -libc::EACCES);
    let Some(mut rig) = Rig::with(RingConfig { window: QUIET, ..config() }) else { return };
    assert_eq!(result_of(&mut rig, timeout()), -libc::ETIME);
}

#[test]
fn foreign_registrations_are_refused() {
    let Some(rig) = Rig::new() else { return };
    let submitter = rig.ring.inflight.queue.submitter();
    let refused = [
        submitter.register_files_sparse(1),
        submitter.register_personality().map(drop),
        submitter.register_enable_rings(),
        submitter.register_probe(&mut io_uring::Probe::new()),
    ];
    for (at, result) in refused.into_iter().enumerate() {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES), "{at}");
    }
}

/// A host may refuse the restrictions, and the ring is as useful without.
#[test]
fn unrestricted_ring_works() {
    let thread = std::thread::spawn(|| {
        const RESTRICTIONS: (u8, u32) = (1, 11); // IORING_REGISTER_RESTRICTIONS, the second argument.
        let errno = u16::try_from(libc::EINVAL).unwrap();
        let call = libc::SYS_io_uring_register;
        Filter::new(&[Rule { call, when: Some(RESTRICTIONS), errno }]).install(false).unwrap();
        let Some(mut rig) = Rig::new() else { return };
        assert!(!rig.ring.kernel_features().restricted);
        assert_eq!(result_of(&mut rig, opcode::Nop::new().build()), 0);
        let (end, write) = rig.reading(1);
        put(&write, b"read");
        rig.until("bytes", |seen| bytes(seen, 1) == b"read");
        rig.ring.close(&[end]);
        rig.until("closed", |seen| count(seen, closed) == 1);
    });
    thread.join().unwrap();
}
