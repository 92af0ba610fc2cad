//! Framings, in both directions: faults of the framing, `--framing auto` and `concat`.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc;
use std::thread;

use crate::support::{CEILING, wait_until};
use rustix::io::ioctl_fionread;

use super::{Done, Run, run, run_fake};

const HEADERS: [&str; 2] = ["--framing", "content-length"];
const AUTO: [&str; 2] = ["--framing", "auto"];
const CONCAT: [&str; 2] = ["--framing", "concat"];

fn frame(body: &str) -> String {
    format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

/// An agent that writes exactly this, whatever it reads.
fn said(flags: &[&str], bytes: &[u8]) -> Done {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("said");
    std::fs::write(&path, bytes).expect("written");
    run(flags, &["cat", path.to_str().expect("text")], b"")
}

/// An agent that gives back, byte for byte, what it reads.
fn given(flags: &[&str], input: &[u8]) -> (Done, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("got");
    let tee = format!("cat > '{}'", path.to_str().expect("text"));
    let done = run(flags, &["sh", "-c", &tee], input);
    (done, std::fs::read_to_string(path).expect("text"))
}

fn out(done: &Done) -> &str {
    std::str::from_utf8(&done.stdout).expect("text")
}

// Two of three records were lost, and a session waited until its timeout.
#[test]
fn terminal_title_costs_no_record() {
    let bytes = b"\x1b]0;agent: ready\x07{\"id\":1}\n\x1b[?2004h{\"id\":2}\n{\"id\":3}\x1b[0m\n";
    let done = said(&[], bytes);
    assert_eq!(out(&done), "{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n");
    assert_eq!((done.count("records_in"), done.count("noise")), (3, 3));
    assert_eq!(done.stderr[0], "agentpipe: noise: 17 bytes: \\u{1b}]0;agent: ready\\u{7}");
    // The same on stdin.
    let (done, got) = given(&[], bytes);
    assert_eq!(got, "{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n");
    assert_eq!((done.count("records_out"), done.stderr.len()), (3, 3));
}

#[test]
fn byte_order_mark_on_stdin_is_framing() {
    let (done, got) = given(&[], b"\xEF\xBB\xBF{\"id\":1}\n\xEF\xBB\xBF{\"id\":2}\r\n");
    assert_eq!(got, "{\"id\":1}\n{\"id\":2}\n");
    assert_eq!((done.count("stdin_refused_records"), done.stderr.len()), (0, 0));
    let marked = ["\u{feff}", &frame("\u{feff}{\"id\":1}"), &frame("{\"id\":2}")].concat();
    let wanted = frame("{\"id\":1}") + &frame("{\"id\":2}");
    let (done, got) = given(&HEADERS, marked.as_bytes());
    assert_eq!((got, done.stderr.len()), (wanted.clone(), 0));
    let done = said(&HEADERS, marked.as_bytes());
    assert_eq!((out(&done), done.stderr.len()), (&*wanted, 0));
}

// The next record was dropped with the bad one, and the exit code was 0.
#[test]
fn bad_header_on_stdin_costs_one_record() {
    for end in ["\r\n", "\n"] {
        let frame = |len: &str, id| format!("Content-Length: {len}{end}{end}{{\"id\":{id}}}");
        for (bad, id) in [("x", 1), ("7", 1), ("9", 1), ("30", 1), ("999999999", 1)] {
            let input = [frame("8", 0), frame(bad, id), frame("8", 2), frame("8", 3)].concat();
            let wanted = [0, 2, 3].map(|id| super::framing::frame(&format!("{{\"id\":{id}}}")));
            let (done, got) = given(&HEADERS, input.as_bytes());
            assert_eq!(got, wanted.concat(), "{bad} on stdin: {done:?}");
            assert!(done.count("stdin_refused_records") > 0, "{bad}: {done:?}");
            let done = said(&HEADERS, input.as_bytes());
            assert_eq!(out(&done), wanted.concat(), "{bad} from the agent");
        }
    }
}

#[test]
fn print_costs_no_record_with_lf_headers() {
    let frame = |id| format!("Content-Length: 8\n\n{{\"id\":{id}}}");
    let input = [frame(1), "loading config ".into(), frame(2), frame(3), frame(4)].concat();
    let wanted = [1, 2, 3, 4].map(|id| super::framing::frame(&format!("{{\"id\":{id}}}")));
    assert_eq!(out(&said(&HEADERS, input.as_bytes())), wanted.concat());
    assert_eq!(given(&HEADERS, input.as_bytes()).1, wanted.concat());
}

// A length that counts characters, header lines of all kinds, line ends behind a body.
#[test]
fn sloppy_servers_lose_little() {
    let short = "Content-Length: 8\r\n\r\n{\"a\":\"\u{e9}\"}";
    let kinds =
        "content-type: x\r\nCONTENT-LENGTH :2\r\nX-Y: z\r\n\r\n[]\r\nContent-Length:\t2 \n\n{}";
    let input = [short, "\r\n", kinds, "\n\n", &frame("{}\r\n"), &frame("[1]")].concat();
    let done = said(&HEADERS, input.as_bytes());
    let wanted = ["{}", "{}\r\n", "[1]"].map(frame).concat();
    assert!(out(&done).ends_with(&wanted), "{done:?}");
    assert_eq!(done.count("malformed"), 1, "{done:?}");
}

// Line separators of Unicode in a string, and a character that is split over two writes.
#[test]
fn unicode_ends_no_line() {
    let record = "{\"a\":\"\u{2028}\u{2029}\u{85}\u{b}\u{c}\"}".replace(['\u{b}', '\u{c}'], "");
    let done = said(&[], format!("{record}\n{{}}\n").as_bytes());
    assert_eq!(out(&done), format!("{record}\n{{}}\n"));
    let agent = "printf '{\"a\":\"\\360\\237'; sleep 0.05; printf '\\230\\200\"}\\n'";
    let done = run(&[], &["sh", "-c", agent], b"");
    assert_eq!((out(&done), done.stderr.len()), ("{\"a\":\"\u{1f600}\"}\n", 0));
}

#[test]
fn wrong_framing_on_stdin_is_told() {
    let lines = "{\"id\":1}\n{\"id\":2}\n";
    let (done, got) = given(&HEADERS, lines.as_bytes());
    assert_eq!((got.as_str(), done.count("stdin_refused_records")), ("", 2));
    let told =
        "agentpipe: stdin looks like ndjson and is read as content-length; use --framing ndjson";
    assert!(done.stderr.iter().any(|line| line == told), "{:?}", done.stderr);
    let (done, _) = given(&[], (frame("{\"id\":1}") + &frame("{\"id\":2}")).as_bytes());
    let told = "agentpipe: stdin looks like content-length and is read as ndjson; use --framing content-length";
    assert_eq!(done.stderr.iter().filter(|line| *line == told).count(), 1, "{:?}", done.stderr);
}

/// Returns what a run that goes on writes first.
fn first_bytes(run: &mut Run, len: usize) -> String {
    let stdout = run.child.stdout.as_mut().expect("open");
    wait_until("stdout has it", || ioctl_fionread(&stdout).expect("a pipe") >= len as u64);
    let mut bytes = vec![0; len];
    stdout.read_exact(&mut bytes).expect("it is there");
    String::from_utf8(bytes).expect("text")
}

/// Returns the line about a framing that a run which goes on writes to stderr.
fn told(run: &mut Run) -> String {
    let stderr = BufReader::new(run.child.stderr.take().expect("open"));
    let (found, line) = mpsc::channel();
    thread::spawn(move || {
        let lines = stderr.lines().map_while(Result::ok);
        // The test that waits has failed if it is gone.
        let _waits = found.send(lines.into_iter().find(|line| line.contains("looks like")));
    });
    line.recv_timeout(CEILING).expect("stderr says something").expect("a hint")
}

// The first body has no line end, so the record never came, and nothing was said.
#[test]
fn wrong_framing_of_a_waiting_agent_is_told() {
    for (flags, says, hint) in [
        (&[][..], "Content-Length: 2\\r\\n\\r\\n{}", "use --framing content-length"),
        (&HEADERS[..], "{\"id\":1}", "use --framing ndjson"),
    ] {
        // The agent lives on and waits, and so does its parent.
        let agent = format!("printf '{says}'; cat >/dev/null");
        let mut run = Run::start(flags, &["sh", "-c", &agent]);
        let line = told(&mut run);
        assert!(line.contains("output of the agent looks like") && line.ends_with(hint), "{line}");
        drop(run.child.stdin.take());
        run.child.wait().expect("ends");
        let report = std::fs::read_to_string(run.folder.path().join("report")).expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        let seen = hint.trim_start_matches("use --framing ");
        // The last line of the output may be a record after all.
        let seen = if flags.is_empty() { serde_json::Value::Null } else { seen.into() };
        assert_eq!(report["framing_mismatch"], seen, "{report}");
    }
}

#[test]
fn auto_finds_each_side_by_itself() {
    let bodies = ["{\"a\":1}", "{\"b\":2}"];
    let lines = bodies.map(|body| format!("{body}\n")).concat();
    let headers = bodies.map(frame).concat();
    // The agent gets the framing of stdin.
    for input in [&lines, &headers] {
        let (done, got) = given(&AUTO, input.as_bytes());
        assert_eq!((&got, done.stderr.len()), (input, 0), "{done:?}");
    }
    // stdout has it, too, whatever the agent writes.
    for (input, wanted) in [(&lines, &lines), (&headers, &headers)] {
        for says in [&lines, &headers] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("said");
            std::fs::write(&path, says).expect("written");
            // It answers once it has read all.
            let agent = format!("cat >/dev/null; cat '{}'", path.to_str().expect("text"));
            let done = run(&AUTO, &["sh", "-c", &agent], input.as_bytes());
            assert_eq!(out(&done), wanted, "{done:?}");
            let seen = if says == &lines { "ndjson" } else { "content-length" };
            assert_eq!(done.report["output_framing"], seen);
        }
    }
    // Before a record on stdin, stdout has the framing of the agent.
    for says in [&lines, &headers] {
        assert_eq!(out(&said(&AUTO, says.as_bytes())), says);
    }
}

