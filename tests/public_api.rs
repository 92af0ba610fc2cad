//! What the library promises by its types alone: every public type crosses threads, and no type of
//! the crates underneath shows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use agentpipe::{
    Acquired, Agent, AgentCommand, AgentReader, AgentStats, AgentWriter, Backend, Capacity,
    CapacityLimit, CloseMode, ClosePolicy, CloseReason, CloseReport, CloseStage, Deframer, Engine,
    EngineBuilder, EngineMetrics, EngineStats, Envelope, Error, ErrorKind, Event, ExitStatus,
    Framing, Histogram, IoCounters, JsonCheck, KernelFeatures, Limits, MalformedReason, Preview,
    Record, Remote, ResourceLimit, ShutdownReport, StderrLine, WarmPool, WarmPoolSettings,
    WarmPoolStats, session,
};

/// Crates that are an implementation detail. A major version of one must not be one of ours.
const HIDDEN: &[&str] =
    &["io_uring", "tokio_uring", "tokio", "rustix", "libc", "slab", "bytes", "pollster", "memchr"];

/// Compiles only where the bounds hold; the value is the type's name without its path.
fn shared<T: Send + Sync + std::fmt::Debug + 'static>() -> &'static str {
    let path = std::any::type_name::<T>();
    let name = path.split('<').next().unwrap_or(path);
    name.rsplit("::").next().unwrap_or(name)
}

/// Like `shared`, for values that are copied and kept.
fn shared_and_cloned<T: Send + Sync + Clone + std::fmt::Debug + 'static>() -> &'static str {
    shared::<T>()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The types that lib.rs re-exports; a `Result` is only an alias.
fn exported() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs is there");
    let uses = text.split(" pub use ").skip(1).filter_map(|rest| rest.split(';').next());
    uses.flat_map(|list| list.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()) && *word != "Result")
        .map(str::to_owned)
        .collect()
}

// An `Rc` in a handle would shut out every user on a multi-threaded runtime.
#[test]
fn public_types_are_send_and_sync() {
    let checked = BTreeSet::from([
        shared::<Agent>(),
        shared::<AgentReader>(),
        shared_and_cloned::<AgentWriter>(),
        shared_and_cloned::<AgentCommand>(),
        shared_and_cloned::<Backend>(),
        shared_and_cloned::<CloseMode>(),
        shared_and_cloned::<ClosePolicy>(),
        shared_and_cloned::<CloseReason>(),
        shared_and_cloned::<CloseReport>(),
        shared_and_cloned::<CloseStage>(),
        shared::<Deframer>(),
        shared_and_cloned::<Engine>(),
        shared_and_cloned::<Capacity>(),
        shared_and_cloned::<CapacityLimit>(),
        shared_and_cloned::<EngineBuilder>(),
        shared_and_cloned::<EngineMetrics>(),
        shared_and_cloned::<EngineStats>(),
        shared_and_cloned::<Envelope<'static>>(),
        shared_and_cloned::<Error>(),
        shared_and_cloned::<ErrorKind>(),
        shared_and_cloned::<Event>(),
        shared_and_cloned::<ExitStatus>(),
        shared_and_cloned::<KernelFeatures>(),
        shared_and_cloned::<Framing>(),
        shared_and_cloned::<Histogram>(),
        shared_and_cloned::<IoCounters>(),
        shared_and_cloned::<JsonCheck>(),
        shared_and_cloned::<Limits>(),
        shared_and_cloned::<MalformedReason>(),
        shared_and_cloned::<Record>(),
        shared_and_cloned::<ResourceLimit>(),
        shared_and_cloned::<Preview>(),
        shared_and_cloned::<ShutdownReport>(),
        shared_and_cloned::<StderrLine>(),
        shared_and_cloned::<AgentStats>(),
        shared::<Acquired>(),
        shared::<Remote>(),
        shared_and_cloned::<WarmPool>(),
        shared_and_cloned::<WarmPoolSettings>(),
        shared_and_cloned::<WarmPoolStats>(),
    ]);
    let checked: BTreeSet<String> = checked.into_iter().map(str::to_owned).collect();
    // Those of the local engine stay on their thread; tests/local asserts it.
    let checked =
        |name: &String| checked.contains(name) || name.starts_with("Local") || name == "EngineKind";
    let missing: Vec<String> = exported().into_iter().filter(|name| !checked(name)).collect();
    assert_eq!(missing, Vec::<String>::new(), "exported and not checked here");
}

// A view may be used by another task than the one that read it.
#[test]
fn session_types_are_send_and_sync() {
    let checked = BTreeSet::from([
        shared_and_cloned::<session::AgentRequest>(),
        shared_and_cloned::<session::RpcError>(),
        shared_and_cloned::<session::Session>(),
        shared_and_cloned::<session::SessionStats>(),
        shared_and_cloned::<session::Settings>(),
        shared_and_cloned::<session::jsonrpc::Builder>(),
        shared_and_cloned::<session::claude::UserMessage>(),
        shared_and_cloned::<session::claude::Permission>(),
        shared_and_cloned::<session::claude::Message<'static>>(),
        shared_and_cloned::<session::claude::message::Block<'static>>(),
        shared_and_cloned::<session::claude::message::Content<'static>>(),
        shared_and_cloned::<session::claude::message::Extra<'static>>(),
        shared_and_cloned::<session::claude::message::Json<'static>>(),
    ]);
    assert_eq!(checked.len(), 13, "{checked:?}");
}

