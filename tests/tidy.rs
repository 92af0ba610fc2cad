//! Rules about the sources that no lint knows: layers, the list of files with `unsafe`, the table
//! of close stages, the top level. A finding reads `file:line: what is wrong; the remedy`.
//!
//! The scan is textual: a line counts up to its `//`, and no macro builds paths.

use std::fs;
use std::path::Path;

use agentpipe::CloseStage;

/// The modules of the library, lowest layer first. A file names its own module and those of lower
/// layers; two modules of one layer never name each other.
const LAYERS: &[&[&str]] = &[
    &["framing", "fuzz_driver", "seccomp"],
    &["json", "contain", "counters", "deadline"],
    &["trace", "close", "io"],
    &["error"],
    &["config"],
    &["command"],
    &["origin", "record"],
    &["exit", "stats", "sync"],
    &["frame", "ring", "process"],
    &["epoll"],
    &["backend"],
    &["transport"],
    &["agent"],
    &["engine", "local"],
    &["session"],
    &["fuzz_targets"],
];

/// The files that may hold `unsafe`; the compiler denies it where no attribute expects it.
const UNSAFE_FILES: &[&str] = &[
    "src/cli/bench/alloc.rs",
    "src/cli/fake/filter.rs",
    "src/cli/run/signals.rs",
    "src/cli/run/sys.rs",
    "src/epoll/read_into.rs",
    "src/exit.rs",
    "src/json/avx2.rs",
    "src/local/readiness.rs",
    "src/origin.rs",
    "src/process/child_setup.rs",
    "src/process/clone.rs",
    "src/process/descriptors.rs",
    "src/process/guard/watcher.rs",
    "src/process/sys.rs",
    "src/process/tests/forked.rs",
    "src/process/tests/inherit.rs",
    "src/ring/buffer.rs",
    "src/ring/close.rs",
    "src/ring/poll.rs",
    "src/ring/queue.rs",
    "src/ring/read.rs",
    "src/ring/write.rs",
];

/// A subscriber may panic, so `trace` calls it for everyone else.
const TRACERS: &[&str] = &[
    "src/trace.rs",
    "src/contain.rs",
    "src/cli/",
    "src/ring/tests",
    "src/process/tests/forked.rs",
];

/// Words of the code, the places in src that may use them, and what to do instead. Unit tests at the
/// end of a file may use them, too.
const FENCED: &[(&str, &[&str], &str)] = &[
    ("io_uring::", &["src/ring/"], "ask for it through src/ring/"),
    ("tokio_uring::", &["src/local/"], "keep it out of the core"),
    ("tracing::", TRACERS, "send events by crate::trace: a subscriber may panic"),
    ("thread::sleep", &["src/cli/"], "wait for the event instead"),
];

/// Turns that make a sentence slow to read. A few are quotations or names.
const BANNED: &[&str] =
    &["nobody", "whoever", "somebody", "so many", "so long as there", "who is", "the house"];
const BANNED_MAX: usize = 9;

/// Files of the library, without its tests: no longer than this, and at most this number of them,
/// of which few are tiny.
const LINES_MAX: usize = 700;
const FILES_MAX: usize = 190;
const LINES_MIN: usize = 60;
const TINY_MAX: usize = 20;

/// The rows of docs/design/faults.md that have a test, at least.
const FAULTS_MIN: usize = 180;

/// The names that may lie beside Cargo.toml.
const TOP_LEVEL: &[&str] = &[
    ".ci",
    ".git",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "clippy.toml",
    "deny.toml",
    "docs",
    "proptest-regressions",
    "rustfmt.toml",
    "src",
    "target",
    "tests",
];

/// A file below src: its path, and its lines without comments.
struct Source {
    path: String,
    code: Vec<String>,
}

impl Source {
    /// `src/ring/read.rs` belongs to `ring`, `src/error.rs` to `error`.
    fn module(&self) -> &str {
        let below = self.path.trim_start_matches("src/");
        below.split(['/', '.']).next().expect("split gives at least one part")
    }

    fn is_command(&self) -> bool {
        self.path == "src/main.rs" || self.module() == "cli"
    }

    /// The line from which on the file holds unit tests only.
    fn tests_begin(&self) -> usize {
        let is_start = |pair: &[String]| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{');
        self.code.windows(2).position(is_start).map_or(usize::MAX, |index| index + 1)
    }

    /// The word after each `prefix` in the code, with its line. `prefix` begins a word.
    fn words_after(&self, prefix: &str) -> Vec<(usize, String)> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut found = Vec::new();
        for (index, line) in self.code.iter().enumerate() {
            for (at, _) in line.match_indices(prefix) {
                if !line[..at].ends_with(is_word) {
                    let rest = &line[at + prefix.len()..];
                    let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                    found.push((index + 1, rest[..end].to_string()));
                }
            }
        }
        found
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder with this extension, sorted: each path and its text.
fn texts(folder: &str, wanted: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == wanted) {
                let text = fs::read_to_string(&path).expect("UTF-8");
                let path = path.strip_prefix(root()).expect("below the root");
                found.push((path.display().to_string(), text));
            }
        }
    }
    found.sort();
    found
}

