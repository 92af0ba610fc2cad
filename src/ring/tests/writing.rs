//! Writes: one at a time, short ones told, payloads always back.

use super::*;

/// A pipe takes what fits and the write completes short: taking that for all tears the record.
#[test]
fn a_short_write_is_told() {
    let mut rig = Rig::new();
    let (end, read) = rig.writing(1);
    let payload = pattern(200_000);
    rig.ring.write(end, payload.clone(), 0).unwrap();
    rig.until("the write", |seen| !seen.is_empty());
    assert_eq!(rig.seen, [Seen::Wrote(1, 200_000, Ok(65_536))]);
    let mut came = get(&read).0;
    rig.ring.write(end, payload.clone(), came.len()).unwrap();
    while came.len() < payload.len() {
        let writes = rig.seen.len();
        rig.until("the next write", |seen| seen.len() > writes);
        came.extend(get(&read).0);
        if came.len() < payload.len() {
            rig.ring.write(end, payload.clone(), came.len()).unwrap();
        }
    }
    assert!(came == payload);
}

/// Two writes in flight on one pipe complete in reverse order: the second is refused, and comes
/// back whole.
#[test]
fn a_second_write_is_refused_with_its_payload() {
    let mut rig = Rig::new();
    let (end, read) = rig.writing(1);
    rig.ring.write(end, b"first".to_vec(), 0).unwrap();
    let refused = rig.ring.write(end, b"second".to_vec(), 0).unwrap_err();
    assert_eq!(errno(refused.error), libc::EBUSY);
    assert_eq!(refused.buf, b"second");
    rig.until("the first", |seen| seen == [Seen::Wrote(1, 5, Ok(5))]);
    assert_eq!(get(&read).0, b"first");
}

/// Nothing to write is a mistake of the caller, not a write of 0 bytes that never seems to end.
#[test]
fn an_empty_write_is_refused() {
    let mut rig = Rig::new();
    let (end, _read) = rig.writing(1);
    for (buf, from) in [(Vec::new(), 0), (b"abc".to_vec(), 3), (b"abc".to_vec(), 9)] {
        let refused = rig.ring.write(end, buf.clone(), from).unwrap_err();
        assert_eq!(errno(refused.error), libc::EINVAL);
        assert_eq!(refused.buf, buf);
    }
    assert_eq!(rig.ring.in_kernel(), 0);
}

/// The child died: EPIPE in the completion, the payload back, and no signal for the process.
#[test]
fn a_dead_reader_is_an_error_of_the_write() {
    let mut rig = Rig::new();
    let (end, read) = rig.writing(1);
    drop(read);
    rig.ring.write(end, b"anyone?".to_vec(), 0).unwrap();
    rig.until("the write", |seen| !seen.is_empty());
    assert_eq!(rig.seen, [Seen::Wrote(1, 7, Err(libc::EPIPE))]);
}

/// A program in C may host the engine with SIGPIPE at its default: blocked on this thread, it
/// cannot end the process.
#[test]
fn sigpipe_is_blocked_on_the_thread_that_asks() {
    let blocked = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (libc::SIGPIPE - 1) != 0
    };
    std::thread::spawn(move || {
        assert!(!blocked());
        crate::ring::block_sigpipe().unwrap();
        assert!(blocked());
    })
    .join()
    .unwrap();
    assert!(!blocked(), "another thread's mask is its own");
}
