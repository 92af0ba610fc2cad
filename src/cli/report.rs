//! The bench report, schema 1: `bench` writes it, `gate` reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::input_file;

/// The version of the report. Every other one is refused.
pub(super) const SCHEMA: u32 = 1;

/// The longest text in a report, in bytes. The name of a CPU is shorter.
const TEXT_MAX: usize = 400;

/// The most scenarios, counts of a scenario, or words of a command.
const ENTRIES_MAX: usize = 256;

/// The largest figure: thirty years in microseconds. The product of two such figures is finite.
const FIGURE_MAX: f64 = 1e15;

/// One run of `agentpipe bench`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BenchReport {
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
    /// The setup flags of the ring.
    pub(super) tier: String,
    /// The optional features of the kernel, in one line.
    #[serde(default)]
    pub(super) features: String,
    /// When it was measured, in seconds since 1970.
    #[serde(default)]
    pub(super) unix_time: u64,
    /// The user's agent; `None` stands for the built-in one.
    #[serde(default)]
    pub(super) command: Option<Vec<String>>,
    pub(super) scenarios: Vec<Measurement>,
}

/// The figures of one scenario: agentpipe, and the limit and the peer of the same run.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Measurement {
    pub(super) name: String,
    /// `shutdown` and so on.
    pub(super) group: String,
    /// Records in each sample; 0 if the scenario does not measure records.
    #[serde(default)]
    pub(super) records: u64,
    /// Bytes of each record on the pipe; 0 if the scenario does not measure bytes.
    #[serde(default)]
    pub(super) record_bytes: u64,
    pub(super) figures: Figures,
    /// The least work that the kernel allows, for instance SIGKILL and waitpid.
    #[serde(default)]
    pub(super) limit: Option<Comparison>,
    /// The median, divided by the median of the limit.
    #[serde(default)]
    pub(super) ratio: Option<f64>,
    /// What other hosts do.
    #[serde(default)]
    pub(super) peer: Option<Comparison>,
    /// The median, divided by the median of the peer.
    #[serde(default)]
    pub(super) ratio_to_peer: Option<f64>,
    /// agentpipe with the epoll backend, where the run has io_uring.
    #[serde(default)]
    pub(super) epoll: Option<Comparison>,
    /// The median, divided by the median with epoll.
    #[serde(default)]
    pub(super) ratio_to_epoll: Option<f64>,
    /// Numbers other than times, for instance `enters_per_record`.
    #[serde(default, deserialize_with = "once_each")]
    pub(super) counts: BTreeMap<String, f64>,
    /// The goals of the project. The gate ignores them: its ceilings are the user's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) targets: Vec<Aim>,
}

/// A goal of the project: a figure of a scenario and the highest value that meets the goal.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aim {
    /// The name in a limits file, or `us_per_record`.
    pub(super) metric: String,
    pub(super) target: f64,
    pub(super) found: f64,
    pub(super) met: bool,
}

/// A contestant beside agentpipe.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Comparison {
    pub(super) what: String,
    pub(super) figures: Figures,
}

/// One series, in microseconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figures {
    pub(super) n: u64,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
    /// The mean CPU time of this process for a sample, without that of its children.
    #[serde(default)]
    pub(super) cpu_us: f64,
}

impl Figures {
    /// Returns name and value of each, in ascending order.
    pub(super) fn named(&self) -> [(&'static str, f64); 4] {
        [
            ("p50_us", self.p50_us),
            ("p90_us", self.p90_us),
            ("p99_us", self.p99_us),
            ("max_us", self.max_us),
        ]
    }
}

impl BenchReport {
    /// Reads and checks a report. The error is one line.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = input_file::read(path)?;
        Self::parse(&text).map_err(|why| input_file::blame(path, &why))
    }

    /// Reads and checks a report on stdin. The error is one line.
    pub(super) fn read_stdin() -> Result<Self, String> {
        let text = input_file::read_stdin()?;
        Self::parse(&text).map_err(|why| input_file::blame(input_file::stdin(), &why))
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        /// The key that every version has, read first so that the error names the version.
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

    /// Returns date and commit, as far as they are known, for the second line of a page.
    pub(super) fn date_and_commit(&self) -> String {
        let date = (self.unix_time > 0).then(|| date(self.unix_time));
        let commit = self.commit.as_ref().map(|it| format!("commit {it:.12}"));
        date.into_iter().chain(commit).map(|it| it + ", ").collect()
    }

    pub(super) fn scenario(&self, name: &str) -> Option<&Measurement> {
        self.scenarios.iter().find(|scenario| scenario.name == name)
    }

    /// Checks what the types do not, so that every figure can be compared.
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

impl Measurement {
    /// Returns the median per record, in microseconds, if a sample has several records.
    #[expect(clippy::cast_precision_loss, reason = "a sample has few records")]
    pub(super) fn us_per_record(&self) -> Option<f64> {
        (self.records > 1).then(|| self.figures.p50_us / self.records as f64)
    }

    /// Returns the throughput of the median.
    #[expect(clippy::cast_precision_loss, reason = "a sample has few records")]
    pub(super) fn mib_per_second(&self) -> Option<f64> {
        let bytes = (self.records * self.record_bytes) as f64;
        let seconds = self.figures.p50_us / 1e6;
        (bytes > 0.0 && seconds > 0.0).then(|| bytes / seconds / f64::from(1 << 20))
    }

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
        self.check_beside("peer", self.peer.as_ref(), self.ratio_to_peer)?;
        self.check_beside("epoll", self.epoll.as_ref(), self.ratio_to_epoll)
    }

    /// Checks that the ratio is present if it can be, and that it follows from the medians.
    fn check_beside(
        &self,
        what: &str,
        beside: Option<&Comparison>,
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
        if !values.into_iter().chain([self.cpu_us]).all(is_figure) {
            return Err("a figure is no number from 0 to 10^15".to_owned());
        }
        if !values.is_sorted() {
            return Err("its percentiles do not ascend".to_owned());
        }
        Ok(())
    }
}

/// Returns the median divided by the median of the other, or `None` if that is 0.
pub(super) fn ratio(figures: &Figures, beside: &Comparison) -> Option<f64> {
    (beside.figures.p50_us > 0.0).then(|| figures.p50_us / beside.figures.p50_us)
}

/// Formats a time in seconds since 1970 as a date of the Gregorian calendar, in UTC.
fn date(unix_time: u64) -> String {
    // Years that begin in March, from the year 0: the leap day is the last day of its year.
    let days = unix_time / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{}-{month:02}-{day:02}", era * 400 + year + next)
}

/// Whether a number can be compared with another.
pub(super) fn is_figure(value: f64) -> bool {
    (0.0..=FIGURE_MAX).contains(&value)
}

/// Whether a text can name a scenario or a count. Names are printed in Markdown tables.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

/// Deserializes a map and refuses duplicate keys, of which only one value would be checked.
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

#[cfg(test)]
mod tests {
    use super::date;

    // Expected values by `date -u -d @SECONDS +%F`.
    #[test]
    fn dates_around_leap_days_are_right() {
        let days = [
            (1, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
        ];
        for (seconds, expected) in days {
            assert_eq!(date(seconds), expected);
        }
        date(u64::MAX);
    }
}
