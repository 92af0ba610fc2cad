//! The paths a file names, and the files its `mod` lines lead to.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;

/// A path resolved from the crate root. The first part is `crate` or `agentpipe`.
pub(crate) struct Named {
    pub(crate) parts: Vec<String>,
    pub(crate) line: usize,
}

impl Named {
    /// As one would write it.
    pub(crate) fn shown(&self) -> String {
        self.parts.join("::")
    }
}

/// `src/ring/read.rs` is `crate::ring::read`; lib.rs and main.rs are `crate`.
pub(crate) fn module_of(path: &str) -> Vec<String> {
    let mut parts: Vec<String> =
        path.trim_end_matches(".rs").split('/').map(str::to_string).collect();
    parts[0] = "crate".to_string();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Every path in the file that starts with `crate`, `self`, `super` or `agentpipe`. Braces are
/// opened, `super` climbs, and an inline `mod` is one step deeper.
pub(crate) fn named(source: &Source) -> Vec<Named> {
    let mut found = Vec::new();
    walk(source, |at, module| {
        let base = match source.token(at) {
            "crate" => vec!["crate".to_string()],
            "agentpipe" => vec!["agentpipe".to_string()],
            "self" => module.to_vec(),
            "super" => module[..module.len().saturating_sub(1).max(1)].to_vec(),
            _ => return,
        };
        let starts = at == 0 || source.token(at - 1) != "::";
        if starts && (source.token(at + 1) == "::" || source.has(at, &["crate", "as"])) {
            follow(source, at + 1, base, &mut found);
        }
    });
    found
}

/// Goes on from the token after a part of a path; returns the token after the path.
fn follow(source: &Source, at: usize, parts: Vec<String>, found: &mut Vec<Named>) -> usize {
    let next = source.token(at + 1);
    let is_word = next.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if source.token(at) != "::" || !(is_word || matches!(next, "{" | "*")) {
        found.push(Named { parts, line: source.tokens[at - 1].line });
        return at;
    }
    if next != "{" {
        return follow(source, at + 2, step(&parts, next), found);
    }
    let end = source.closing(at + 1);
    let mut branch = at + 2;
    while branch < end {
        branch = follow(source, branch + 1, step(&parts, source.token(branch)), found);
        while branch < end && source.token(branch) != "," {
            branch += 1;
        }
        branch += 1;
    }
    end + 1
}

fn step(parts: &[String], part: &str) -> Vec<String> {
    let mut parts = parts.to_vec();
    match part {
        "self" => {}
        "super" => parts.truncate(parts.len().saturating_sub(1).max(1)),
        part => parts.push(part.to_string()),
    }
    parts
}

/// Calls `visit` for every token, with the module it stands in.
fn walk(source: &Source, mut visit: impl FnMut(usize, &[String])) {
    let mut module = module_of(&source.path);
    let mut depth = 0_usize;
    let mut inline_at = Vec::new();
    for at in 0..source.tokens.len() {
        visit(at, &module);
        match source.token(at) {
            "{" => {
                if at >= 2 && source.token(at - 2) == "mod" {
                    module.push(source.token(at - 1).to_string());
                    inline_at.push(depth);
                }
                depth += 1;
            }
            "}" => {
                depth = depth.saturating_sub(1);
                if inline_at.last() == Some(&depth) {
                    inline_at.pop();
                    module.pop();
                }
            }
            _ => {}
        }
    }
}

/// The files that the `mod name;` lines of this file may mean, two for each line.
pub(crate) fn children(source: &Source, is_root: bool) -> Vec<String> {
    let stem = source.path.trim_end_matches(".rs");
    let folder = match stem.rsplit_once('/') {
        Some((folder, last)) if is_root || last == "mod" => folder,
        _ => stem,
    };
    // An inline module is a folder more.
    let file = module_of(&source.path);
    let mut found = Vec::new();
    walk(source, |at, module| {
        if source.token(at) == "mod" && source.token(at + 2) == ";" {
            let inline: String = module[file.len()..].iter().map(|m| format!("/{m}")).collect();
            let child = format!("{folder}{inline}/{}", source.token(at + 1));
            found.extend([format!("{child}.rs"), format!("{child}/mod.rs")]);
        }
    });
    found
}

/// A cycle of the graph, if there is one: its nodes in order, the first again at the end.
pub(crate) fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|node| descend(graph, node, &mut Vec::new(), &mut done))
}

