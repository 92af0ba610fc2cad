//! Rules about what stands beside the sources: the top level, README, CHANGELOG, the gate.

use std::fs;

use super::markdown::{block_after, table};
use super::source::{read, root};
use crate::{missing_tests, must_be_empty};

/// What may lie beside Cargo.toml; `*` stands for any ending.
const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".git",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE*",
    "README.md",
    "benches",
    "clippy.toml",
    "deny.toml",
    "docs",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
];

/// The line in README.md above the block that .ci/run runs.
const MARKER: &str = "<!-- ci: test -->";

/// What .ci/run must hold. The test command is not among them: it is README's.
const GATE: &[&str] = &[
    "set -euo pipefail",
    "cargo fmt --check",
    "cargo clippy --all-targets --all-features --locked -- -D warnings",
    "cargo clippy --no-default-features --lib --locked -- -D warnings",
    "RUSTDOCFLAGS='-D warnings'",
    "cargo doc --no-deps",
    "cargo bench --locked --features __bench -- --test",
    "cargo deny",
    "passed, %d failed, %d skipped",
];

const CHANGES: &[&str] = &["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];

#[test]
fn the_top_level_holds_known_names_only() {
    let matches = |name: &str, pattern: &str| match pattern.split_once('*') {
        Some((head, tail)) => name.starts_with(head) && name.ends_with(tail),
        None => name == pattern,
    };
    let ignored = read(".gitignore").unwrap_or_default();
    let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(root()).expect("the root can be listed").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !TOP_LEVEL.iter().chain(&ignored).any(|pattern| matches(&name, pattern)) {
            found.push(format!("{name}:1: does not belong to the top level; move it to a folder"));
        }
    }
    must_be_empty("The top level is short.", &found);
}

#[test]
fn the_gate_runs_what_the_readme_says() {
    let readme = read("README.md").expect("README.md is there");
    let gate = read(".ci/run").expect(".ci/run is there");
    let mut found = Vec::new();
    match block_after(&readme, MARKER) {
        None => found.push(format!("README.md:1: put the line {MARKER} above the test command")),
        Some(block) if !block.iter().any(|line| line.starts_with("cargo test")) => {
            found.push("README.md:1: the marked block is the test command: `cargo test`".into());
        }
        Some(_) => {}
    }
    let commands: Vec<&str> =
        gate.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    if !commands.iter().any(|line| line.contains(MARKER)) {
        found.push(format!(".ci/run:1: take the test command from README.md, after {MARKER}"));
    }
    for (index, _) in gate.lines().enumerate().filter(|(_, line)| line.contains("cargo test")) {
        found.push(format!(".ci/run:{}: names cargo test; README.md does that", index + 1));
    }
    for step in GATE.iter().filter(|step| !commands.iter().any(|line| line.contains(**step))) {
        found.push(format!(".ci/run:1: has lost `{step}`; put it back"));
    }
    must_be_empty(".ci/run is the gate, README.md says how to test.", &found);
}

/// The acceptance lists of the reference that sessions answer for: letter and last number.
const ACCEPTANCE: &[(&str, usize)] = &[("Q", 38), ("S", 14), ("K", 11)];

#[test]
fn the_page_on_sessions_names_tests_that_exist() {
    let text = read("docs/sessions.md").expect("docs/sessions.md is there");
    let mut found = Vec::new();
    let mut rows = Vec::new();
    for first in ["promise", "promise about runtimes", "row", "weakness"] {
        let Some(table) = table(&text, first) else {
            found.push(format!("docs/sessions.md:1: the table that begins with `{first}` is gone"));
            continue;
        };
        for (line, row) in &table.rows {
            let place = format!("docs/sessions.md:{line}");
            found.extend(missing_tests(table.cell(row, "test"), &place));
            if first == "row" {
                rows.extend(row[0].split(", ").map(str::to_owned));
            }
        }
    }
    let wanted = ACCEPTANCE.iter();
    let wanted =
        wanted.flat_map(|(list, last)| (1..=*last).map(move |number| format!("{list}{number:02}")));
    for row in wanted.filter(|row| rows.iter().filter(|listed| *listed == row).count() != 1) {
        found.push(format!("docs/sessions.md:1: has no row for {row}, or two"));
    }
    must_be_empty("What a session promises, a test holds.", &found);
}

#[test]
fn the_changelog_keeps_its_form() {
    let text = read("CHANGELOG.md").expect("CHANGELOG.md is there");
    let mut found = Vec::new();
    let releases: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    if releases.first() != Some(&"[Unreleased]") {
        found.push("CHANGELOG.md:1: the first heading is `## [Unreleased]`".to_string());
    }
    for (index, line) in text.lines().enumerate() {
        let fine = match line.split_once("# ") {
            Some(("", _)) => index == 0,
            Some(("#", heading)) => heading == "[Unreleased]" || is_release(heading),
            Some(("##", heading)) => CHANGES.contains(&heading),
            Some((head, _)) => !head.chars().all(|c| c == '#'),
            None => true,
        };
        if !fine {
            let form = "`## [1.2.3] - 2026-01-31` or `###` with one of";
            found.push(format!("CHANGELOG.md:{}: {line}; write {form} {CHANGES:?}", index + 1));
        }
    }
    must_be_empty("CHANGELOG.md keeps a changelog.", &found);
}

/// `[1.2.3] - 2026-01-31`.
fn is_release(heading: &str) -> bool {
    let Some((version, date)) = heading.split_once(" - ") else { return false };
    let numbers = |text: &str, sign: char| {
        text.split(sign).filter(|part| part.parse::<u32>().is_ok()).count() == 3
    };
    let inner = version.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|version| numbers(version, '.')) && numbers(date, '-') && date.len() == 10
}

#[test]
fn release_headings_are_read() {
    assert!(is_release("[1.2.3] - 2026-01-31"));
    for wrong in ["1.2.3 - 2026-01-31", "[1.2] - 2026-01-31", "[1.2.3]", "[1.2.3] - 31.1.2026"] {
        assert!(!is_release(wrong), "{wrong}");
    }
}
