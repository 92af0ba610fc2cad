//! What a program can check about the sources is a test: floors, sizes, the list of files with
//! `unsafe`, the documents that promise something. Each rule is one test; what it finds is said
//! as `file:line: what is wrong; the remedy`.

mod tidy {
    mod documents;
    pub(crate) mod markdown;
    pub(crate) mod paths;
    pub(crate) mod source;
    mod text;
}

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use tidy::markdown;
use tidy::paths::{cycle, module_of, named};
use tidy::source::{SOURCES, Source, read};

/// The folders of src and their floors. Floor 0 are the files right in src. Two folders of one
/// floor never name each other.
const FLOORS: &[(&str, usize)] = &[
    ("ring", 1),
    ("process", 1),
    ("frame", 1),
    ("transport", 2),
    ("engine", 3),
    ("local", 3),
    ("session", 4),
    ("cli", 5),
];

/// The files that may hold `unsafe`. A file here without any is an error: the list only shrinks
/// honestly. docs/unsafe.md has a row for each.
const UNSAFE_FILES: &[&str] = &[
    "src/cli/bench/alloc.rs",
    "src/cli/run/signals.rs",
    "src/exit.rs",
    "src/json/avx2.rs",
    "src/local/ready.rs",
    "src/origin.rs",
    "src/process/child_setup.rs",
    "src/process/clone.rs",
    "src/process/sys.rs",
    "src/process/tests/inherit.rs",
    "src/ring/buffer.rs",
    "src/ring/close.rs",
    "src/ring/queue.rs",
    "src/ring/read.rs",
    "src/ring/sigpipe.rs",
    "src/ring/tests/busy.rs",
    "src/ring/watch.rs",
    "src/ring/write.rs",
];

/// The command prints; so may a test, which counts its skips aloud.
const PRINTERS: &[&str] = &["src/cli/", "src/process/tests", "src/ring/tests"];

/// A subscriber is called here, by the command, and by tests that bring their own.
const TRACERS: &[&str] =
    &["src/trace.rs", "src/contain.rs", "src/cli/", "src/main.rs", "src/ring/tests"];

/// Words of the code (not of comments or strings), the places in src that may use them, and what
/// to do instead.
const FENCED: &[(&[&str], &[&str], &str)] = &[
    (&["io_uring"], &["src/ring/"], "ask for it through src/ring/"),
    (&["tokio_uring"], &["src/local/"], "keep it out of the core"),
    (&["tracing"], TRACERS, "send events by crate::trace: a subscriber may panic"),
    (&["todo", "!"], &[], "write it or leave it out"),
    (&["unimplemented", "!"], &[], "write it or leave it out"),
    (&["dbg", "!"], &[], "use tracing"),
    (&["print", "!"], PRINTERS, "a library does not print: return it or use tracing"),
    (&["println", "!"], PRINTERS, "a library does not print: return it or use tracing"),
    (&["eprint", "!"], PRINTERS, "a library does not print: return it or use tracing"),
    (&["eprintln", "!"], PRINTERS, "a library does not print: return it or use tracing"),
    (&["sleep"], &["src/cli/fake"], "await the event instead"),
    (&["nanosleep"], &["src/cli/fake"], "await the event instead"),
];

/// Fails with everything that was found.
fn must_be_empty(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "\n{rule}\n  {}\n", found.join("\n  "));
}

fn in_src() -> impl Iterator<Item = &'static Source> {
    SOURCES.iter().filter(|source| source.path.starts_with("src/"))
}

/// `src/ring/read.rs` is of `ring`, `src/error.rs` of `error`; lib.rs and main.rs of nothing.
fn unit_of(path: &str) -> Option<String> {
    module_of(path).into_iter().nth(1)
}

/// The floor of a folder or of a file right in src.
fn floor_of(unit: &str) -> Option<usize> {
    let folder = FLOORS.iter().find(|(name, _)| *name == unit).map(|(_, floor)| *floor);
    let file = format!("src/{unit}.rs");
    folder.or_else(|| SOURCES.iter().any(|source| source.path == file).then_some(0))
}

/// The modules of the crate that a file names, its own folder left out.
fn units_named(source: &Source) -> Vec<(String, usize)> {
    let own = unit_of(&source.path);
    named(source)
        .into_iter()
        .filter(|path| path.parts[0] == "crate")
        .map(|path| (path.parts.get(1).cloned().unwrap_or_default(), path.line))
        .filter(|(unit, _)| Some(unit) != own.as_ref())
        .collect()
}

