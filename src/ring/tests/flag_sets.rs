//! Every set of setup flags must behave the same. Older kernels accept only the later sets.

use super::*;

/// Without DEFER_TASKRUN the kernel completes operations during any system call.
#[test]
fn random_script_agrees_with_every_flag_set() {
    for set in 1..FLAG_SETS.len() {
        for seed in 0..10 {
            random_script::check(seed, set);
        }
    }
}

/// Closes a descriptor with a pending read, a blocked write, a poll and no operation.
#[test]
fn close_works_with_every_flag_set() {
    for (set, (name, _)) in FLAG_SETS.iter().enumerate() {
        let Some(mut rig) = Rig::with_flags(config(), set) else { return };
        assert_eq!(rig.ring.kernel_features().setup_flags, *name);
        let (out, out_write) = rig.reading(1);
        let (input, input_read) = rig.writing(2);
        let (exit, exit_read) = rig.writing(3);
        let (idle, idle_read) = rig.writing(4);
        rig.ring.write(input, pattern(100_000), 0).unwrap();
        rig.until("a full pipe", |seen| !seen.is_empty());
        rig.ring.write(input, pattern(50), 0).unwrap();
        rig.ring.watch(exit);
        rig.run_until_quiet();
        assert_eq!(rig.seen.len(), 1, "{name}: {:?}", rig.seen);
        rig.seen.clear();
        rig.ring.close(&[out, input, exit, idle]);
        rig.until("closed", |seen| count(seen, closed) == 4);
        must_break(&out_write);
        assert_eq!(get(&input_read).0.len(), 65_536, "{name}");
        assert!(get(&exit_read).1 && get(&idle_read).1, "{name}");
        let wrote = Seen::Wrote(2, 50, Err(libc::ECANCELED));
        let at = |what: &Seen| rig.seen.iter().position(|seen| seen == what);
        assert!(at(&wrote).unwrap() < at(&Seen::Closed(2, Ok(()))).unwrap(), "{name}");
        assert_eq!(rig.seen.len(), 5, "{name}: {:?}", rig.seen);
        assert_eq!(rig.ring.in_kernel(), 0, "{name}");
    }
}

/// A ring is drained when it is dropped, with every set of flags.
#[test]
fn dropped_ring_releases_its_pipes_with_every_flag_set() {
    for set in 0..FLAG_SETS.len() {
        let mut count = 0;
        for _ in 0..10 {
            let Some(mut rig) = Rig::with_flags(config(), set) else { return };
            let (_, write) = rig.reading(1);
            rig.turn(Duration::ZERO);
            drop(rig);
            count += usize::from(must_break(&write));
        }
        // Without a drain, nearly all writers get EPIPE late.
        assert!(count >= 5, "set {set}: {count} of 10");
    }
}
