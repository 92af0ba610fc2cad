//! The version probe of the CLI: once, in the background, and within a limit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};

use agentpipe::session::claude::{CliVersion, Options, Session};
use agentpipe::{AgentCommand, Engine, ErrorKind, ExitStatus};
use tempfile::TempDir;

use super::{folder, is_alive, path_of, script, wait};
use crate::support::process::install;
use crate::support::{PROGRAM, check_error, engine, wait_until};

/// Lines of all warnings of this process.
static LINES: Mutex<String> = Mutex::new(String::new());

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().expect("no panic").push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the warnings about this program.
fn warnings(program: &Path) -> Vec<String> {
    let program = program.to_str().expect("text");
    let lines = LINES.lock().expect("no panic");
    lines.lines().filter(|line| line.contains(program)).map(str::to_owned).collect()
}

/// A CLI that counts how often its version is probed.
struct Cli {
    folder: TempDir,
    program: PathBuf,
}

impl Cli {
    fn new(answer: &str) -> Self {
        static LISTEN: Once = Once::new();
        LISTEN.call_once(|| {
            let warnings = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
            warnings.with_ansi(false).with_writer(|| Lines).init();
        });
        let folder = folder();
        let cli = Self { program: path_of(&folder, "claude"), folder };
        cli.answers(answer);
        cli
    }

    /// Replaces what it does when its version is probed.
    fn answers(&self, probe: &str) {
        install(&self.program, &script(&format!("echo $$ >>'{}'\n{probe}", self.pids().display())));
    }

    fn pids(&self) -> PathBuf {
        path_of(&self.folder, "asked")
    }

    /// The names of the probed CLIs.
    fn asked(&self) -> Vec<String> {
        let pids = fs::read_to_string(self.pids()).unwrap_or_default();
        pids.lines().map(str::to_owned).collect()
    }

    fn options(&self) -> Options {
        AgentCommand::claude().cli_path(&self.program)
    }

    async fn start(&self, engine: &Engine) -> Session {
        Session::builder().start(engine, self.options()).await.expect("starts")
    }
}

// The warning has version and path. One for each of a thousand sessions would be noise.
#[test]
fn old_cli_is_warned_about_once() {
    let cli = Cli::new("echo '1.0.9 (Claude Code)'; exit");
    let engine = engine();
    wait(async {
        let mut sessions = Vec::new();
        for _ in 0..5 {
            sessions.push(cli.start(&engine).await);
        }
        for session in &sessions {
            let version = session.cli_version().await.expect("it says it");
            assert_eq!((version.to_string(), version < CliVersion::OLDEST), ("1.0.9".into(), true));
        }
        wait_until("a warning", || !warnings(&cli.program).is_empty());
        // From here the version is known, and a start warns at once or never.
        sessions.push(cli.start(&engine).await);
        for session in sessions {
            assert_eq!(session.close().await.exit(), ExitStatus::Code(0));
        }
    });
    let warnings = warnings(&cli.program);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("WARN") && warnings[0].contains("1.0.9"), "{warnings:?}");
    assert!(warnings[0].contains("2.0.0"), "{warnings:?}");
    assert_eq!(cli.asked().len(), 1);
}

// One more process for each start doubled the time to start. A current CLI causes no warning.
#[test]
fn version_is_cached_until_the_file_changes() {
    let cli = Cli::new("echo '2.1.330 (Claude Code)'; exit");
    let engine = engine();
    wait(async {
        let sessions = [cli.start(&engine).await, cli.start(&engine).await];
        let versions = [sessions[0].cli_version().await, sessions[1].cli_version().await];
        assert!(versions.iter().all(|version| version.clone().expect("says it").patch == 330));
        assert_eq!(cli.asked().len(), 1);

        // An update: another file at the same path.
        cli.answers("echo '2.2.0 (Claude Code) '; exit");
        let updated = cli.start(&engine).await;
        assert_eq!(updated.cli_version().await.expect("says it").to_string(), "2.2.0");
        assert_eq!(cli.asked().len(), 2);
        // A session on the old file still has its version.
        for session in sessions.into_iter().chain([updated]) {
            assert_eq!(session.close().await.exit(), ExitStatus::Code(0));
        }
    });
    assert_eq!(warnings(&cli.program), Vec::<String>::new());
}