/// Every `.rs` file below src, sorted by path.
fn sources() -> Vec<Source> {
    let source =
        |(path, text): (String, String)| Source { path, code: text.lines().map(code_of).collect() };
    let found: Vec<Source> = texts("src", "rs").into_iter().map(source).collect();
    assert!(found.len() > 50, "src was found");
    found
}

/// The line without its comment. A `//` inside a string ends it too, which hides code from the
/// rules at worst on that line.
fn code_of(line: &str) -> String {
    line.split("//").next().unwrap_or_default().to_string()
}

/// Fails with everything that was found.
fn must_be_empty(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "\n{rule}\n  {}\n", found.join("\n  "));
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn files_name_lower_layers_only() {
    let mut found = Vec::new();
    for source in sources() {
        let own = source.module();
        if source.is_command() || source.path == "src/lib.rs" {
            continue;
        }
        let Some(layer) = layer_of(own) else {
            found.push(format!("{}:1: {own} has no layer; add it to LAYERS", source.path));
            continue;
        };
        for (line, named) in source.words_after("crate::") {
            let wrong = match layer_of(&named) {
                _ if named == own => continue,
                None => "no module of a layer; name the module that defines it",
                Some(other) if other > layer => "a higher layer; move the shared type down",
                Some(other) if other == layer => "of the same layer; move the shared type down",
                Some(_) => continue,
            };
            let place = format!("{}:{line}", source.path);
            found.push(format!("{place}: {own} names crate::{named}, {wrong}"));
        }
    }
    must_be_empty("A file names its own module and lower layers.", &found);
}

#[test]
fn crate_root_defines_nothing() {
    let keywords = "fn struct enum union trait impl const static type macro_rules extern";
    let sources = sources();
    let lib = sources.iter().find(|source| source.path == "src/lib.rs").expect("src/lib.rs");
    let mut found = Vec::new();
    for (index, line) in lib.code.iter().enumerate() {
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let is_attribute = line.trim_start().starts_with('#');
        let word = words.find(|word| keywords.split(' ').any(|known| known == *word));
        if let Some(word) = word.filter(|_| !is_attribute) {
            found.push(format!("src/lib.rs:{}: `{word}`; define it in a module", index + 1));
        }
    }
    must_be_empty("lib.rs has modules, re-exports and documentation only.", &found);
}

#[test]
fn command_line_uses_the_public_library() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_command()) {
        let internal = source.words_after("crate::").into_iter().filter(|(_, name)| name != "cli");
        let hidden = source.words_after("agentpipe::").into_iter();
        for (line, name) in internal.chain(hidden.filter(|(_, name)| name.starts_with('_'))) {
            let place = format!("{}:{line}", source.path);
            found.push(format!("{place}: names {name}; use crate::cli and what agentpipe:: shows"));
        }
    }
    must_be_empty("The command uses the library as every other program does.", &found);
}

#[test]
fn fenced_words_stay_in_their_places() {
    let mut found = Vec::new();
    for source in sources() {
        for (word, places, remedy) in FENCED {
            if !places.iter().any(|place| source.path.starts_with(place)) {
                let tests = source.tests_begin();
                for (line, _) in source.words_after(word).iter().filter(|(line, _)| *line < tests) {
                    found.push(format!("{}:{line}: `{word}`; {remedy}", source.path));
                }
            }
        }
    }
    must_be_empty("Some words belong to some places.", &found);
}

#[test]
fn unsafe_is_in_the_listed_files() {
    let sources = sources();
    let expects = |source: &&Source| source.code.iter().any(|line| line.contains("unsafe_code,"));
    let files: Vec<&str> =
        sources.iter().filter(expects).map(|source| source.path.as_str()).collect();
    assert_eq!(files, UNSAFE_FILES, "the files that expect unsafe code, and the list of tidy.rs");
}

#[test]
fn library_files_are_few_and_neither_long_nor_tiny() {
    let parts = ["/tests/", "/tests.rs", "/fuzz", "/sim/"];
    let is_test = |path: &str| parts.iter().any(|part| path.contains(part));
    let sources = sources();
    let library = sources.iter().filter(|source| !source.is_command() && !is_test(&source.path));
    let sizes: Vec<(usize, &str)> =
        library.map(|source| (source.code.len(), source.path.as_str())).collect();
    let long: Vec<_> = sizes.iter().filter(|(lines, _)| *lines > LINES_MAX).collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines; split by type: {long:?}");
    let tiny: Vec<_> = sizes.iter().filter(|(lines, _)| *lines < LINES_MIN).collect();
    assert!(tiny.len() <= TINY_MAX, "{} under {LINES_MIN} lines; merge: {tiny:?}", tiny.len());
    assert!(sizes.len() <= FILES_MAX, "{} files; merge what belongs to one type", sizes.len());
}

