//! A bench report as Markdown tables.

use std::fmt::Write;

use crate::cli::report::{Aim, BenchReport, Comparison, Figures};

/// Returns the tables: times, CPU times, what limit and peer are (with the counts), and targets.
pub(super) fn tables(report: &BenchReport) -> String {
    let mut page = String::new();
    put(&mut page, format_args!("{}\n", headline(report)));
    put(
        &mut page,
        format_args!(
            "| scenario | n | p50 | p90 | p99 | max | limit | ratio | peer | ratio | a record | MiB/s |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        ),
    );
    for it in &report.scenarios {
        let figures = it.figures.named().map(|(_, value)| time(value)).join(" | ");
        let median = |beside: &Option<Comparison>| {
            beside.as_ref().map_or_else(String::new, |beside| time(beside.figures.p50_us))
        };
        let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |it| format!("{it:.2}"));
        put(
            &mut page,
            format_args!(
                "| {} | {} | {figures} | {} | {} | {} | {} | {} | {} |",
                it.name,
                it.figures.n,
                median(&it.limit),
                ratio(it.ratio),
                median(&it.peer),
                ratio(it.ratio_to_peer),
                it.us_per_record().map_or_else(String::new, time),
                it.mib_per_second().map_or_else(String::new, |rate| format!("{rate:.0}")),
            ),
        );
    }
    put_cpu(&mut page, report);
    page.push_str(
        "\n`limit` and `peer` are medians of the same run; `ratio` is the median over theirs, and\n\
         p99 of fewer than 100 samples is their maximum. The CPU time is that of the measuring process\n\
         without its children, the mean for a record, or for a sample without records.\n\n\
         | scenario | limit: the least that the kernel needs | peer: what others do | counts |\n\
         | --- | --- | --- | --- |\n",
    );
    for it in &report.scenarios {
        let what = |beside: &Option<Comparison>| {
            beside.as_ref().map_or_else(String::new, |beside| beside.what.clone())
        };
        let counts = it.counts.iter().map(|(name, value)| format!("{name} {value:.3}"));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let (limit, peer) = (what(&it.limit), what(&it.peer));
        put(&mut page, format_args!("| {} | {limit} | {peer} | {counts} |", it.name));
    }
    if report.scenarios.iter().any(|it| !it.targets.is_empty()) {
        page.push_str("\n| target of | metric | at the most | found | |\n");
        page.push_str("| --- | --- | ---: | ---: | --- |\n");
    }
    for it in &report.scenarios {
        for Aim { metric, target, found, met } in &it.targets {
            let met = if *met { "met" } else { "missed" };
            let name = &it.name;
            put(&mut page, format_args!("| {name} | {metric} | {target} | {found:.2} | {met} |"));
        }
    }
    page
}

/// Adds the CPU time of this process, for a record where the scenario has several, else for a sample; and
/// the times with epoll.
#[expect(clippy::cast_precision_loss, reason = "a sample has few records")]
fn put_cpu(page: &mut String, report: &BenchReport) {
    page.push_str(
        "\n| CPU time | agentpipe | epoll | limit | peer | p50 with epoll | agentpipe to epoll |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for it in &report.scenarios {
        let each = |figures: &Figures| time(figures.cpu_us / it.records.max(1) as f64);
        let cpu = |beside: &Option<Comparison>| {
            beside.as_ref().map_or_else(String::new, |beside| each(&beside.figures))
        };
        let ratio = it.ratio_to_epoll.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let median = it.epoll.as_ref().map_or_else(String::new, |it| time(it.figures.p50_us));
        let (epoll, limit, peer) = (cpu(&it.epoll), cpu(&it.limit), cpu(&it.peer));
        let (name, ours) = (&it.name, each(&it.figures));
        put(
            page,
            format_args!("| {name} | {ours} | {epoll} | {limit} | {peer} | {median} | {ratio} |"),
        );
    }
}

/// Returns in one line what was measured, and where.
fn headline(report: &BenchReport) -> String {
    let agent = match &report.command {
        Some(words) => format!(", agent {}", words.join(" ")),
        None => String::new(),
    };
    let commit =
        report.commit.as_deref().map_or_else(String::new, |commit| format!(" at {commit}"));
    format!(
        "agentpipe {} ({}){commit}, {} ({}), Linux {}, {}, {}, {} cores{agent}",
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
