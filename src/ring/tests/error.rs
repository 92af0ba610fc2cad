//! Setup errors name the cause and a remedy.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::error::ErrorKind;
use crate::ring::error::{denied_by, setup_error, unsupported};
use crate::ring::op::OpToken;

/// An operator must learn from the error what to change.
#[test]
fn every_setup_error_has_a_kind_and_a_remedy() {
    let cases = [
        (libc::EPERM, ErrorKind::BackendDenied, ""),
        (libc::EACCES, ErrorKind::BackendDenied, ""),
        (libc::ENOSYS, ErrorKind::BackendUnsupported, "Linux 6.4"),
        (libc::EINVAL, ErrorKind::BackendUnsupported, "Linux 6.4"),
        (libc::ENOMEM, ErrorKind::ResourceLimit, "RLIMIT_MEMLOCK is "),
        (libc::EMFILE, ErrorKind::ResourceLimit, "RLIMIT_NOFILE is "),
        (libc::ENFILE, ErrorKind::ResourceLimit, "fs.file-max"),
    ];
    for (errno, kind, remedy) in cases {
        let error = setup_error("io_uring_setup", io::Error::from_raw_os_error(errno));
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert_eq!(error.operation(), "start");
        assert_eq!(error.raw_os_error(), Some(errno));
        assert!(text.starts_with("start: io_uring_setup: "), "{text}");
        let told = text.split_once("; ").unwrap().1;
        assert!(told.contains(remedy) && told.len() > 20, "{text}");
        assert!(!text.contains('\n'));
    }
    let error = unsupported("this kernel has no io_uring READ");
    assert_eq!(error.kind(), ErrorKind::BackendUnsupported);
    let uname = rustix::system::uname();
    let kernel = uname.release().to_str().unwrap();
    assert!(
        error.to_string().contains("Linux 6.4") && error.to_string().ends_with(kernel),
        "{error}"
    );
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let told = setup_error("", io::Error::from_raw_os_error(libc::EMFILE)).to_string();
    let limit = limit.map_or_else(|| "unlimited".into(), |limit| format!("{limit} descriptors"));
    assert!(told.contains(&format!("RLIMIT_NOFILE is {limit},")), "{told}");
}

/// The remedy must be that of the cause: a sysctl that denies the call to all, or to this user, else the
/// filter of a container, else a security module.
#[test]
fn denial_names_what_denies() {
    for (sysctl, filtered, cause) in [
        ("2\n", false, "io_uring_disabled is 2"),
        ("2\n", true, "io_uring_disabled is 2"),
        ("1\n", false, "io_uring_disabled is 1"),
        ("1\n", true, "seccomp"),
        ("0\n", true, "seccomp"),
        ("", true, "seccomp"),
        ("0\n", false, "SELinux"),
    ] {
        let told = denied_by(sysctl, filtered);
        assert!(told.contains(cause), "{sysctl:?} {filtered}: {told}");
    }
}

#[test]
fn settings_are_taken_up_to_their_limits() {
    let window = Duration::from_millis(100);
    let config = RingConfig::with(9, window).unwrap();
    assert_eq!((config.buffers, config.window), (16, window));
    for (buffers, window) in [(7, window), (4097, window), (8, window + Duration::from_nanos(1))] {
        let error = RingConfig::with(buffers, window).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidSettings, "{error}");
    }
}

/// An entry pushed into a full queue was counted as queued and lost. A lost CLOSE leaves a descriptor
/// open, a lost WRITE never ends.
#[test]
fn push_into_a_full_queue_panics() {
    let Some(mut rig) = Rig::new() else { return };
    let queue = &mut rig.ring.inflight.queue;
    let mut push = || queue.push_cancel(-1, OpToken::NONE, OpToken::NONE);
    for _ in 0..256 {
        push();
    }
    assert!(catch_unwind(AssertUnwindSafe(push)).is_err());
    assert_eq!((queue.capacity(), queue.queued()), (256, 256));
    // A pair is not pushed by half either, and its descriptor is closed.
    let (read, write) = pipe();
    let pair = || queue.push_cancel_close(read, OpToken::NONE, OpToken::NONE, OpToken::NONE);
    assert!(catch_unwind(AssertUnwindSafe(pair)).is_err());
    must_break(&write);
}

#[test]
fn impossible_sizes_are_brought_into_range() {
    for (entries, cq_entries, buffers, buffer_size) in
        [(0, 0, 0, 0), (1, 1, 1, 1), (3, 5, 3, 1000), (1 << 20, 1 << 20, 5, 4096)]
    {
        let config = RingConfig { entries, cq_entries, buffers, buffer_size, ..config() };
        let Some(mut rig) = Rig::with(config) else { return };
        let features = rig.ring.kernel_features();
        assert!(features.buffers.is_power_of_two() && features.buffer_size >= 512);
        let (_, write) = rig.reading(1);
        put(&write, &pattern(3000));
        rig.until("bytes", |seen| bytes(seen, 1).len() == 3000);
        assert!(rig.bytes(1) == pattern(3000));
    }
}

/// `doctor` prints this line. The self-test must not show in the counters.
#[test]
fn new_ring_counts_from_zero() {
    let Some(rig) = Rig::new() else { return };
    let line = rig.ring.kernel_features().to_string();
    let reads = if multishot() { "multishot" } else { "single" };
    assert!(line.starts_with(&format!("io_uring with {reads} reads, flags ")), "{line}");
    assert!(line.contains("128 buffers of 4096 bytes"), "{line}");
    let counters = rig.ring.counters();
    assert_eq!((counters.enters, counters.submitted, counters.completions), (0, 0, 0));
    assert_eq!(
        (counters.buffers, counters.buffers_free, counters.buffers_free_min),
        (128, 128, 128)
    );
    assert_eq!(counters.in_kernel, 0);
}
