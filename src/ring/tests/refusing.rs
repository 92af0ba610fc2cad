//! A host that says no must say why, and what to do.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::error::ErrorKind;
use crate::ring::op::Token;
use crate::ring::refusal::{refused, unsupported};

/// One errno, one kind; each with a remedy a person can follow.
#[test]
fn every_refusal_has_its_kind_and_a_remedy() {
    let cases = [
        (libc::EPERM, ErrorKind::BackendDenied, ""),
        (libc::EACCES, ErrorKind::BackendDenied, ""),
        (libc::ENOSYS, ErrorKind::BackendUnsupported, "Linux 6.7"),
        (libc::EINVAL, ErrorKind::BackendUnsupported, "Linux 6.7"),
        (libc::ENOMEM, ErrorKind::ResourceLimit, "RLIMIT_MEMLOCK is "),
        (libc::EMFILE, ErrorKind::ResourceLimit, "RLIMIT_NOFILE is "),
        (libc::ENFILE, ErrorKind::ResourceLimit, "fs.file-max"),
    ];
    for (errno, kind, remedy) in cases {
        let error = refused("io_uring_setup", io::Error::from_raw_os_error(errno));
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert_eq!(error.operation(), "start");
        assert_eq!(error.raw_os_error(), Some(errno));
        assert!(text.starts_with("start: io_uring_setup: "), "{text}");
        let told = text.split_once("; ").unwrap().1;
        assert!(told.contains(remedy) && told.len() > 20, "{text}");
        assert!(!text.contains('\n'));
    }
    let error = unsupported("this kernel has no io_uring READ_MULTISHOT");
    assert_eq!(error.kind(), ErrorKind::BackendUnsupported);
    assert!(error.to_string().contains("Linux 6.7"));
}

/// The story: an entry that found no room was counted as queued and forgotten. A lost CLOSE is a
/// descriptor that stays open, a lost WRITE one that never ends.
#[test]
fn a_push_into_a_full_queue_is_not_ignored() {
    let mut rig = Rig::new();
    let queue = &mut rig.ring.queue;
    let mut push = || queue.push_cancel(-1, Token::NOTHING, Token::NOTHING);
    for _ in 0..256 {
        push();
    }
    assert!(catch_unwind(AssertUnwindSafe(push)).is_err());
    assert_eq!((queue.capacity(), queue.queued()), (256, 256));
    // Nor is half of a pair pushed, and the descriptor is closed all the same.
    let (read, write) = pipe();
    let pair = || queue.push_cancel_close(read, Token::NOTHING, Token::NOTHING, Token::NOTHING);
    assert!(catch_unwind(AssertUnwindSafe(pair)).is_err());
    must_break(&write);
}

/// Sizes nobody can have are brought into range, not into a panic.
#[test]
fn odd_sizes_are_brought_into_range() {
    for (entries, cq_entries, buffers, buffer_size) in
        [(0, 0, 0, 0), (1, 1, 1, 1), (3, 5, 3, 1000), (1 << 20, 1 << 20, 5, 4096)]
    {
        let config =
            RingConfig { entries, cq_entries, buffers, buffer_size, ..RingConfig::default() };
        let mut rig = Rig::with(config);
        let features = rig.ring.kernel_features();
        assert!(features.buffers.is_power_of_two() && features.buffer_size >= 512);
        let (_, write) = rig.reading(1);
        put(&write, &pattern(3000));
        rig.until("bytes", |seen| bytes(seen, 1).len() == 3000);
        assert!(rig.bytes(1) == pattern(3000));
    }
}

/// `doctor` prints this line; the self-test leaves no trace in the counters.
#[test]
fn a_new_ring_tells_its_tier_and_counts_from_zero() {
    let rig = Rig::new();
    let line = rig.ring.kernel_features().to_string();
    assert!(line.starts_with("io_uring with multishot reads, flags "), "{line}");
    assert!(line.contains("128 buffers of 4096 bytes"), "{line}");
    let counters = rig.ring.counters();
    assert_eq!((counters.enters, counters.submitted, counters.completions), (0, 0, 0));
    assert_eq!(
        (counters.buffers, counters.buffers_free, counters.buffers_free_min),
        (128, 128, 128)
    );
    assert_eq!(counters.in_kernel, 0);
}
