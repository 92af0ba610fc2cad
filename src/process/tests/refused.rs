//! Commands that cannot be spawned, and the errors.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use super::{run, shell, write_file};
use crate::close::ExitStatus;
use crate::command::AgentCommand;
use crate::config::Limits;
use crate::error::{Error, ErrorKind};
use crate::process::error::interpreter;
use crate::process::spawn::spawn;

/// Returns the error of a spawn, checked for its kind, its operation and a single line.
fn refusal(command: &AgentCommand, kind: ErrorKind) -> Error {
    let error = spawn(command).expect_err("must be refused");
    assert_eq!(error.kind(), kind, "{error}");
    assert_eq!(error.operation(), "spawn");
    assert!(!error.to_string().contains('\n'), "{error}");
    error
}

fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

/// An empty name joined to a directory of PATH would find the directory itself.
#[test]
fn empty_command_is_refused() {
    let error = refusal(&AgentCommand::new(""), ErrorKind::InvalidCommand);
    assert_eq!(error.to_string(), "spawn: empty command");
}

/// A limit below its minimum is an error of the spawn, never replaced in silence.
#[test]
fn limit_out_of_range_is_refused() {
    let limits = Limits::new().record_max(1);
    let error = refusal(&AgentCommand::new("cat").limits(limits), ErrorKind::InvalidSettings);
    assert_says(&error, &["record_max is 1 bytes", "minimum is 64"]);
}

/// A NUL byte would cut the string short, so the agent would get another argument.
#[test]
fn nul_byte_is_reported_without_its_text() {
    let nul = OsStr::from_bytes(b"sec\0ret");
    let cat = || AgentCommand::new("/bin/cat");
    let says = |command: AgentCommand, what: &str| {
        let error = refusal(&command, ErrorKind::InvalidCommand);
        assert_eq!(error.to_string(), format!("spawn: {what}"));
    };
    says(AgentCommand::new(nul), "the program's name holds a NUL byte");
    says(cat().arg("-u").arg(nul), "argument 2 holds a NUL byte");
    says(cat().cwd(nul), "the working directory holds a NUL byte");
    says(cat().env("KEY", nul), "environment variable `KEY` holds a NUL byte");
    says(cat().env(nul, "1"), "the name of environment variable `sec\\u{0}ret` holds a NUL byte");
    says(cat().env("A=B", "1"), "the name of environment variable `A=B` holds `=`");
    says(cat().env("", "1"), "an environment variable without a name");
}

#[test]
fn unknown_program_names_the_directories_searched() {
    let error = refusal(
        &AgentCommand::new("no-such-agent").env("PATH", "/nowhere:/usr/bin"),
        ErrorKind::ProgramNotFound,
    );
    assert_says(
        &error,
        &["no program `no-such-agent` on PATH (dirs searched: `/nowhere`, `/usr/bin`); install it"],
    );
    // A long PATH does not make a long error.
    let long = (0..100).map(|n| format!("/d{n}")).collect::<Vec<_>>().join(":");
    let error =
        refusal(&AgentCommand::new("no-such-agent").env("PATH", long), ErrorKind::ProgramNotFound);
    assert_says(&error, &["`/d19` and 80 more)"]);
    // A line break in a name is escaped.
    let error = refusal(&AgentCommand::new("no\nsuch"), ErrorKind::ProgramNotFound);
    assert_says(&error, &["`no\\nsuch`"]);
}

/// A relative name starts at the working directory of the agent, not at that of this process.
#[test]
fn relative_name_starts_at_the_agents_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    write_file(&dir.path().join("agent"), "#!/bin/sh\necho $0\n", 0o755);
    let command = AgentCommand::new("./agent");
    let error = refusal(&command, ErrorKind::ProgramNotFound);
    assert_says(&error, &["no program at `./agent`"]);
    assert_eq!(run(&command.clone().cwd(dir.path())), ("./agent\n".into(), ExitStatus::Code(0)));
    let error = refusal(&AgentCommand::new("./other").cwd(dir.path()), ErrorKind::ProgramNotFound);
    assert_says(&error, &["seen from its working directory"]);
    // So do relative and empty entries of PATH.
    for path in [".", "", "/nowhere:"] {
        let command = AgentCommand::new("agent").env("PATH", path).cwd(dir.path());
        assert_eq!(run(&command).0, "./agent\n", "PATH={path}");
    }
}

#[test]
fn not_executable_is_not_not_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let plain = dir.path().join("plain");
    write_file(&plain, "#!/bin/sh\n", 0o644);
    let error = refusal(&AgentCommand::new(&plain), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["plain` may not be executed"]);
    // On PATH such a file is skipped if a later directory has a program.
    let by_path = |path: &str| AgentCommand::new("plain").env("PATH", path);
    let here = dir.path().to_str().expect("UTF-8");
    let error = refusal(&by_path(here), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["plain` may not be executed", "no other on PATH"]);
    let better = dir.path().join("better");
    fs::create_dir(&better).expect("mkdir");
    write_file(&better.join("plain"), "#!/bin/sh\necho better\n", 0o755);
    assert_eq!(run(&by_path(&format!("{here}:{here}/better"))).0, "better\n");

    let error = refusal(&AgentCommand::new(dir.path()), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["is a directory"]);
    let error =
        refusal(&AgentCommand::new("better").env("PATH", here), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["better` is a directory"]);
    let error = refusal(&AgentCommand::new("/dev/null"), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["is not a regular file"]);
    let error = refusal(&AgentCommand::new("/bin/sh/x"), ErrorKind::ProgramNotFound);
    assert_says(&error, &["no program at `/bin/sh/x`"]);
}