#[test]
fn a_file_names_lower_floors_only() {
    let mut found = Vec::new();
    for source in in_src() {
        let Some(unit) = unit_of(&source.path) else { continue };
        let Some(floor) = floor_of(&unit) else {
            found.push(format!("{}:1: {unit} has no floor; add it to FLOORS", source.path));
            continue;
        };
        for (named, line) in units_named(source) {
            let what = match floor_of(&named) {
                _ if unit == "cli" => "the command line; it sees only crate::cli and agentpipe::",
                None => "the crate root; name the module that defines it",
                Some(other) if other > floor => "a higher floor; move the shared type down",
                Some(other) if other == floor && floor > 0 => {
                    "a sibling; what both need goes to a lower floor"
                }
                Some(_) => continue,
            };
            found.push(format!("{}:{line}: {unit} names crate::{named}: {what}", source.path));
        }
    }
    must_be_empty("A file names lower floors or its own folder.", &found);
}

#[test]
fn floor_0_has_no_cycle() {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in in_src() {
        if let Some(unit) = unit_of(&source.path).filter(|unit| floor_of(unit) == Some(0)) {
            let below = units_named(source).into_iter().map(|(named, _)| named);
            graph.entry(unit).or_default().extend(below);
        }
    }
    let found: Vec<String> = cycle(&graph)
        .map(|cycle| format!("src/{}.rs:1: {}; cut one arrow", cycle[0], cycle.join(" -> ")))
        .into_iter()
        .collect();
    must_be_empty("The files of floor 0 have an order.", &found);
}

#[test]
fn the_crate_root_defines_nothing() {
    let keywords = "fn struct enum union trait impl const static type macro_rules extern";
    let mut found = Vec::new();
    for token in in_src().filter(|s| s.path == "src/lib.rs").flat_map(|s| &s.tokens) {
        if keywords.split(' ').any(|keyword| token.text == keyword) {
            let (line, word) = (token.line, &token.text);
            found.push(format!("src/lib.rs:{line}: `{word}`; define it in a module"));
        }
    }
    must_be_empty("lib.rs has modules, re-exports and documentation only.", &found);
}

#[test]
fn the_command_line_sees_the_public_library_only() {
    let mut found = Vec::new();
    for source in in_src() {
        let is_bin = source.path == "src/main.rs" || source.path.starts_with("src/cli/");
        for path in named(source) {
            let part = path.parts.get(1).map_or("", String::as_str);
            let fine = match path.parts[0].as_str() {
                "agentpipe" => is_bin && !part.starts_with('_'),
                _ if is_bin => part == "cli",
                _ => part != "cli",
            };
            if !fine {
                let place = format!("{}:{}", source.path, path.line);
                found.push(format!(
                    "{place}: names {}; the binary sees crate::cli and what agentpipe:: shows, \
                     the library sees neither",
                    path.shown()
                ));
            }
        }
    }
    must_be_empty("The binary crate uses the library as everybody does.", &found);
}

#[test]
fn fenced_words_stay_where_they_belong() {
    let mut found = Vec::new();
    for source in in_src() {
        for (words, places, remedy) in FENCED {
            if places.iter().any(|place| source.path.starts_with(place)) {
                continue;
            }
            for at in (0..source.tokens.len()).filter(|at| source.has(*at, words)) {
                let place = format!("{}:{}", source.path, source.tokens[at].line);
                found.push(format!("{place}: `{}`; {remedy}", words.concat()));
            }
        }
    }
    must_be_empty("Some words belong to some places.", &found);
}

#[test]
fn unsafe_is_in_listed_files_only() {
    let mut found = Vec::new();
    for path in UNSAFE_FILES.iter().filter(|path| in_src().all(|source| source.path != **path)) {
        found.push(format!("tests/tidy.rs:1: {path} is gone; take it off UNSAFE_FILES"));
    }
    for source in in_src() {
        let listed = UNSAFE_FILES.contains(&source.path.as_str());
        match source.tokens.iter().find(|token| token.text == "unsafe") {
            Some(token) if !listed => found.push(format!(
                "{}:{}: `unsafe`; do without, or list the file in UNSAFE_FILES and docs/unsafe.md",
                source.path, token.line
            )),
            None if listed => found.push(format!(
                "{}:1: holds no `unsafe` any more; take it off UNSAFE_FILES and docs/unsafe.md",
                source.path
            )),
            _ => {}
        }
    }
    must_be_empty("UNSAFE_FILES are exactly the files with `unsafe`.", &found);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut found = Vec::new();
    for source in SOURCES.iter() {
        for at in 0..source.tokens.len() {
            let opens = source.has(at, &["unsafe", "{"]) || source.has(at, &["unsafe", "impl"]);
            if opens && !has_safety_comment(source, source.tokens[at].line) {
                found.push(format!(
                    "{}:{}: put a `// SAFETY:` comment right above, naming what upholds it",
                    source.path, source.tokens[at].line
                ));
            }
        }
    }
    must_be_empty("Every unsafe block has its reason right above.", &found);
}