fn must_be_send<T: Send>(_: T) -> bool {
    true
}

#[test]
fn futures_are_send() {
    let engine = Engine::new().expect("io_uring");
    let mut agent = engine.spawn_blocking(AgentCommand::new("cat")).expect("spawns");
    assert!(must_be_send(engine.spawn(AgentCommand::new("cat"))));
    assert!(must_be_send(engine.counters()));
    assert!(must_be_send(engine.shutdown(std::time::Duration::ZERO)));
    assert!(must_be_send(agent.next()));
    assert!(must_be_send(agent.next_record()));
    assert!(must_be_send(agent.send("{}")));
    assert!(must_be_send(agent.flush()));
    assert!(must_be_send(agent.close()));
    assert!(must_be_send(agent.abort()));
    assert!(must_be_send(agent.close_with(ClosePolicy::abort())));
    assert!(must_be_send(agent.closed()));
    let (mut reader, writer) =
        engine.spawn_blocking(AgentCommand::new("cat")).expect("spawns").split();
    assert!(must_be_send(reader.next()));
    assert!(must_be_send(reader.close()));
    assert!(must_be_send(writer.send("{}")));
    assert!(must_be_send(writer.abort()));
    // None of them was polled, so nothing has happened.
    assert_eq!(agent.close_report(), None);
    agent.abort_blocking();
}

#[test]
fn cli_options_and_starts_are_send() {
    use agentpipe::session::claude::{Cli, CliVersion, Options, Session, Thinking};
    let checked = [
        shared_and_cloned::<Cli>(),
        shared_and_cloned::<CliVersion>(),
        shared_and_cloned::<Options>(),
        shared_and_cloned::<Thinking>(),
        shared_and_cloned::<Session>(),
    ];
    assert_eq!(checked, ["Cli", "CliVersion", "Options", "Thinking", "Session"]);
    let engine = Engine::new().expect("io_uring");
    assert!(must_be_send(Session::builder().start(&engine, AgentCommand::claude())));
    assert!(must_be_send(Session::builder().start(&engine, AgentCommand::new("cat"))));
    assert!(must_be_send(AgentCommand::claude().command()));
}

/// The files whose items users see: floor 0, the engine, and what is above it in the library.
fn public_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["src", "src/agent", "src/engine", "src/local", "src/session"] {
        collect(&root().join(folder), &mut files);
    }
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() && folder != root().join("src") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The names that this file imports from a hidden crate.
fn hidden_words(text: &str) -> BTreeSet<&str> {
    let mut hidden = BTreeSet::new();
    for import in text.split("\nuse ").skip(1).filter_map(|rest| rest.split(';').next()) {
        if words(import).next().is_some_and(|first| HIDDEN.contains(&first)) {
            hidden.extend(words(import).filter(|word| word.starts_with(char::is_uppercase)));
        }
    }
    hidden
}

/// From each `pub ` that is no `pub(...)` to the body, the value or the end.
fn public_items(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices("pub ").filter_map(|(at, _)| {
        let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        // In a comment it is only a word.
        if text[line_start..at].contains("//") || text[at..].starts_with("pub use") {
            return None;
        }
        let item = &text[at..];
        let mut own = words(item).skip(1);
        let end = match own.next() {
            // Each field has its own `pub`.
            Some("struct") => item.find(['{', ';', '(']),
            Some(field) if item[4 + field.len()..].starts_with(':') => item.find('\n'),
            _ => item.find(['{', ';', '=']),
        };
        let end = end.map_or(text.len(), |end| at + end);
        Some((text[..at].lines().count(), &text[at..end]))
    })
}

/// The words of an item that stand for a hidden crate: its name in a path, or an import.
fn shown<'a>(item: &'a str, hidden: &BTreeSet<&str>) -> Vec<&'a str> {
    let in_path = |word: &str| HIDDEN.contains(&word) && item.contains(&format!("{word}::"));
    words(item).filter(|word| hidden.contains(word) || in_path(word)).collect()
}

// If a type of the ring crate were public, its next major version would be a breaking change here.
#[test]
fn dependencies_do_not_leak_into_the_api() {
    let mut found = Vec::new();
    let mut seen = 0;
    for path in public_files() {
        let text = fs::read_to_string(&path).expect("a file just listed");
        let hidden = hidden_words(&text);
        for (line, item) in public_items(&text) {
            seen += 1;
            for word in shown(item, &hidden) {
                found.push(format!("{}:{}: `{word}` in {item}", path.display(), line + 1));
            }
        }
    }
    assert!(seen > 150, "the scan sees the public items: {seen}");
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn api_scan_finds_a_leak() {
    let text = "use rustix::process::{Pid, Signal};\npub fn a(b: Pid) {}\n// pub fn c(d: Pid)\n\
        pub(crate) fn e(f: Pid) {}\npub struct G(pub tokio::H);\npub fn i(\n  j: K,\n) -> Signal {";
    let text = format!("\n{text}");
    let hidden = hidden_words(&text);
    let hits: Vec<&str> = public_items(&text).flat_map(|(_, item)| shown(item, &hidden)).collect();
    assert_eq!(hits, ["Pid", "tokio", "Signal"]);
}
