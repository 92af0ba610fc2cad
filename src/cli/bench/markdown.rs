//! A bench report as a Markdown page.

use std::fmt::Write;

use crate::cli::report::{Aim, BenchReport, Comparison, Figures, Measurement};

/// Returns the page: what was measured, the verdict, and tables that a phone can show.
pub(super) fn tables(report: &BenchReport) -> String {
    let mut page = String::new();
    put(&mut page, format_args!("### agentpipe bench: {}\n", verdict(report)));
    put(&mut page, format_args!("{}\n", headline(report)));
    put_targets(&mut page, report);
    page.push_str(
        "| scenario | p50 | p99 | to limit | to peer |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |it| format!("{it:.2}"));
    for it in &report.scenarios {
        let (name, p50, p99) = (&it.name, time(it.figures.p50_us), time(it.figures.p99_us));
        let (limit, peer) = (ratio(it.ratio), ratio(it.ratio_to_peer));
        put(&mut page, format_args!("| {name} | {p50} | {p99} | {limit} | {peer} |"));
    }
    page.push_str(
        "\n`to limit` and `to peer` are the median over theirs, of the same run; p99 of fewer than 100\n\
         samples is their maximum.\n\n\
         | scenario | n | p90 | max | a record | MiB/s |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for it in &report.scenarios {
        let (p90, max) = (time(it.figures.p90_us), time(it.figures.max_us));
        let record = it.us_per_record().map_or_else(String::new, time);
        let rate = it.mib_per_second().map_or_else(String::new, |rate| format!("{rate:.0}"));
        let (name, n) = (&it.name, it.figures.n);
        put(&mut page, format_args!("| {name} | {n} | {p90} | {max} | {record} | {rate} |"));
    }
    put_cpu(&mut page, report);
    page.push_str(
        "\nThe limit is the least that the kernel needs, the peer what other hosts do:\n\n",
    );
    for it in &report.scenarios {
        put(&mut page, format_args!("- {}", described(it)));
    }
    page
}

/// Returns the heading's verdict: the targets if they were asked for, else the comparison with the peers.
fn verdict(report: &BenchReport) -> String {
    let aims: Vec<&Aim> = report.scenarios.iter().flat_map(|it| &it.targets).collect();
    if !aims.is_empty() {
        let met = aims.iter().filter(|aim| aim.met).count();
        return format!("{met} of {} targets met", aims.len());
    }
    let ratios: Vec<f64> = report.scenarios.iter().filter_map(|it| it.ratio_to_peer).collect();
    let ahead = ratios.iter().filter(|ratio| **ratio <= 1.0).count();
    match ratios.len() {
        0 => "measured".to_owned(),
        all => format!("at or below its peer in {ahead} of {all} scenarios"),
    }
}

fn put_targets(page: &mut String, report: &BenchReport) {
    if report.scenarios.iter().all(|it| it.targets.is_empty()) {
        return;
    }
    page.push_str("| target | at most | found | |\n| --- | ---: | ---: | --- |\n");
    for it in &report.scenarios {
        for Aim { metric, target, found, met } in &it.targets {
            let met = if *met { "met" } else { "missed" };
            put(page, format_args!("| {} {metric} | {target} | {found:.2} | {met} |", it.name));
        }
    }
    page.push('\n');
}

/// Adds the CPU time of this process, for a record where the scenario has several, else for a sample; and
/// the times with epoll.
#[expect(clippy::cast_precision_loss, reason = "a sample has few records")]
fn put_cpu(page: &mut String, report: &BenchReport) {
    page.push_str(
        "\n| CPU time | agentpipe | epoll | limit | peer |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for it in &report.scenarios {
        let each = |figures: &Figures| time(figures.cpu_us / it.records.max(1) as f64);
        let cpu = |beside: &Option<Comparison>| {
            beside.as_ref().map_or_else(String::new, |beside| each(&beside.figures))
        };
        let (epoll, limit, peer) = (cpu(&it.epoll), cpu(&it.limit), cpu(&it.peer));
        let (name, ours) = (&it.name, each(&it.figures));
        put(page, format_args!("| {name} | {ours} | {epoll} | {limit} | {peer} |"));
    }
    page.push_str(
        "\nThe CPU time is that of the measuring process without its children, the mean for a record, or\n\
         for a sample without records.\n",
    );
}

/// Returns the contestants of a scenario with their medians, and its counts.
fn described(it: &Measurement) -> String {
    let mut line = it.name.clone();
    let beside = [("limit", &it.limit), ("peer", &it.peer), ("beside", &it.epoll)];
    for (role, other) in beside {
        if let Some(Comparison { what, figures }) = other {
            let (mark, p50) = (if role == "limit" { ": " } else { "; " }, time(figures.p50_us));
            line += &format!("{mark}{role} {what} ({p50})");
        }
    }
    let counts = it.counts.iter().map(|(name, value)| format!("{name} {value:.3}"));
    let counts = counts.collect::<Vec<_>>().join(", ");
    if !counts.is_empty() {
        line += &format!("; {counts}");
    }
    line
}

/// Returns in one line what was measured, and where.
fn headline(report: &BenchReport) -> String {
    let agent = match &report.command {
        Some(words) => format!(", agent {}", words.join(" ")),
        None => String::new(),
    };
    format!(
        "{}agentpipe {} ({}), {} ({}), Linux {}, {}, {}, {} cores{agent}",
        report.date_and_commit(),
        report.version,
        report.profile,
        report.backend,
        report.tier,
        report.kernel,
        report.arch,
        report.cpu,
        report.cores,
    )
}

/// Formats microseconds in a fitting unit.
fn time(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 1e6 => (us / 1e6, "s"),
        us if us >= 1e3 => (us / 1e3, "ms"),
        us if us >= 1.0 => (us, "us"),
        us => (us * 1e3, "ns"),
    };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}")
}

fn put(page: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _written = writeln!(page, "{line}");
}
