//! F5. The close report: written as soon as the close is done, whatever stdout is doing.

use std::io::{self, Write};
use std::path::Path;
use std::thread::JoinHandle;

use agentpipe::{AgentWriter, ExitStatus};

use super::{Args, say};

/// Waits for the close in a thread of its own. The thread's result: how the agent ended, and
/// whether the report could be written.
pub(super) fn start(args: &Args, writer: AgentWriter) -> JoinHandle<(ExitStatus, bool)> {
    let target = args.report.clone();
    let quiet = args.quiet;
    std::thread::spawn(move || {
        let report = writer.closed_blocking();
        if !quiet {
            say(format_args!("{report}"));
        }
        let written = match target.as_deref().map(|path| write(path, &report.to_json())) {
            Some(Err(error)) => {
                let path = target.unwrap_or_default();
                say(format_args!("cannot write the report to {}: {error}", path.display()));
                false
            }
            Some(Ok(())) | None => true,
        };
        (report.exit(), written)
    })
}

fn write(path: &Path, json: &str) -> io::Result<()> {
    if path == Path::new("-") {
        return writeln!(io::stderr().lock(), "{json}");
    }
    std::fs::write(path, format!("{json}\n"))
}
