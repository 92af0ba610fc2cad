//! A server on a Unix socket: each client gets an agent. What the client writes goes to the agent, and
//! what the agent writes goes to the client. Sockets, pipes and this program share one thread.
//!
//! ```sh
//! cargo run --features tokio-uring --example tokio_uring_socket -- /tmp/agents.sock my-agent --its-flags
//! nc -U /tmp/agents.sock
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]
#![expect(clippy::print_stderr, reason = "an example shows what it does")]

use std::env;
use std::error::Error;
use std::fs;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use agentpipe::{AgentCommand, CloseReport, LocalAgentWriter, LocalEngine};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_uring::net::UnixStream;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let path = args.next().unwrap_or_else(|| "/tmp/agents.sock".to_owned());
    let command = AgentCommand::new(args.next().unwrap_or_else(|| "cat".to_owned())).args(args);
    // Starts a tokio-uring runtime on this thread, with an engine in it.
    let outcome =
        LocalEngine::run(async |engine: LocalEngine| listen(engine, &path, command).await)?;
    fs::remove_file(&path)?;
    outcome
}

/// Serves clients until SIGTERM, then closes all agents.
async fn listen(
    engine: LocalEngine,
    path: &str,
    command: AgentCommand,
) -> Result<(), Box<dyn Error>> {
    // The listener is tokio's, which works in tokio-uring's runtime. The one of tokio-uring asks for
    // SO_REUSEPORT, and newer kernels refuse that for a Unix socket.
    let listener = UnixListener::bind(path)?;
    let mut terminate = signal(SignalKind::terminate())?;
    println!("listening on {path}");
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted?.0.into_std()?,
            _ = terminate.recv() => break,
        };
        // tokio-uring waits in the kernel, and a non-blocking socket would not.
        client.set_nonblocking(false)?;
        let client = Rc::new(UnixStream::from_std(client));
        let (engine, command) = (engine.clone(), command.clone());
        tokio_uring::spawn(async move {
            match serve(engine, client, command).await {
                Ok(report) => println!("{report}"),
                Err(error) => eprintln!("{error}"),
            }
        });
    }
    let report = engine.shutdown(Duration::from_secs(10)).await;
    println!("closed {} agents, {} of them aborted", report.agents, report.aborted);
    Ok(())
}

/// Serves one client until its agent has no more to say, or the client is gone.
async fn serve(
    engine: LocalEngine,
    client: Rc<UnixStream>,
    command: AgentCommand,
) -> Result<CloseReport, agentpipe::Error> {
    let (mut agent, input) = engine.spawn(command).await?.split();
    let sending = tokio_uring::spawn(send_lines(Rc::clone(&client), input));
    while let Some(record) = agent.next_record().await {
        let mut line = record.as_bytes().to_vec();
        line.push(b'\n');
        // A client that is gone reads no more: the agent is closed below.
        let (Ok(()), _) = client.write_all(line).await else { break };
    }
    // Ends the read in `send_lines`. Dropping that task would not: the read is in the kernel.
    let _gone = client.shutdown(Shutdown::Both);
    let _sent = sending.await;
    Ok(agent.close().await)
}

/// Sends the client's lines to the agent. The agent's input ends with the client's: `input` is dropped.
async fn send_lines(client: Rc<UnixStream>, input: LocalAgentWriter) {
    let (mut chunk, mut rest) = (vec![0; 64 << 10], Vec::new());
    loop {
        // The kernel owns the buffer during the read, so it goes in and comes back.
        let (read, buffer) = client.read(chunk).await;
        let Ok(count @ 1..) = read else { return };
        chunk = buffer;
        rest.extend_from_slice(&chunk[..count]);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            // Waits while the agent is behind, and the client with it. A line that is not JSON is
            // refused before a byte of it is sent.
            if let Err(error) = input.send(&line[..end]).await {
                eprintln!("{error}");
                return;
            }
        }
    }
}
