//! The report of `agentpipe doctor` as text.

use super::host::{Averages, Pressure, Stall};
use super::limits::{Beyond, Limit, Value};
use super::{HostReport, Wanted};
use crate::cli::say_out;

pub(super) fn print(report: &HostReport) {
    let verdict = if report.usable { "works here" } else { "does NOT work here" };
    let tier = match report.multishot {
        Some(true) => " with multishot reads",
        Some(false) => " with single reads",
        None => "",
    };
    say_out(format_args!(
        "agentpipe {verdict}; backend {}{tier}; Linux {}",
        report.backend.unwrap_or("none"),
        report.kernel
    ));
    if let Some(problem) = &report.problem {
        say_out(format_args!("problem: {problem}"));
    }
    if let Some(requested) = &report.requested {
        say_out(format_args!("AGENTPIPE_BACKEND is {requested}"));
    }
    if let Some(fallback) = &report.fallback {
        say_out(format_args!("not io_uring: {fallback}"));
    }
    say_out(format_args!("kernel features:"));
    for feature in &report.features {
        let line = format!("{} (Linux {})", feature.name, feature.since);
        match feature.present {
            Some(true) => say_out(format_args!("  yes  {line}")),
            Some(false) => say_out(format_args!("  no   {line}: {}", feature.without_it)),
            None => {
                say_out(format_args!("  ?    {line}: not known, because io_uring does not run"))
            }
        }
    }
    say_out(format_args!("limits:"));
    for limit in &report.limits {
        print_limit(limit);
    }
    match (report.room.agents, report.room.first_limit) {
        (Some(agents), Some(limit)) => {
            say_out(format_args!("room for {agents} more agents; {limit} is the first limit"));
        }
        _ => say_out(format_args!("room for more agents: no limit is known")),
    }
    print_pressure(&report.pressure);
    if let Some(agents) = &report.agents {
        print_agents(agents, &report.limits);
    }
}

fn print_limit(limit: &Limit) {
    let mut line = format!("  {} = {}", limit.name, shown(limit.value, limit.unit));
    if !limit.applies {
        line += ", which does not bind this process";
    } else if let Some(each) = limit.per_agent {
        line += &match limit.used {
            Some(used) => format!(", {} in use", amount(used, limit.unit)),
            None => ", use not known".to_owned(),
        };
        line += &format!(", {} per agent", amount(each, limit.unit));
    }
    if let Some(room) = limit.room {
        line += &format!(": room for {room}");
    }
    say_out(format_args!("{line}"));
    let command =
        limit.command.as_ref().map_or_else(String::new, |line| format!("; raise: {line}"));
    say_out(format_args!("      {}{command}", limit.means));
}

fn print_agents(agents: &Wanted, limits: &[Limit]) {
    let verdict = if agents.fit { "fit, as far as the limits are known" } else { "do NOT fit" };
    say_out(format_args!("{} agents {verdict}:", agents.wanted));
    for limit in limits.iter().filter(|limit| limit.beyond.is_some()) {
        let (mark, after) = match (limit.suffices, limit.beyond) {
            (Some(true), _) if !limit.applies => ("yes", "does not bind this process"),
            (Some(true), _) => ("yes", ""),
            (Some(false), Some(Beyond::SmallPipes)) => ("no ", "; those beyond get smaller pipes"),
            (Some(false), _) => ("no ", ""),
            (None, _) => ("?  ", ""),
        };
        let needs = match (limit.value, limit.needs) {
            (Value::Number(value), Some(needs)) => {
                format!("needs {} of {}", amount(needs, limit.unit), amount(value, limit.unit))
            }
            (_, _) if !limit.applies => String::new(),
            (value, _) => shown(value, limit.unit),
        };
        let command = match (limit.suffices, &limit.command) {
            (Some(false), Some(command)) => format!("; raise: {command}"),
            (Some(false), None) => "; no command raises it".to_owned(),
            _ => String::new(),
        };
        say_out(format_args!("  {mark}  {}: {needs}{after}{command}", limit.name));
    }
}

fn print_pressure(pressure: &Pressure) {
    say_out(format_args!("pressure, % of the last 10, 60 and 300 s in which tasks waited:"));
    let three = |all: &Averages| format!("{:.1} {:.1} {:.1}", all.avg10, all.avg60, all.avg300);
    for (name, stall) in
        [("cpu", &pressure.cpu), ("memory", &pressure.memory), ("io", &pressure.io)]
    {
        match stall {
            Some(Stall { some, full: Some(full) }) => {
                say_out(format_args!("  {name}: some {}, all {}", three(some), three(full)));
            }
            Some(Stall { some, full: None }) => {
                say_out(format_args!("  {name}: some {}", three(some)));
            }
            None => say_out(format_args!("  {name}: unknown")),
        }
    }
}

fn shown(value: Value, unit: &str) -> String {
    match value {
        Value::Number(value) => amount(value, unit),
        Value::Unlimited => "unlimited".to_owned(),
        Value::Unknown => "unknown".to_owned(),
    }
}

/// Prints bytes in the largest unit that leaves a whole part.
fn amount(value: u64, unit: &str) -> String {
    const NAMES: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    if unit != "bytes" {
        return value.to_string();
    }
    let mut divisor = 1_u64;
    let mut index = 0;
    while index + 1 < NAMES.len() && value / divisor >= 1024 {
        divisor <<= 10;
        index += 1;
    }
    match value % divisor * 10 / divisor {
        0 => format!("{} {}", value / divisor, NAMES[index]),
        tenth => format!("{}.{tenth} {}", value / divisor, NAMES[index]),
    }
}
