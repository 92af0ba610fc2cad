//! F5. SIGINT, SIGTERM, SIGHUP: the first closes the agent gracefully, the second aborts it, one
//! after the close ends this process even if its stdout is blocked.

use std::io;

use agentpipe::{AgentWriter, ClosePolicy};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Args;

pub(super) fn start(args: &Args, writer: AgentWriter) -> io::Result<()> {
    let policy = args.policy();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for (seen, signal) in signals.forever().enumerate() {
            if writer.close_report().is_some() {
                // Nothing is left but own stdout, and nobody waits for that any more.
                let _never_returns = signal_hook::low_level::emulate_default_handler(signal);
                return;
            }
            let policy = if seen == 0 { policy } else { ClosePolicy::abort() };
            let writer = writer.clone();
            std::thread::spawn(move || writer.close_with_blocking(policy));
        }
    });
    Ok(())
}
