//! What the agent gets beside its pipes: descriptors, variables, a user, last words.

use std::fs::{self, File};
use std::process::{Command, Output, Stdio};

use super::{fake, run, run_fake};
use crate::support::PROGRAM;

/// `agentpipe run FLAGS -- AGENT` behind a shell that prepares it, without input.
fn behind(shell: &str, flags: &[&str], agent: &[&str]) -> Output {
    let script = format!("{shell} exec \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &script, PROGRAM, "run", "-q"])
        .args(flags)
        .arg("--")
        .args(agent)
        .stdin(Stdio::null())
        .output()
        .expect("starts")
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&output.stdout), text(&output.stderr))
}

// `agent --config <(make-config)`: the shell names a pipe by its number, and the agent did not have it.
#[test]
fn process_substitution_reaches_the_agent() {
    let opens = "exec 7<<END\n{\"a\":1}\nEND\n";
    for arg in ["/dev/fd/7", "/proc/self/fd/7"] {
        let output = behind(opens, &[], &["cat", arg]);
        assert_eq!(texts(&output), ("{\"a\":1}\n".to_owned(), String::new()));
    }
    let script = "cat \"${0#*=}\"";
    let output = behind(opens, &[], &["sh", "-c", script, "--config=/dev/fd/7"]);
    assert_eq!(texts(&output).0, "{\"a\":1}\n");
    // Not named, it is not passed; asked for, it is.
    let script = "cat <&7";
    let output = behind(opens, &[], &["sh", "-c", script]);
    assert_eq!(texts(&output).0, "", "{output:?}");
    let output = behind(opens, &["--pass-fd", "7"], &["sh", "-c", script]);
    assert_eq!(texts(&output), ("{\"a\":1}\n".to_owned(), String::new()));
    // A name that is not open is the agent's affair.
    let output = behind("", &[], &["sh", "-c", "echo '{}'; exit 5", "/dev/fd/77"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(5), &b"{}\n"[..]));
}

// The reader of a pipe that is passed on sees its end with the agent, and not with the command.
#[test]
fn passed_descriptor_is_not_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let fifo = folder.path().join("fifo");
    let opens = format!("mkfifo '{0}'; cat '{0}' >'{0}.out' & exec 7>'{0}';", fifo.display());
    // The agent closes its end, and goes on until the reader has ended.
    let script =
        "echo told >&7; exec 7>&-; while [ -e /proc/$0 ] && ! grep -q Z /proc/$0/stat; do :; done
        echo '{}'";
    let script = script.replace("$0", "$(cat \"$0\")");
    let opens = format!("{opens} echo $! >'{}.pid';", fifo.display());
    let pid = format!("{}.pid", fifo.display());
    let output = behind(&opens, &["--pass-fd", "7"], &["sh", "-c", &script, &pid]);
    assert_eq!(texts(&output).0, "{}\n", "{output:?}");
    assert_eq!(fs::read_to_string(folder.path().join("fifo.out")).expect("text"), "told\n");
}

#[test]
fn descriptor_that_cannot_be_passed_is_named() {
    let output = behind("", &["--pass-fd", "77"], &["cat"]);
    let said = texts(&output).1;
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("--pass-fd 77: no such descriptor"), "{said}");
    for number in ["2", "-1", "x", "4294967296"] {
        let output = behind("", &[&format!("--pass-fd={number}")], &["cat"]);
        let said = texts(&output).1;
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--pass-fd") && said.contains(number), "{said}");
    }
}

// Node aborts if this variable names a descriptor that is closed.
#[test]
fn variable_goes_with_its_descriptor() {
    let script = "echo \"[\\\"${NODE_CHANNEL_FD-none} ${MAKEFLAGS-none} ${KEPT-none}\\\"]\"";
    let opens = "exec 3</dev/null; export NODE_CHANNEL_FD=3 KEPT=1; export MAKEFLAGS='-j2 --jobserver-auth=3,4';";
    let output = behind(opens, &[], &["sh", "-c", script]);
    assert_eq!(texts(&output), ("[\"none -j2 1\"]\n".to_owned(), String::new()));
    let output = behind(opens, &["--pass-fd", "3"], &["sh", "-c", script]);
    assert_eq!(texts(&output).0, "[\"3 -j2 1\"]\n");
    let output = behind(opens, &["--env", "NODE_CHANNEL_FD=9"], &["sh", "-c", script]);
    assert_eq!(texts(&output).0, "[\"9 -j2 1\"]\n", "what is set is set");
}

