//! Writes: one at a time, short writes reported, payloads always returned.

use super::*;

/// A short write taken for a complete one would tear the record.
#[test]
fn short_write_is_reported() {
    let Some(mut rig) = Rig::new() else { return };
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

/// Two writes in flight on one pipe would complete in reverse order, so the second is refused.
#[test]
fn second_write_is_refused_with_its_payload() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, read) = rig.writing(1);
    rig.ring.write(end, b"first".to_vec(), 0).unwrap();
    let refused = rig.ring.write(end, b"second".to_vec(), 0).unwrap_err();
    assert_eq!(errno(refused.error), libc::EBUSY);
    assert_eq!(refused.buf, b"second");
    rig.until("the first", |seen| seen == [Seen::Wrote(1, 5, Ok(5))]);
    assert_eq!(get(&read).0, b"first");
}

#[test]
fn empty_write_is_refused() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, _read) = rig.writing(1);
    for (buf, from) in [(Vec::new(), 0), (b"abc".to_vec(), 3), (b"abc".to_vec(), 9)] {
        let refused = rig.ring.write(end, buf.clone(), from).unwrap_err();
        assert_eq!(errno(refused.error), libc::EINVAL);
        assert_eq!(refused.buf, buf);
    }
    assert_eq!(rig.ring.in_kernel(), 0);
}

/// A write to a dead child returns EPIPE and the payload, and raises no signal.
#[test]
fn write_to_a_closed_pipe_is_an_error() {
    let Some(mut rig) = Rig::new() else { return };
    let (end, read) = rig.writing(1);
    drop(read);
    rig.ring.write(end, b"anyone?".to_vec(), 0).unwrap();
    rig.until("the write", |seen| !seen.is_empty());
    assert_eq!(rig.seen, [Seen::Wrote(1, 7, Err(libc::EPIPE))]);
}

/// A host program in C has SIGPIPE at its default, which would end the process.
#[test]
fn sigpipe_is_blocked_on_the_calling_thread() {
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
    assert!(!blocked(), "other threads are not affected");
}
