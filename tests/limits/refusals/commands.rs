//! Commands that cannot be run.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use agentpipe::{AgentCommand, ErrorKind};

use super::{check_nothing_left, check_run_refuses};
use crate::support::{check_error, engine, fake};

#[test]
fn unusable_command_is_named_with_its_cause() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\n").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).expect("ours");
    let orphan = folder.path().join("orphan");
    fs::write(&orphan, "#!/no/such/interpreter\n").expect("written");
    fs::set_permissions(&orphan, fs::Permissions::from_mode(0o755)).expect("ours");
    let missing = folder.path().join("missing");
    let [script, orphan, missing, dir] =
        [&script, &orphan, &missing, folder.path()].map(|path| path.to_str().expect("utf-8"));

    let nul = OsStr::from_bytes(b"a\0b");
    use ErrorKind::{
        BadWorkingDirectory as Cwd, InvalidCommand as Invalid, ProgramNotExecutable as Unfit,
        ProgramNotFound as NotFound,
    };
    let cases: Vec<(AgentCommand, ErrorKind, Vec<&str>)> = vec![
        (AgentCommand::new("no-such-agent"), NotFound, vec!["`no-such-agent`", "PATH"]),
        (AgentCommand::new(missing), NotFound, vec![missing]),
        (AgentCommand::new(script), Unfit, vec![script, "execut"]),
        (AgentCommand::new(orphan), Unfit, vec![orphan, "/no/such/interpreter"]),
        (AgentCommand::new(dir), Unfit, vec![dir, "directory"]),
        (fake(&[]).cwd(missing), Cwd, vec![missing, "working directory", "No such file"]),
        (fake(&[]).cwd(script), Cwd, vec![script, "working directory", "Not a directory"]),
        (AgentCommand::new(""), Invalid, vec!["empty command"]),
        (AgentCommand::new(nul), Invalid, vec!["NUL"]),
        (fake(&[]).arg(nul), Invalid, vec!["NUL"]),
        (fake(&[]).env("KEY", nul), Invalid, vec!["NUL", "KEY"]),
        (fake(&[]).cwd(nul), Invalid, vec!["NUL"]),
        (AgentCommand::new("evil\nname"), NotFound, vec!["evil\\nname"]),
    ];
    let engine = engine();
    for (command, kind, says) in cases {
        let shown = format!("{command:?}");
        let error = engine.spawn_blocking(command).expect_err(&shown);
        check_error(&error, kind, &says);
        assert_eq!(error.operation(), "spawn", "{error}");
    }
    check_nothing_left(&engine);

    check_run_refuses(&["--", "no-such-agent"], 127, &["no-such-agent"]);
    check_run_refuses(&["--", missing], 127, &[missing]);
    check_run_refuses(&["--", script], 126, &[script]);
    check_run_refuses(&["--", orphan], 126, &["/no/such/interpreter"]);
    check_run_refuses(&["--", dir], 126, &[dir]);
    check_run_refuses(&["--cwd", missing, "--", "cat"], 125, &[missing]);
    check_run_refuses(&["--cwd", script, "--", "cat"], 125, &[script]);
    check_run_refuses(&["--", ""], 125, &["empty command"]);
}
