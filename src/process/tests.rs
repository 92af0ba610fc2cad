//! Spawns of small real programs: `sh`, `cat`, `sleep`.

mod errno;
mod exit;
mod forked;
mod inherit;
mod limits;
mod options;
mod refused;

use std::fs::{self, File};
use std::io::{ErrorKind as Io, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::AgentProcess;
use super::spawn::{Parts, spawn};
use crate::close::ExitStatus;
use crate::command::AgentCommand;

/// A generous limit: no wait takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(command: &AgentCommand) -> Parts {
    spawn(command).expect("spawns").into_parts()
}

fn shell(script: &str) -> AgentCommand {
    AgentCommand::new("/bin/sh").arg("-c").arg(script)
}

/// Waits for an event on the descriptor.
fn await_readable(fd: impl AsFd, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).expect("a short time");
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    assert_eq!(
        poll(&mut polled, Some(&left)).expect("poll"),
        1,
        "nothing happened in {PATIENCE:?}"
    );
}

/// Reads up to the end of the pipe, which comes when its last holder is gone.
fn read_to_end(fd: OwnedFd) -> String {
    let mut text = Vec::new();
    read_until(&mut File::from(fd), &mut text, |_| false);
    String::from_utf8(text).expect("UTF-8")
}

/// Reads one line, without its end.
fn read_line(fd: &OwnedFd) -> String {
    let mut text = Vec::new();
    let mut file = File::from(fd.try_clone().expect("a descriptor"));
    read_until(&mut file, &mut text, |text| text.ends_with(b"\n"));
    String::from_utf8(text).expect("UTF-8").trim_end().to_owned()
}

fn read_until(file: &mut File, text: &mut Vec<u8>, done: impl Fn(&[u8]) -> bool) {
    let until = Instant::now() + PATIENCE;
    let mut chunk = [0; 4096];
    while !done(text) {
        match file.read(&mut chunk) {
            Ok(0) => return,
            Ok(len) => text.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == Io::WouldBlock => await_readable(&*file, until),
            Err(error) => panic!("read: {error}"),
        }
    }
}

/// Waits for the exit on the pidfd, and reaps.
fn reap(parts: &mut Parts) -> ExitStatus {
    await_readable(&parts.pidfd, Instant::now() + PATIENCE);
    assert!(parts.child.has_exited());
    parts.child.try_reap().expect("it has exited")
}

/// Runs an agent: its output, and how it ended.
fn run(command: &AgentCommand) -> (String, ExitStatus) {
    let mut parts = start(command);
    drop(parts.stdin);
    let text = read_to_end(parts.stdout);
    let said = read_to_end(parts.stderr);
    assert_eq!(said, "", "on stderr");
    await_readable(&parts.pidfd, Instant::now() + PATIENCE);
    (text, parts.child.try_reap().expect("it has exited"))
}

fn write_file(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Whether a process exists, as a zombie or alive.
fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Makes this thread alone unprivileged, so that root gets the results of a user. Does nothing without
/// root.
fn become_nobody() {
    if rustix::process::geteuid().is_root() {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may");
    }
}
