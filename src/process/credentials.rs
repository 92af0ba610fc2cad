//! The user, the groups and the resource limits of an agent.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Uid};

use super::error::invalid;
use crate::command::{AgentCommand, ResourceLimit};
use crate::error::Error;

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

static SPAWNS: Mutex<UserSpawns> = Mutex::new(UserSpawns { count: 0, was_dumpable: false });

/// The spawns as another user that are in progress.
struct UserSpawns {
    count: usize,
    was_dumpable: bool,
}

fn user_spawns() -> MutexGuard<'static, UserSpawns> {
    SPAWNS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeepsDumpable {
    pub(super) fn new() -> Self {
        let mut state = user_spawns();
        // Only the first of concurrent spawns reads the flag: a child may have cleared it later.
        if state.count == 0 {
            let now = rustix::process::dumpable_behavior();
            state.was_dumpable = matches!(now, Ok(DumpableBehavior::Dumpable));
        }
        state.count += 1;
        Self(())
    }
}

impl Drop for KeepsDumpable {
    fn drop(&mut self) {
        // The lock is held until the flag is restored. A spawn that begins meanwhile must not read
        // the cleared one as the state of this process.
        let mut state = user_spawns();
        state.count -= 1;
        if state.count == 0
            && state.was_dumpable
            && let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        {
            crate::trace::warn!(%error, "this process stays undumpable");
        }
    }
}
