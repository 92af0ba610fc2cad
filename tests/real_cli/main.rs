//! The real Claude Code against sessions, with a stand-in for its API.
//!
//! Not part of `cargo test`: it needs a program of 400 MB from a registry. It is a separate target
//! behind the feature `__real_cli`, so that where that is not asked for nothing of it runs or passes.
//! `.ci/run` installs the CLI and runs it, or counts it as skipped. By hand:
//!
//! ```sh
//! bash .ci/real-cli test
//! ```

mod api;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentpipe::session::claude::message::Message;
use agentpipe::session::claude::{Options, Permission, PermissionRequest, Session};
use agentpipe::{AgentCommand, CloseReport, CloseStage, Engine, ExitStatus, Limits, Record};
use tempfile::TempDir;

use api::Api;

/// How often each case is tried: a race that is lost now and then shows.
const ROUNDS: usize = 10;
/// For anything that takes a moment, on a machine that does much else.
const CEILING: Duration = Duration::from_secs(60);

/// A CLI with its own home and working directory.
struct Cli {
    engine: Engine,
    api: Api,
    folder: TempDir,
}

impl Cli {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["home", "work"] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
        }
        Self { engine: Engine::new().expect("io_uring"), api: Api::start(), folder }
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn options(&self) -> Options {
        let program = std::env::var_os("AGENTPIPE_REAL_CLI")
            .expect("AGENTPIPE_REAL_CLI names the program: `bash .ci/real-cli` installs it");
        AgentCommand::claude()
            .cli_path(program)
            .cwd(self.work())
            .setting_sources([""; 0])
            .include_partial_messages(true)
            .env("HOME", self.folder.path().join("home"))
            .env("ANTHROPIC_BASE_URL", &self.api.url)
            .env("ANTHROPIC_API_KEY", "none")
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .process(|command| command.limits(Limits::new().record_max(32 << 20)))
    }

    async fn start(&self) -> Session {
        Session::builder().start(&self.engine, self.options()).await.expect("starts")
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let limited = async { tokio::time::timeout(CEILING, future).await };
    runtime.expect("a runtime").block_on(limited).expect("it hangs")
}

/// The texts of the results among these, and all that came after the close.
async fn rest(session: &Session) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(record) = session.next_record().await {
        records.push(record);
    }
    records
}

fn results(records: &[Record]) -> Vec<(String, bool)> {
    let result = |record: &Record| match Message::of(record).expect("a view") {
        Message::Result(result) => {
            Some((result.result.as_deref().unwrap_or_default().to_owned(), result.failed()))
        }
        _ => None,
    };
    records.iter().filter_map(result).collect()
}

/// No force was needed, and nothing is left of it.
fn check(report: &CloseReport, exit: i32) {
    assert_eq!(report.exit(), ExitStatus::Code(exit), "{report}: {}", report.stderr_tail());
    assert!(report.stage() <= CloseStage::Drain, "{report}");
    let waited = report.stages().iter().find(|(stage, _)| *stage == CloseStage::Interrupt);
    assert!(
        waited.is_none_or(|(_, time)| *time < Duration::from_secs(1)),
        "it was heard: {report}"
    );
    assert_eq!(report.stats().records_discarded, 0, "{report}");
    assert_eq!(report.unsent_bytes(), 0, "{report}");
}

/// Returns the processor time of a process, in ticks.
fn processor_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let (_, rest) = stat.rsplit_once(')').expect("a name");
    rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Tries a case several times, and says how long its closes took.
#[expect(clippy::print_stdout, reason = "the figures of a run by hand")]
fn rounds(case: &str, mut round: impl FnMut() -> Duration) {
    let mut closes: Vec<u128> = (0..ROUNDS).map(|_| round().as_millis()).collect();
    closes.sort_unstable();
    println!(
        "{case}: closes of {} to {} ms, median {}",
        closes[0],
        closes[ROUNDS - 1],
        closes[ROUNDS / 2]
    );
}

