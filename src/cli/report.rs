//! F5. The bench report, schema 1: written by `bench`, judged by `gate`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::input_file;

/// The version of this format. A reader refuses every other one.
pub(super) const SCHEMA: u32 = 1;

/// The longest text in a report; a CPU's name is shorter.
const TEXT_MAX: usize = 400;

/// One run of `agentpipe bench`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Report {
    pub(super) schema: u32,
    /// The version of agentpipe that was measured.
    pub(super) version: String,
    /// `debug` or `release`.
    pub(super) profile: String,
    #[serde(default)]
    pub(super) commit: Option<String>,
    /// `uname -r`.
    pub(super) kernel: String,
    pub(super) arch: String,
    pub(super) cpu: String,
    pub(super) cores: usize,
    pub(super) backend: String,
    /// What the kernel offered, in one line.
    #[serde(default)]
    pub(super) features: String,
    /// The user's own agent; `None` is the built-in one.
    #[serde(default)]
    pub(super) command: Option<Vec<String>>,
    pub(super) scenarios: Vec<Scenario>,
}

/// One scenario: agentpipe, and in the same run the least that the kernel needs for the same.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    pub(super) name: String,
    /// Records in each sample; 0 where records are not what is measured.
    #[serde(default)]
    pub(super) records: u64,
    pub(super) figures: Figures,
    /// The in-run limit, for instance SIGKILL and waitpid.
    #[serde(default)]
    pub(super) limit: Option<Limit>,
    /// Median over the median of the limit.
    #[serde(default)]
    pub(super) ratio: Option<f64>,
    /// Exact numbers, for instance `enters_per_record`.
    #[serde(default)]
    pub(super) counts: BTreeMap<String, f64>,
}

/// What a scenario is held against.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    pub(super) what: String,
    pub(super) figures: Figures,
}

/// The distribution of one series, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figures {
    pub(super) n: u64,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
}

impl Figures {
    /// Name and value of each, in order.
    pub(super) fn named(&self) -> [(&'static str, f64); 4] {
        [
            ("p50_us", self.p50_us),
            ("p90_us", self.p90_us),
            ("p99_us", self.p99_us),
            ("max_us", self.max_us),
        ]
    }
}

impl Report {
    /// Reads and checks one. The error is one line.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = input_file::read(path)?;
        Self::parse(&text).map_err(|why| input_file::blame(path, &why))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        /// What every version has, so that another one is called by its name.
        #[derive(Deserialize)]
        struct Version {
            schema: u64,
        }
        let version: Version =
            serde_json::from_str(text).map_err(|error| format!("not a bench report: {error}"))?;
        if version.schema != u64::from(SCHEMA) {
            return Err(format!(
                "it has schema {}; this agentpipe reads schema {SCHEMA}",
                version.schema
            ));
        }
        let report: Self =
            serde_json::from_str(text).map_err(|error| format!("not a bench report: {error}"))?;
        report.check()?;
        Ok(report)
    }

    pub(super) fn scenario(&self, name: &str) -> Option<&Scenario> {
        self.scenarios.iter().find(|scenario| scenario.name == name)
    }

    /// What the types cannot say: a report that passes here can be judged.
    fn check(&self) -> Result<(), String> {
        let texts =
            [&self.version, &self.profile, &self.kernel, &self.arch, &self.cpu, &self.backend];
        if texts.iter().any(|text| text.is_empty() || text.len() > TEXT_MAX) {
            return Err(format!("a text of it is empty or longer than {TEXT_MAX} bytes"));
        }
        if self.scenarios.is_empty() {
            return Err("it has no scenario".to_owned());
        }
        let mut names = Vec::new();
        for scenario in &self.scenarios {
            scenario.check()?;
            if names.contains(&&scenario.name) {
                return Err(format!("it has the scenario {} twice", scenario.name));
            }
            names.push(&scenario.name);
        }
        Ok(())
    }
}

impl Scenario {
    fn check(&self) -> Result<(), String> {
        if !is_name(&self.name) || !self.counts.keys().all(|name| is_name(name)) {
            return Err("a name is not 1 to 64 of a-z, 0-9 and _".to_owned());
        }
        let name = &self.name;
        self.figures.check().map_err(|why| format!("{name}: {why}"))?;
        let numbers = self.counts.values().chain(&self.ratio);
        if !numbers.copied().all(is_figure) {
            return Err(format!("{name}: a ratio or count is no finite number of 0 or more"));
        }
        if let Some(limit) = &self.limit {
            limit.figures.check().map_err(|why| format!("{name}, limit: {why}"))?;
        }
        match (self.ratio, self.limit.as_ref().and_then(|limit| ratio(&self.figures, limit))) {
            (Some(said), Some(is)) if (said - is).abs() <= is * 0.01 + 0.001 => Ok(()),
            (None, None) => Ok(()),
            _ => Err(format!("{name}: the ratio does not follow from the medians")),
        }
    }
}

impl Figures {
    fn check(&self) -> Result<(), String> {
        let values = self.named().map(|(_, value)| value);
        if self.n == 0 {
            return Err("it has no sample".to_owned());
        }
        if !values.iter().copied().all(is_figure) {
            return Err("a figure is no finite number of 0 or more".to_owned());
        }
        if !values.is_sorted() {
            return Err("its percentiles do not ascend".to_owned());
        }
        Ok(())
    }
}

/// Median over the median of the limit; `None` where that is 0.
pub(super) fn ratio(figures: &Figures, limit: &Limit) -> Option<f64> {
    (limit.figures.p50_us > 0.0).then(|| figures.p50_us / limit.figures.p50_us)
}

/// A number that may be held against another.
pub(super) fn is_figure(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// A name of a scenario or a count. It is printed into tables, so it holds no sign of theirs.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}
