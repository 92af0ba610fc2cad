//! More completions at once than the completion queue holds: the kernel keeps the rest.

use super::*;

/// What the kernel makes of the eight that are asked for may differ; so many never fit.
const MANY: u32 = 200;

fn small(step: usize) -> Rig {
    Rig::on_step(RingConfig { entries: 4, cq_entries: 8, ..RingConfig::default() }, step)
}

#[test]
fn completions_that_found_no_room_come_each_once() {
    // The story: two hundred agents exit in the same moment. An exit that is lost is an agent that
    // is waited for until its deadlines kill nobody; one told twice ends a stranger.
    for step in 0..LADDER.len() {
        let mut rig = small(step);
        let watched: Vec<_> = (0..MANY)
            .map(|agent| {
                let (read, write) = pipe();
                let end = rig.adopt(read, agent, Role::Exit);
                rig.ring.watch(end);
                (end, write)
            })
            .collect();
        rig.settle();
        assert_eq!(rig.seen, []);
        watched.iter().for_each(|(_, write)| put(write, b"x"));
        rig.until("all", |seen| seen.len() >= MANY as usize);
        rig.settle();
        let mut seen = rig.others();
        seen.sort_by_key(|seen| if let Seen::Ready(agent, _) = seen { *agent } else { u32::MAX });
        let wanted: Vec<Seen> = (0..MANY).map(|agent| Seen::Ready(agent, Ok(()))).collect();
        assert_eq!(seen, wanted, "step {step}");
        let counters = rig.ring.counters();
        assert!(
            counters.overflows > 0,
            "step {step}: it fitted, so nothing is shown: {counters:?}"
        );
        assert_eq!((counters.in_kernel, counters.stale), (0, 0), "step {step}");

        rig.seen.clear();
        rig.ring.close(&watched.iter().map(|(end, _)| *end).collect::<Vec<_>>());
        rig.until("closed", |seen| count(seen, closed) == MANY as usize);
        for (_, write) in &watched {
            must_break(write);
        }
    }
}

#[test]
fn writes_that_complete_all_at_once_are_each_told() {
    // The story: two hundred agents begin to read in the same moment, and each write that waited
    // for room completes.
    for step in 0..LADDER.len() {
        let mut rig = small(step);
        let pipes: Vec<_> = (0..MANY).map(|agent| rig.writing(agent)).collect();
        for (end, _) in &pipes {
            rig.ring.write(*end, pattern(65_536), 0).unwrap();
        }
        rig.until("all pipes are full", |seen| seen.len() == MANY as usize);
        rig.seen.clear();
        for (end, _) in &pipes {
            rig.ring.write(*end, pattern(100), 0).unwrap();
        }
        rig.settle();
        assert_eq!(rig.seen, []);
        // On some steps the second write goes out while the first is still being taken.
        let mut taken: Vec<_> = pipes.iter().map(|(_, read)| get(read).0).collect();
        rig.until("all", |seen| seen.len() >= MANY as usize);
        rig.settle();
        assert_eq!(count(&rig.seen, |seen| matches!(seen, Seen::Wrote(_, 100, Ok(100)))), 200);
        assert_eq!(rig.seen.len(), 200, "step {step}");
        for ((_, read), taken) in pipes.iter().zip(&mut taken) {
            taken.extend_from_slice(&get(read).0);
            assert_eq!(taken.split_off(65_536), pattern(100), "step {step}");
            assert!(*taken == pattern(65_536), "step {step}");
        }
        let counters = rig.ring.counters();
        assert!(
            counters.overflows > 0,
            "step {step}: it fitted, so nothing is shown: {counters:?}"
        );
        assert_eq!((counters.in_kernel, counters.stale), (0, 0), "step {step}");
    }
}
