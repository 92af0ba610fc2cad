//! The coalescing window: a wait that goes on after the first completion, and what may not wait
//! for it. Each with min_wait and without, as on kernels before 6.12.

use std::thread;

use super::*;

/// Whoever waits this out has failed.
const WINDOW: Duration = Duration::from_secs(10);
/// Far less than the window, and far more than anything takes.
const SOON: Duration = Duration::from_secs(4);

fn rigs(window: Duration, buffers: u16) -> impl Iterator<Item = Rig> {
    [true, false].into_iter().map(move |min_wait| {
        let config = RingConfig { window, min_wait, buffers, ..RingConfig::default() };
        let mut rig = Rig::with(config);
        // What the setup left is no part of the test.
        rig.turn(Duration::ZERO);
        rig
    })
}

/// The driver's eventfd, watched as an engine does.
fn bell(rig: &mut Rig) -> OwnedFd {
    let bell = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let end = rig.adopt(bell.try_clone().unwrap(), 99, Role::Wake);
    rig.ring.watch(end);
    rig.turn(Duration::ZERO);
    bell
}

fn ring_it(bell: &OwnedFd) {
    assert_eq!(rustix::io::write(bell, &1_u64.to_ne_bytes()), Ok(8));
}

/// The agent's own pace: nothing to wait for.
fn pass(time: Duration) {
    let time = Timespec::try_from(time).unwrap();
    assert_eq!(poll(&mut [], Some(&time)), Ok(0));
}

/// One wait, and how long it took.
fn timed_turn(rig: &mut Rig, timeout: Duration) -> Duration {
    let begun = Instant::now();
    rig.turn(timeout);
    begun.elapsed()
}

#[test]
fn one_wait_serves_all_that_comes_within_the_window() {
    // And another thread's wish ends it at once: two agents write, the second a while after the
    // first, and then somebody asks for something.
    for mut rig in rigs(WINDOW, 128) {
        let bell = bell(&mut rig);
        let (_, one) = rig.reading(1);
        let (_, two) = rig.reading(2);
        rig.turn(Duration::ZERO);
        let enters = rig.ring.counters().enters;
        let took = thread::scope(|scope| {
            scope.spawn(|| {
                put(&one, b"first");
                pass(QUIET);
                put(&two, b"second");
                ring_it(&bell);
            });
            timed_turn(&mut rig, LIMIT)
        });
        assert!(took < SOON, "{took:?}: the bell did not end the wait");
        assert_eq!((rig.bytes(1), rig.bytes(2)), (b"first".to_vec(), b"second".to_vec()));
        assert!(rig.seen.contains(&Seen::Ready(99, Ok(()))), "{:?}", rig.seen);
        assert_eq!(rig.ring.counters().enters, enters + 1, "one call for all of it");
    }
}

#[test]
fn what_is_written_and_closed_does_not_wait_for_the_window() {
    for mut rig in rigs(WINDOW, 128) {
        let (input, input_read) = rig.writing(1);
        let (output, output_write) = rig.reading(2);
        rig.turn(Duration::ZERO);
        rig.ring.write(input, b"now".to_vec(), 0).unwrap();
        let took = timed_turn(&mut rig, LIMIT);
        assert!(took < SOON, "{took:?}: the write waited");
        assert_eq!(rig.seen, [Seen::Wrote(1, 3, Ok(3))]);
        assert_eq!(get(&input_read).0, b"now");
        rig.ring.close(&[input, output]);
        let begun = Instant::now();
        rig.until("closed", |seen| count(seen, closed) == 2);
        assert!(begun.elapsed() < SOON, "{:?}: the close waited", begun.elapsed());
        must_break(&output_write);
    }
}

#[test]
fn a_wait_that_has_enough_ends_before_its_window() {
    // The story: a window as long as the pool lasts, and then every read starves until it is over.
    // Half of the eight buffers is enough.
    for mut rig in rigs(WINDOW, 8) {
        let pipes: Vec<_> = (0..4).map(|agent| rig.reading(agent)).collect();
        rig.turn(Duration::ZERO);
        let took = thread::scope(|scope| {
            scope.spawn(|| pipes.iter().for_each(|(_, write)| put(write, b"x")));
            timed_turn(&mut rig, LIMIT)
        });
        assert!(took < SOON, "{took:?}: it waited for more");
        assert_eq!(rig.seen.len(), 4, "{:?}", rig.seen);
    }
}

#[test]
fn a_lone_event_after_a_quiet_window_ends_the_wait() {
    // The story: a chat at night. Nothing comes for an hour; what comes then must not wait.
    let window = Duration::from_secs(1);
    for mut rig in rigs(window, 128) {
        let (_, write) = rig.reading(1);
        rig.turn(Duration::ZERO);
        let written = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                pass(window + window / 5);
                put(&write, b"late");
                Instant::now()
            });
            rig.turn(LIMIT);
            writer.join().unwrap()
        });
        assert_eq!(rig.bytes(1), b"late");
        assert!(written.elapsed() < window * 4 / 5, "{:?}: another window", written.elapsed());
    }
}

#[test]
fn a_deadline_within_the_window_is_kept() {
    // The story: a close's deadline is 20 ms away, and the window 10 s.
    for mut rig in rigs(WINDOW, 128) {
        let (_, write) = rig.reading(1);
        rig.turn(Duration::ZERO);
        let took = timed_turn(&mut rig, QUIET);
        assert!(took >= QUIET / 2 && took < SOON, "{took:?}");
        put(&write, b"waits for more");
        let took = timed_turn(&mut rig, QUIET);
        assert!(took < SOON, "{took:?}");
        assert_eq!(rig.bytes(1), b"waits for more");
    }
}