/// ENOENT from the exec of a file that exists means that its interpreter is missing.
#[test]
fn missing_interpreter_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("script");
    write_file(&script, "#! /no/such/node --flag\n", 0o755);
    let error = refusal(&AgentCommand::new(&script), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["the interpreter `/no/such/node` that the script", "does not exist"]);
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    // With CRLF line ends the name of the interpreter ends in a carriage return.
    write_file(&script, "#!/bin/sh\r\necho\r\n", 0o755);
    let error = refusal(&AgentCommand::new(&script), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["`/bin/sh\\r`", "convert it to LF"]);

    assert_eq!(interpreter(b"#!/bin/sh"), Some(&b"/bin/sh"[..]));
    assert_eq!(interpreter(b"#!\t /bin/sh -e\n"), Some(&b"/bin/sh"[..]));
    assert_eq!(interpreter(b"#!\n"), None);
    assert_eq!(interpreter(b"\x7fELF"), None);
}

/// execvp(3) would run such a file with /bin/sh, but it is more often a truncated download.
#[test]
fn unknown_file_format_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    write_file(&file, "echo run by a shell\n", 0o755);
    let error = refusal(&AgentCommand::new(&file), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["neither a binary", "no shell is tried"]);
    assert_eq!(error.raw_os_error(), Some(libc::ENOEXEC));
    write_file(&file, "", 0o755);
    refusal(&AgentCommand::new(&file), ErrorKind::ProgramNotExecutable);
}

#[test]
fn bad_working_directory_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let error =
        refusal(&shell("true").cwd(dir.path().join("none")), ErrorKind::BadWorkingDirectory);
    assert_says(&error, &["working directory `", "none` cannot be entered", "No such file"]);
    write_file(&dir.path().join("file"), "", 0o755);
    let error =
        refusal(&shell("true").cwd(dir.path().join("file")), ErrorKind::BadWorkingDirectory);
    assert_says(&error, &["file` cannot be entered", "Not a directory"]);
    refusal(&shell("true").cwd(""), ErrorKind::BadWorkingDirectory);
}

/// Runs as another user, so that the result is the same if root runs the tests.
#[test]
fn permission_errors_are_told_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).expect("mkdir");
    write_file(&locked.join("agent"), "#!/bin/sh\n", 0o755);
    write_file(&dir.path().join("unreadable"), "#!/bin/no-such-shell\n", 0o755);
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(dir.path(), mode(0o755)).expect("chmod");
    fs::set_permissions(&locked, mode(0o000)).expect("chmod");

    thread::scope(|scope| {
        scope.spawn(|| {
            super::become_nobody();
            let error = refusal(&shell("true").cwd(&locked), ErrorKind::BadWorkingDirectory);
            assert_says(&error, &["locked` cannot be entered", "Permission denied"]);
            let error =
                refusal(&AgentCommand::new(locked.join("agent")), ErrorKind::ProgramNotExecutable);
            assert_says(&error, &["cannot be reached"]);
            // A directory of PATH that may not be searched is reported as such.
            let error = refusal(
                &AgentCommand::new("agent").env("PATH", &locked),
                ErrorKind::ProgramNotFound,
            );
            assert_says(&error, &["locked` (not readable)"]);
            // A spawn of an unprivileged user succeeds.
            assert_eq!(run(&shell("echo well")).0, "well\n");
        });
    });
    fs::set_permissions(&locked, mode(0o700)).expect("chmod");
}

/// A host writes a program and starts it. Another child that it starts at the same time holds the file
/// open for writing until its own exec.
#[test]
fn program_that_is_written_is_tried_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let agent = dir.path().join("agent");
    fs::copy("/bin/true", &agent).expect("copied");
    let write = || fs::File::options().append(true).open(&agent).expect("ours");
    let writer = write();
    let error = refusal(&AgentCommand::new(&agent), ErrorKind::ProgramNotExecutable);
    assert_says(&error, &["agent` is still being written after 100 ms"]);
    drop(writer);
    // A host that does not run for 100 ms closes the file too late, so there are several tries.
    assert!((0..20).any(|_| starts_after_the_write(&agent, write())), "never tried again");
}

/// Closes the writer once the child waits for that.
fn starts_after_the_write(agent: &Path, writer: fs::File) -> bool {
    let (tell, thread_id) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let spawning = scope.spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_pid()).expect("heard");
            spawn(&AgentCommand::new(agent)).is_ok()
        });
        let children = format!("/proc/self/task/{}/children", thread_id.recv().expect("sent"));
        let waits = || {
            let child = fs::read_to_string(&children).unwrap_or_default();
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim()));
            stat.is_ok_and(|stat| stat.contains(") S "))
        };
        while !waits() && !spawning.is_finished() {
            thread::yield_now();
        }
        drop(writer);
        spawning.join().expect("no panic")
    })
}

/// The kernel limits each string as well (E2BIG).
#[test]
fn overlong_argument_is_reported() {
    let long = "x".repeat(200_000);
    let error = refusal(&AgentCommand::new("/bin/cat").arg(&long), ErrorKind::InvalidCommand);
    assert_says(&error, &["the longest of them 200001", "128 KiB", "stdin"]);
    assert!(error.to_string().len() < 1000);
    assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
}
