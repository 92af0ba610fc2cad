//! An MCP client over an agent: MCP 2026-07-28 (the modern era), 2025-11-25 and older (the legacy era).
//!
//! [`Builder::connect`] starts the server and finds out its era. From then on, [`Client`] is the same
//! for both.

mod builder;
mod bus;
mod call;
mod client;
mod connection;
mod era;
mod input;
mod listen;
mod restart;
#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use call::Call;
pub use client::Client;
pub use era::{Era, Server};
pub use listen::{Filter, Subscription, Update};
