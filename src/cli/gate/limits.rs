//! F5, gate: the limits file. Every number in it is a ceiling.

use std::collections::BTreeMap;
use std::path::Path;

use agentpipe::Backend;
use serde::Deserialize;

use crate::cli::input_file;
use crate::cli::report::{is_figure, is_name};

/// The version of this format. A reader refuses every other one.
const SCHEMA: u32 = 1;

/// A limits file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    schema: u32,
    /// The backend these limits are for. A report of another one is never judged by them.
    #[serde(default = "wanted_backend")]
    pub(super) backend: String,
    #[serde(default)]
    pub(super) scenario: BTreeMap<String, Ceilings>,
    /// How far a run may be from the baseline.
    #[serde(default)]
    pub(super) baseline: Baseline,
}

/// The ceilings of one scenario. What is not named is not judged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Ceilings {
    pub(super) p50_us: Option<f64>,
    pub(super) p90_us: Option<f64>,
    pub(super) p99_us: Option<f64>,
    pub(super) max_us: Option<f64>,
    /// Of the median to the median of the in-run limit.
    pub(super) ratio: Option<f64>,
    /// The same to the median of the peer.
    pub(super) ratio_to_peer: Option<f64>,
    pub(super) counts: BTreeMap<String, f64>,
}

/// Factors on the figures of the baseline.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Baseline {
    pub(super) p50: Option<f64>,
    pub(super) p90: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) max: Option<f64>,
    pub(super) counts: Option<f64>,
    /// A difference in time smaller than this is noise.
    pub(super) floor_us: f64,
}

/// Wide: shared machines are noisy in the tail, and counts are not.
impl Default for Baseline {
    fn default() -> Self {
        Self {
            p50: Some(1.5),
            p90: None,
            p99: Some(3.0),
            max: None,
            counts: Some(1.25),
            floor_us: 200.0,
        }
    }
}

fn wanted_backend() -> String {
    Backend::IoUring.as_str().to_owned()
}

impl Ceilings {
    /// Name and ceiling of each time.
    pub(super) fn times(&self) -> [(&'static str, Option<f64>); 4] {
        [
            ("p50_us", self.p50_us),
            ("p90_us", self.p90_us),
            ("p99_us", self.p99_us),
            ("max_us", self.max_us),
        ]
    }

    fn numbers(&self) -> impl Iterator<Item = f64> {
        let times = self.times().into_iter().filter_map(|(_, ceiling)| ceiling);
        times.chain(self.ratio).chain(self.ratio_to_peer).chain(self.counts.values().copied())
    }
}

impl Baseline {
    /// Name of the figure and the factor allowed on it.
    pub(super) fn times(&self) -> [(&'static str, Option<f64>); 4] {
        [("p50_us", self.p50), ("p90_us", self.p90), ("p99_us", self.p99), ("max_us", self.max)]
    }

    fn factors(&self) -> impl Iterator<Item = f64> {
        self.times().into_iter().filter_map(|(_, factor)| factor).chain(self.counts)
    }
}

impl Limits {
    /// Reads and checks one. The error is one line.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = input_file::read(path)?;
        Self::parse(&text).map_err(|why| input_file::blame(path, &why))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let limits: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| 1 + before.matches('\n').count());
            format!("not a limits file, line {line}: {}", error.message())
        })?;
        limits.check()?;
        Ok(limits)
    }

    /// What the types cannot say. A file that limits nothing would pass everything.
    fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!(
                "it has schema {}; this agentpipe reads schema {SCHEMA}",
                self.schema
            ));
        }
        let backends = [Backend::IoUring].map(Backend::as_str);
        if !backends.contains(&self.backend.as_str()) {
            return Err(format!("its backend is not one of {}", backends.join(", ")));
        }
        if self.scenario.is_empty() {
            return Err("it limits no scenario".to_owned());
        }
        for (name, ceilings) in &self.scenario {
            if !is_name(name) || !ceilings.counts.keys().all(|name| is_name(name)) {
                return Err("a name is not 1 to 64 of a-z, 0-9 and _".to_owned());
            }
            if ceilings.numbers().next().is_none() {
                return Err(format!("{name} has no ceiling"));
            }
            if !ceilings.numbers().all(is_figure) {
                return Err(format!("{name}: a ceiling is no number from 0 to 10^15"));
            }
        }
        let fits = |factor: f64| is_figure(factor) && factor >= 1.0;
        if !self.baseline.factors().all(fits) || !is_figure(self.baseline.floor_us) {
            return Err(
                "baseline: a factor is not from 1 to 10^15, or floor_us not from 0".to_owned()
            );
        }
        Ok(())
    }
}
