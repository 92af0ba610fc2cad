//! Floor 1. As whom the agent runs, and with which limits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{DumpableBehavior, Gid, Resource as Kernel, Rlimit, Uid};

use super::failure::invalid;
use crate::command::AgentCommand;
use crate::command::ResourceLimit;
use crate::error::Error;

/// User, group and supplementary groups to set; `None` is left alone.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Option<(Uid, Gid)>,
    pub(super) groups: Option<Vec<Gid>>,
}

impl Credentials {
    /// To become who we are is no change and needs no privilege.
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
        Ok(Self { user: Some(wanted), groups: Some(groups.unwrap_or_default()) })
    }
}

/// All ones means "leave it" to the kernel.
fn checked(id: u32) -> Result<u32, Error> {
    if id == u32::MAX { Err(invalid("4294967295 is no user or group id")) } else { Ok(id) }
}

fn is_ours((uid, gid): (Uid, Gid)) -> bool {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    // A saved id that differs is a way back to it, and execve closes that way.
    getuid() == uid && geteuid() == uid && getgid() == gid && getegid() == gid
}

/// The limits, as the kernel wants them.
pub(super) fn limits(command: &AgentCommand) -> Result<Vec<(Kernel, Rlimit)>, Error> {
    let value = |limit: u64| (limit != u64::MAX).then_some(limit);
    let mut limits = Vec::with_capacity(command.resources.len());
    for (resource, soft, hard) in &command.resources {
        if soft > hard {
            return Err(invalid(format!(
                "the soft limit {soft} of {} is above its hard limit {hard}",
                resource.as_str()
            )));
        }
        limits.push((kernel(*resource), Rlimit { current: value(*soft), maximum: value(*hard) }));
    }
    Ok(limits)
}

fn kernel(resource: ResourceLimit) -> Kernel {
    match resource {
        ResourceLimit::AddressSpace => Kernel::As,
        ResourceLimit::Core => Kernel::Core,
        ResourceLimit::Cpu => Kernel::Cpu,
        ResourceLimit::Data => Kernel::Data,
        ResourceLimit::FileSize => Kernel::Fsize,
        ResourceLimit::LockedMemory => Kernel::Memlock,
        ResourceLimit::OpenFiles => Kernel::Nofile,
        ResourceLimit::Processes => Kernel::Nproc,
        ResourceLimit::Stack => Kernel::Stack,
    }
}

/// A child that changes its user while it shares our memory makes that memory undumpable, which
/// guards it from the new user's debuggers until the exec. It stays so afterwards, and would cost
/// us core dumps and our own files in `/proc`; so it is put back, after the last such spawn under way.
#[derive(Debug)]
pub(super) struct KeepsDumpable(());

static UNDER_WAY: Mutex<UnderWay> = Mutex::new(UnderWay { count: 0, was_dumpable: false });

struct UnderWay {
    count: usize,
    was_dumpable: bool,
}

fn under_way() -> MutexGuard<'static, UnderWay> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeepsDumpable {
    pub(super) fn new() -> Self {
        let mut state = under_way();
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
        let mut state = under_way();
        state.count -= 1;
        if state.count == 0
            && state.was_dumpable
            && let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        {
            crate::trace::warn!(%error, "this process stays undumpable");
        }
    }
}
