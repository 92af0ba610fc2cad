//! F5, bench: one group of scenarios as a picture, SVG inside a page.
//!
//! A row for each series: a dot at the median, a bar to p90, a line to p99, a ring at the maximum.
//! The axis is logarithmic: a factor is the same length everywhere.

use std::fmt::Write;

use crate::cli::report::{Figures, Scenario};

use super::markdown::time;

const WIDTH: f64 = 900.0;
/// Left of it stand the names, right of it the medians.
const LEFT: f64 = 190.0;
const RIGHT: f64 = 800.0;
const ROW: f64 = 18.0;
const GAP: f64 = 16.0;
const TOP: f64 = 8.0;
const AXIS: f64 = 26.0;

/// Positions on the axis.
struct Axis {
    /// Powers of ten, in microseconds.
    first: i32,
    last: i32,
}

impl Axis {
    #[expect(clippy::cast_possible_truncation, reason = "figures are from 0 to 10^15")]
    fn around(figures: impl Iterator<Item = Figures> + Clone) -> Self {
        let least = figures.clone().map(|it| it.p50_us).fold(f64::INFINITY, f64::min).max(1e-3);
        let most = figures.map(|it| it.max_us).fold(0.0, f64::max).max(least);
        let first = least.log10().floor() as i32;
        Self { first, last: (most.log10().ceil() as i32).max(first + 1) }
    }

    fn x(&self, us: f64) -> f64 {
        let (first, last) = (f64::from(self.first), f64::from(self.last));
        let at = (us.max(1e-3).log10().clamp(first, last) - first) / (last - first);
        LEFT + at * (RIGHT - LEFT)
    }
}

/// The series of a scenario, with the class that colours each.
fn series(it: &Scenario) -> impl Iterator<Item = (&'static str, Figures)> + Clone {
    let limit = it.limit.as_ref().map(|beside| ("limit", beside.figures));
    let peer = it.peer.as_ref().map(|beside| ("peer", beside.figures));
    [Some(("ours", it.figures)), limit, peer].into_iter().flatten()
}

/// The scenarios of one group.
pub(super) fn svg(scenarios: &[&Scenario]) -> String {
    let rows = scenarios.iter().flat_map(|it| series(it)).map(|(_, figures)| figures);
    let axis = Axis::around(rows.clone());
    let blocks = f64::from(u32::try_from(scenarios.len()).unwrap_or(u32::MAX));
    let lines = f64::from(u32::try_from(rows.count()).unwrap_or(u32::MAX));
    let bottom = TOP + lines * ROW + blocks * GAP;
    let height = bottom + AXIS;
    let mut svg = String::new();
    // Writing to a String cannot fail.
    let _written = write!(
        svg,
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"times, logarithmic\">"
    );
    for power in axis.first..=axis.last {
        let us = 10_f64.powi(power);
        let x = axis.x(us);
        let _written = write!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 18.0,
            decade(us)
        );
    }
    let mut y = TOP + GAP / 2.0;
    for it in scenarios {
        let _written = write!(
            svg,
            "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 14.0,
            y + ROW * 0.5 + 4.5,
            it.name
        );
        for (class, figures) in series(it) {
            row(&mut svg, &axis, y + ROW / 2.0, class, &figures);
            y += ROW;
        }
        y += GAP;
    }
    svg.push_str("</svg>");
    svg
}

fn row(svg: &mut String, axis: &Axis, y: f64, class: &str, figures: &Figures) {
    let [p50, p90, p99, max] = figures.named().map(|(_, us)| axis.x(us));
    let said =
        figures.named().map(|(name, us)| format!("{} {}", name.trim_end_matches("_us"), time(us)));
    let _written = write!(
        svg,
        "<g class=\"{class}\"><title>{class}: n {n}, {said}</title>\
         <line class=\"whisker\" x1=\"{p50:.1}\" x2=\"{p99:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <line class=\"body\" x1=\"{p50:.1}\" x2=\"{p90:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <line class=\"stop\" x1=\"{p99:.1}\" x2=\"{p99:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>\
         <circle class=\"max\" cx=\"{max:.1}\" cy=\"{y:.1}\" r=\"3\"/>\
         <circle class=\"median\" cx=\"{p50:.1}\" cy=\"{y:.1}\" r=\"5\"/>\
         <text class=\"value\" x=\"{WIDTH}\" y=\"{:.1}\">{}</text></g>",
        y - 4.0,
        y + 4.0,
        y + 4.0,
        time(figures.p50_us),
        n = figures.n,
        said = said.join(", "),
    );
}

/// `10 us`, `1 ms`: a power of ten without a fraction.
fn decade(us: f64) -> String {
    let (value, unit) = match us {
        us if us > 0.9e6 => (us / 1e6, "s"),
        us if us > 0.9e3 => (us / 1e3, "ms"),
        us if us > 0.9 => (us, "\u{b5}s"),
        us => (us * 1e3, "ns"),
    };
    format!("{value:.0} {unit}")
}