fn descend<'a>(
    graph: &'a BTreeMap<String, BTreeSet<String>>,
    node: &'a String,
    trail: &mut Vec<&'a String>,
    done: &mut BTreeSet<&'a String>,
) -> Option<Vec<String>> {
    if let Some(start) = trail.iter().position(|seen| *seen == node) {
        return Some(trail[start..].iter().copied().chain([node]).cloned().collect());
    }
    if done.contains(node) {
        return None;
    }
    trail.push(node);
    let below = graph.get(node).into_iter().flatten();
    let found = below.into_iter().find_map(|next| descend(graph, next, trail, done));
    trail.pop();
    done.insert(node);
    found
}

#[test]
fn paths_are_resolved() {
    // Each line: the file, its text, and the paths it names.
    let table: &[(&str, &str, &[&str])] = &[
        ("src/ring/read.rs", "use crate::error::Error;", &["crate::error::Error"]),
        (
            "src/ring/read.rs",
            "use crate::{a, b::{c, d as e}, f::*};",
            &["crate::a", "crate::b::c", "crate::b::d", "crate::f::*"],
        ),
        ("src/ring/read.rs", "use crate::a::{self, b};", &["crate::a", "crate::a::b"]),
        ("src/ring/read.rs", "use {crate::a, super::b};", &["crate::a", "crate::ring::b"]),
        ("src/ring/read.rs", "use super::super::frame::x;", &["crate::frame::x"]),
        ("src/ring/mod.rs", "use super::{frame, a::b};", &["crate::frame", "crate::a::b"]),
        ("src/ring/mod.rs", "self::read::go()", &["crate::ring::read::go"]),
        ("src/ring/read.rs", "crate::a::<T>(); crate::b::C { d }", &["crate::a", "crate::b::C"]),
        (
            "src/ring/read.rs",
            "mod t { use super::super::x; } super::y();",
            &["crate::ring::x", "crate::ring::y"],
        ),
        (
            "src/ring/read.rs",
            "pub(crate) fn a() {} pub(in crate::ring) fn b() {}",
            &["crate::ring"],
        ),
        ("src/ring/read.rs", "use crate::*; use crate as z;", &["crate::*", "crate"]),
        ("src/cli/run.rs", "use agentpipe::{A, b::C};", &["agentpipe::A", "agentpipe::b::C"]),
        ("src/a.rs", "// crate::b\n/* crate::c */ \"crate::d\"", &[]),
        ("src/a.rs", "use std::io; fn b(self) { self.c(d::e) }", &[]),
    ];
    for (path, text, wanted) in table {
        let found: Vec<String> = named(&Source::new(path, text)).iter().map(Named::shown).collect();
        assert_eq!(found, *wanted, "in {text:?}");
    }
}

#[test]
fn mod_lines_lead_to_files() {
    let table = [
        ("src/lib.rs", true, "mod a;", "src/a.rs src/a/mod.rs"),
        ("src/a/mod.rs", false, "mod b;", "src/a/b.rs src/a/b/mod.rs"),
        ("src/a.rs", false, "mod b;", "src/a/b.rs src/a/b/mod.rs"),
        ("tests/a.rs", true, "mod b { pub(crate) mod c; }", "tests/b/c.rs tests/b/c/mod.rs"),
        ("src/a.rs", false, "mod b { } // mod c;", ""),
    ];
    for (path, is_root, text, wanted) in table {
        assert_eq!(children(&Source::new(path, text), is_root).join(" "), wanted, "in {text:?}");
    }
}

#[test]
fn cycles_are_found() {
    let graph = |edges: &str| -> BTreeMap<String, BTreeSet<String>> {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges.split(' ').filter_map(|edge| edge.split_once('>')) {
            graph.entry(from.into()).or_default().insert(to.into());
        }
        graph
    };
    assert_eq!(cycle(&graph("a>b b>c a>c")), None);
    assert_eq!(
        cycle(&graph("a>b b>c c>d d>b")),
        Some(["b", "c", "d", "b"].map(String::from).into())
    );
    assert_eq!(cycle(&graph("a>a")), Some(["a", "a"].map(String::from).into()));
}
