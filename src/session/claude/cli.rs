//! Floor 4. What a session is started on.

use crate::command::AgentCommand;

use super::options::Options;

/// What [`Builder::start`](super::Builder::start) spawns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cli {
    /// The CLI with these options, and with what the session needs of it: the permission prompt
    /// over stdio if there is a handler, the MCP servers of this process.
    Options(Box<Options>),
    /// A command that is complete; nothing is added to it.
    Command(Box<AgentCommand>),
}

impl From<Options> for Cli {
    fn from(options: Options) -> Self {
        Self::Options(Box::new(options))
    }
}

impl From<AgentCommand> for Cli {
    fn from(command: AgentCommand) -> Self {
        Self::Command(Box::new(command))
    }
}
