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

use agentpipe::session::RpcError;
use agentpipe::session::claude::message::Message;
use agentpipe::session::claude::{
    CliVersion, Elicitation, ElicitationAnswer, HookKind, HookMatcher, HookOutput, McpRequest,
    Options, Permission, PermissionBehavior, PermissionRequest, PermissionRule, PermissionUpdate,
    Session, UserMessage, control,
};
use agentpipe::{AgentCommand, CloseReport, CloseStage, Engine, ExitStatus, Limits, Record};
use serde_json::json;
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

/// Lets the agent use every tool, and counts how often it asks.
fn counting(asked: &Arc<AtomicUsize>) -> agentpipe::session::claude::Builder {
    let asked = Arc::clone(asked);
    Session::builder().can_use_tool(move |_: PermissionRequest| {
        asked.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok(Permission::allow()))
    })
}

/// One turn, and all of its records.
async fn turn(session: &Session, prompt: impl Into<UserMessage>) -> Vec<Record> {
    session.send(prompt).await.expect("sent");
    let mut records = Vec::new();
    let result = session.read_turn(|record| records.push(record.clone())).await;
    records.push(result.expect("a result"));
    records
}

fn hold(records: &[Record], text: &str) -> bool {
    records.iter().any(|record| record.as_str().is_ok_and(|json| json.contains(text)))
}

fn touch(file: &str) -> String {
    format!(r#"tool Bash {{"command":"touch {file}","description":"Makes a file"}}"#)
}

#[test]
fn permissions_are_asked_for_and_updated() {
    rounds("permission", || {
        let cli = Cli::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let builder = Session::builder().can_use_tool(move |request: PermissionRequest| {
            let time = count.fetch_add(1, Ordering::SeqCst);
            let mut input: serde_json::Value = request.input().json().expect("JSON");
            input["command"] = "touch changed".into();
            let rule = PermissionRule::matching("Bash", "touch later");
            let update = PermissionUpdate::add_rules(PermissionBehavior::Allow, [rule]);
            std::future::ready(Ok(match time {
                0 => Permission::allow_with(input).updating([update]),
                _ => Permission::deny("not this one"),
            }))
        });
        wait(async {
            let session = builder.start(&cli.engine, cli.options()).await.expect("starts");
            let made = |file: &str| cli.work().join(file).exists();
            turn(&session, touch("first")).await;
            assert!(made("changed") && !made("first"), "the input was changed");
            turn(&session, touch("later")).await;
            assert!(made("later"), "the rule was taken");
            assert_eq!(asked.load(Ordering::SeqCst), 1, "and nothing was asked");
            assert!(hold(&turn(&session, touch("third")).await, "not this one"));
            assert!(!made("third"));
            assert_eq!(asked.load(Ordering::SeqCst), 2);
            let report = session.close().await;
            check(&report, 0);
            report.total()
        })
    });
}

#[test]
fn failing_hook_blocks_only_if_it_says_so() {
    rounds("hooks", || {
        let cli = Cli::new();
        wait(async {
            let mut last = Duration::ZERO;
            for blocks in [true, false] {
                let calls = Arc::new(AtomicUsize::new(0));
                let count = Arc::clone(&calls);
                let on = HookMatcher::new(HookKind::PreToolUse).matching("Bash");
                let on = if blocks { on.block_on_failure() } else { on };
                let asked = Arc::new(AtomicUsize::new(0));
                let builder = counting(&asked)
                    .hook(on, move |_| {
                        count.fetch_add(1, Ordering::SeqCst);
                        std::future::ready(Err::<HookOutput, _>(RpcError::new("it failed")))
                    })
                    .hook(HookKind::Stop, |_| async { Ok(HookOutput::new()) });
                let session = builder.start(&cli.engine, cli.options()).await.expect("starts");
                let info = session.server_info().expect("answered");
                assert_eq!(info.hook_on_failure_supported, Some(true));
                let file = format!("with_{blocks}");
                turn(&session, touch(&file)).await;
                assert_eq!(calls.load(Ordering::SeqCst), 1);
                assert_eq!(cli.work().join(&file).exists(), !blocks, "blocks: {blocks}");
                let report = session.close().await;
                check(&report, 0);
                last = last.max(report.total());
            }
            last
        })
    });
}

#[test]
fn own_mcp_server_is_called() {
    rounds("in-process MCP", || {
        let cli = Cli::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let serve = move |request: McpRequest| {
            let answer = match request.method() {
                "initialize" => {
                    json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                    "serverInfo": {"name": "own", "version": "1"}})
                }
                "tools/list" => json!({"tools": [{"name": "add", "description": "Adds",
                    "inputSchema": {"type": "object", "properties": {"n": {"type": "number"}}}}]}),
                "tools/call" => {
                    count.fetch_add(1, Ordering::SeqCst);
                    json!({"content": [{"type": "text", "text": "the sum is 42"}]})
                }
                _ => json!({}),
            };
            std::future::ready(Ok(answer))
        };
        let asked = Arc::new(AtomicUsize::new(0));
        let options =
            cli.options().own_mcp_server_configs(json!({"own": {"timeout": 30_000}})).title("Sums");
        wait(async {
            let builder = counting(&asked).mcp_server("own", serve);
            let session = builder.start(&cli.engine, options).await.expect("starts");
            let records = turn(&session, r#"tool mcp__own__add {"n":1}"#).await;
            assert!(hold(&records, "the sum is 42"));
            assert_eq!(calls.load(Ordering::SeqCst), 1);
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            let status = session.mcp_status().await.expect("answered");
            assert!(status.as_str().expect("text").contains("connected"), "{status:?}");
            let report = session.close().await;
            check(&report, 0);
            report.total()
        })
    });
}

