//! A Rust file as the rules see it: code and comments told apart, literals blanked.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Every `.rs` file under src, tests and benches, sorted by path.
pub(crate) static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches"] {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    paths.iter().map(|path| Source::load(path)).collect()
});

/// One file. `code` and `comments` have the shape of `text`: what does not belong is blank.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
    pub(crate) comments: String,
    pub(crate) tokens: Vec<Token>,
}

/// A word, `::`, or a single sign of the code, with its line counted from 1.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let kinds = classify(text);
        let code = view(text, &kinds, Kind::Code);
        Self {
            path: path.to_string(),
            text: text.to_string(),
            comments: view(text, &kinds, Kind::Comment),
            tokens: tokens(&code),
            code,
        }
    }

    fn load(path: &Path) -> Self {
        let shown = path.strip_prefix(root()).expect("collected below the root");
        let text = fs::read(path).expect("a file just listed can be read");
        Self::new(&shown.display().to_string(), &String::from_utf8_lossy(&text))
    }

    /// The token's text; empty past the end.
    pub(crate) fn token(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }

    /// Whether the tokens from `at` on are these.
    pub(crate) fn has(&self, at: usize, wanted: &[&str]) -> bool {
        wanted.iter().enumerate().all(|(offset, text)| self.token(at + offset) == *text)
    }

    /// The token that closes the bracket at `open`, or the end of the file.
    pub(crate) fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token.text.as_str() {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return at;
            }
        }
        self.tokens.len()
    }

    /// For each attribute, the tokens between its brackets.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        (0..self.tokens.len()).filter_map(|at| {
            let open = match (self.has(at, &["#", "["]), self.has(at, &["#", "!", "["])) {
                (true, _) => at + 1,
                (_, true) => at + 2,
                _ => return None,
            };
            Some(open + 1..self.closing(open))
        })
    }

    /// The test functions.
    pub(crate) fn tests(&self) -> Vec<TestFn<'_>> {
        self.attributes()
            .filter(|attribute| {
                let path = &self.tokens[attribute.clone()];
                path.split(|token| token.text == "(")
                    .next()
                    .and_then(<[Token]>::last)
                    .is_some_and(|last| last.text == "test")
            })
            .map(|attribute| self.test_after(attribute.end))
            .collect()
    }

    fn test_after(&self, attribute_end: usize) -> TestFn<'_> {
        let mut at = attribute_end;
        while !matches!(self.token(at), "fn" | "") {
            at += 1;
        }
        let name = self.token(at + 1);
        while !matches!(self.token(at), "{" | "") {
            at = if self.token(at) == "(" { self.closing(at) } else { at } + 1;
        }
        let line = self.tokens.get(at).map_or(0, |token| token.line);
        TestFn { name, line, body: at..self.closing(at) }
    }
}

/// A function with a test attribute; the body is a range of tokens.
pub(crate) struct TestFn<'a> {
    pub(crate) name: &'a str,
    pub(crate) line: usize,
    pub(crate) body: std::ops::Range<usize>,
}

/// The folder of Cargo.toml.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file below the root, if it is there.
pub(crate) fn read(path: &str) -> Option<String> {
    fs::read_to_string(root().join(path)).ok()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

/// Says of every byte what it belongs to.
fn classify(text: &str) -> Vec<Kind> {
    let bytes = text.as_bytes();
    let mut kinds = Vec::with_capacity(bytes.len());
    while kinds.len() < bytes.len() {
        let at = kinds.len();
        let (kind, length) = run_at(bytes, at);
        kinds.resize((at + length).min(bytes.len()), kind);
    }
    kinds
}

/// What starts at this byte of code, and how long it is.
fn run_at(bytes: &[u8], at: usize) -> (Kind, usize) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        (Kind::Comment, rest.iter().take_while(|byte| **byte != b'\n').count())
    } else if rest.starts_with(b"/*") {
        (Kind::Comment, block_comment(rest))
    } else if let Some(length) = raw_string(bytes, at) {
        (Kind::Literal, length)
    } else if rest[0] == b'"' {
        (Kind::Literal, quoted(rest))
    } else if let Some(length) = char_literal(rest) {
        (Kind::Literal, length)
    } else {
        (Kind::Code, 1)
    }
}

