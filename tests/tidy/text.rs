//! Rules about the text of the sources: size, characters, dead files, tests that test nothing.

use std::collections::BTreeSet;

use super::paths::children;
use super::source::{SOURCES, Source, read};
use crate::{in_src, must_be_empty};

const LINES_MAX: usize = 700;
/// For `tests.rs` and what lies in a folder `tests`.
const TEST_LINES_MAX: usize = 800;
const WIDTH_MAX: usize = 110;

/// Words that mark unfinished work in a comment.
const MARKERS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

/// A test that asserts something uses a word that begins like one of these.
const CHECKS: &[&str] =
    &["assert", "check", "must", "run", "cycle", "expect", "unwrap", "panic", "unreachable"];

/// Helpers that run the test again in a process of its own and assert that it passed there. A
/// test that asks one of them may leave early.
const RUN_ELSEWHERE: &[&str] = &["alone"];

#[test]
fn files_stay_small() {
    let mut found = Vec::new();
    for source in in_src() {
        let is_test = source.path.ends_with("/tests.rs") || source.path.contains("/tests/");
        let limit = if is_test { TEST_LINES_MAX } else { LINES_MAX };
        let lines = source.text.lines().count();
        if lines > limit {
            found.push(format!("{}:{limit}: has {lines} lines; split it by verb", source.path));
        }
    }
    must_be_empty("A file fits in a head.", &found);
}

#[test]
fn text_is_plain() {
    let mut found = Vec::new();
    for source in SOURCES.iter() {
        if source.path.starts_with("src/") && !source.text.starts_with("//!") {
            found.push(format!("{}:1: begin with `//!`: its floor, what it is", source.path));
        }
        if !source.text.ends_with('\n') {
            found.push(format!("{}:1: end the last line", source.path));
        }
        for (index, line) in source.text.lines().enumerate() {
            let place = format!("{}:{}", source.path, index + 1);
            if !line.is_ascii() {
                found.push(format!("{place}: not ASCII; write an escape or another word"));
            }
            if line.contains(['\t', '\r']) {
                found.push(format!("{place}: tab or carriage return; use spaces"));
            }
            if line.ends_with(' ') {
                found.push(format!("{place}: white space at the end; cut it"));
            }
            if line.len() > WIDTH_MAX {
                found.push(format!("{place}: wider than {WIDTH_MAX}; break it"));
            }
        }
    }
    must_be_empty("Sources are plain text.", &found);
}

#[test]
fn comments_mark_no_unfinished_work() {
    let mut found = Vec::new();
    for source in SOURCES.iter() {
        for (index, line) in source.comments.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
            if let Some(word) = words.find(|word| MARKERS.contains(word)) {
                let place = format!("{}:{}", source.path, index + 1);
                found.push(format!("{place}: {word}; do it, or say in the issue why not"));
            }
        }
    }
    must_be_empty("Unfinished work is not left in comments.", &found);
}

#[test]
fn every_file_is_reached_by_mod() {
    let manifest = read("Cargo.toml").expect("Cargo.toml is there");
    let named = |path: &str| manifest.contains(&format!("path = \"{path}\""));
    let is_root = |path: &str| {
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["src", "lib.rs" | "main.rs"] | ["tests" | "benches", _] => true,
            ["tests" | "benches", _, "main.rs"] => true,
            _ => named(path),
        }
    };
    let mut reached: BTreeSet<&str> = BTreeSet::new();
    let mut next: Vec<&Source> = SOURCES.iter().filter(|source| is_root(&source.path)).collect();
    while let Some(source) = next.pop() {
        if reached.insert(&source.path) {
            let below = children(source, is_root(&source.path));
            next.extend(SOURCES.iter().filter(|source| below.contains(&source.path)));
        }
    }
    let mut found = Vec::new();
    for source in SOURCES.iter().filter(|source| !reached.contains(source.path.as_str())) {
        found.push(format!("{}:1: no `mod` leads here; wire it or delete it", source.path));
    }
    for source in SOURCES.iter() {
        for attribute in source.attributes().filter(|range| source.token(range.start) == "path") {
            let line = source.tokens[attribute.start].line;
            found.push(format!("{}:{line}: a path attribute; name the file after it", source.path));
        }
    }
    must_be_empty("There are no dead files.", &found);
}

#[test]
fn no_test_is_ignored() {
    let mut found = Vec::new();
    for source in SOURCES.iter() {
        for mut attribute in source.attributes() {
            let heads = ["ignore", "cfg_attr"].contains(&source.token(attribute.start));
            if let Some(at) = attribute.find(|at| heads && source.token(*at) == "ignore") {
                let place = format!("{}:{}", source.path, source.tokens[at].line);
                found.push(format!("{place}: an ignored test; let it fail loudly, or delete it"));
            }
        }
        for (index, line) in source.comments.lines().enumerate() {
            let fence = line.trim_start_matches([' ', '/', '!', '*']).strip_prefix("```");
            if fence.is_some_and(|fence| fence.split([',', ' ']).any(|word| word == "ignore")) {
                let place = format!("{}:{}", source.path, index + 1);
                found.push(format!("{place}: an ignored sample; use `no_run` or `text`"));
            }
        }
    }
    must_be_empty("No test is skipped.", &found);
}

#[test]
fn every_test_asserts_and_none_leaves_early() {
    let mut found = Vec::new();
    for source in SOURCES.iter() {
        for test in source.tests() {
            let place = format!("{}:{}: {}", source.path, test.line, test.name);
            if !test.body.clone().any(|at| is_check(source, at)) {
                found.push(format!("{place} asserts nothing; say what must hold"));
            }
            let leaves =
                |at: &usize| source.has(*at, &["return", ";"]) || source.has(*at, &["return", "}"]);
            let elsewhere = test
                .body
                .clone()
                .any(|at| RUN_ELSEWHERE.contains(&source.token(at)) && source.token(at + 1) == "(");
            if let Some(at) = test.body.clone().find(leaves).filter(|_| !elsewhere) {
                let line = source.tokens[at].line;
                found.push(format!(
                    "{place} may leave at line {line} and pass; panic instead, or RUN_ELSEWHERE"
                ));
            }
        }
    }
    must_be_empty("A test that passes has tested something.", &found);
}

/// Whether a call of a function or macro stands here whose name says that it checks.
fn is_check(source: &Source, at: usize) -> bool {
    let words = source.token(at).split('_');
    matches!(source.token(at + 1), "(" | "!" | "::")
        && words.into_iter().any(|word| CHECKS.iter().any(|check| word.starts_with(check)))
}
