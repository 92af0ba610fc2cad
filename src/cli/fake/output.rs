//! stdout of the fake: encodes records, spoils them as the options say, and writes with blocking writes.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::io::Errno;

use super::args::{FakeArgs, Framing, SpoilArgs};
use super::ends::{self, Stop};
use super::signals::TermSignal;

const NOISE: &[u8] = b"[debug] this line is no record";
const MALFORMED: &[u8] = b"{\"type\":\"malformed\",";
const INVALID_UTF8: &[u8] = b"{\"type\":\"invalid_utf8\",\"text\":\"\xff\xfe\xc3\"}";
const FINAL: &[u8] = b"{\"type\":\"tail\",\"text\":\"no newline follows\"}";

/// stdout, and everything that is to be wrong with it.
#[derive(Debug)]
pub(super) struct FakeOutput {
    framing: Rc<Cell<Framing>>,
    newline: &'static [u8],
    spoil: Spoil,
    /// The most bytes of one write(2).
    chunk: usize,
    signals: Rc<TermSignal>,
    scratch: Vec<u8>,
    bom_due: bool,
    records: u64,
    limit: Option<u64>,
    ignore_epipe: bool,
    epipe_marker: Option<PathBuf>,
    /// The pipe is broken or closed, so further output is dropped.
    closed: bool,
}

/// The bytes after each record, and the end of the output.
#[derive(Debug)]
struct Spoil {
    after: Vec<(&'static [u8], Wrap)>,
    no_final_newline: bool,
    truncated_tail: bool,
}

/// Whether an inserted text is a record of the framing or a bare line.
#[derive(Clone, Copy, Debug)]
enum Wrap {
    Record,
    Line,
}

impl Spoil {
    fn new(args: &SpoilArgs) -> Self {
        let all = [
            (args.noise, NOISE, Wrap::Line),
            (args.malformed, MALFORMED, Wrap::Record),
            (args.invalid_utf8, INVALID_UTF8, Wrap::Record),
            (args.blank_lines, b"".as_slice(), Wrap::Line),
        ];
        Self {
            after: all
                .into_iter()
                .filter(|(wanted, ..)| *wanted)
                .map(|(_, bytes, wrap)| (bytes, wrap))
                .collect(),
            no_final_newline: args.no_final_newline,
            truncated_tail: args.truncated_tail,
        }
    }
}

impl FakeOutput {
    pub(super) fn new(
        args: &FakeArgs,
        framing: Rc<Cell<Framing>>,
        signals: Rc<TermSignal>,
    ) -> Self {
        Self {
            framing,
            newline: if args.spoil.crlf { b"\r\n" } else { b"\n" },
            spoil: Spoil::new(&args.spoil),
            chunk: if args.spoil.split_writes { 1 } else { usize::MAX },
            signals,
            scratch: Vec::new(),
            bom_due: args.spoil.bom,
            records: 0,
            limit: args.ends.exit_after,
            ignore_epipe: args.deaf.ignore_epipe,
            epipe_marker: args.ends.epipe_marker.clone(),
            closed: false,
        }
    }

    /// Returns the length of the body of a record of `size` bytes.
    pub(super) fn body_size(&self, size: u64) -> usize {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        match self.framing.get() {
            Framing::Ndjson | Framing::Auto => size.saturating_sub(self.newline.len()),
            Framing::ContentLength | Framing::Concat => size,
        }
    }

    /// Whether the pipe is broken or closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn chunk(&self) -> usize {
        self.chunk
    }

    /// Writes one record and the bytes after it. A handled SIGTERM takes effect before a record, never
    /// within.
    pub(super) fn record(&mut self, body: &[u8]) -> Result<(), Stop> {
        self.between_records()?;
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        self.encode(body, &mut bytes);
        let written = self.write_all(&bytes);
        self.scratch = bytes;
        written?;
        self.count()
    }

