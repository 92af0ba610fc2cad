//! F5, bench: a report as one page that names nothing outside itself.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::cli::report::{Aim, Report, Scenario};

use super::markdown::{aims, each_record, headline, met, mib_per_second, time};
use super::plot;

/// Dark where the reader's system is.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2430;--soft:#667085;--line:#dfe3ea;--page:#fff;--card:#f7f8fa;\
--ours:#2563eb;--limit:#7c8698;--peer:#d9730d}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#2c3442;--page:#12161d;\
--card:#1a202a;--ours:#6ea0ff;--limit:#8d97a8;--peer:#f0a04b}}\
body{margin:0 auto;max-width:1040px;padding:32px 20px 64px;background:var(--page);color:var(--ink);\
font:15px/1.5 system-ui,'DejaVu Sans',sans-serif}\
h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:40px 0 10px}\
p{margin:6px 0}.soft,figcaption{color:var(--soft)}\
.legend span{margin-right:22px;white-space:nowrap}\
.legend i{display:inline-block;width:11px;height:11px;border-radius:50%;margin-right:7px}\
figcaption{font-size:13px;padding:2px 0 6px}figure{margin:0;padding:14px 18px 8px;\
background:var(--card);border:1px solid var(--line);\
border-radius:10px}svg{width:100%;height:auto;display:block}\
svg text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:var(--ink)}\
.grid{stroke:var(--line)}svg .tick{text-anchor:middle;fill:var(--soft)}\
svg .name{text-anchor:end;font-weight:600}svg .value{text-anchor:end;fill:var(--soft)}\
.ours{--c:var(--ours)}.limit{--c:var(--limit)}.peer{--c:var(--peer)}\
.whisker,.stop{stroke:var(--c);stroke-width:1.5}.body{stroke:var(--c);stroke-width:8;opacity:.4}\
.median{fill:var(--c)}.max{fill:none;stroke:var(--c);stroke-width:1.5}\
.wide{overflow-x:auto}table{border-collapse:collapse;margin:14px 0;font-size:13.5px;width:100%}\
th,td{padding:5px 10px;text-align:right;border-bottom:1px solid var(--line);\
font-variant-numeric:tabular-nums;white-space:nowrap}\
th{color:var(--soft);font-weight:500;white-space:normal}\
th:first-child,td:first-child,.text th,.text td{text-align:left}\
.text td{white-space:normal;vertical-align:top}.text td:first-child{white-space:nowrap}";

/// What each group is about; another one is shown by its name.
const TITLES: [(&str, &str); 5] = [
    ("frame", "Frame: the keys of a record's envelope"),
    ("throughput", "Throughput: one agent that writes as fast as it can"),
    ("shutdown", "Shutdown: from the decision to close until the agent is reaped"),
    ("spawn", "Spawn"),
    ("roundtrip", "Round trip: one small record there and back"),
];

pub(super) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>agentpipe bench</title><style>{STYLE}</style></head><body>\n\
         <h1>agentpipe bench</h1>\n<p class=\"soft\">{}</p>\n<p class=\"soft\">{}</p>\n\
         <p class=\"legend\"><span class=\"ours\"><i style=\"background:var(--c)\"></i>agentpipe</span>\
         <span class=\"limit\"><i style=\"background:var(--c)\"></i>\
         limit: the least that the kernel needs</span>\
         <span class=\"peer\"><i style=\"background:var(--c)\"></i>peer: what others do</span></p>\n",
        text(&headline(report)),
        text(&report.features),
    );
    let mut groups: Vec<&str> = Vec::new();
    for it in &report.scenarios {
        if !groups.contains(&it.group.as_str()) {
            groups.push(&it.group);
        }
    }
    for group in groups {
        let members: Vec<&Scenario> =
            report.scenarios.iter().filter(|it| it.group == group).collect();
        section(&mut page, group, &members);
    }
    targets(&mut page, report);
    page.push_str("</body></html>\n");
    page
}

/// What the project aims at, where it was measured.
fn targets(page: &mut String, report: &Report) {
    let mut aims = aims(&report.scenarios).peekable();
    if aims.peek().is_none() {
        return;
    }
    page.push_str(
        "<h2>Targets of the project</h2>\n<div class=\"wide\"><table>\
         <tr><th>scenario<th>metric<th>at the most<th>found<th></tr>\n",
    );
    for (name, aim) in aims {
        let Aim { metric, target, found, .. } = aim;
        let (name, metric) = (text(name), text(&metric.replace('_', " ")));
        put(
            page,
            format_args!(
                "<tr><td>{name}<td>{metric}<td>{target}<td>{found:.2}<td>{}</tr>",
                met(aim)
            ),
        );
    }
    page.push_str("</table></div>\n");
}

fn section(page: &mut String, group: &str, members: &[&Scenario]) {
    let title = TITLES.iter().find(|(name, _)| *name == group).map_or(group, |(_, title)| title);
    put(page, format_args!("<h2>{}</h2>\n<figure>{}", text(title), plot::svg(members)));
    put(
        page,
        format_args!(
            "<figcaption>Dot: median. Bar: to p90. Line: to p99. Ring: maximum. A sample each, the \
             axis is logarithmic.</figcaption></figure>\n<div class=\"wide\"><table><tr><th>scenario\
             <th>n<th>p50<th>p90<th>p99<th>max<th>to the limit<th>to the peer<th>a record<th>MiB/s</tr>"
        ),
    );
    for it in members {
        let figures = it.figures.named().map(|(_, us)| format!("<td>{}", time(us))).concat();
        let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |it| format!("{it:.2}x"));
        put(
            page,
            format_args!(
                "<tr><td>{}<td>{}{figures}<td>{}<td>{}<td>{}<td>{}</tr>",
                text(&it.name),
                it.figures.n,
                ratio(it.ratio),
                ratio(it.ratio_to_peer),
                each_record(it).map_or_else(String::new, time),
                mib_per_second(it).map_or_else(String::new, |rate| format!("{rate:.0}")),
            ),
        );
    }
    page.push_str("</table></div>\n");
    counted(page, members);
    page.push_str(
        "<div class=\"wide\"><table class=\"text\"><tr><th>scenario<th>limit<th>peer</tr>\n",
    );
    for it in members {
        let what = |what: Option<&str>| text(what.unwrap_or_default());
        put(
            page,
            format_args!(
                "<tr><td>{}<td>{}<td>{}</tr>",
                text(&it.name),
                what(it.limit.as_ref().map(|it| it.what.as_str())),
                what(it.peer.as_ref().map(|it| it.what.as_str())),
            ),
        );
    }
    page.push_str("</table></div>\n");
}

/// The counts of a group, a column each.
fn counted(page: &mut String, members: &[&Scenario]) {
    let names: BTreeSet<&String> = members.iter().flat_map(|it| it.counts.keys()).collect();
    if names.is_empty() {
        return;
    }
    page.push_str("<div class=\"wide\"><table><tr><th>scenario");
    for name in &names {
        put(page, format_args!("<th>{}", text(&name.replace('_', " "))));
    }
    page.push_str("</tr>\n");
    for it in members.iter().filter(|it| !it.counts.is_empty()) {
        put(page, format_args!("<tr><td>{}", text(&it.name)));
        for name in &names {
            let count =
                it.counts.get(*name).map_or_else(String::new, |count| format!("{count:.3}"));
            put(page, format_args!("<td>{count}"));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table></div>\n");
}

/// Text that stays text.
fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for sign in raw.chars() {
        match sign {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            sign => safe.push(sign),
        }
    }
    safe
}

fn put(page: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _written = writeln!(page, "{line}");
}
