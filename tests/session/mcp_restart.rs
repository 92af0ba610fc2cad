//! Servers of MCP that end: what is sent again, and what is not.

use std::fs;
use std::path::PathBuf;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use agentpipe::session::mcp::{Builder, Call, Client, Era};
use agentpipe::{AgentCommand, ErrorKind, ExitStatus, Limits};
use tempfile::TempDir;

use crate::mcp::{discovered, greeted};
use crate::support::{engine, process::is_gone, shell, wait_until};
use crate::wait;

/// A server of one era that keeps a log of its runs and of what it was asked. It ends over `die`, over
/// the first `once`, and after it has answered `bye`. After `deaf` it reads nothing, and ends once the
/// file `go` is there.
struct Mortal {
    folder: TempDir,
    era: Era,
}

impl Mortal {
    fn new(era: Era) -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), era }
    }

    fn command(&self) -> AgentCommand {
        let hello = match self.era {
            Era::Legacy => {
                format!(
                    r#"initialize) answer '{}';; server/discover) refuse;;"#,
                    greeted("2025-11-25")
                )
            }
            _ => format!(r#"server/discover) answer '{}';; initialize) refuse;;"#, discovered()),
        };
        let script = r#"
            cd "$1" || exit 9; echo "run $$" >>log
            say() { printf '{"jsonrpc":"2.0","id":%s,%s}\n' "$id" "$1"; }
            answer() { say "\"result\":$1"; }
            refuse() { say '"error":{"code":-32601,"message":"no"}'; }
            [ ! -e hang ] || sleep 1000
            while read -r line; do
                id=${line#*\"id\":}; id=${id%%,*}
                method=${line#*\"method\":\"}; method=${method%%\"*}
                echo "$method" >>log
                case $method in
                HELLO
                notifications/*) ;;
                deaf) while [ ! -e go ]; do sleep 0.01; done; exit 7;;
                die) echo 'out of ideas' >&2; exit 7;;
                once) [ -e once ] || { : >once; exit 7; }; answer '{}';;
                bye) answer '{}'; exit 7;;
                *) answer '{"resultType":"complete"}';;
                esac
            done"#;
        shell(&script.replace("HELLO", &hello)).arg("sh").arg(self.folder.path())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the server was asked, with `run` for each start.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).expect("a log");
        text.lines().map(|line| line.split(' ').next().expect("a word").to_owned()).collect()
    }

    fn pids(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("run ")?.parse().ok()).collect()
    }

    async fn connect(&self, builder: Builder) -> Client {
        builder.connect(&engine(), self.command()).await.expect("connects")
    }
}

const BOTH: [Era; 2] = [Era::Modern, Era::Legacy];

fn idempotent(method: &str) -> Call {
    Call::new(method, ()).idempotent()
}

// A server of the modern era needs no handshake after a restart, one of the legacy era no probe.
#[test]
fn idempotent_call_outlives_its_server() {
    for era in BOTH {
        let server = Mortal::new(era);
        wait(async {
            let client = server.connect(Client::builder()).await;
            client.run(idempotent("once")).await.expect("answered by the second run");
            assert_eq!((client.restarts(), client.server().era()), (1, era));
            assert!(client.server().name().is_some(), "it is still known");
            assert!(client.close().await.exit().success());
        });
        let expected: &[&str] = match era {
            Era::Legacy => &[
                "run",
                "server/discover",
                "initialize",
                "notifications/initialized",
                "once",
                "run",
                "initialize",
                "notifications/initialized",
                "once",
            ],
            _ => &["run", "server/discover", "once", "run", "once"],
        };
        assert_eq!(server.log(), expected);
    }
}

// A payment must not be made twice, and its caller has to know that it may have been made.
#[test]
fn call_that_may_have_acted_is_not_repeated() {
    for era in BOTH {
        let server = Mortal::new(era);
        wait(async {
            let client = server.connect(Client::builder()).await;
            let error = client.call("die", ()).await.expect_err("the server ended");
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            assert_eq!(error.exit_status(), Some(ExitStatus::Code(7)));
            for part in ["`die`", "may have acted", "idempotent", "out of ideas"] {
                assert!(error.to_string().contains(part), "{error}");
            }
            assert_eq!(client.restarts(), 0, "nothing needs the server");
            client.call("tools/list", ()).await.expect("the next call starts it again");
            assert_eq!(client.restarts(), 1);
            client.close().await;
        });
        let log = server.log();
        assert_eq!(log.iter().filter(|method| *method == "die").count(), 1, "{log:?}");
    }
}

// A server that has ended while nothing was asked has read nothing, so any call goes to the next run.
#[test]
fn unsent_call_goes_to_the_next_run() {
    for era in BOTH {
        let server = Mortal::new(era);
        wait(async {
            let client = server.connect(Client::builder()).await;
            client.call("bye", ()).await.expect("answered");
            wait_until("the server has ended", || client.close_report().is_some());
            client.call("tools/call", ()).await.expect("not idempotent, and not sent before");
            client.call("bye", ()).await.expect("answered");
            wait_until("the server has ended", || client.close_report().is_some());
            client.notify("notifications/x", ()).await.expect("the same for a notification");
            assert_eq!(client.restarts(), 2);
            client.close().await;
        });
    }
}

// A call that waits for room has not been sent, although its server runs. The end of the server may not
// fail it, however little it is idempotent.
#[test]
fn call_without_room_goes_to_the_next_run() {
    let server = Mortal::new(Era::Modern);
    wait(async {
        let command = server.command().limits(Limits::new().outbox_high(64 << 10));
        let client = Client::builder().connect(&engine(), command).await.expect("connects");
        let mut context = Context::from_waker(Waker::noop());
        let mut deaf = pin!(client.call("deaf", ()));
        assert!(deaf.as_mut().poll(&mut context).is_pending());
        // Larger than the pipe and the outbox: an empty queue takes any record.
        let large = serde_json::json!({"text": "x".repeat(512 << 10)});
        wait_until("the server is deaf", || server.log().last().is_some_and(|it| it == "deaf"));
        let mut queued = pin!(client.call("tools/call", large));
        assert!(queued.as_mut().poll(&mut context).is_pending());
        let mut waiting = pin!(client.call("waiting", ()));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        let mut notified = pin!(client.notify("notifications/x", ()));
        assert!(notified.as_mut().poll(&mut context).is_pending());
        fs::write(server.path("go"), "").expect("a file");
        for lost in [deaf.await, queued.await] {
            let error = lost.expect_err("the server ended");
            assert!(error.to_string().contains("may have acted"), "{error}");
        }
        waiting.await.expect("answered by the second run");
        notified.await.expect("sent to the second run");
        assert_eq!(client.restarts(), 1);
        client.close().await;
    });
    let log = server.log();
    for method in ["waiting", "notifications/x"] {
        assert_eq!(log.iter().filter(|asked| *asked == method).count(), 1, "{log:?}");
    }
}

// One request that kills the server must not do so without end.
#[test]
fn deadly_call_is_repeated_twice_only() {
    let server = Mortal::new(Era::Modern);
    wait(async {
        let client = server.connect(Client::builder()).await;
        let error = client.run(idempotent("die")).await.expect_err("it kills each run");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert!(error.to_string().contains("over 2 repetitions"), "{error}");
        assert_eq!(client.restarts(), 2);
        client.close().await;
    });
    assert_eq!(server.log().iter().filter(|method| *method == "die").count(), 3);
}

// A server that cannot live is reported with its last words, not started in a loop.
#[test]
fn restarts_end_at_the_limit() {
    for (max, says) in [(0, "exit code 7"), (1, "after 1 restarts within 60s")] {
        let server = Mortal::new(Era::Modern);
        wait(async {
            let builder = Client::builder().restarts(max, Duration::from_secs(60));
            let client = server.connect(builder).await;
            for _ in 0..=max {
                client.call("die", ()).await.expect_err("the server ended");
            }
            let error = client.run(idempotent("x")).await.expect_err("no restart is left");
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert!(
                error.stderr_tail().is_some_and(|tail| tail.contains("out of ideas")),
                "{error}"
            );
            assert_eq!(client.restarts(), u64::from(max));
            client.close().await;
        });
        assert_eq!(server.pids().len(), max as usize + 1);
    }
}

// All calls that were open when the server ended wait for the same restart.
#[test]
fn many_lost_calls_share_one_restart() {
    let server = Mortal::new(Era::Modern);
    wait(async {
        let client = server.connect(Client::builder()).await;
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.run(idempotent("once")).await })
            })
            .collect();
        for call in calls {
            call.await.expect("no panic").expect("answered by the second run");
        }
        assert_eq!(client.restarts(), 1);
        client.close().await;
    });
    assert_eq!(server.pids().len(), 2);
}

// The caller that began a restart gives up. Others that wait for it must not be left behind.
#[test]
fn dropped_call_does_not_stop_a_restart() {
    let server = Mortal::new(Era::Legacy);
    wait(async {
        let client = server.connect(Client::builder()).await;
        client.call("bye", ()).await.expect("answered");
        wait_until("the server has ended", || client.close_report().is_some());
        {
            let mut first = Box::pin(client.call("tools/list", ()));
            let waker = Waker::noop();
            let polled = first.as_mut().poll(&mut Context::from_waker(waker));
            assert!(polled.is_pending(), "the server is started");
        }
        client.call("tools/list", ()).await.expect("answered");
        assert_eq!(client.restarts(), 1);
        client.close().await;
    });
}

// A close while the next run hangs in its start: the caller is not kept waiting, and no server is left.
#[test]
fn close_gives_up_a_restart() {
    let server = Mortal::new(Era::Legacy);
    wait(async {
        let client = server.connect(Client::builder()).await;
        client.call("bye", ()).await.expect("answered");
        wait_until("the server has ended", || client.close_report().is_some());
        fs::write(server.path("hang"), "").expect("a file");
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.call("tools/list", ()).await }
        });
        while server.pids().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        client.close().await;
        let error = waiting.await.expect("no panic").expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        let error = client.call("tools/list", ()).await.expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert_eq!(client.restarts(), 0);
    });
    for pid in server.pids() {
        wait_until("it is gone", || is_gone(pid));
    }
}