    /// Writes one record with a single write(2). If a signal cuts it short, it stays short.
    pub(super) fn record_in_one_write(&mut self, body: &[u8]) -> Result<(), Stop> {
        self.between_records()?;
        let mut bytes = Vec::new();
        self.encode(body, &mut bytes);
        let moved = match rustix::io::write(rustix::stdio::stdout(), &bytes) {
            Ok(moved) => moved,
            Err(Errno::PIPE) => return self.broken(),
            Err(Errno::INTR | Errno::AGAIN) => 0,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        if moved < bytes.len() {
            self.between_records()?;
            self.write_all(&bytes[moved..])?;
        }
        self.count()
    }

    /// Writes bytes unchanged. They do not count as a record.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.between_records()?;
        self.write_all(bytes)
    }

    /// Writes the tail of the output, if there is one. Must come last.
    pub(super) fn tail(&mut self) -> Result<(), Stop> {
        let bytes = match self.framing.get() {
            Framing::Ndjson if self.spoil.no_final_newline => FINAL.to_vec(),
            Framing::Ndjson | Framing::Concat if self.spoil.truncated_tail => {
                FINAL[..FINAL.len() / 2].to_vec()
            }
            Framing::ContentLength if self.spoil.truncated_tail => {
                let mut frame = format!("Content-Length: {}\r\n\r\n", FINAL.len()).into_bytes();
                frame.extend_from_slice(&FINAL[..FINAL.len() / 2]);
                frame
            }
            _ => return Ok(()),
        };
        self.write_all(&bytes)
    }

    /// Closes the pipe. The descriptor becomes /dev/null, so that no other file gets its number.
    pub(super) fn close(&mut self) -> Result<(), Stop> {
        let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(null).map_err(io::Error::from)?;
        self.closed = true;
        Ok(())
    }

    /// Appends one encoded record and the bytes after it.
    pub(super) fn encode(&mut self, body: &[u8], bytes: &mut Vec<u8>) {
        if std::mem::take(&mut self.bom_due) {
            bytes.extend_from_slice(b"\xef\xbb\xbf");
        }
        // An echoed line with CR LF keeps one CR.
        let body =
            if self.newline.len() > 1 { body.strip_suffix(b"\r").unwrap_or(body) } else { body };
        self.wrap(body, Wrap::Record, bytes);
        for (text, wrap) in &self.spoil.after {
            self.wrap(text, *wrap, bytes);
        }
    }

    fn wrap(&self, body: &[u8], wrap: Wrap, bytes: &mut Vec<u8>) {
        match (self.framing.get(), wrap) {
            (Framing::ContentLength, Wrap::Record) => {
                bytes.extend_from_slice(
                    format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
                );
                bytes.extend_from_slice(body);
            }
            (Framing::Concat, Wrap::Record) => bytes.extend_from_slice(body),
            (Framing::Ndjson | Framing::Auto, _) | (_, Wrap::Line) => {
                bytes.extend_from_slice(body);
                bytes.extend_from_slice(self.newline);
            }
        }
    }

    /// Writes the marker of a broken pipe. Fails if the broken pipe ends the agent.
    pub(super) fn broken(&mut self) -> Result<(), Stop> {
        self.closed = true;
        if let Some(path) = &self.epipe_marker {
            ends::write_whole(path, b"EPIPE\n")?;
        }
        if self.ignore_epipe { Ok(()) } else { Err(Stop::BrokenPipe) }
    }

    fn between_records(&self) -> Result<(), Stop> {
        if self.signals.terminated() { Err(Stop::Terminated) } else { Ok(()) }
    }

    fn count(&mut self) -> Result<(), Stop> {
        self.records += 1;
        if self.limit.is_some_and(|limit| self.records >= limit) {
            return Err(Stop::Enough);
        }
        Ok(())
    }

    /// Writes everything, even if signals arrive.
    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        if self.closed {
            return Ok(());
        }
        while !bytes.is_empty() {
            let chunk = &bytes[..bytes.len().min(self.chunk)];
            match rustix::io::write(rustix::stdio::stdout(), chunk) {
                Ok(moved) => bytes = &bytes[moved..],
                Err(Errno::INTR) => {}
                // The host may have passed a descriptor in non-blocking mode.
                Err(Errno::AGAIN) => self.wait_for_room()?,
                Err(Errno::PIPE) => return self.broken(),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(())
    }

    fn wait_for_room(&self) -> io::Result<()> {
        self.signals.wait_on(false, true, None)?;
        Ok(())
    }
}
