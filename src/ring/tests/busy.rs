//! A kernel that refuses an enter for now: too many completions unreaped, or no memory for requests.
//! The refusals are a seccomp filter's, because no test can have the kernel run out of memory.
#![expect(unsafe_code, reason = "a seccomp filter is installed by raw prctl")]

use super::*;

/// From now on an enter of this thread that submits exactly one entry is refused.
fn refuse_lone_submissions(errno: u16) {
    const TO_SUBMIT: u32 = 24; // The second argument, in `struct seccomp_data`.
    let statement = |code: u32, k: u32, no: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf: no,
        k,
    };
    let (load, is) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ);
    let answer = libc::BPF_RET | libc::BPF_K;
    let mut filter = [
        statement(load, 0, 0),
        statement(is, u32::try_from(libc::SYS_io_uring_enter).unwrap(), 3),
        statement(load, TO_SUBMIT, 0),
        statement(is, 1, 1),
        statement(answer, libc::SECCOMP_RET_ERRNO | u32::from(errno), 0),
        statement(answer, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program =
        libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: no pointer is passed; the call only sets a flag of this thread.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `program` and the filter it points to live until the call returns.
    let set =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Runs it for each refusal and each step of the ladder, on a thread of its own: a filter stays.
fn on_each_step(check: fn(Rig, u16)) {
    for errno in [libc::EBUSY, libc::EAGAIN] {
        for step in 0..LADDER.len() {
            let errno = u16::try_from(errno).unwrap();
            let thread = std::thread::spawn(move || {
                check(Rig::on_step(RingConfig::default(), step), errno);
            });
            assert!(thread.join().is_ok(), "errno {errno}, step {step}");
        }
    }
}

/// The story: the host is short of memory for a moment while an agent talks. What it said is there,
/// what is to be written to it waits, and neither the engine nor the other agents end over it.
#[test]
fn a_busy_kernel_costs_neither_what_is_in_hand_nor_what_is_queued() {
    on_each_step(|mut rig, errno| {
        let (_, write) = rig.reading(1);
        let (first, first_read) = rig.writing(2);
        let (second, second_read) = rig.writing(3);
        rig.turn(Duration::ZERO);
        refuse_lone_submissions(errno);
        // On the later steps its completion is there before the next enter.
        put(&write, b"in hand");
        rig.ring.write(first, b"queued".to_vec(), 0).unwrap();
        rig.turn(LIMIT);
        rig.until("what is in hand", |seen| bytes(seen, 1) == b"in hand");
        assert_eq!((rig.others(), get(&first_read).0), (vec![], vec![]), "refused");
        // Two at once the kernel takes.
        rig.ring.write(second, b"the other".to_vec(), 0).unwrap();
        rig.until("written", |seen| count(seen, |seen| matches!(seen, Seen::Wrote(..))) == 2);
        assert_eq!(get(&first_read).0, b"queued");
        assert_eq!(get(&second_read).0, b"the other");
    });
}

/// The story: the same with nothing in hand. The engine waits a moment for the kernel, and does not
/// ask it again and again.
#[test]
fn a_busy_kernel_is_asked_again_after_a_moment() {
    on_each_step(|mut rig, errno| {
        let (first, first_read) = rig.writing(1);
        let (second, second_read) = rig.writing(2);
        refuse_lone_submissions(errno);
        rig.ring.write(first, b"queued".to_vec(), 0).unwrap();
        let (start, before) = (Instant::now(), rig.ring.counters().enters);
        while start.elapsed() < QUIET {
            rig.turn(LIMIT);
        }
        let enters = rig.ring.counters().enters - before;
        assert!((2..=20).contains(&enters), "{enters} enters in {QUIET:?}");
        assert_eq!(rig.seen, [], "and it is still queued");
        rig.ring.write(second, b"the other".to_vec(), 0).unwrap();
        rig.until("written", |seen| seen.len() == 2);
        assert_eq!(get(&first_read).0, b"queued");
        assert_eq!(get(&second_read).0, b"the other");
    });
}
