//! An agent as a transport of rmcp: its clients then have agentpipe's close.
//!
//! ```sh
//! cd docs/examples/rmcp
//! cargo run                                   # against a server of this program
//! cargo run -- my-mcp-server --its-flags      # against another one
//! ```

use std::env;

use agentpipe::{AgentCommand, AgentReader, AgentWriter, Engine, Error, Event, Record};
use rmcp::model::{
    JsonObject, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use rmcp::{ErrorData, RoleClient, ServerHandler, ServiceExt};

/// The two halves of an agent.
struct AgentTransport {
    reader: AgentReader,
    writer: AgentWriter,
}

impl Transport<RoleClient> for AgentTransport {
    type Error = Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let writer = self.writer.clone();
        async move { writer.send(Record::from_json(&message)?).await }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        while let Some(event) = self.reader.next().await {
            match event {
                Event::Record(record) => match record.json() {
                    Ok(message) => return Some(message),
                    Err(error) => eprintln!("{error}"),
                },
                Event::Exit(_) => return None,
                other => eprintln!("{other:?}"),
            }
        }
        None
    }

    async fn close(&mut self) -> Result<(), Error> {
        println!("-- {}", self.writer.close().await);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let command = match args.next() {
        Some(serve) if serve == "serve" => return serve_stdio().await,
        Some(program) => AgentCommand::new(program).args(args),
        None => AgentCommand::new(env::current_exe()?).arg("serve"),
    };
    let (reader, writer) = Engine::new()?.spawn(command).await?.split();
    let client = ().serve(AgentTransport { reader, writer }).await?;
    for tool in client.list_all_tools().await? {
        println!("  {}: {}", tool.name, tool.description.unwrap_or_default());
    }
    client.cancel().await?;
    Ok(())
}

/// A server with one tool, so that the example needs no other program.
struct Adder;

impl ServerHandler for Adder {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let add = Tool::new("add", "Adds two numbers", JsonObject::new());
        Ok(ListToolsResult::with_all_items(vec![add]))
    }
}

async fn serve_stdio() -> Result<(), Box<dyn std::error::Error>> {
    Adder.serve(rmcp::transport::stdio()).await?.waiting().await?;
    Ok(())
}
