//! Closing real agents that misbehave: through the library, and through `agentpipe run`.

mod agents;
mod container;
mod crossed;
mod group;
mod host;
mod matrix;
mod run;
mod strays;
#[path = "../support/mod.rs"]
mod support;
mod sys;
