//! A container as an agent: its client (`docker run`, `podman run`) is the process that is spawned, and
//! the container is a process of another service, which survives whatever ends the client.
//!
//! The client writes the container's id into a file in a private folder. When the client is reaped, a
//! thread reads it and runs `docker rm -f ID` within a limit. The engine thread only waits for an
//! eventfd.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::agent_process::AgentProcess;
use super::child::REAP_MAX;
use super::error::{SPAWN, invalid, quoted};
use super::spawn::{Parts, spawn_guarded};
use super::sys::poll_until;
use crate::close::{ContainerEnd, ExitStatus};
use crate::command::AgentCommand;
use crate::error::{Error, ErrorKind};

/// How many names of a folder are tried: another user may have taken one.
const NAMES_MAX: usize = 64;
/// How much is read of the file with the id, and of what a failed removal says.
const READ_MAX: u64 = 4096;

/// The container of one agent. Dropped before it was removed, it is removed in the background.
#[derive(Debug)]
pub(crate) struct Container {
    removal: Option<Removal>,
    end: Arc<Mutex<Option<ContainerEnd>>>,
}

/// All that the removal needs.
#[derive(Debug)]
struct Removal {
    folder: PathBuf,
    /// The command of the client, without its arguments.
    command: AgentCommand,
    /// The arguments of the client before `run`.
    prefix: Vec<OsString>,
    limit: Duration,
}

impl Container {
    /// Makes the folder for the id. Returns the container and the arguments of its client.
    pub(super) fn create(
        command: &AgentCommand,
        user: Option<(Uid, Gid)>,
    ) -> Result<(Self, Vec<OsString>), Error> {
        let args = &command.args;
        let is_option = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"--cidfile");
        if args.iter().any(is_option) {
            return Err(invalid("a container agent has its own `--cidfile`: leave yours out"));
        }
        let Some(run) = args.iter().position(|arg| arg == "run") else {
            let program = quoted(&command.program);
            return Err(invalid(format!("a container agent has no argument `run` for {program}")));
        };
        let folder = make_folder(user)?;
        let mut with_file = args[..=run].to_vec();
        with_file.push("--cidfile".into());
        with_file.push(folder.join("cid").into());
        with_file.extend_from_slice(&args[run + 1..]);
        let client = command.clone().no_new_privs(command.no_new_privs.unwrap_or(false));
        let removal = Removal {
            folder,
            command: AgentCommand {
                args: Vec::new(),
                passed: Vec::new(),
                cgroup: None,
                die_with_parent: false,
                container: false,
                ..client
            },
            prefix: args[..run].to_vec(),
            limit: command.close.get_remove(),
        };
        Ok((Self { removal: Some(removal), end: Arc::default() }, with_file))
    }

    /// Begins to remove the container, once. The descriptor is readable when that has ended; `None` if
    /// there is nothing to wait for.
    pub(super) fn remove(&mut self, limit: Duration) -> Option<OwnedFd> {
        let mut removal = self.removal.take()?;
        removal.limit = limit;
        let end = Arc::clone(&self.end);
        let begun = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .and_then(|done| Ok((done.try_clone().map_err(of_io)?, done)))
            .and_then(|(done, waited)| in_background(removal, end, done).map(|()| waited));
        begun.inspect_err(|error| self.set_end(unknown(format!("no thread: {error}")))).ok()
    }

    fn set_end(&self, end: ContainerEnd) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }

    /// Returns what became of the container, as far as it is known now.
    pub(super) fn end(&self) -> ContainerEnd {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).clone();
        end.unwrap_or_else(|| unknown("its removal did not end in time".to_owned()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(removal) = self.removal.take() {
            // Nothing waits for it, as the drop of a handle must not.
            let begun = eventfd(0, EventfdFlags::CLOEXEC)
                .and_then(|done| in_background(removal, Arc::clone(&self.end), done));
            if let Err(error) = begun {
                crate::trace::error!(%error, "the container of a dropped agent is not removed");
            }
        }
    }
}

