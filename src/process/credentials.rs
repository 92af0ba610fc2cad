//! The user, the groups and the resource limits of an agent.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid};

use super::error::invalid;
use crate::command::{AgentCommand, ResourceLimit};
use crate::error::Error;
use crate::origin::Origin;

/// The user, the group and the supplementary groups to set; `None` is not changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Option<(Uid, Gid)>,
    pub(super) groups: Option<Vec<Gid>>,
}

impl Credentials {
    /// The user and group that this process has already need no change and no privilege.
    pub(super) fn of(command: &AgentCommand) -> Result<Self, Error> {
        let groups = command.groups.as_deref().map(|groups| {
            let ids = groups.iter().map(|id| checked(*id).map(Gid::from_raw));
            ids.collect::<Result<Vec<_>, _>>()
        });
        let groups = groups.transpose()?;
        let Some((uid, gid)) = command.user else {
            return Ok(Self { user: None, groups });
        };
        let wanted = (Uid::from_raw(checked(uid)?), Gid::from_raw(checked(gid)?));
        if is_ours(wanted) {
            return Ok(Self { user: None, groups });
        }
        // Without groups in the command the list is cleared: a group of this process that stays
        // would be a way back to its privileges.
        Ok(Self { user: Some(wanted), groups: Some(groups.unwrap_or_default()) })
    }
}

/// The kernel takes an id of all ones for "no change".
fn checked(id: u32) -> Result<u32, Error> {
    if id == u32::MAX { Err(invalid("4294967295 is no user or group id")) } else { Ok(id) }
}

fn is_ours((uid, gid): (Uid, Gid)) -> bool {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    // A saved id that differs does not matter: execve(2) sets it to the effective one.
    getuid() == uid && geteuid() == uid && getgid() == gid && getegid() == gid
}

/// Converts the resource limits of the command.
pub(super) fn limits(command: &AgentCommand) -> Result<Vec<(Resource, Rlimit)>, Error> {
    let value = |limit: u64| (limit != u64::MAX).then_some(limit);
    let mut limits = Vec::with_capacity(command.resources.len());
    for (resource, soft, hard) in &command.resources {
        if soft > hard {
            return Err(invalid(format!(
                "the soft limit {soft} of {} is above its hard limit {hard}",
                resource.as_str()
            )));
        }
        limits.push((
            kernel_resource(*resource),
            Rlimit { current: value(*soft), maximum: value(*hard) },
        ));
    }
    Ok(limits)
}

fn kernel_resource(resource: ResourceLimit) -> Resource {
    match resource {
        ResourceLimit::AddressSpace => Resource::As,
        ResourceLimit::Core => Resource::Core,
        ResourceLimit::Cpu => Resource::Cpu,
        ResourceLimit::Data => Resource::Data,
        ResourceLimit::FileSize => Resource::Fsize,
        ResourceLimit::LockedMemory => Resource::Memlock,
        ResourceLimit::OpenFiles => Resource::Nofile,
        ResourceLimit::Processes => Resource::Nproc,
        ResourceLimit::Stack => Resource::Stack,
    }
}

/// Restores the dumpable flag of this process after a spawn as another user.
///
/// A child that changes its user while it shares the memory of this process makes that memory
/// undumpable, which guards it from debuggers of the new user until the exec. It would stay so, and
/// cost this process its core dumps and its files in `/proc`. The flag is restored after the last
/// of the concurrent spawns.
#[derive(Debug)]
pub(super) struct KeepsDumpable(());

static SPAWNS: UserSpawns = UserSpawns {
    holder: AtomicU32::new(0),
    counted_in: AtomicU32::new(0),
    count: AtomicUsize::new(0),
    was_dumpable: AtomicBool::new(false),
};

/// The spawns as another user that are in progress in one process.
///
/// A fork copies the lock and the count, and not the threads that would release the one and lower the
/// other. So both carry the number of their process, and mean nothing in another. A `Mutex` names no
/// process: a copy that was locked would stay so for the life of the fork. The lock is held for one system
/// call at most, so the threads that want it yield instead of sleeping.
struct UserSpawns {
    /// The process whose thread holds the lock, or 0.
    holder: AtomicU32,
    /// The process to which the count belongs.
    counted_in: AtomicU32,
    count: AtomicUsize,
    was_dumpable: AtomicBool,
}

/// Runs `work` under the lock, with the number of spawns in progress, which it returns changed.
pub(super) fn count_user_spawns(work: impl FnOnce(usize) -> usize) {
    // The number may be 0, which stands for a free lock here.
    let own = Origin::here().number() + 1;
    while let Err(holder) = SPAWNS.holder.compare_exchange(0, own, Acquire, Relaxed) {
        // A holder in another process does not release this copy of the lock.
        if holder != own && SPAWNS.holder.compare_exchange(holder, own, Acquire, Relaxed).is_ok() {
            break;
        }
        std::thread::yield_now();
    }
    let is_ours = SPAWNS.counted_in.swap(own, Relaxed) == own;
    let count = if is_ours { SPAWNS.count.load(Relaxed) } else { 0 };
    SPAWNS.count.store(work(count), Relaxed);
    SPAWNS.holder.store(0, Release);
}

impl KeepsDumpable {
    pub(super) fn new() -> Self {
        count_user_spawns(|count| {
            // Only the first of concurrent spawns reads the flag: a child may have cleared it later.
            if count == 0 {
                let now = rustix::process::dumpable_behavior();
                SPAWNS.was_dumpable.store(matches!(now, Ok(DumpableBehavior::Dumpable)), Relaxed);
            }
            count + 1
        });
        Self(())
    }
}

impl Drop for KeepsDumpable {
    fn drop(&mut self) {
        let mut failed = None;
        // The lock is held until the flag is restored. A spawn that begins meanwhile must not read
        // the cleared one as the state of this process.
        count_user_spawns(|count| {
            if count == 1 && SPAWNS.was_dumpable.load(Relaxed) {
                let restored = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
                failed = restored.err();
            }
            count.saturating_sub(1)
        });
        // After the lock: a subscriber of the user may spawn, too.
        if let Some(error) = failed {
            crate::trace::warn!(%error, "this process stays undumpable");
        }
    }
}
