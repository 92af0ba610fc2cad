//! F5, bench: a report as a table.

use std::fmt::Write;

use crate::cli::report::Report;

pub(super) fn markdown(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let _written = writeln!(
        page,
        "agentpipe {} ({}), {}, Linux {}, {}, {} cores. Times in microseconds.\n\n\
         | scenario | n | p50 | p90 | p99 | max | the least | its p50 | ratio | counts |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
        report.version, report.profile, report.backend, report.kernel, report.cpu, report.cores
    );
    for scenario in &report.scenarios {
        let figures = &scenario.figures;
        let (what, least) = match &scenario.limit {
            Some(limit) => (limit.what.as_str(), format!("{:.1}", limit.figures.p50_us)),
            None => ("", String::new()),
        };
        let ratio = scenario.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let counts = scenario.counts.iter().map(|(name, value)| format!("{name} {value:.3}"));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let _written = writeln!(
            page,
            "| {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {what} | {least} | {ratio} | {counts} |",
            scenario.name,
            figures.n,
            figures.p50_us,
            figures.p90_us,
            figures.p99_us,
            figures.max_us
        );
    }
    page
}
