//! F5. The bench report, schema 1: written by `bench`, judged by `gate`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::input_file;

/// The version of this format. A reader refuses every other one.
pub(super) const SCHEMA: u32 = 1;

/// The longest text in a report; a CPU's name is shorter.
const TEXT_MAX: usize = 400;

/// The most scenarios, counts of one, or words of a command.
const ENTRIES_MAX: usize = 256;

/// The largest figure: in microseconds, thirty years. Products of two stay finite.
const FIGURE_MAX: f64 = 1e15;

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
    /// The tier of the backend: the ring's setup flags.
    pub(super) tier: String,
    /// What the kernel offered, in one line.
    #[serde(default)]
    pub(super) features: String,
    /// When it was measured, in seconds since 1970.
    #[serde(default)]
    pub(super) unix_time: u64,
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
    /// What it belongs to: `shutdown` and so on.
    pub(super) group: String,
    /// Records in each sample; 0 where records are not what is measured.
    #[serde(default)]
    pub(super) records: u64,
    /// Bytes of each record on the pipe; 0 where bytes are not.
    #[serde(default)]
    pub(super) record_bytes: u64,
    pub(super) figures: Figures,
    /// The in-run limit, for instance SIGKILL and waitpid.
    #[serde(default)]
    pub(super) limit: Option<Beside>,
    /// Median over the median of the limit.
    #[serde(default)]
    pub(super) ratio: Option<f64>,
    /// What others do, in the same run.
    #[serde(default)]
    pub(super) peer: Option<Beside>,
    /// Median over the median of the peer.
    #[serde(default)]
    pub(super) ratio_to_peer: Option<f64>,
    /// Numbers that are no times, for instance `enters_per_record`.
    #[serde(default, deserialize_with = "once_each")]
    pub(super) counts: BTreeMap<String, f64>,
    /// What the project aims at here. The gate does not judge by it: limits are the user's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) targets: Vec<Aim>,
}

/// A figure of a scenario, and what it should be at the most.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aim {
    /// As a limits file names it, or `us_per_record`.
    pub(super) metric: String,
    pub(super) target: f64,
    pub(super) found: f64,
    pub(super) met: bool,
}

/// What a scenario is held against.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Beside {
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

    /// The same from stdin.
    pub(super) fn read_stdin() -> Result<Self, String> {
        let text = input_file::read_stdin()?;
        Self::parse(&text).map_err(|why| input_file::blame(input_file::stdin(), &why))
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
        let named = [
            &self.version,
            &self.profile,
            &self.kernel,
            &self.arch,
            &self.cpu,
            &self.backend,
            &self.tier,
        ];
        let words = self.command.iter().flatten();
        let texts = named.into_iter().chain(&self.commit).chain([&self.features]).chain(words);
        if named.iter().any(|text| text.is_empty()) {
            return Err("it does not say where it was measured".to_owned());
        }
        if { texts }.any(|text| text.len() > TEXT_MAX) {
            return Err(format!("a text of it is longer than {TEXT_MAX} bytes"));
        }
        if self.scenarios.is_empty() {
            return Err("it has no scenario".to_owned());
        }
        let words = self.command.as_ref().map_or(0, Vec::len);
        if self.scenarios.len().max(words) > ENTRIES_MAX {
            return Err(format!("it has more than {ENTRIES_MAX} scenarios or words of a command"));
        }
        let mut names = BTreeSet::new();
        for scenario in &self.scenarios {
            scenario.check()?;
            if !names.insert(&scenario.name) {
                return Err(format!("it has the scenario {} twice", scenario.name));
            }
        }
        Ok(())
    }
}

impl Scenario {
    fn check(&self) -> Result<(), String> {
        let names = [&self.name, &self.group].into_iter().chain(self.counts.keys());
        let mut names = names.chain(self.targets.iter().map(|aim| &aim.metric));
        if !names.all(|name| is_name(name)) {
            return Err("a name is not 1 to 64 of a-z, 0-9 and _".to_owned());
        }
        let name = &self.name;
        if self.counts.len().max(self.targets.len()) > ENTRIES_MAX {
            return Err(format!("{name}: it has more than {ENTRIES_MAX} counts or targets"));
        }
        self.figures.check().map_err(|why| format!("{name}: {why}"))?;
        if !self.counts.values().copied().all(is_figure) {
            return Err(format!("{name}: a count is no number from 0 to 10^15"));
        }
        if !self.targets.iter().all(Aim::is_sound) {
            return Err(format!("{name}: a target is no number, or is not met as it says"));
        }
        self.check_beside("limit", self.limit.as_ref(), self.ratio)?;
        self.check_beside("peer", self.peer.as_ref(), self.ratio_to_peer)
    }

    /// The ratio is there where it can be, and follows from the medians.
    fn check_beside(
        &self,
        what: &str,
        beside: Option<&Beside>,
        said: Option<f64>,
    ) -> Result<(), String> {
        let name = &self.name;
        if let Some(beside) = beside {
            if beside.what.len() > TEXT_MAX {
                return Err(format!("{name}, {what}: its text is longer than {TEXT_MAX} bytes"));
            }
            beside.figures.check().map_err(|why| format!("{name}, {what}: {why}"))?;
        }
        match (said, beside.and_then(|beside| ratio(&self.figures, beside))) {
            (Some(said), Some(is)) if (said - is).abs() <= is * 0.01 + 0.001 => Ok(()),
            (None, None) => Ok(()),
            _ => Err(format!("{name}: the ratio to its {what} does not follow from the medians")),
        }
    }
}

impl Aim {
    fn is_sound(&self) -> bool {
        is_figure(self.target) && is_figure(self.found) && self.met == (self.found <= self.target)
    }
}

impl Figures {
    fn check(&self) -> Result<(), String> {
        let values = self.named().map(|(_, value)| value);
        if self.n == 0 {
            return Err("it has no sample".to_owned());
        }
        if !values.iter().copied().all(is_figure) {
            return Err("a figure is no number from 0 to 10^15".to_owned());
        }
        if !values.is_sorted() {
            return Err("its percentiles do not ascend".to_owned());
        }
        Ok(())
    }
}

/// Median over the median of the other; `None` where that is 0.
pub(super) fn ratio(figures: &Figures, beside: &Beside) -> Option<f64> {
    (beside.figures.p50_us > 0.0).then(|| figures.p50_us / beside.figures.p50_us)
}

/// A number that may be held against another.
pub(super) fn is_figure(value: f64) -> bool {
    (0.0..=FIGURE_MAX).contains(&value)
}

/// A name of a scenario or a count. It is printed into tables, so it holds no sign of theirs.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

/// A map whose keys are there once each: of two values one would be judged, and which?
fn once_each<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    struct OnceEach;
    impl<'de> Visitor<'de> for OnceEach {
        type Value = BTreeMap<String, f64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("names and numbers")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = from.next_entry::<String, f64>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }
    from.deserialize_map(OnceEach)
}
