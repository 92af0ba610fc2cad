//! F5, bench: where a report was measured.

use crate::cli::report::{Report, SCHEMA};

use super::target::Target;

/// A report without scenarios.
pub(super) fn describe(target: &Target) -> Report {
    Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        commit: ["GITHUB_SHA", "CI_COMMIT_SHA"].iter().find_map(|name| std::env::var(name).ok()),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        cpu: cpu().unwrap_or_else(|| "unknown".to_owned()),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        backend: target.engine.backend().name().to_owned(),
        features: target.engine.features().to_string(),
        command: target.own(),
        scenarios: Vec::new(),
    }
}

/// The first CPU's name. Not every architecture gives one.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}
