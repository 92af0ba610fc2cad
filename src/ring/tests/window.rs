//! The batching window: a wait that continues after the first completion, and the events that end it.
//! Each test runs with the kernel's minimum wait and without, as on kernels before 6.12.

use std::thread;

use super::*;

/// A test that waits this long has failed.
const WINDOW: Duration = Duration::from_secs(10);
/// Far less than the window, and far more than any operation takes.
const SOON: Duration = Duration::from_secs(4);

fn rigs(window: Duration, buffers: u16) -> impl Iterator<Item = Rig> {
    [true, false].into_iter().filter_map(move |min_wait| {
        let config = RingConfig { window, min_wait, buffers, ..config() };
        let mut rig = Rig::with(config)?;
        // Discards what the setup left.
        rig.turn(Duration::ZERO);
        Some(rig)
    })
}

/// The driver's eventfd, polled as by an engine.
fn wake_fd(rig: &mut Rig) -> OwnedFd {
    let wake_fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let end = rig.adopt(wake_fd.try_clone().unwrap(), 99, Role::Wake);
    rig.ring.watch(end);
    rig.turn(Duration::ZERO);
    wake_fd
}

fn wake(wake_fd: &OwnedFd) {
    assert_eq!(rustix::io::write(wake_fd, &1_u64.to_ne_bytes()), Ok(8));
}

/// Sleeps, as an agent would between two outputs.
fn pass(time: Duration) {
    let time = Timespec::try_from(time).unwrap();
    assert_eq!(poll(&mut [], Some(&time)), Ok(0));
}

/// Waits once and returns how long it took.
fn timed_turn(rig: &mut Rig, timeout: Duration) -> Duration {
    let begun = Instant::now();
    rig.turn(timeout);
    begun.elapsed()
}

#[test]
fn one_wait_collects_all_events_of_a_window() {
    // Two agents write, the second a while after the first. Then another thread wakes the driver,
    // which must end the wait at once.
    for mut rig in rigs(WINDOW, 128) {
        let wake_fd = wake_fd(&mut rig);
        let (_, one) = rig.reading(1);
        let (_, two) = rig.reading(2);
        rig.turn(Duration::ZERO);
        let enters = rig.ring.counters().enters;
        let took = thread::scope(|scope| {
            scope.spawn(|| {
                put(&one, b"first");
                pass(QUIET);
                put(&two, b"second");
                wake(&wake_fd);
            });
            timed_turn(&mut rig, LIMIT)
        });
        assert!(took < SOON, "{took:?}: the wake-up did not end the wait");
        assert_eq!((rig.bytes(1), rig.bytes(2)), (b"first".to_vec(), b"second".to_vec()));
        assert!(rig.seen.contains(&Seen::Ready(99, Ok(()))), "{:?}", rig.seen);
        assert_eq!(rig.ring.counters().enters, enters + 1, "one system call for all events");
    }
}

#[test]
fn writes_and_closes_do_not_wait_for_the_window() {
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
fn half_a_pool_of_data_ends_the_wait() {
    // A wait that lasted until the pool is empty would starve every read until its window ends.
    for mut rig in rigs(WINDOW, 8) {
        let pipes: Vec<_> = (0..4).map(|agent| rig.reading(agent)).collect();
        rig.turn(Duration::ZERO);
        let took = thread::scope(|scope| {
            scope.spawn(|| pipes.iter().for_each(|(_, write)| put(write, b"x")));
            timed_turn(&mut rig, LIMIT)
        });
        assert!(took < SOON, "{took:?}: the wait continued");
        assert_eq!(rig.seen.len(), 4, "{:?}", rig.seen);
    }
}

#[test]
fn first_event_after_a_quiet_window_ends_the_wait() {
    // After an hour without events, the next one must not wait for another window.
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
        assert!(
            written.elapsed() < window * 4 / 5,
            "{:?}: it waited for another window",
            written.elapsed()
        );
    }
}

#[test]
fn timeout_shorter_than_the_window_is_kept() {
    // A deadline of a close is 20 ms away, the end of the window 10 s.
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

/// Only the event that wakes the driver ends a window. It has a second operation for that, which must not
/// keep the descriptor from being reported closed.
#[test]
fn only_the_wake_ends_a_window() {
    for (role, window, operations) in
        [(Role::Wake, 5, 2), (Role::Exit, 5, 1), (Role::Wake, 0, 1), (Role::Exit, 0, 1)]
    {
        let window = Duration::from_millis(window);
        let Some(mut rig) = Rig::with(RingConfig { window, ..config() }) else { return };
        let (end, write) = pipe();
        let end = rig.adopt(end, 1, role);
        rig.ring.watch(end);
        rig.turn(Duration::ZERO);
        assert_eq!(rig.ring.in_kernel(), operations, "{role:?} {window:?}");
        put(&write, b"x");
        rig.until("ready", |seen| !seen.is_empty());
        rig.ring.close(&[end]);
        rig.until("closed", |seen| count(seen, closed) == 1);
        assert_eq!(rig.ring.in_kernel(), 0);
    }
}

/// Without the kernel's minimum wait, a wait is two: the window, and the rest of the limit. With it, or if
/// the window brought something, it is one.
#[test]
fn window_costs_a_second_wait_only_if_it_must() {
    let window = Duration::from_millis(900);
    let limit = Duration::from_secs(1);
    for (mut rig, min_wait) in rigs(window, 128).zip([true, false]) {
        let min_wait = min_wait && rig.ring.kernel_features().min_wait;
        let enters = rig.ring.counters().enters;
        let waited = timed_turn(&mut rig, limit);
        // Counted twice, it would be 2.8 s.
        assert!((limit..Duration::from_millis(2500)).contains(&waited), "{waited:?}");
        assert_eq!(rig.ring.counters().enters - enters, if min_wait { 1 } else { 2 });
        let (_, write) = rig.reading(1);
        rig.turn(Duration::ZERO);
        put(&write, b"x");
        let enters = rig.ring.counters().enters;
        rig.turn(LIMIT);
        assert_eq!((rig.bytes(1), rig.ring.counters().enters - enters), (b"x".to_vec(), 1));
    }
}
