//! The machine and the build that a report describes.

use std::time::SystemTime;

use crate::cli::report::{BenchReport, SCHEMA};

use super::setup::Setup;

/// Returns a report without scenarios.
pub(super) fn describe(setup: &Setup) -> BenchReport {
    let features = setup.engine.kernel_features();
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    BenchReport {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        commit: commit(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        cpu: cpu().unwrap_or_else(|| "unknown".to_owned()),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        backend: setup.engine.backend().as_str().to_owned(),
        tier: if features.setup_flags.is_empty() { "none" } else { features.setup_flags }
            .to_owned(),
        features: features.to_string(),
        unix_time: since_1970.map_or(0, |time| time.as_secs()),
        command: setup.own_command(),
        scenarios: Vec::new(),
    }
}

/// Returns the name of the first CPU. Not every architecture has one.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    let (_, name) = line.split_once(':')?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Returns the commit that the CI job names.
fn commit() -> Option<String> {
    let is_hash = |text: &String| {
        matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let said = ["GITHUB_SHA", "CI_COMMIT_SHA"].into_iter().find_map(|it| std::env::var(it).ok());
    said.filter(is_hash)
}
