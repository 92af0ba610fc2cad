//! Floor 0. How many agents a host carries, and which limit comes first.

use crate::error::{Error, ErrorKind, Result};

/// One limit of this process, its user, its container or its host, as it stood when asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapacityLimit {
    /// `RLIMIT_NOFILE`, `pids.max of the cgroup` and so on.
    pub name: &'static str,
    /// The limit, in its own unit: descriptors, processes and threads, or pages of pipes.
    pub value: u64,
    /// What is taken of it now, by everybody it counts; 0 where the kernel does not tell.
    pub used: u64,
    /// What one agent takes, at the least. An agent may be many processes.
    pub per_agent: u64,
    /// Beyond it spawns are refused. Otherwise agents get less: smaller pipes.
    pub refuses: bool,
}

impl CapacityLimit {
    /// How many more agents there is room for.
    #[must_use]
    pub fn agents(&self) -> u64 {
        self.value.saturating_sub(self.used) / self.per_agent.max(1)
    }
}

/// The limits that end the number of agents; made by [`Engine::capacity`](crate::Engine::capacity).
///
/// A snapshot: others take of the same limits. Memory is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub(crate) limits: Vec<CapacityLimit>,
}

impl Capacity {
    /// All limits found, in no order. One that is unlimited, or not for this process, is left out.
    #[must_use]
    pub fn limits(&self) -> &[CapacityLimit] {
        &self.limits
    }

    /// The one that refuses first; `None` if none does.
    #[must_use]
    pub fn bottleneck(&self) -> Option<&CapacityLimit> {
        self.limits.iter().filter(|limit| limit.refuses).min_by_key(|limit| limit.agents())
    }

    /// How many more agents can be spawned before a limit refuses; `None` if no limit is known.
    #[must_use]
    pub fn agents(&self) -> Option<u64> {
        self.bottleneck().map(CapacityLimit::agents)
    }

    /// An engine that promises so many agents must not find out at the last of them.
    pub(crate) fn must_fit(&self, wanted: usize) -> Result<()> {
        for limit in &self.limits {
            let room = limit.agents();
            if room >= wanted as u64 {
                continue;
            }
            let what = format!(
                "max_agents({wanted}) does not fit: {} is {} with {} in use, which leaves room for \
                 {room} agents at {} each",
                limit.name, limit.value, limit.used, limit.per_agent
            );
            if limit.refuses {
                return Err(Error::new(ErrorKind::ResourceLimit, "start", what)
                    .remedy("raise it, or ask for fewer agents"));
            }
            crate::trace::warn!("{what}; those beyond get smaller pipes");
        }
        Ok(())
    }
}