#[test]
fn prose_avoids_banned_words() {
    let mut files = [texts("src", "rs"), texts("docs", "rs"), texts("docs", "md")].concat();
    for name in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root().join(name)).expect("it is there");
        files.push((name.to_string(), text));
    }
    let mut found = Vec::new();
    for (path, text) in &files {
        for (index, line) in text.lines().enumerate() {
            let mut words = line.to_lowercase();
            words = words.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', " ");
            let words = format!(" {words} ");
            if let Some(word) = BANNED.iter().find(|word| words.contains(&format!(" {word} "))) {
                found.push(format!("{path}:{}: `{word}`; name the subject", index + 1));
            }
        }
    }
    assert!(found.len() <= BANNED_MAX, "too many banned words:\n  {}", found.join("\n  "));
}

#[test]
fn close_table_has_every_stage() {
    let read = |path: &str| fs::read_to_string(root().join(path));
    let text = read("docs/guide/close.md").expect("the page");
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("| stage |"))
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let stages: Vec<&str> = CloseStage::ALL.iter().map(|stage| stage.as_str()).collect();
    assert_eq!(rows, stages, "the table of stages in close.md, and the variants of CloseStage");
}

/// The rows of the tables of faults.md: the first cell and the last one.
fn fault_rows(page: &str) -> Vec<(&str, &str)> {
    let is_row = |name: &str| {
        let number = name.strip_prefix(|c: char| c.is_ascii_uppercase()).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let cells = page.lines().filter_map(|line| {
        let (name, cells) = line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
        Some((name, cells.rsplit_once(" | ")?.1))
    });
    cells.filter(|(name, _)| is_row(name)).collect()
}

/// Whether the sources have this test: `close::matrix::x` is the function `x` in tests/close/matrix.rs.
fn has_test(name: &str) -> bool {
    let mut modules: Vec<&str> = name.split("::").collect();
    let function = modules.pop().unwrap_or_default();
    let folder = match modules.first() {
        Some(&"lib" | &"bin") => "src".to_string(),
        Some(binary) => format!("tests/{binary}"),
        None => return false,
    };
    let is_test = |text: &str| {
        let start = format!("fn {function}(");
        let index = text
            .lines()
            .position(|line| line.trim_start().trim_start_matches("async ").starts_with(&start));
        let before = text.lines().take(index.unwrap_or(0)).collect::<Vec<_>>();
        before
            .iter()
            .rev()
            .take(4)
            .any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
    };
    // `mod tests` may be a part of the file.
    let whole = modules[1..].join("/");
    let inline = whole.trim_end_matches("tests").trim_end_matches('/');
    [whole.as_str(), inline].iter().any(|path| {
        let file = if path.is_empty() { "main".to_string() } else { (*path).to_string() };
        [format!("{folder}/{file}.rs"), format!("{folder}/{file}/mod.rs")]
            .iter()
            .any(|file| fs::read_to_string(root().join(file)).is_ok_and(|text| is_test(&text)))
    })
}

// A test that was renamed or went away leaves a row that says more than is known.
#[test]
fn every_fault_has_a_test_or_a_reason() {
    let page = fs::read_to_string(root().join("docs/design/faults.md")).expect("the page");
    let rows = fault_rows(&page);
    let mut found = Vec::new();
    let mut names = Vec::new();
    let mut used = Vec::new();
    for (row, cell) in &rows {
        let tests: Vec<&str> =
            cell.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
        let shares = cell.contains("shared with ");
        if names.contains(row) {
            found.push(format!("{row}: a second row of this name"));
        }
        if tests.is_empty() && !cell.starts_with("no test: ") {
            found.push(format!("{row}: name a test, or say `no test: ` and why"));
        }
        for test in tests {
            if !has_test(test) {
                found.push(format!("{row}: {test} is no test of the sources"));
            }
            if used.contains(&test) && !shares {
                found.push(format!("{row}: {test} has a row; say `shared with ROW`"));
            }
            used.push(test);
        }
        names.push(row);
    }
    must_be_empty("The tables of docs/design/faults.md and the tests agree.", &found);
    let tested = rows.iter().filter(|(_, cell)| !cell.starts_with("no test: ")).count();
    assert!(tested >= FAULTS_MIN, "{tested} rows with a test in docs/design/faults.md");
}

#[test]
fn top_level_holds_known_names_only() {
    let mut found = Vec::new();
    for entry in fs::read_dir(root()).expect("the root can be listed").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !TOP_LEVEL.contains(&name.as_str()) && !name.ends_with(".profraw") {
            found.push(format!("{name}:1: does not belong to the top level; move it to a folder"));
        }
    }
    must_be_empty("The top level is short.", &found);
}
