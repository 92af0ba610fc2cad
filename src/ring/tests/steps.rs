//! Every step of the ladder must behave the same: older kernels stop further down.

use super::*;

/// Without DEFER_TASKRUN the kernel completes at other moments: in the middle of any syscall.
#[test]
fn a_random_script_agrees_on_every_step() {
    for step in 1..LADDER.len() {
        for seed in 0..10 {
            script::check(seed, step);
        }
    }
}

/// The close path on every step: pending read, blocked write, watch and nothing at all.
#[test]
fn every_step_cuts_whatever_is_pending() {
    for (step, (name, _)) in LADDER.iter().enumerate() {
        let mut rig = Rig::on_step(RingConfig::default(), step);
        assert_eq!(rig.ring.kernel_features().setup_flags, *name);
        let (out, out_write) = rig.reading(1);
        let (input, input_read) = rig.writing(2);
        let (exit, exit_read) = rig.writing(3);
        let (idle, idle_read) = rig.writing(4);
        rig.ring.write(input, pattern(100_000), 0).unwrap();
        rig.until("a full pipe", |seen| !seen.is_empty());
        rig.ring.write(input, pattern(50), 0).unwrap();
        rig.ring.watch(exit);
        rig.settle();
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

/// A dropped ring is a barrier on every step.
#[test]
fn every_step_lets_go_of_its_pipes_when_dropped() {
    for step in 0..LADDER.len() {
        let at_once = |_: &usize| {
            let mut rig = Rig::on_step(RingConfig::default(), step);
            let (_, write) = rig.reading(1);
            rig.turn(Duration::ZERO);
            drop(rig);
            must_break(&write)
        };
        // Undrained, nearly all are late.
        let count = (0..10).filter(at_once).count();
        assert!(count >= 5, "step {step}: {count} of 10");
    }
}
