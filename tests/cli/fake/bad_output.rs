//! Output that is not what a host hopes for.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use super::{converse, json, text};
use crate::support::PROGRAM;

// A datagram socket keeps the boundaries of every write(2).
#[test]
fn split_writes_carry_one_byte_each() {
    let (ours, theirs) = UnixDatagram::pair().expect("sockets");
    let mut child = Command::new(PROGRAM)
        .args(["fake", "--split-writes", "--records", "1", "--record-size", "64"])
        .stdin(Stdio::null())
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("the program starts");
    let mut buffer = [0; 128];
    for _ in 0..64 {
        assert_eq!(ours.recv(&mut buffer).expect("a byte"), 1);
    }
    assert_eq!(child.wait().expect("our child").code(), Some(0));
}

#[test]
fn last_record_can_lack_its_newline() {
    let output = text(&["--no-final-newline"], "{}\n");
    let (first, last) = output.split_once('\n').expect("one newline");
    assert_eq!(first, "{}");
    assert_eq!(json(last.as_bytes())["type"], "tail");
}

#[test]
fn last_record_can_be_truncated() {
    let output = text(&["--truncated-tail"], "{}\n");
    assert_eq!(output, "{}\n{\"type\":\"tail\",\"text\"");
    let output = text(&["--truncated-tail", "--framing", "content-length"], "");
    assert_eq!(output, "Content-Length: 43\r\n\r\n{\"type\":\"tail\",\"text\"");
}

#[test]
fn bad_lines_stand_between_good_ones() {
    assert_eq!(text(&["--noise"], "{}\n"), "{}\n[debug] this line is no record\n");
    assert_eq!(text(&["--malformed"], "{}\n"), "{}\n{\"type\":\"malformed\",\n");
    assert_eq!(text(&["--blank-lines"], "{}\n"), "{}\n\n");
    assert_eq!(text(&["--bom"], "{}\n{}\n"), "\u{feff}{}\n{}\n");
    assert_eq!(text(&["--crlf"], "{}\n{}\r\n"), "{}\r\n{}\r\n");
    let (output, _) = converse(&["--invalid-utf8"], "{}\n");
    assert!(output.starts_with(b"{}\n{") && output.ends_with(b"}\n"));
    assert!(std::str::from_utf8(&output).is_err());
}
