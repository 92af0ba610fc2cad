//! A limits file and a report with any text: the body of a fuzz target.

use super::judge::{Check, LimitsFile, Outcome, Source, judge};
use super::{bencher, github_action_benchmark, markdown};
use crate::cli::input_file;
use crate::cli::report::BenchReport;

/// Judges a report by a limits file. A zero byte separates the two.
pub(crate) fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (limits, report) = text.split_once('\0').unwrap_or((text, text));
    let (limits, report) = (LimitsFile::parse(limits), BenchReport::parse(report));
    for why in [limits.as_ref().err(), report.as_ref().err()].into_iter().flatten() {
        check_line(&input_file::blame(input_file::stdin(), why));
    }
    let Ok(report) = report else { return };
    let again = serde_json::to_string(&report).expect("figures are numbers");
    BenchReport::parse(&again).expect("what is written can be read");
    for page in [github_action_benchmark(&report), bencher(&report)] {
        serde_json::from_str::<serde_json::Value>(&page).expect("a dashboard reads JSON");
    }
    let Ok(limits) = limits else { return };
    let ceilings: Vec<usize> = limits.scenario.values().map(|it| it.numbers().count()).collect();
    assert!(!ceilings.contains(&0), "a scenario without a ceiling");
    for baseline in [None, Some(&report)] {
        match judge(&limits, &report, baseline) {
            Err(why) => check_line(&input_file::blame(input_file::stdin(), &why)),
            Ok(verdict) => {
                // A run is never slower than itself.
                let is_own = |from: Source| matches!(from, Source::Baseline(_));
                assert!(!verdict.breaches().any(|check| is_own(check.from)), "{verdict:?}");
                let breached = verdict.checks.iter().any(|check| check.found > check.ceiling);
                assert_eq!(verdict.outcome() == Outcome::Regression, breached);
                let of_limits = verdict.checks.iter().filter(|check| check.from == Source::Limits);
                let is_judged = report.backend == limits.backend;
                let run =
                    limits.scenario.iter().filter(|(name, _)| report.scenario(name).is_some());
                let ceilings = run.map(|(_, it)| it.numbers().count()).sum();
                let expected = if is_judged { ceilings } else { 0 };
                assert_eq!(of_limits.clone().count(), expected, "a ceiling is not checked");
                of_limits.for_each(|check| check_figure(check, &report));
                let not_run = usize::from(!verdict.not_run.is_empty());
                let lines = verdict.breaches().count() + verdict.not_comparable.len() + not_run;
                check_page(&markdown(&verdict, &report), verdict.checks.len(), lines);
            }
        }
    }
}

/// Checks that an error is one line of a bounded length.
fn check_line(line: &str) {
    assert!(line.chars().count() <= 303 && !line.contains(char::is_control), "{line:?}");
}

/// Checks that a check is about the figure that it names.
fn check_figure(check: &Check, report: &BenchReport) {
    let scenario = report.scenario(&check.scenario).expect("the report has it");
    let figures = scenario.figures.named().map(|(name, figure)| (name, Some(figure)));
    let ratios = [("ratio", scenario.ratio), ("ratio_to_peer", scenario.ratio_to_peer)];
    let named = figures.into_iter().chain(ratios).filter(|(name, _)| *name == check.metric);
    let counted = scenario.counts.get(&check.metric).copied();
    // A count may have the name of a figure.
    let known: Vec<f64> = named.filter_map(|(_, figure)| figure).chain(counted).collect();
    assert!(known.contains(&check.found), "{check:?} of {known:?}");
    assert!(check.found >= 0.0, "{check:?}");
}

/// Checks that foreign text adds no row and no column to the table, and ends no line. `lines` are above it.
fn check_page(page: &str, checks: usize, lines: usize) {
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), if checks == 0 { 0 } else { checks + 2 }, "{page}");
    // The heading, the host, and a blank line behind each part.
    let above = 4 + lines + usize::from(lines > 0);
    assert_eq!(page.lines().count(), above + rows.len(), "{page}");
    assert!(rows.iter().all(|row| row.matches('|').count() == 5), "{page}");
    assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "{page:?}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_files_are_judged_or_refused_in_a_line() {
        crate::cli::fuzz_driver::run("gate", super::target);
    }
}
