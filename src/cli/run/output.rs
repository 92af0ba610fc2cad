//! F5. The agent's records to own stdout, and only they; everything else is a line on stderr.

use std::io::{self, Write};
use std::task::{Context, Poll, Waker};

use agentpipe::{AgentReader, Event, Framing, Record};

use super::say;

/// Passes events on until the agent is gone. An error is one of own stdout.
pub(super) fn pass(reader: &mut AgentReader, framing: Framing) -> io::Result<()> {
    let mut stdout = io::BufWriter::with_capacity(64 << 10, io::stdout().lock());
    loop {
        let event = match reader.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(event) => event,
            Poll::Pending => {
                // Nothing more is there: what was written must not wait for it.
                stdout.flush()?;
                reader.next_blocking()
            }
        };
        match event {
            None => return stdout.flush(),
            Some(Event::Record(record)) => write_record(&mut stdout, &record, framing)?,
            Some(other) => tell(&other),
        }
    }
}

fn write_record(out: &mut impl Write, record: &Record, framing: Framing) -> io::Result<()> {
    match framing {
        Framing::ContentLength => {
            write!(out, "Content-Length: {}\r\n\r\n", record.len())?;
            out.write_all(record.as_bytes())
        }
        _ => {
            out.write_all(record.as_bytes())?;
            out.write_all(b"\n")
        }
    }
}

fn tell(event: &Event) {
    match event {
        Event::Noise(sample) => say(format_args!("noise: {sample}")),
        Event::Oversized(sample) => say(format_args!("oversized record: {sample}")),
        Event::Malformed { reason, sample } => {
            say(format_args!("malformed record ({}): {sample}", reason.name()));
        }
        Event::Truncated(sample) => say(format_args!("truncated record: {sample}")),
        // The agent's own words, as if it had kept the stderr of this process.
        Event::Stderr(line) => {
            let _nobody_reads = writeln!(io::stderr().lock(), "{line}");
        }
        _ => {}
    }
}
