//! The `agentpipe` command as its users see it: `run`, `doctor`, `fake`, `bench` and `gate`.

mod bench;
mod doctor;
mod fake;
mod gate;
mod run;
#[path = "../support/mod.rs"]
mod support;
