//! How many more agents the host allows, and which limit is reached first.

use crate::error::{Error, ErrorKind, Result};

/// One limit of this process, its user, its container or its host, at the time of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CapacityLimit {
    /// The name: `RLIMIT_NOFILE`, `pids.max of the cgroup` and so on.
    pub name: &'static str,
    /// The limit, in its own unit: descriptors, processes and threads, or pages of pipes.
    pub value: u64,
    /// How much of it is in use, by every process that it counts; 0 if the kernel does not tell.
    pub used: u64,
    /// How much one agent uses at least. An agent may be many processes.
    pub per_agent: u64,
    /// Whether spawns beyond it are refused. Otherwise agents get smaller pipes.
    pub refuses: bool,
}

impl CapacityLimit {
    /// Returns how many more agents this limit allows.
    #[must_use]
    pub fn agents(&self) -> u64 {
        self.value.saturating_sub(self.used) / self.per_agent.max(1)
    }
}

/// The limits on the number of agents, from [`Engine::capacity`](crate::Engine::capacity).
///
/// A snapshot: other processes use the same limits. Memory is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Capacity {
    pub(crate) limits: Vec<CapacityLimit>,
}

impl Capacity {
    /// Returns the limits that apply to this process, in no particular order.
    #[must_use]
    pub fn limits(&self) -> &[CapacityLimit] {
        &self.limits
    }

    /// Returns the limit that refuses first; `None` if no limit is known.
    #[must_use]
    pub fn bottleneck(&self) -> Option<&CapacityLimit> {
        self.limits.iter().filter(|limit| limit.refuses).min_by_key(|limit| limit.agents())
    }

    /// Returns how many more agents can be spawned before a limit refuses; `None` if no limit is known.
    #[must_use]
    pub fn agents(&self) -> Option<u64> {
        self.bottleneck().map(CapacityLimit::agents)
    }

    /// Fails if a limit refuses fewer than `wanted` agents, so that an engine with `max_agents` fails at
    /// its start and not at a later spawn.
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
