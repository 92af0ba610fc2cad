//! Tests that run in their own process: they count what belongs to the process, change it, or end
//! it. The test binary starts itself again for the one test.

use std::process::{Command, Output};

const ALONE: &str = "AGENTPIPE_TEST_ALONE";

/// The name of the test that expands it, as the harness knows it.
macro_rules! test_name {
    () => {{
        fn here() {}
        $crate::support::own_process::name_of(std::any::type_name_of_val(&here))
    }};
}
pub(crate) use test_name;

/// `engine::spawn::a_test::here` is the test `spawn::a_test`.
pub(crate) fn name_of(function: &'static str) -> &'static str {
    let (_, path) = function.split_once("::").expect("the crate, and a path");
    path.trim_end_matches("::here").trim_end_matches("::{{closure}}")
}

/// Whether this process was started by `this_test`.
pub(crate) fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// This binary again, for one test.
pub(crate) fn this_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "--nocapture", "--test-threads=1", name]).env(ALONE, "1");
    command
}

/// Returns true in the test's own process. Otherwise runs the test in one, asserts that it ran and
/// passed, and returns false.
pub(crate) fn alone(name: &str) -> bool {
    alone_with(name, &[])
}

/// Like `alone`, with these variables in the environment of the process.
#[expect(clippy::print_stdout, reason = "the figures that the test prints")]
pub(crate) fn alone_with(name: &str, env: &[(&str, &str)]) -> bool {
    let alone = is_alone();
    if !alone {
        let output = this_test(name).envs(env.iter().copied()).output().expect("runs");
        println!("{}", check_passed(&output));
    }
    alone
}

/// The one test of the process ran and passed. Returns what it printed.
pub(crate) fn check_passed(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    assert!(text.contains("1 passed"), "it did not run: {text}");
    text
}
