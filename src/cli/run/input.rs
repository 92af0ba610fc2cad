//! F5. Own stdin, record by record, to the agent; at its end the agent is closed.

use std::io::{self, BufRead, Read};

use agentpipe::{AgentWriter, Framing};

use super::{Args, say};

/// A header block longer than this is no header.
const HEADER_MAX: u64 = 8 << 10;

/// Feeds the agent from a thread of its own, which may still be reading when the agent is gone.
pub(super) fn start(args: &Args, writer: AgentWriter) {
    let framing = args.framing.into();
    let limit = args.record_max.unwrap_or(16 << 20);
    let policy = args.policy();
    std::thread::spawn(move || {
        let result = match framing {
            Framing::ContentLength => content_length(io::stdin().lock(), limit, &writer),
            _ => lines(io::stdin().lock(), limit, &writer),
        };
        if let Err(error) = result {
            say(format_args!("reading stdin failed: {error}; taken for its end"));
        }
        writer.close_with_blocking(policy);
    });
}

/// False once the agent takes no more.
fn send(writer: &AgentWriter, record: &[u8]) -> bool {
    match writer.send_blocking(record) {
        Ok(()) => true,
        Err(error) if error.is_closed() => {
            if writer.close_report().is_none() {
                say(format_args!("{error}"));
            }
            false
        }
        Err(error) => {
            // One bad record is one bad record, on this side too.
            say(format_args!("{error}"));
            true
        }
    }
}

fn lines(mut stdin: impl BufRead, limit: u64, writer: &AgentWriter) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        // Room for the line end, and one byte more to see that it is too long.
        if stdin.by_ref().take(limit + 3).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let whole = line.ends_with(b"\n");
        if !whole && line.len() as u64 > limit {
            let rest = stdin.skip_until(b'\n')?;
            let len = line.len() + rest;
            say(format_args!(
                "write: a line of {len} bytes on stdin is above the limit of {limit}"
            ));
            continue;
        }
        let record = line.trim_ascii();
        if !record.is_empty() && !send(writer, record) {
            return Ok(());
        }
    }
}

fn content_length(mut stdin: impl BufRead, limit: u64, writer: &AgentWriter) -> io::Result<()> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut body = Vec::new();
    while let Some(length) = header(&mut stdin)? {
        if length > limit {
            say(format_args!("write: a record of {length} bytes is above the limit of {limit}"));
            io::copy(&mut stdin.by_ref().take(length), &mut io::sink())?;
            continue;
        }
        body.clear();
        if stdin.by_ref().take(length).read_to_end(&mut body)? as u64 != length {
            return Err(bad("it ended inside a record"));
        }
        if !send(writer, &body) {
            return Ok(());
        }
    }
    Ok(())
}

/// The length that the next header block gives; `None` at the end of stdin.
fn header(stdin: &mut impl BufRead) -> io::Result<Option<u64>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut length = None;
    let mut line = String::new();
    let mut stdin = stdin.take(HEADER_MAX);
    loop {
        line.clear();
        if stdin.read_line(&mut line)? == 0 {
            return match (length, stdin.limit()) {
                (_, 0) => Err(bad("a header of more than 8 KiB")),
                (Some(_), _) => Err(bad("it ended inside a header")),
                (None, _) => Ok(None),
            };
        }
        let text = line.trim();
        if text.is_empty() {
            match length {
                Some(length) => return Ok(Some(length)),
                None => continue,
            }
        }
        if let Some((name, value)) = text.split_once(':')
            && name.trim().eq_ignore_ascii_case("content-length")
        {
            let value = value.trim().parse();
            length = Some(value.map_err(|_| bad("a Content-Length that is no number"))?);
        }
    }
}
