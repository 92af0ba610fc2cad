//! `gate --limits-from`: ceilings for a machine, from reports of several runs on it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use agentpipe::Backend;

use super::judge::{differences, is_stable, noise};
use crate::cli::input_file;
use crate::cli::report::{BenchReport, Measurement};

/// A defect makes a time a hundred times longer, a busy machine not ten times.
const TIMES: f64 = 10.0;

/// A ratio holds on a slower machine, too, but only where a sample is a stream of bytes: in one of a few
/// microseconds on another thread the scheduler decides.
const RATIOS: f64 = 3.0;

/// Reads the reports and returns a limits file. The error is one line.
pub(super) fn limits_from(paths: &[PathBuf]) -> Result<String, String> {
    let read = |path: &PathBuf| BenchReport::read(path);
    let reports = paths.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let [first, others @ ..] = &reports[..] else { return Err("there is no report".to_owned()) };
    for (report, path) in others.iter().zip(&paths[1..]) {
        if let Some(why) = differences(report, first).first() {
            let why = why.replacen("the baseline", &paths[0].display().to_string(), 1);
            return Err(input_file::blame(path, &why));
        }
    }
    if first.backend != Backend::IoUring.as_str() {
        return Err(input_file::blame(&paths[0], "limits are for io_uring; this is of epoll"));
    }
    let mut scenarios: BTreeMap<&str, Vec<&Measurement>> = BTreeMap::new();
    for scenario in reports.iter().flat_map(|report| &report.scenarios) {
        scenarios.entry(&scenario.name).or_default().push(scenario);
    }
    let mut file = format!(
        "# Of {} runs. Times: {TIMES} times the worst median; ratios: {RATIOS} times the worst; counts:\n\
         # the worst and a little more.\nschema = 1\nbackend = \"{}\"\n",
        reports.len(),
        first.backend
    );
    for (name, runs) in scenarios {
        put(&mut file, format_args!("\n[scenario.{name}]"));
        let worst = |figure: &dyn Fn(&Measurement) -> Option<f64>| {
            runs.iter().filter_map(|run| figure(run)).reduce(f64::max)
        };
        if let Some(median) = worst(&|run| Some(run.figures.p50_us)) {
            put(&mut file, format_args!("p50_us = {:.0}", (median * TIMES).ceil()));
        }
        if let Some(ratio) = worst(&|run| run.ratio.filter(|_| run.record_bytes > 0)) {
            put(&mut file, format_args!("ratio = {:.2}", ratio * RATIOS));
        }
        let mut counted: BTreeMap<&str, f64> = BTreeMap::new();
        for (count, value) in runs.iter().flat_map(|run| &run.counts).filter(|it| is_stable(it.0)) {
            let most = counted.entry(count).or_insert(*value);
            *most = most.max(*value);
        }
        let counts = counted
            .iter()
            .map(|(count, worst)| format!("{count} = {:.3}", worst * 1.25 + noise(count) / 2.0));
        let counts = counts.collect::<Vec<_>>().join(", ");
        if !counts.is_empty() {
            put(&mut file, format_args!("counts = {{ {counts} }}"));
        }
    }
    Ok(file)
}

fn put(file: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _written = writeln!(file, "{line}");
}