fn of_io(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Runs the removal on a thread, which writes `done` at its end. Nothing joins it.
fn in_background(
    removal: Removal,
    end: Arc<Mutex<Option<ContainerEnd>>>,
    done: OwnedFd,
) -> Result<(), Errno> {
    let work = move || {
        let result = removal.run();
        if result.removed != Some(true) {
            crate::trace::warn!(note = ?result.note, "a container may be left");
        }
        *end.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        // The counter starts at 0, so it has room.
        let _written = rustix::io::write(&done, &1_u64.to_ne_bytes());
    };
    let thread = std::thread::Builder::new().name("agentpipe-remove".into());
    thread.spawn(work).map(drop).map_err(of_io)
}

impl Removal {
    fn run(&self) -> ContainerEnd {
        let until = Instant::now() + self.limit;
        let id = read_id(&self.folder.join("cid"));
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            crate::trace::warn!(folder = %self.folder.display(), %error, "folder not removed");
        }
        let Some(id) = id else {
            return unknown("its client wrote no container id".to_owned());
        };
        let args = self.prefix.iter().map(OsString::as_os_str);
        let args = args.chain(["rm", "-f", &id].map(OsStr::new));
        match spawn_guarded(&self.command.clone().args(args), None) {
            Ok(spawned) => await_removal(spawned.into_parts(), &id, until),
            Err(error) => ContainerEnd { removed: Some(false), note: Some(error.to_string()) },
        }
    }
}

fn unknown(note: String) -> ContainerEnd {
    ContainerEnd { removed: None, note: Some(note) }
}

/// Returns the id, if the client has written one: hexadecimal digits.
fn read_id(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(READ_MAX).read_to_string(&mut text).ok()?;
    let id = text.trim();
    // The id becomes an argument, and the folder may belong to the agent's user.
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then(|| id.to_owned())
}

fn await_removal(mut parts: Parts, id: &str, until: Instant) -> ContainerEnd {
    drop(parts.stdin);
    while let Err(Errno::INTR) = poll_until(&parts.pidfd, PollFlags::IN, until) {}
    let Some(exit) = parts.child.try_reap() else {
        parts.child.kill(Some(parts.pidfd.as_fd()));
        if parts.child.reap_within(REAP_MAX).is_none() {
            parts.child.reap_in_background();
        }
        return unknown(format!("the removal of {id} did not end in time"));
    };
    let (said, complaint) = (read(parts.stdout), read(parts.stderr));
    // With `--rm` the container is usually gone before.
    let was_gone = complaint.to_ascii_lowercase().contains("no such container");
    // A host that reaps all children takes the exit status. Both clients print what they have removed.
    let removed = if exit == ExitStatus::Unknown { said.trim() == id } else { exit.success() };
    if removed || was_gone {
        return ContainerEnd { removed: Some(true), note: None };
    }
    let why = complaint.lines().last().map(str::trim).unwrap_or_default();
    let note = Some(format!("the removal of {id} failed: {exit}: {}", why.escape_debug()));
    ContainerEnd { removed: (exit != ExitStatus::Unknown).then_some(false), note }
}

/// Reads what is in a pipe, which does not block. An error only ends the text.
fn read(pipe: OwnedFd) -> String {
    let mut text = String::new();
    let _length = File::from(pipe).take(READ_MAX).read_to_string(&mut text);
    text
}

/// Makes a folder that only the agent's user can enter.
fn make_folder(user: Option<(Uid, Gid)>) -> Result<PathBuf, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let temp = std::env::temp_dir();
    let refused = |cause: io::Error| {
        let what = format!("no folder for the id of the container in {}", quoted(&temp));
        Error::new(ErrorKind::Io, SPAWN, what)
            .remedy("set TMPDIR to a writable folder")
            .cause(cause)
    };
    for _ in 0..NAMES_MAX {
        // Relaxed is enough: the numbers only have to differ.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = temp.join(format!("agentpipe-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {
                let owned = user.map_or(Ok(()), |(uid, gid)| {
                    chown(&folder, Some(uid.as_raw()), Some(gid.as_raw()))
                });
                return owned.map(|()| folder).map_err(refused);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Err(refused(io::ErrorKind::AlreadyExists.into()))
}
