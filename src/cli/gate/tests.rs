//! Verdicts on small reports.

use serde_json::json;

use super::judge::{LimitsFile, Outcome, Source, Verdict, judge};
use crate::cli::report::BenchReport;

const LIMITS: &str = "schema = 1\n[scenario.close_idle]\np50_us = 100\np99_us = 500\nratio = 2\n\
    counts = { enters_per_record = 3 }\n";

fn limits(text: &str) -> LimitsFile {
    LimitsFile::parse(text).expect("a limits file")
}

/// A report with a median of `p50`, half of that as its in-run limit.
fn report(p50: f64) -> BenchReport {
    let figures = |p50: f64| {
        json!({"n": 9, "p50_us": p50, "p90_us": p50 * 2.0, "p99_us": p50 * 3.0,
            "max_us": p50 * 4.0})
    };
    let report = json!({
        "schema": 1, "version": "0.1.0", "profile": "release", "kernel": "6.18.5-x",
        "arch": "x86_64", "cpu": "a cpu", "cores": 2, "backend": "io_uring",
        "tier": "FLAGS",
        "scenarios": [{"name": "close_idle", "group": "shutdown", "figures": figures(p50), "ratio": 2.0,
            "limit": {"what": "waitpid", "figures": figures(p50 / 2.0)},
            "counts": {"enters_per_record": 3.0}}],
    });
    BenchReport::parse(&report.to_string()).expect("a report")
}

fn breaches(verdict: &Verdict) -> Vec<(&str, f64, f64)> {
    verdict.breaches().map(|check| (check.metric.as_str(), check.found, check.ceiling)).collect()
}

#[test]
fn only_figures_above_the_ceiling_breach() {
    let at = judge(&limits(LIMITS), &report(100.0), None).expect("judged");
    assert_eq!(at.outcome(), Outcome::Pass);
    assert_eq!(at.checks.len(), 4);
    let above = judge(&limits(LIMITS), &report(200.0), None).expect("judged");
    assert_eq!(above.outcome(), Outcome::Regression);
    assert_eq!(breaches(&above), [("p50_us", 200.0, 100.0), ("p99_us", 600.0, 500.0)]);
}

#[test]
fn one_more_enter_per_record_breaches() {
    let mut more = report(100.0);
    more.scenarios[0].counts.insert("enters_per_record".to_owned(), 4.0);
    let verdict = judge(&limits(LIMITS), &more, None).expect("judged");
    assert_eq!(breaches(&verdict), [("enters_per_record", 4.0, 3.0)]);
}

// The limits are for one backend; a run on another one may be faster and must not pass.
#[test]
fn other_backend_is_not_comparable() {
    let mut fallback = report(1.0);
    fallback.backend = "epoll".to_owned();
    let verdict = judge(&limits(LIMITS), &fallback, None).expect("judged");
    assert_eq!(verdict.outcome(), Outcome::NotComparable);
    assert_eq!(verdict.checks, []);
}

#[test]
fn other_machine_is_not_comparable() {
    type Change = fn(&mut BenchReport);
    let changes: [(Change, &str); 8] = [
        (|report| report.kernel = "6.17.5-x".to_owned(), "kernel 6.18; the baseline has 6.17"),
        (|report| report.backend = "epoll".to_owned(), "backend"),
        (|report| report.tier = "none".to_owned(), "tier FLAGS; the baseline has none"),
        (|report| report.arch = "aarch64".to_owned(), "architecture"),
        (|report| report.cpu = "other".to_owned(), "CPU"),
        (|report| report.cores = 64, "cores 2; the baseline has 64"),
        (|report| report.profile = "debug".to_owned(), "build"),
        (|report| report.command = Some(vec!["claude".to_owned()]), "agent"),
    ];
    for (change, says) in changes {
        let mut baseline = report(1.0);
        change(&mut baseline);
        let verdict = judge(&limits(LIMITS), &report(100.0), Some(&baseline)).expect("judged");
        assert_eq!(verdict.outcome(), Outcome::NotComparable, "{says}");
        assert_eq!(verdict.not_comparable.len(), 1, "{says}");
        assert!(verdict.not_comparable[0].starts_with(says), "{:?}", verdict.not_comparable);
        // The ceilings of the limits file apply in any case.
        let verdict = judge(&limits(LIMITS), &report(200.0), Some(&baseline)).expect("judged");
        assert_eq!(verdict.outcome(), Outcome::Regression, "{says}");
    }
}

