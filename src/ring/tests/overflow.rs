//! More completions at once than the completion queue holds: the kernel keeps the rest.

use super::*;

/// The kernel may round the size of the queue (8) up, but never to this many.
const MANY: u32 = 200;

fn small(set: usize) -> Option<Rig> {
    Rig::with_flags(RingConfig { entries: 4, cq_entries: 8, ..config() }, set)
}

#[test]
fn overflowed_completions_are_delivered_once() {
    // Two hundred agents exit at the same moment. A lost exit would delay a close until its
    // deadlines; an exit reported twice would end another agent.
    for set in 0..FLAG_SETS.len() {
        let Some(mut rig) = small(set) else { return };
        let watched: Vec<_> = (0..MANY)
            .map(|agent| {
                let (read, write) = pipe();
                let end = rig.adopt(read, agent, Role::Exit);
                rig.ring.watch(end);
                (end, write)
            })
            .collect();
        rig.run_until_quiet();
        assert_eq!(rig.seen, []);
        watched.iter().for_each(|(_, write)| put(write, b"x"));
        rig.until("all", |seen| seen.len() >= MANY as usize);
        rig.run_until_quiet();
        let mut seen = rig.others();
        seen.sort_by_key(|seen| if let Seen::Ready(agent, _) = seen { *agent } else { u32::MAX });
        let wanted: Vec<Seen> = (0..MANY).map(|agent| Seen::Ready(agent, Ok(()))).collect();
        assert_eq!(seen, wanted, "set {set}");
        let counters = rig.ring.counters();
        assert!(counters.overflows > 0, "set {set}: the queue did not overflow: {counters:?}");
        assert_eq!((counters.in_kernel, counters.stale), (0, 0), "set {set}");

        rig.seen.clear();
        rig.ring.close(&watched.iter().map(|(end, _)| *end).collect::<Vec<_>>());
        rig.until("closed", |seen| count(seen, closed) == MANY as usize);
        for (_, write) in &watched {
            must_break(write);
        }
    }
}

#[test]
fn writes_that_complete_at_once_are_all_reported() {
    // Two hundred agents begin to read at the same moment, so all blocked writes complete.
    for set in 0..FLAG_SETS.len() {
        let Some(mut rig) = small(set) else { return };
        let pipes: Vec<_> = (0..MANY).map(|agent| rig.writing(agent)).collect();
        for (end, _) in &pipes {
            rig.ring.write(*end, pattern(65_536), 0).unwrap();
        }
        rig.until("all pipes are full", |seen| seen.len() == MANY as usize);
        rig.seen.clear();
        for (end, _) in &pipes {
            rig.ring.write(*end, pattern(100), 0).unwrap();
        }
        rig.run_until_quiet();
        assert_eq!(rig.seen, []);
        // With some flag sets the second write goes out while the first is still being read.
        let mut taken: Vec<_> = pipes.iter().map(|(_, read)| get(read).0).collect();
        rig.until("all", |seen| seen.len() >= MANY as usize);
        rig.run_until_quiet();
        assert_eq!(count(&rig.seen, |seen| matches!(seen, Seen::Wrote(_, 100, Ok(100)))), 200);
        assert_eq!(rig.seen.len(), 200, "set {set}");
        for ((_, read), taken) in pipes.iter().zip(&mut taken) {
            taken.extend_from_slice(&get(read).0);
            assert_eq!(taken.split_off(65_536), pattern(100), "set {set}");
            assert!(*taken == pattern(65_536), "set {set}");
        }
        let counters = rig.ring.counters();
        assert!(counters.overflows > 0, "set {set}: the queue did not overflow: {counters:?}");
        assert_eq!((counters.in_kernel, counters.stale), (0, 0), "set {set}");
    }
}
