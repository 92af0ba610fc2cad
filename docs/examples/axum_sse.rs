//! A web server that runs an agent for each request and streams its records as server-sent events.
//! SIGTERM or Ctrl-C closes all agents, each in its own time, and then the server.
//!
//! ```sh
//! cargo run --example axum_sse -- 127.0.0.1:8080 my-agent --its-flags
//! curl -N -d '{"question":1}' http://127.0.0.1:8080/run
//! ```
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::convert::Infallible;
use std::env;
use std::sync::Arc;
use std::time::Duration;

use agentpipe::{Agent, AgentCommand, Engine};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::post;
use futures_util::stream::{Stream, unfold};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// What every request shares. The engine is cheap to clone, too.
struct Host {
    engine: Engine,
    command: AgentCommand,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let command = AgentCommand::new(args.next().unwrap_or_else(|| "cat".to_owned())).args(args);

    let engine = Engine::new()?;
    let host = Arc::new(Host { engine: engine.clone(), command });
    let router = Router::new().route("/run", post(run)).with_state(host);

    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router).with_graceful_shutdown(stop(engine)).await?;
    Ok(())
}

/// Runs an agent on the body of the request: one record.
async fn run(
    State(host): State<Arc<Host>>,
    record: String,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, (StatusCode, String)> {
    // The error says what failed and what to do: a missing program, a limit of the host, bad JSON.
    let failed = |error: agentpipe::Error| (StatusCode::BAD_GATEWAY, error.to_string());
    let agent = host.engine.spawn(host.command.clone()).await.map_err(failed)?;
    agent.send(record).await.map_err(failed)?;
    // There is no second record, so the agent may leave once it has answered.
    agent.end_input();
    Ok(Sse::new(events(agent)).keep_alive(KeepAlive::default()))
}

/// The agent's records, then the report of its close.
///
/// A client that goes away drops this stream and with it the agent, which the engine then aborts. A
/// slow client holds back its own agent: records wait in the pipe, not in memory.
fn events(agent: Agent) -> impl Stream<Item = Result<Event, Infallible>> {
    unfold(Some(agent), |agent| async {
        let mut agent = agent?;
        if let Some(record) = agent.next_record().await {
            let text = String::from_utf8_lossy(record.as_bytes());
            // JSON may have carriage returns between its tokens, an event may not.
            return Some((Ok(Event::default().data(text.replace('\r', " "))), Some(agent)));
        }
        let report = agent.close().await;
        Some((Ok(Event::default().event("closed").data(report.to_string())), None))
    })
}

/// Waits for a signal, then closes all agents. Their streams end with the report, so the connections
/// do, and then the server.
async fn stop(engine: Engine) {
    // Without the handler the default action of the signal would end the process at once.
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let report = engine.shutdown(Duration::from_secs(10)).await;
    println!("closed {} agents, {} of them aborted", report.agents, report.aborted);
}