#[test]
fn idle_cli_leaves_at_end_of_input() {
    let cli = Cli::new();
    rounds("idle", || {
        wait(async {
            let session = cli.start().await;
            session.send("say something").await.expect("sent");
            let mut states = 0;
            let result = session.read_turn(|record| {
                states +=
                    usize::from(record.as_str().is_ok_and(|text| text.contains("sdk_host_only")));
            });
            let result = result.await.expect("a result");
            assert_eq!(results(&[result]), [("That was all.".to_owned(), false)]);
            assert_eq!(states, 0, "the state is for the host");
            tokio::time::sleep(Duration::from_millis(200)).await;
            let report = session.close().await;
            check(&report, 0);
            let interrupted =
                report.stages().iter().any(|(stage, _)| *stage == CloseStage::Interrupt);
            assert!(!interrupted, "it was idle: {report}");
            report.total()
        })
    });
}

#[test]
fn unread_answer_of_13_mb_is_delivered() {
    let cli = Cli::new();
    rounds("13 MB unread", || {
        wait(async {
            let session = cli.start().await;
            session.send("long 13000000").await.expect("sent");
            // The session has what its budget allows. The CLI has the rest, and nothing else to do.
            let begun = Instant::now();
            let pid = session.as_session().pid();
            let mut worked = 0;
            while session.as_session().metrics().stalls == 0 || worked != processor_time(pid) {
                assert!(begun.elapsed() < CEILING);
                worked = processor_time(pid);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            let report = session.close().await;
            let records = rest(&session).await;
            check(&report, 0);
            let results = results(&records);
            assert_eq!(results.len(), 1);
            assert!(results[0].0.len() > 12_900_000 && !results[0].1, "{}", results[0].0.len());
            report.total()
        })
    });
}

#[test]
fn close_in_a_turn_begins_no_other_turn() {
    let cli = Cli::new();
    let mut turns = 0;
    rounds("in a turn, two prompts queued", || {
        turns += 1;
        wait(async {
            let session = cli.start().await;
            session.send(format!("drip 500 {turns}")).await.expect("sent");
            let streams = |record: &Record| {
                record.envelope().is_ok_and(|found| found.kind.as_deref() == Some("stream_event"))
            };
            while !streams(&session.next_record().await.expect("it answers")) {}
            session.send("say queued").await.expect("sent");
            session.send("say queued too").await.expect("sent");
            // It has them.
            session.mcp_status().await.expect("answered");
            let report = session.close().await;
            let records = rest(&session).await;
            check(&report, 1);
            assert_eq!(results(&records).len(), 1, "of the turn that was interrupted");
            assert_eq!(cli.api.asked("queued"), 0, "no turn was begun for what was queued");
            report.total()
        })
    });
}

#[test]
fn prompt_after_a_background_agent_is_answered() {
    rounds("background agent", || {
        let cli = Cli::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let builder = Session::builder().can_use_tool(move |request: PermissionRequest| {
            count.fetch_add(usize::from(request.tool_name() == "Bash"), Ordering::SeqCst);
            async { Ok(Permission::allow()) }
        });
        wait(async {
            let session = builder.start(&cli.engine, cli.options()).await.expect("starts");
            let mut prompts = ["background"].into_iter();
            assert_eq!(session.send_all(async || prompts.next()).await.expect("sent"), 1);
            let records = rest(&session).await;
            let report = session.as_session().closed().await;
            check(&report, 0);
            assert_eq!(results(&records).len(), 2, "of the prompt, and of the turn that was woken");
            assert_eq!(asked.load(Ordering::SeqCst), 1, "the permission prompt");
            assert!(cli.work().join("woken").exists(), "what it allowed was done");
            report.total()
        })
    });
}

// Without an interrupt the CLI waits for its background agent, up to ten minutes.
#[test]
fn close_stops_a_background_agent() {
    let cli = Cli::new();
    rounds("beside a background agent", || {
        wait(async {
            let session = cli.start().await;
            session.send("background slow").await.expect("sent");
            session.read_turn(|_| ()).await.expect("a result");
            let report = session.close().await;
            check(&report, 0);
            report.total()
        })
    });
}
