//! Traces on stderr, if `RUST_LOG` asks for them: `RUST_LOG=agentpipe::close=debug`.

use std::io;

use tracing_subscriber::EnvFilter;

use super::say;

/// Without the variable nothing is written and nothing is paid for. `writer` is asked for by the
/// threads of the engine, one line at a time.
pub(super) fn start<W: io::Write + 'static>(writer: impl Fn() -> W + Send + Sync + 'static) {
    let Ok(wanted) = std::env::var("RUST_LOG") else { return };
    match EnvFilter::try_new(&wanted) {
        Ok(filter) => {
            // Nobody else in this program installs one.
            let _only = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_writer(writer)
                .with_ansi(false)
                .try_init();
        }
        Err(error) => say(format_args!("RUST_LOG is not understood, no traces: {error}")),
    }
}