/// Looks at the comment above the statement that reaches this line.
fn has_safety_comment(source: &Source, line: usize) -> bool {
    let code: Vec<&str> = source.code.lines().map(str::trim).collect();
    let mut first = line - 1;
    while first > 0
        && !code[first - 1].is_empty()
        && !code[first - 1].ends_with([';', '{', '}', ','])
    {
        first -= 1;
    }
    let comments: Vec<&str> = source.comments.lines().map(str::trim).collect();
    let above = (0..first).rev().take_while(|at| code[*at].is_empty() && !comments[*at].is_empty());
    above.into_iter().any(|at| comments[at].starts_with("// SAFETY:"))
}

#[test]
fn the_table_of_unsafe_is_the_list() {
    let text = read("docs/unsafe.md").unwrap_or_default();
    let table = markdown::table(&text, "file").expect("docs/unsafe.md has a table: file, ...");
    let mut found = Vec::new();
    let rows: Vec<&str> =
        table.rows.iter().filter_map(|(_, row)| markdown::code_spans(&row[0]).pop()).collect();
    if rows != UNSAFE_FILES {
        found.push(format!("docs/unsafe.md:1: has {rows:?}; UNSAFE_FILES has {UNSAFE_FILES:?}"));
    }
    for (line, row) in &table.rows {
        if table.cell(row, "invariant").is_empty() {
            found.push(format!("docs/unsafe.md:{line}: say what upholds it"));
        }
        let promised = table.cell(row, "test");
        found.extend(missing_tests(promised, &format!("docs/unsafe.md:{line}")));
    }
    must_be_empty("docs/unsafe.md has a row for each listed file, in order.", &found);
}

/// What is wrong with a cell that names tests.
fn missing_tests(cell: &str, place: &str) -> Vec<String> {
    static TESTS: LazyLock<BTreeSet<&str>> =
        LazyLock::new(|| SOURCES.iter().flat_map(Source::tests).map(|test| test.name).collect());
    let names = markdown::code_spans(cell);
    if names.is_empty() {
        return vec![format!("{place}: name the test, between backticks, that holds the promise")];
    }
    let last = |name: &str| name.rsplit("::").next().unwrap_or_default().to_string();
    let missing = names.into_iter().filter(|name| !TESTS.contains(last(name).as_str()));
    missing.map(|name| format!("{place}: there is no test `{name}`; write it")).collect()
}

#[test]
fn the_close_table_is_the_enum_and_its_tests() {
    let path = "src/close_report.rs";
    let source = in_src().find(|source| source.path == path).expect("CloseStage is there");
    let declared = variants(source, "enum", "CloseStage");
    let all = variants(source, "const", "ALL");
    assert!(!declared.is_empty(), "{path}: no variants of CloseStage were found");
    assert_eq!(all, declared, "{path}: CloseStage::ALL has every variant, in order");
    let names: Vec<String> = declared.iter().map(|variant| snake_case(variant)).collect();
    for (variant, name) in declared.iter().zip(&names) {
        let arm = format!("Self::{variant} => \"{name}\",");
        assert!(source.text.contains(&arm), "{path}: CloseStage::as_str() has the arm {arm}");
    }

    let has_close = in_src().any(|source| source.path.starts_with("src/transport/"));
    let text = read("docs/close.md");
    assert!(text.is_some() || !has_close, "docs/close.md:1: is missing; write the table of stages");
    must_be_empty(
        "Every stage has a row in docs/close.md, and every row its tests.",
        &text.map(|text| wrong_in_close_table(&text, &names)).unwrap_or_default(),
    );
}

fn wrong_in_close_table(text: &str, stages: &[String]) -> Vec<String> {
    let Some(table) = markdown::table(text, "stage") else {
        return vec!["docs/close.md:1: has no table whose first heading is `stage`".to_string()];
    };
    let rows: Vec<&str> = table.rows.iter().map(|(_, row)| row[0].trim_matches('`')).collect();
    let order = (rows != stages)
        .then(|| format!("docs/close.md:1: has the rows {rows:?}; the stages are {stages:?}"));
    let tests = table.rows.iter().flat_map(|(line, row)| {
        missing_tests(table.cell(row, "test"), &format!("docs/close.md:{line}"))
    });
    order.into_iter().chain(tests).collect()
}

/// The words of `enum NAME { A, B }` or of `const NAME: ... = [Self::A, Self::B]`.
fn variants(source: &Source, keyword: &str, name: &str) -> Vec<String> {
    let tokens = 0..source.tokens.len();
    let start = tokens.clone().find(|at| source.has(*at, &[keyword, name])).unwrap_or(tokens.end);
    let opening = if keyword == "enum" { "{" } else { "=" };
    let open = (start..tokens.end).find(|at| source.token(*at) == opening).unwrap_or(tokens.end);
    let open = if opening == "=" { open + 1 } else { open };
    let inside = open + 1..source.closing(open).max(open + 1);
    inside
        .filter(|at| matches!(source.token(at + 1), "," | "]" | "}"))
        .map(|at| source.token(at).to_string())
        .filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()))
        .collect()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
