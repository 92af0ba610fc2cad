//! A kernel that refuses an enter for a while: too many uncollected completions, or no memory for
//! requests. A seccomp filter makes the refusals, because no test can exhaust the kernel's memory.

use super::*;
use crate::seccomp::{Filter, Rule};

/// Makes every enter of this thread that submits exactly one entry fail.
fn refuse_lone_submissions(errno: u16) {
    const TO_SUBMIT: u8 = 1; // The second argument.
    let rule = Rule { call: libc::SYS_io_uring_enter, when: Some((TO_SUBMIT, 1)), errno };
    Filter::new(&[rule]).install(false).unwrap();
}

/// Runs the check for each error and each set of setup flags, on a new thread because a filter stays.
fn for_each_flag_set(check: fn(Rig, u16)) {
    for errno in [libc::EBUSY, libc::EAGAIN] {
        for set in 0..FLAG_SETS.len() {
            let errno = u16::try_from(errno).unwrap();
            let thread = std::thread::spawn(move || {
                if let Some(rig) = Rig::with_flags(config(), set) {
                    check(rig, errno);
                }
            });
            assert!(thread.join().is_ok(), "errno {errno}, flag set {set}");
        }
    }
}

/// The host is short of memory for a moment. Bytes of the agent that have arrived must be delivered,
/// and its queued write must wait, without an error for the engine or for other agents.
#[test]
fn busy_kernel_loses_no_bytes() {
    for_each_flag_set(|mut rig, errno| {
        let (_, write) = rig.reading(1);
        let (first, first_read) = rig.writing(2);
        let (second, second_read) = rig.writing(3);
        rig.turn(Duration::ZERO);
        refuse_lone_submissions(errno);
        // With the later flag sets its completion is there before the next enter.
        put(&write, b"in hand");
        rig.ring.write(first, b"queued".to_vec(), 0).unwrap();
        rig.turn(LIMIT);
        rig.until("what is in hand", |seen| bytes(seen, 1) == b"in hand");
        assert_eq!((rig.others(), get(&first_read).0), (vec![], vec![]), "refused");
        // The filter lets two entries pass.
        rig.ring.write(second, b"the other".to_vec(), 0).unwrap();
        rig.until("written", |seen| count(seen, |seen| matches!(seen, Seen::Wrote(..))) == 2);
        assert_eq!(get(&first_read).0, b"queued");
        assert_eq!(get(&second_read).0, b"the other");
    });
}

/// Without completions in hand, the engine waits a moment before it enters again, instead of
/// spinning on the error.
#[test]
fn busy_kernel_is_retried_without_spinning() {
    for_each_flag_set(|mut rig, errno| {
        let (first, first_read) = rig.writing(1);
        let (second, second_read) = rig.writing(2);
        refuse_lone_submissions(errno);
        rig.ring.write(first, b"queued".to_vec(), 0).unwrap();
        let submitted = rig.ring.counters().submitted;
        let (start, before) = (Instant::now(), rig.ring.counters().enters);
        while start.elapsed() < QUIET {
            rig.turn(LIMIT);
        }
        let enters = rig.ring.counters().enters - before;
        assert!((2..=20).contains(&enters), "{enters} enters in {QUIET:?}");
        assert_eq!(rig.seen, [], "and it is still queued");
        assert_eq!(rig.ring.counters().submitted, submitted);
        rig.ring.write(second, b"the other".to_vec(), 0).unwrap();
        rig.until("written", |seen| seen.len() == 2);
        assert_eq!(get(&first_read).0, b"queued");
        assert_eq!(get(&second_read).0, b"the other");
    });
}