/// An MCP server that asks the user within its tool.
fn asking_server() -> serde_json::Value {
    let answers = |method: &str, result: serde_json::Value| {
        let answer = json!({"jsonrpc": "2.0", "id": "${id}", "result": result});
        json!({"on": {"method": method, "id": "${id}"}, "send": answer})
    };
    let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
        "serverInfo": {"name": "crm", "version": "1"}});
    let tool = json!({"name": "ask", "description": "Asks", "inputSchema": {"type": "object"}});
    let form = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    let no_method = json!({"code": -32601, "message": "no such method"});
    let steps = [
        answers("initialize", hello),
        answers("ping", json!({})),
        answers("tools/list", json!({"tools": [tool]})),
        json!({"on": {"method": "server/discover", "id": "${id}"},
            "send": {"jsonrpc": "2.0", "id": "${id}", "error": no_method}}),
        json!({"expect": {"method": "notifications/initialized"}}),
        json!({"expect": {"method": "tools/call", "id": "${call}"}}),
        json!({"send": {"jsonrpc": "2.0", "id": "e1", "method": "elicitation/create",
            "params": {"message": "Who?", "requestedSchema": form}}}),
        json!({"expect": {"id": "e1", "result": {"action": "accept", "content": "${said}"}}}),
        json!({"send": {"jsonrpc": "2.0", "id": "${call}",
            "result": {"content": [{"type": "text", "text": "it was ${said}"}]}}}),
    ];
    let steps = steps.iter().flat_map(|step| ["--step".to_owned(), step.to_string()]);
    let args: Vec<String> = ["fake".to_owned()].into_iter().chain(steps).collect();
    json!({"command": env!("CARGO_BIN_EXE_agentpipe"), "args": args})
}

#[test]
fn elicitation_reaches_the_user() {
    rounds("elicitation", || {
        let cli = Cli::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let forms = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&forms);
        let builder = counting(&asked).elicitation(move |form: Elicitation| {
            count.fetch_add(1, Ordering::SeqCst);
            assert_eq!(
                (form.server.as_deref(), form.message.as_deref()),
                (Some("crm"), Some("Who?"))
            );
            std::future::ready(Ok(ElicitationAnswer::accept(json!({"name": "Ada"}))))
        });
        // In the handshake, as the credentials of a server would be.
        let options =
            cli.options().mcp_server("crm", asking_server()).mcp_servers_in_initialize(true);
        wait(async {
            let session = builder.start(&cli.engine, options).await.expect("starts");
            let begun = Instant::now();
            let connected = async || {
                let status = session.mcp_status().await.expect("answered");
                status.as_str().expect("text").contains(r#""status":"connected""#)
            };
            while !connected().await {
                assert!(begun.elapsed() < CEILING);
            }
            let records = turn(&session, "tool mcp__crm__ask {}").await;
            assert_eq!(forms.load(Ordering::SeqCst), 1);
            assert!(hold(&records, "Ada"), "the server had the answer");
            let report = session.close().await;
            check(&report, 0);
            report.total()
        })
    });
}

#[test]
fn queued_prompts_are_told_apart() {
    rounds("two queued turns", || {
        let cli = Cli::new();
        wait(async {
            let session = cli.start().await;
            let ids =
                ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"];
            for id in ids {
                let prompt = UserMessage::text(format!("drip 20 {id}")).uuid(id);
                session.send(prompt).await.expect("sent");
            }
            // They share a run or not, as the CLI likes: the results say which prompts they answer.
            let mut answered = Vec::new();
            while answered.len() < 2 {
                let record = session.read_turn(|_| {}).await.expect("a result");
                let Ok(Message::Result(result)) = Message::of(&record) else { panic!() };
                assert!(!result.failed());
                let all = result.user_message_uuids.expect("it says which");
                answered.extend(all.iter().map(|id| id.to_string()));
            }
            assert_eq!(answered, ids);
            let report = session.close().await;
            check(&report, 0);
            report.total()
        })
    });
}

#[test]
fn control_requests_are_understood() {
    let cli = Cli::new();
    wait(async {
        let session = cli.start().await;
        assert!(session.cli_version().expect("it is known at once") >= CliVersion::OLDEST);
        let refused = |outcome: agentpipe::Result<Record>| {
            outcome.err().filter(|error| error.to_string().to_lowercase().contains("subtype"))
        };
        let context = control::GetContextUsage::new().detail("summary");
        for outcome in [
            session.control(control::GetSettings::new()).await,
            session.control(context).await,
            session.control(control::ListModels::new()).await,
            session.control(control::ListPermissionRules::new()).await,
            session.control(control::GetHooksListing::new()).await,
            session.control(control::GetSessionCost::new()).await,
            session.control(control::GetBinaryVersion::new()).await,
            session.control(control::ReloadSkills::new()).await,
            session.control(control::SetMaxThinkingTokens::new(None)).await,
            session.control(control::RenameSession::new("A title").source("host")).await,
            session.control(control::FileSuggestions::new("no")).await,
            session.control(control::BackgroundTasks::new()).await,
            session.control(control::CancelAsyncMessage::new("u")).await,
        ] {
            assert_eq!(refused(outcome).map(|error| error.to_string()), None);
        }
        let styles = session.control(control::ReloadOutputStyles::new()).await.expect("answered");
        assert!(styles.available.is_some_and(|styles| styles.contains(&"default".into())));
        let stopped = session.control(control::Interrupt::new().cancel_queued(true)).await;
        assert_eq!(stopped.expect("answered").still_queued, Some(Vec::new()));
        check(&session.close().await, 0);
    });
}
