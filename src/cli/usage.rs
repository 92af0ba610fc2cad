//! F5: what the parser says, with usage errors as one line like every other error.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use super::{Cli, say};

/// The command was not understood.
const USAGE: u8 = 2;

/// Parses the own arguments. An error is the exit code; what there is to say was said.
pub(super) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| match error.kind() {
        // Asked for, or no subcommand at all: the help is the answer, on the stream it belongs to.
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _nobody_reads = error.print();
            ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
        }
        _ => {
            say(format_args!("{}", one_line(&error.to_string())));
            ExitCode::from(USAGE)
        }
    })
}

/// The parser writes paragraphs: what is wrong, tips, the usage, where the help is.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut parts: Vec<String> = text
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|part| !part.is_empty() && !part.starts_with("For more information"))
        .map(|part| part.replacen("Usage: ", "usage: ", 1))
        .collect();
    parts.push("more with --help".to_owned());
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn a_usage_error_is_one_line_with_its_cause() {
        let text = "error: the following required arguments were not provided:\n  <CMD>...\n\n\
            Usage: agentpipe run -- <CMD>...\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(text),
            "the following required arguments were not provided: <CMD>...; \
             usage: agentpipe run -- <CMD>...; more with --help"
        );
    }
}
