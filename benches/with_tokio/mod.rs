//! The built-in agent as a child of tokio.

use std::process::Stdio;

use tokio::process::{Child, Command};
use tokio::runtime::{Builder, Runtime};

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Call it inside the runtime.
pub(crate) fn child(agent: &str, args: &[String]) -> Child {
    Command::new(agent)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the built-in agent starts")
}
