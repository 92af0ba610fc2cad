//! Closing real agents that misbehave: through the library, and through `agentpipe run`.

mod crossed;
mod matrix;
mod run;
mod support;