#[test]
fn environment_is_chosen() {
    let flags =
        ["--env-clear", "--env-keep", "B", "--env-keep", "GONE", "--env", "C=3=4", "--env", "B=5"];
    let script = "export A=1 B=2; unset GONE;";
    // Without a shell, which adds variables.
    let output = behind(script, &flags[..7], &["/usr/bin/env"]);
    let noise = |line: &str| format!("agentpipe: noise: {} bytes: {line}\n", line.len());
    assert_eq!(texts(&output).1, noise("B=2") + &noise("C=3=4"));
    let output = behind(script, &flags, &["/usr/bin/env"]);
    assert_eq!(texts(&output).1, noise("B=5") + &noise("C=3=4"), "the last one holds");
    for (flags, says) in [
        (&["--env", "novalue"][..], "--env"),
        (&["--env", "=1"], "--env"),
        (&["--env-keep", "A"], "--env-clear"),
        (&["--user", "no-such-user"], "no-such-user"),
        (&["--user", "0:no-such-group"], "no-such-group"),
        (&["--farewell", "{\"cut\":"], "--farewell"),
        (&["--farewell", "3"], "--farewell"),
    ] {
        let output = behind("", flags, &["cat"]);
        let said = texts(&output).1;
        assert_eq!((output.status.code(), said.contains(says)), (Some(2), true), "{said}");
    }
    let output = behind("", &["--cgroup", "/no/such/folder"], &["cat"]);
    let said = texts(&output).1;
    assert_eq!(
        (output.status.code(), said.contains("/no/such/folder")),
        (Some(125), true),
        "{said}"
    );
}

// A turn that still runs at the end of the input is interrupted, and its result comes. A language server
// wants `shutdown` and `exit`.
#[test]
fn farewell_is_the_last_record() {
    let flags = ["--farewell", "{\"a\":2}", "--farewell", " [3] "];
    let done = run_fake(&flags, &[], b"{\"a\":1}\n");
    assert_eq!(done.stdout, b"{\"a\":1}\n{\"a\":2}\n[3]\n");
    assert_eq!((done.code(), done.count("records_out")), (Some(0), 3));
    let done = run_fake(&[&flags[..], &["--reader-timeout", "1s"]].concat(), &[], b"{\"a\":1}\n");
    assert_eq!(done.stdout, b"{\"a\":1}\n{\"a\":2}\n[3]\n");
    // An abort has no time for it, nor has an agent that is gone.
    let done = run_fake(&["--farewell", "{}", "--close", "abort"], &[], b"");
    assert_eq!(done.count("records_out"), 0);
    let done = run(&["--farewell", "{}"], &["true"], b"");
    assert_eq!((done.code(), done.stderr.len()), (Some(0), 0), "{done:?}");
}

// A turn that does not end by itself: without the interrupt its result is lost, and the close takes long.
#[test]
fn interrupt_brings_the_result() {
    let script = "read turn; read request
        case $request in *'\"subtype\":\"interrupt\"'*) echo '{\"type\":\"result\"}';; *) sleep 1000;; esac";
    let done = run(&["--interrupt"], &["sh", "-c", script], b"{\"type\":\"user\"}\n");
    assert_eq!((done.code(), &*done.stdout), (Some(0), &b"{\"type\":\"result\"}\n"[..]));
    assert!(!done.stages().contains(&"terminate"), "{}", done.report);
}

// The report emptied the file to which stdout was going, records and all.
#[test]
fn report_does_not_overwrite_the_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out");
    let to_file = |report: &str, stderr: bool| {
        fs::write(&path, "before\n").expect("written");
        let file = File::options().append(true).open(&path).expect("open");
        let mut command = Command::new(PROGRAM);
        command.args(["run", "-q", "--report", report, "--"]).args(fake(&[]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if stderr {
            command.stderr(file)
        } else {
            command.stdout(file)
        };
        let output = command.output().expect("starts");
        (output, fs::read_to_string(&path).expect("text"))
    };
    let name = path.to_str().expect("text");
    for report in ["/dev/stdout", "/proc/self/fd/1", name] {
        let (output, held) = to_file(report, false);
        let said = texts(&output).1;
        assert_eq!((output.status.code(), &*held), (Some(125), "before\n"), "{said}");
        assert!(said.contains(report) && said.contains("it is stdout"), "{said}");
    }
    for report in ["/dev/stderr", name] {
        let (output, held) = to_file(report, true);
        assert_eq!(output.status.code(), Some(0));
        assert!(held.starts_with("before\n{\"schema\":1,"), "{held}");
    }
    // /dev/null is no place in which a record could be hit.
    let output = behind("exec >/dev/null;", &["--report", "/dev/null"], &["true"]);
    assert_eq!((output.status.code(), texts(&output).1), (Some(0), String::new()));
}
