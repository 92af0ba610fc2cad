//! A fork of this process: what it has of its parent must neither hold it up nor harm the parent.
#![expect(unsafe_code, reason = "a fork without an exec has no safe form")]

use std::fs;
use std::path::Path;

use rustix::process::{
    DumpableBehavior, Pid, WaitOptions, dumpable_behavior, set_dumpable_behavior, waitpid,
};

use tracing::subscriber::with_default;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::limits::alone;
use crate::process::Guard;
use crate::process::credentials::{KeepsDumpable, count_user_spawns};
use crate::seccomp::{Filter, Rule};

/// Returns what `work` returns in a forked child; `None` if it does not end.
fn in_a_fork(work: impl FnOnce() -> bool) -> Option<bool> {
    // SAFETY: the child goes on with this thread alone, and glibc makes its allocator usable there.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: takes a number. SIGALRM ends a child that hangs.
        unsafe { libc::alarm(20) };
        let code = i32::from(!work());
        // SAFETY: takes a number and does not return: the test goes on in the parent only.
        unsafe { libc::_exit(code) };
    }
    let child = Pid::from_raw(child).expect("a child");
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).expect("ours").expect("an end");
    status.exit_status().map(|code| code == 0)
}

/// A forked copy drops the handles of its parent: that must neither end the guard nor free the places
/// of the parent's agents in it.
#[test]
fn drop_in_a_forked_child_leaves_the_guard_alone() {
    if !alone("forked", "drop_in_a_forked_child_leaves_the_guard_alone") {
        return;
    }
    let guard = Guard::start().expect("a guard");
    let entry = guard.enter().expect("it runs");
    entry.note_cgroup(Path::new("/no/such"), 7, true).expect("noted");
    let is_ledger = |path: &std::path::PathBuf| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains("agentpipe-guard"))
    };
    let mut files = fs::read_dir("/proc/self/fd").expect("proc").flatten().map(|fd| fd.path());
    let ledger = files.find(is_ledger).expect("the ledger");
    let before = fs::read(&ledger).expect("readable");
    let mut held = Some((entry, guard));
    let dropped = in_a_fork(|| {
        drop(held.take());
        true
    });
    assert_eq!(dropped, Some(true));
    let (_entry, guard) = held.expect("the child has dropped its copy");
    assert!(guard.enter().is_ok(), "the guard has ended");
    assert!(fs::read(&ledger).expect("readable") == before, "the place of the cgroup is free");
}

/// A child that was forked during a spawn as another user kept the count of that spawn, and lost its
/// core dumps at its own first one.
#[test]
fn fork_during_a_spawn_stays_dumpable() {
    if !alone("forked", "fork_during_a_spawn_stays_dumpable") {
        return;
    }
    let spawn_as_another_user = || {
        let keeps = KeepsDumpable::new();
        set_dumpable_behavior(DumpableBehavior::NotDumpable).expect("allowed");
        drop(keeps);
        dumpable_behavior() == Ok(DumpableBehavior::Dumpable)
    };
    let spawning = KeepsDumpable::new();
    assert_eq!(in_a_fork(spawn_as_another_user), Some(true));
    // With the lock held at the fork, the child waited for it for good.
    let mut is_dumpable = None;
    count_user_spawns(|count| {
        is_dumpable = in_a_fork(spawn_as_another_user);
        count
    });
    assert_eq!(is_dumpable, Some(true));
    set_dumpable_behavior(DumpableBehavior::NotDumpable).expect("allowed");
    drop(spawning);
    assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable), "the parent's count stays");
}

/// A subscriber that spawns as another user.
struct Spawns;

impl<S: tracing::Subscriber> Layer<S> for Spawns {
    fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
        count_user_spawns(|count| count);
    }
}

/// The warning of a flag that is not restored came under the lock: a subscriber that spawned as another user
/// waited for its own thread.
#[test]
fn subscriber_of_the_dumpable_warning_may_spawn() {
    if !alone("forked", "subscriber_of_the_dumpable_warning_may_spawn") {
        return;
    }
    let ends = in_a_fork(|| {
        let keeps = KeepsDumpable::new();
        let when = Some((0, u32::try_from(libc::PR_SET_DUMPABLE).expect("small")));
        let errno = u16::try_from(libc::EPERM).expect("an errno");
        let rule = Rule { call: libc::SYS_prctl, when, errno };
        Filter::new(&[rule]).install(false).expect("the kernel takes a filter");
        with_default(Registry::default().with(Spawns), || drop(keeps));
        true
    });
    assert_eq!(ends, Some(true));
}
