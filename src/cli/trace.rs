//! Traces on stderr, as `RUST_LOG` selects them: `RUST_LOG=agentpipe::close=debug`.

use std::io;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::say;

/// Installs the subscriber. Without `RUST_LOG` there is none, and a trace costs nothing. The engine's
/// threads call `writer` once for each line.
pub(super) fn start<W: io::Write + 'static>(writer: impl Fn() -> W + Send + Sync + 'static) {
    let Ok(wanted) = std::env::var("RUST_LOG") else { return };
    // `Targets` takes such a filter for the name of a target, which selects nothing.
    if wanted.contains('[') {
        return say(format_args!(
            "RUST_LOG: a filter by span or field is not supported, no traces"
        ));
    }
    match wanted.parse::<Targets>() {
        Ok(targets) => {
            let lines = fmt::layer().with_writer(writer).with_ansi(false);
            // Fails only if there is a subscriber already, and nothing else installs one.
            let _installed = tracing_subscriber::registry().with(lines).with(targets).try_init();
        }
        Err(error) => say(format_args!("RUST_LOG cannot be parsed, no traces: {error}")),
    }
}