#[test]
fn kernel_patch_release_is_comparable() {
    let mut baseline = report(100.0);
    baseline.kernel = "6.18.99".to_owned();
    let verdict = judge(&limits(LIMITS), &report(100.0), Some(&baseline)).expect("judged");
    assert_eq!(verdict.outcome(), Outcome::Pass);
}

#[test]
fn baseline_factor_breaches_above_the_noise() {
    let generous = "schema = 1\n[scenario.close_idle]\nmax_us = 1e9\n[baseline]\np50 = 1.5\n\
        floor_us = 10\n";
    // The machine is as fast as before: the in-run limit says so.
    let mut now = report(151.0);
    let limit = now.scenarios[0].limit.as_mut().expect("it has one");
    limit.figures.p50_us = 50.0;
    let slow = judge(&limits(generous), &now, Some(&report(100.0))).expect("judged");
    assert_eq!(breaches(&slow), [("p50_us", 151.0, 150.0)]);
    assert_eq!(slow.breaches().next().map(|check| check.from), Some(Source::Baseline(100.0)));
    let noise = judge(&limits(generous), &report(11.0), Some(&report(2.0))).expect("judged");
    assert_eq!(breaches(&noise)[..0], []);
    assert!(noise.breaches().all(|check| check.metric != "p50_us"), "{noise:?}");
}

#[test]
fn ceiling_without_a_figure_is_an_error() {
    for (limits_text, says) in [
        ("schema = 1\n[scenario.close_idel]\np50_us = 1\n", "no such scenario"),
        // It is known but not run, and then nothing is judged.
        ("schema = 1\n[scenario.roundtrip]\np50_us = 1\n", "no figure"),
        ("schema = 1\n", "no figure"),
        ("schema = 1\n[scenario.close_idle]\ncounts = { enters = 1 }\n", "the count enters"),
    ] {
        let error = judge(&limits(limits_text), &report(1.0), None).expect_err("nothing to judge");
        assert!(error.contains(says), "{error}");
    }
    let mut alone = report(1.0);
    (alone.scenarios[0].ratio, alone.scenarios[0].limit) = (None, None);
    let error = judge(&limits(LIMITS), &alone, None).expect_err("no ratio");
    assert!(error.contains("no in-run limit"), "{error}");
}

// A known scenario that was not run is named, and the others are judged.
#[test]
fn report_of_some_scenarios_is_judged_by_those() {
    let more = format!("{LIMITS}[scenario.roundtrip]\np50_us = 1\n");
    let verdict = judge(&limits(&more), &report(200.0), None).expect("judged");
    assert_eq!(verdict.not_run, ["roundtrip"]);
    assert_eq!(breaches(&verdict), [("p50_us", 200.0, 100.0), ("p99_us", 600.0, 500.0)]);
}

// Without a limits file, each scenario of both reports is compared.
#[test]
fn baseline_without_ceilings_is_compared() {
    let without = LimitsFile::without_ceilings("io_uring");
    let (mut slow, mut before) = (report(500_000.0), report(1000.0));
    slow.scenarios[0].limit = None;
    let mut other = before.scenarios[0].clone();
    other.name = "roundtrip".to_owned();
    before.scenarios.push(other);
    let verdict = judge(&without, &slow, Some(&before)).expect("judged");
    assert_eq!(verdict.outcome(), Outcome::Regression);
    assert_eq!(verdict.not_run, ["roundtrip"]);
    let same = judge(&without, &before, Some(&before)).expect("judged");
    assert_eq!(same.outcome(), Outcome::Pass);
}

// A machine that is busier than in the baseline slows the in-run limit, too.
#[test]
fn slower_machine_is_no_regression() {
    let without = LimitsFile::without_ceilings("io_uring");
    let slow = judge(&without, &report(500_000.0), Some(&report(1000.0))).expect("judged");
    assert_eq!(slow.outcome(), Outcome::Pass);
}

// How many records a read brings is the scheduler's choice: such a count differs from run to run.
#[test]
fn count_that_the_scheduler_decides_is_not_compared_with_a_baseline() {
    let without = LimitsFile::without_ceilings("io_uring");
    let with = |more: f64| {
        let mut report = report(1000.0);
        let counts = ["enters_per_record", "cqes_per_record", "sqes_per_record"];
        let counts = counts.map(|count| (count.to_owned(), 2.0 + more));
        report.scenarios[0].counts = counts.into();
        let allocations = ("allocations_per_1000_records".to_owned(), 1000.0 * more);
        report.scenarios[0].counts.extend([allocations]);
        report
    };
    let verdict = judge(&without, &with(1.0), Some(&with(0.0))).expect("judged");
    assert_eq!(breaches(&verdict), [("allocations_per_1000_records", 1000.0, 500.0)]);
}