// A probe that ignored SIGTERM must not hang the start.
#[test]
fn stuck_version_probe_is_ended() {
    let fake = |flags: &str| {
        format!("exec {PROGRAM} fake --ignore-sigterm --ignore-eof --ignore-epipe {flags}")
    };
    let no_line = "exec tr '\\0' x </dev/zero".to_owned();
    let child = format!("sleep 600 & {}", fake("--flood"));
    let cases = [
        (fake("--never-read-stdin"), ErrorKind::Timeout, "within 2s"),
        (fake("--close-stdout"), ErrorKind::Timeout, "within 2s"),
        (no_line, ErrorKind::Timeout, "within 2s"),
        (fake("--flood"), ErrorKind::InvalidRecord, "flood"),
        (child, ErrorKind::InvalidRecord, "flood"),
        (
            "echo 'command not found' >&2; exit 127".to_owned(),
            ErrorKind::AgentError,
            "command not found",
        ),
        ("echo unknown; exit".to_owned(), ErrorKind::InvalidRecord, "unknown"),
    ];
    let clis: Vec<Cli> = cases.iter().map(|(probe, _, _)| Cli::new(probe)).collect();
    let engine = engine();
    wait(async {
        let mut sessions = Vec::new();
        for cli in &clis {
            sessions.push(cli.start(&engine).await);
        }
        // The first is under way, and its session works.
        wait_until("it is probed", || clis[0].asked().len() == 1);
        sessions[0].send("Hello.").await.expect("sent");
        assert!(sessions[0].read_turn(|_| {}).await.is_ok());
        assert!(is_alive(&clis[0].asked()[0]), "still within its limit");

        for ((session, cli), (_, kind, says)) in sessions.iter().zip(&clis).zip(&cases) {
            let error = session.cli_version().await.expect_err("no version");
            check_error(&error, *kind, &[says]);
            assert!(!is_alive(&cli.asked()[0]), "reaped before the answer: {error}");
        }
        assert_eq!(engine.agents(), sessions.len(), "the sessions, and nothing else");
        // The outcome is cached, silence too; a transient failure is probed again.
        for (session, cli) in sessions.iter().zip(&clis) {
            let before = cli.asked().len();
            let error = session.cli_version().await.expect_err("no version");
            let again = usize::from(error.kind() == ErrorKind::AgentError);
            assert_eq!(cli.asked().len(), before + again, "{error}");
        }
        for (session, cli) in sessions.iter().zip(&clis) {
            assert_eq!(session.close().await.exit(), ExitStatus::Code(0));
            assert_eq!(
                warnings(&cli.program),
                Vec::<String>::new(),
                "not to be said is no warning"
            );
        }
    });
    assert_eq!(engine.abandoned(), 0);
}

// With room for one agent the probe must not take it.
#[test]
fn version_probe_takes_no_place() {
    let cli = Cli::new(&format!("exec {PROGRAM} fake --never-read-stdin"));
    let engine = Engine::builder().max_agents(2).build().expect("an engine");
    wait(async {
        let first = cli.start(&engine).await;
        wait_until("it is probed", || cli.asked().len() == 1);
        let second = cli.start(&engine).await;
        assert!(is_alive(&cli.asked()[0]));
        for session in [first, second] {
            assert_eq!(session.close().await.exit(), ExitStatus::Code(0));
        }
        // The start does not wait for the probe, which ends with the engine.
        engine.shutdown(std::time::Duration::from_secs(5)).await;
    });
    wait_until("it is gone", || !is_alive(&cli.asked()[0]));
}

#[test]
fn plain_session_probes_no_version() {
    let engine = engine();
    let command = AgentCommand::new(PROGRAM).args(["fake", "--answer-initialize"]);
    wait(async {
        let session = Session::builder().start(&engine, command).await.expect("starts");
        let error = session.cli_version().await.expect_err("which CLI?");
        check_error(&error, ErrorKind::InvalidCommand, &["Options"]);
        session.close().await;
    });
}
