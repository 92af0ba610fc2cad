//! Parses the command line. A usage error is one line, like every other error.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use super::{Cli, say};

/// The exit code of a usage error.
const USAGE: u8 = 2;

/// Parses the arguments of this process. Prints help, version or error itself, and then returns the exit
/// code as the error.
pub(super) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| match error.kind() {
        // The help is printed on stdout if the user asked for it, and on stderr without a subcommand.
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _printed = error.print();
            ExitCode::from(if error.use_stderr() { USAGE } else { 0 })
        }
        _ => {
            say(format_args!("{}", one_line(&error.to_string())));
            ExitCode::from(USAGE)
        }
    })
}

/// Joins the paragraphs of the parser: the error, tips, the usage, a reference to the help.
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
    fn usage_error_is_one_line() {
        let text = "error: the following required arguments were not provided:\n  <CMD>...\n\n\
            Usage: agentpipe run -- <CMD>...\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(text),
            "the following required arguments were not provided: <CMD>...; \
             usage: agentpipe run -- <CMD>...; more with --help"
        );
    }
}
