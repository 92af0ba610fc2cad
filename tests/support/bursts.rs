//! Output in bursts: more than a pipe holds, in records of any size.

use std::fs;

use agentpipe::{AgentCommand, Framing, Limits, Record};
use tempfile::TempDir;

/// A file of records, and an agent that writes it as fast as it is read.
pub(crate) struct Burst {
    _folder: TempDir,
    records: Vec<String>,
    pub(crate) command: AgentCommand,
    /// The length of the file.
    pub(crate) bytes: u64,
}

impl Burst {
    pub(crate) fn new(framing: Framing) -> Self {
        let sizes = [20, 300, 4096, 70_000, 9, 65_535, 52_428, 300_000, 8192, 33_000, 1_100_000];
        let record = |number: usize| {
            let size = sizes[number * 7 % sizes.len()] + number % 5;
            format!("{{\"n\":{number},\"x\":\"{}\"}}", "abcdefg".repeat(size / 7))
        };
        let records: Vec<String> = (0..220).map(record).collect();
        let frame = |record: &String| match framing {
            Framing::ContentLength => format!("Content-Length: {}\r\n\r\n{record}", record.len()),
            _ => format!("{record}\n"),
        };
        let all: String = records.iter().map(frame).collect();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("records");
        fs::write(&path, &all).expect("written");
        // The reader is slower than `cat`, so reading pauses often.
        let limits = Limits::new().inbox_high(300_000);
        let command = AgentCommand::new("cat").arg(path).framing(framing).limits(limits);
        Self { _folder: folder, records, command, bytes: all.len() as u64 }
    }

    /// Checks all records that came, at the end: memory that is used again too soon shows only then.
    pub(crate) fn check(&self, received: &[Record]) {
        assert_eq!(received.len(), self.records.len());
        for (number, (record, written)) in received.iter().zip(&self.records).enumerate() {
            assert!(record.as_bytes() == written.as_bytes(), "record {number} is another one");
        }
    }
}