#[test]
fn auto_answers_a_waiting_caller() {
    let mut run = Run::start(&AUTO, &super::fake(&AUTO));
    run.send(frame("{\"id\":1}").as_bytes());
    let wanted = frame("{\"id\":1}");
    assert_eq!(first_bytes(&mut run, wanted.len()), wanted);
    drop(run.child.stdin.take());
    assert_eq!(run.child.wait().expect("ends").code(), Some(0));
}

#[test]
fn concat_makes_lines_of_any_texts() {
    let input = "{\n  \"a\": 1\r\n}{\"b\":2}[3]\u{1e}{\"c\":\"x\\n\"}\n";
    let wanted = "{   \"a\": 1  }\n{\"b\":2}\n[3]\n{\"c\":\"x\\n\"}\n";
    let (done, got) = given(&CONCAT, input.as_bytes());
    assert_eq!((got.as_str(), done.count("records_out"), done.stderr.len()), (wanted, 4, 0));
    let done = said(&CONCAT, input.as_bytes());
    assert_eq!((out(&done), done.count("records_in")), (wanted, 4));
    // A record is passed on before anything follows it.
    let mut run = Run::start(&CONCAT, &["sh", "-c", "printf '{\"a\":\\n1}'; cat >/dev/null"]);
    assert_eq!(first_bytes(&mut run, 9), "{\"a\": 1}\n");
    run.finish(b"");
    let done = run_fake(&CONCAT, &CONCAT, b"{} [1]\n{}");
    assert_eq!(out(&done), "{}\n[1]\n{}\n");
}