/// Block comments nest.
fn block_comment(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if rest[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// `r"..."`, `r#"..."#`, also after `b` and `c`. Not `r#name`, not the end of a longer word.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let prefix = [&b"r"[..], b"br", b"cr"].into_iter().find(|p| bytes[at..].starts_with(p))?;
    let body = &bytes[at + prefix.len()..];
    let hashes = body.iter().take_while(|byte| **byte == b'#').count();
    if in_word || body.get(hashes) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'#'; hashes + 1];
    end[0] = b'"';
    let inside = &body[hashes + 1..];
    let length = inside.windows(end.len()).position(|window| window == end)?;
    Some(prefix.len() + hashes + 1 + length + end.len())
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// A quote that opens a lifetime or a label is code.
fn char_literal(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' || rest.len() < 3 {
        return None;
    }
    if rest[1] == b'\\' {
        return rest.iter().skip(3).position(|byte| *byte == b'\'').map(|end| end + 4);
    }
    let width = 1 + rest[2..].iter().take_while(|byte| **byte & 0xC0 == 0x80).count();
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

/// The text with everything blanked that is not of this kind; line breaks stay.
fn view(text: &str, kinds: &[Kind], keep: Kind) -> String {
    let shown = |(byte, kind): (u8, &Kind)| match byte {
        b'\n' => '\n',
        byte if byte.is_ascii() && *kind == keep => char::from(byte),
        _ => ' ',
    };
    text.bytes().zip(kinds).map(shown).collect()
}

fn tokens(code: &str) -> Vec<Token> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                1
            };
            found.push(Token { text: rest[..length].to_string(), line: index + 1 });
            rest = rest[length..].trim_start();
        }
    }
    found
}

#[test]
fn the_lexer_tells_code_from_comments_and_literals() {
    // Each line: the source, and the words that are left as code.
    let table: &[(&str, &[&str])] = &[
        ("a // b", &["a"]),
        ("a /* b /* c */ d */ e", &["a", "e"]),
        (r#"a("b // c", d)"#, &["a", "(", ",", "d", ")"]),
        (r#"a("b \" c", d)"#, &["a", "(", ",", "d", ")"]),
        (r#"a("\\"); b("c")"#, &["a", "(", ")", ";", "b", "(", ")"]),
        ("a(r\"b\\\", c)", &["a", "(", ",", "c", ")"]),
        ("a(r#\"b \" c\"#, d)", &["a", "(", ",", "d", ")"]),
        ("a(br##\"b \"# c\"##, d)", &["a", "(", ",", "d", ")"]),
        ("r#fn r# \"a\" b", &["r", "#", "fn", "r", "#", "b"]),
        ("a('\"', b'\\'', '\\u{1F}', c)", &["a", "(", ",", "b", ",", ",", "c", ")"]),
        ("a<'b>(&'b c)", &["a", "<", "'", "b", ">", "(", "&", "'", "b", "c", ")"]),
        ("a('\u{e9}', 'b: c)", &["a", "(", ",", "'", "b", ":", "c", ")"]),
        ("a::b:c", &["a", "::", "b", ":", "c"]),
        ("//! a\n#![b = \"c\"]\nd", &["#", "!", "[", "b", "=", "]", "d"]),
        ("a \"b", &["a"]),
        ("a /* b", &["a"]),
    ];
    for (text, wanted) in table {
        let source = Source::new("src/x.rs", text);
        let found: Vec<&str> = source.tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(found, *wanted, "in {text:?}");
        assert_eq!(source.code.len(), text.len(), "the shape is kept in {text:?}");
    }
}

#[test]
fn the_lexer_keeps_comments_and_lines() {
    let source = Source::new("src/x.rs", "a // b \"c\"\n\"d // e\"\nf /* g\nh */ i\n");
    assert_eq!(source.comments, "  // b \"c\"\n        \n  /* g\nh */  \n");
    let lines: Vec<(&str, usize)> =
        source.tokens.iter().map(|token| (token.text.as_str(), token.line)).collect();
    assert_eq!(lines, [("a", 1), ("f", 3), ("i", 4)]);
}

#[test]
fn tests_are_found_with_their_bodies() {
    let text = "#[test]\n#[should_panic]\nfn a() { b(); }\n#[cfg(test)]\nfn c() {}\n\
        #[tokio::test(flavor = \"x\")]\nasync fn d() { e() }\n\
        proptest! { #[test] fn f(g in h(|| { 1 })) { i() } }";
    let source = Source::new("src/x.rs", text);
    let found: Vec<(&str, usize, String)> = source
        .tests()
        .into_iter()
        .map(|test| {
            let body = source.tokens[test.body].iter().map(|token| token.text.as_str());
            (test.name, test.line, body.collect())
        })
        .collect();
    assert_eq!(
        found,
        [("a", 3, "{b();".into()), ("d", 7, "{e()".into()), ("f", 8, "{i()".to_string())]
    );
}
