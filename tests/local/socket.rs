//! The program of the guide: a Unix socket served by tokio-uring, an agent for each client, all
//! on one thread.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Client;
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::Instant;

use crate::support::process::assert_gone;
use crate::support::{HANG, assert_sound, fake, gets_ring};
use agentpipe::{AgentCommand, CloseReport, ExitStatus, LocalAgentWriter, LocalEngine};
use tokio::net::UnixListener;
use tokio_uring::net::UnixStream;

/// Serves this number of clients, one agent each; returns the reports in their order.
async fn listen(
    engine: &LocalEngine,
    listener: &UnixListener,
    command: &AgentCommand,
    clients: usize,
) -> Vec<CloseReport> {
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let (client, _) = listener.accept().await.expect("a client");
        let client = client.into_std().expect("a socket");
        client.set_nonblocking(false).expect("ours");
        let client = Rc::new(UnixStream::from_std(client));
        tasks.push(tokio_uring::spawn(serve(engine.clone(), client, command.clone())));
    }
    let mut reports = Vec::new();
    for task in tasks {
        reports.push(task.await.expect("no panic"));
    }
    reports
}

async fn serve(engine: LocalEngine, client: Rc<UnixStream>, command: AgentCommand) -> CloseReport {
    let (mut agent, input) = engine.spawn(command).await.expect("spawns").split();
    let sending = tokio_uring::spawn(send_lines(Rc::clone(&client), input));
    while let Some(record) = agent.next_record().await {
        let mut line = record.as_bytes().to_vec();
        line.push(b'\n');
        let (Ok(()), _) = client.write_all(line).await else { break };
    }
    let _gone = client.shutdown(Shutdown::Both);
    sending.await.expect("no panic");
    agent.close().await
}

async fn send_lines(client: Rc<UnixStream>, input: LocalAgentWriter) {
    let (mut chunk, mut rest) = (vec![0; 64 << 10], Vec::new());
    loop {
        let (read, buffer) = client.read(chunk).await;
        let Ok(count @ 1..) = read else { return };
        chunk = buffer;
        rest.extend_from_slice(&chunk[..count]);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if input.send(&line[..end]).await.is_err() {
                return;
            }
        }
    }
}

/// Serves one agent of this command to each of the clients, which are threads.
fn run(
    command: &AgentCommand,
    clients: usize,
    client: impl Fn(usize, Client) + Sync,
) -> Vec<CloseReport> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let connect = |path: &Path| {
        let begun = Instant::now();
        let socket = loop {
            match Client::connect(path) {
                Ok(socket) => break socket,
                Err(error) => assert!(begun.elapsed() < HANG, "{error}"),
            }
            thread::yield_now();
        };
        socket.set_read_timeout(Some(HANG)).expect("a timeout");
        socket
    };
    thread::scope(|scope| {
        for number in 0..clients {
            let (client, path) = (&client, &path);
            scope.spawn(move || client(number, connect(path)));
        }
        LocalEngine::run(async |engine: LocalEngine| {
            let listener = UnixListener::bind(&path).expect("bound");
            let reports = listen(&engine, &listener, command, clients).await;
            assert_eq!((engine.agents(), engine.abandoned()), (0, 0));
            // The eventfd needs no operation, and no agent is left to have one.
            assert_eq!(engine.metrics().io.in_kernel, 0);
            reports
        })
        .expect("io_uring")
    })
}

// A gateway without a second thread: each client must get the answers of its own agent, whole and
// in order.
#[test]
fn clients_and_agents_share_one_thread() {
    if !gets_ring() {
        return;
    }
    let reports = run(&fake(&[]), 8, |number, mut socket| {
        let mut lines = BufReader::new(socket.try_clone().expect("a descriptor")).lines();
        for turn in 0..100 {
            // Two at a time, in pieces that end in the middle of a line.
            let pad = "x".repeat(turn * 100);
            let one = format!("{{\"client\":{number},\"turn\":{turn},\"pad\":\"{pad}\"}}");
            let two = format!("{{\"client\":{number},\"turn\":{turn},\"second\":true}}");
            let both = format!("{one}\n{two}\n");
            let (head, tail) = both.as_bytes().split_at(both.len() / 2);
            socket.write_all(head).expect("written");
            socket.write_all(tail).expect("written");
            assert_eq!(lines.next().expect("an answer").expect("text"), one);
            assert_eq!(lines.next().expect("an answer").expect("text"), two);
        }
        socket.shutdown(Shutdown::Write).expect("ours");
        assert!(lines.next().is_none(), "the end, and nothing before it");
    });
    assert_eq!(reports.len(), 8);
    for report in &reports {
        assert_eq!(report.exit(), ExitStatus::Code(0), "{report}");
        assert_eq!((report.stats().records_in, report.stats().records_out), (200, 200));
        assert_sound(report);
    }
}

// A browser tab is shut in the middle of an answer without end.
#[test]
fn client_that_leaves_ends_its_agent() {
    if !gets_ring() {
        return;
    }
    let reports = run(&fake(&["--flood", "--sigterm-restart"]), 3, |_, mut socket| {
        let mut some = [0; 4096];
        socket.read_exact(&mut some).expect("it floods");
    });
    for report in &reports {
        assert!(report.stats().bytes_in >= 4096, "{report}");
        assert_sound(report);
    }
}

// The client waits for an answer, and its agent is gone. The read on the client's socket is
// pending; only the shutdown ends it.
#[test]
fn dead_agent_ends_its_client() {
    if !gets_ring() {
        return;
    }
    let reports = run(&fake(&["--exit-after", "1", "--exit-code", "7"]), 3, |_, mut socket| {
        socket.write_all(b"{}\n").expect("written");
        let mut all = String::new();
        socket.read_to_string(&mut all).expect("the end comes");
        assert_eq!(all, "{}\n", "what it said before comes first");
    });
    for report in &reports {
        assert_eq!(report.exit(), ExitStatus::Code(7), "{report}");
        assert_gone(report.pid());
    }
}
