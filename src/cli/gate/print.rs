//! F5, gate: a verdict as Markdown, and a report in the formats of two dashboards.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::cli::report::Report;

use super::judge::{From, Line, Outcome, Verdict};

/// The summary of a run, as a page of a CI job shows it.
pub(super) fn markdown(verdict: &Verdict, report: &Report) -> String {
    let mut page = String::new();
    let breaches = verdict.breaches().count();
    let heading = match verdict.outcome() {
        Outcome::Pass => "pass".to_owned(),
        Outcome::Regression => format!("REGRESSION, {breaches} of {}", verdict.lines.len()),
        Outcome::NotComparable => "not comparable".to_owned(),
    };
    put(&mut page, format_args!("### agentpipe gate: {heading}\n"));
    put(
        &mut page,
        format_args!(
            "agentpipe {} ({}), {}, Linux {}, {}, {} cores\n",
            cell(&report.version),
            cell(&report.profile),
            cell(&report.backend),
            cell(&report.kernel),
            cell(&report.cpu),
            report.cores
        ),
    );
    for line in verdict.breaches() {
        put(&mut page, format_args!("- **{}**", breach(line)));
    }
    for why in &verdict.not_comparable {
        put(&mut page, format_args!("- not comparable: {}", cell(why)));
    }
    if breaches + verdict.not_comparable.len() > 0 {
        page.push('\n');
    }
    if !verdict.lines.is_empty() {
        page.push_str("| scenario | metric | found | ceiling | from | |\n");
        page.push_str("| --- | --- | ---: | ---: | --- | --- |\n");
    }
    for line in &verdict.lines {
        let mark = if line.is_breach() { "**breach**" } else { "ok" };
        let from = match line.from {
            From::Limits => "limits".to_owned(),
            From::Baseline(before) => format!("baseline, {}", number(before)),
        };
        let (found, ceiling) = (number(line.found), number(line.ceiling));
        put(
            &mut page,
            format_args!(
                "| {} | {} | {found} | {ceiling} | {from} | {mark} |",
                line.scenario, line.metric
            ),
        );
    }
    page
}

/// One breach in one line, with both figures.
pub(super) fn breach(line: &Line) -> String {
    let (found, ceiling) = (number(line.found), number(line.ceiling));
    let (scenario, metric) = (&line.scenario, &line.metric);
    match line.from {
        From::Limits => format!("{scenario} {metric}: {found} is above the limit of {ceiling}"),
        From::Baseline(before) => format!(
            "{scenario} {metric}: {found} is above {ceiling}, the most that the baseline's {} allows",
            number(before)
        ),
    }
}

/// What github-action-benchmark takes as `customSmallerIsBetter`.
pub(super) fn github_action_benchmark(report: &Report) -> String {
    let mut entries = Vec::new();
    for scenario in &report.scenarios {
        let name = &scenario.name;
        let mut add = |metric: &str, unit: &str, value: f64| {
            entries.push(json!({
                "name": format!("{name}/{metric}"),
                "unit": unit,
                "value": value,
                "extra": format!("n={} {} {}", scenario.figures.n, report.backend, report.kernel),
            }));
        };
        for (metric, value) in scenario.figures.named() {
            add(metric.trim_end_matches("_us"), "us", value);
        }
        let ratios = [("ratio", scenario.ratio), ("ratio_to_peer", scenario.ratio_to_peer)];
        for (metric, ratio) in ratios {
            if let Some(ratio) = ratio {
                add(metric, "x", ratio);
            }
        }
        for (count, value) in &scenario.counts {
            add(count, "count", *value);
        }
    }
    Value::Array(entries).to_string()
}

/// What bencher takes as its own JSON; its measure `latency` is in nanoseconds.
pub(super) fn bencher(report: &Report) -> String {
    let mut page = Map::new();
    for scenario in &report.scenarios {
        let figures = &scenario.figures;
        let nanoseconds = |us: f64| us * 1000.0;
        let mut measures = Map::new();
        let latency = json!({
            "value": nanoseconds(figures.p50_us),
            "upper_value": nanoseconds(figures.max_us),
        });
        measures.insert("latency".to_owned(), latency);
        let p99 = json!({ "value": nanoseconds(figures.p99_us) });
        measures.insert("latency-p99".to_owned(), p99);
        let ratios = [("ratio", scenario.ratio), ("ratio-to-peer", scenario.ratio_to_peer)];
        for (measure, ratio) in ratios {
            if let Some(ratio) = ratio {
                measures.insert(measure.to_owned(), json!({ "value": ratio }));
            }
        }
        for (count, value) in &scenario.counts {
            measures.insert(count.replace('_', "-"), json!({ "value": value }));
        }
        page.insert(scenario.name.clone(), Value::Object(measures));
    }
    Value::Object(page).to_string()
}

/// Text from a file, made harmless for a table.
fn cell(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || " .,:;()@/_+-=".contains(c);
    text.chars().map(|c| if plain(c) { c } else { ' ' }).collect()
}

/// Whole where the fraction says nothing.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn put(page: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _written = writeln!(page, "{line}");
}