#[test]
fn malformed_record_says_what_is_wrong() {
    let bad = "{\"a\":NaN}\n{\"a\":-Infinity}\n{\"a\":\"\t\"}\n{}{}\n{\"a\":1\n[]\n";
    let done = said(&[], bad.as_bytes());
    let faults =
        ["NaN or Infinity", "NaN or Infinity", "control character", "text behind", "stops before"];
    for (line, fault) in done.stderr.iter().zip(faults) {
        assert!(line.contains(fault), "{line}");
    }
    assert_eq!((out(&done), done.count("malformed"), done.stderr.len()), ("[]\n", 5, 5));
    // On stdin, too.
    let (done, got) = given(&[], b"{\"a\":NaN}\n{\"b\":\"\\ud83d\"}\n{\"k\":1,\"k\":2}\n");
    assert_eq!(got, "{\"b\":\"\\ud83d\"}\n{\"k\":1,\"k\":2}\n");
    assert!(done.stderr[0].contains("NaN or Infinity"), "{:?}", done.stderr);
}

// Nesting without end, logs as JSON and printed objects cost nothing but themselves.
#[test]
fn odd_output_costs_no_record() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let input =
        format!("{{\"level\":\"info\"}}\n[Breadcrumb] {{\n  message: 1\n}}\n{deep}\n{{}}\n");
    let done = said(&[], input.as_bytes());
    assert_eq!(out(&done), format!("{{\"level\":\"info\"}}\n{deep}\n{{}}\n"));
    assert_eq!((done.count("noise"), done.count("malformed")), (3, 0));
}
