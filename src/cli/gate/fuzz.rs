//! A limits file and a report with any text: the body of a fuzz target.

use super::judge::{LimitsFile, Outcome, Source, judge};
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
    for baseline in [None, Some(&report)] {
        match judge(&limits, &report, baseline) {
            Err(why) => check_line(&input_file::blame(input_file::stdin(), &why)),
            Ok(verdict) => {
                // A run is never slower than itself.
                let is_own = |from: Source| matches!(from, Source::Baseline(_));
                assert!(!verdict.breaches().any(|check| is_own(check.from)), "{verdict:?}");
                let breached = verdict.checks.iter().any(|check| check.found > check.ceiling);
                assert_eq!(verdict.outcome() == Outcome::Regression, breached);
                check_page(&markdown(&verdict, &report), verdict.checks.len());
            }
        }
    }
}

/// Checks that an error is one line of a bounded length.
fn check_line(line: &str) {
    assert!(line.chars().count() <= 303 && !line.contains(char::is_control), "{line:?}");
}

/// Checks that foreign text adds no row and no column to the table, and ends no line.
fn check_page(page: &str, checks: usize) {
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), if checks == 0 { 0 } else { checks + 2 }, "{page}");
    assert!(rows.iter().all(|row| row.matches('|').count() == 7), "{page}");
    assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "{page:?}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_files_are_judged_or_refused_in_a_line() {
        crate::cli::fuzz_driver::run("gate", super::target);
    }
}
