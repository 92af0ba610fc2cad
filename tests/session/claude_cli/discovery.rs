//! The places in which the CLI is searched, and the moment of the search.

use std::path::Path;

use agentpipe::session::claude::{Options, Session};
use agentpipe::{AgentCommand, ErrorKind};

use super::{arguments, folder, path_of, script, told, wait};
use crate::support::own_process::{alone_with, test_name};
use crate::support::process::install;
use crate::support::{check_error, engine};

/// The path by which it was run.
fn found(options: &Options) -> String {
    wait(async {
        let options = options.clone();
        let session = Session::builder().start(&engine(), options).await.expect("starts");
        let told = told(&session).await;
        session.close().await;
        arguments(&told)[0].to_owned()
    })
}

// "Not found" on a machine that has it: the service had another HOME and another PATH. The error
// lists the places.
#[test]
fn cli_is_searched_at_spawn() {
    let home = folder();
    let home_path = path_of(&home, "home");
    let variables = [("HOME", home_path.to_str().expect("text"))];
    if !alone_with(test_name!(), &variables) {
        return;
    }
    let home = std::env::var("HOME").expect("set");
    let home = Path::new(&home);
    let bin = home.join("bin");
    // `sh` is looked for by its path, so the agent needs no other PATH.
    let options = AgentCommand::claude().env("PATH", &bin);
    let start = || wait(Session::builder().start(&engine(), options.clone()));
    let at_home =
        [".npm-global/bin", ".local/bin", "node_modules/.bin", ".yarn/bin", ".claude/local"];

    let error = start().expect_err("nowhere yet");
    check_error(&error, ErrorKind::ProgramNotFound, &["`claude`", "npm install", "cli_path"]);
    let places = [&at_home[..], &["bin"]].concat();
    for place in places.into_iter().map(|place| home.join(place)) {
        check_error(&error, ErrorKind::ProgramNotFound, &[&format!("`{}`", place.display())]);
    }
    check_error(&error, ErrorKind::ProgramNotFound, &["`/usr/local/bin`"]);

    // The same value finds it once it is installed: the last place first, and each before it wins.
    for place in at_home.iter().rev().chain(&["bin"]) {
        let program = home.join(place).join("claude");
        install(&program, &script("exit 1"));
        assert_eq!(Path::new(&found(&options)), program, "{place}");
    }
    // A file that cannot be executed is skipped.
    let plain = home.join("first/claude");
    install(&plain, "no program");
    std::fs::set_permissions(&plain, std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("ours");
    let path = std::env::join_paths([home.join("first"), bin.clone()]).expect("paths");
    assert_eq!(Path::new(&found(&AgentCommand::claude().env("PATH", path))), bin.join("claude"));
}

// A wrong path must not run something else.
#[test]
fn explicit_path_is_used_unchanged() {
    let folder = folder();
    let program = path_of(&folder, "my claude");
    install(&program, &script("exit 1"));
    assert_eq!(Path::new(&found(&AgentCommand::claude().cli_path(&program))), program);
    let text = program.to_str().expect("text");
    assert_eq!(Path::new(&found(&AgentCommand::claude().cli_path(text))), program);

    let gone = path_of(&folder, "gone");
    let options = AgentCommand::claude().cli_path(&gone);
    let error = wait(Session::builder().start(&engine(), options)).expect_err("not there");
    check_error(&error, ErrorKind::ProgramNotFound, &[gone.to_str().expect("text"), "cli_path"]);
}
