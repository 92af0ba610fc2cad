//! Closing real agents that misbehave: through the library, and through `agentpipe run`.

mod crossed;
mod group;
mod host;
mod matrix;
mod run;
mod support;
mod sys;
