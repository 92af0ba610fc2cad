//! Unsolicited output.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use super::{Fake, INITIALIZE, converse, json, lines, text};

#[test]
fn finite_flood_has_its_exact_size() {
    let (output, status) = converse(&["--flood", "1m", "--record-size", "4k"], "");
    assert_eq!((output.len(), status.code()), (1 << 20, Some(0)));
    for (number, line) in lines(&output).iter().enumerate() {
        assert_eq!(line.len(), 4095);
        assert_eq!(json(line)["seq"], number);
    }
    // A size between two multiples is rounded up to whole records.
    assert_eq!(converse(&["--flood", "1025"], "").0.len(), 2048);
    assert_eq!(converse(&["--records", "3", "--record-size", "64"], "").0.len(), 192);
    assert_eq!(converse(&["--records", "3", "--record-size", "64", "--crlf"], "").0.len(), 192);
}

#[test]
fn flood_is_followed_by_the_conversation() {
    let output = text(&["--records", "1", "--record-size", "64"], "hello\n");
    assert!(output.ends_with("}\nhello\n"), "{output}");
    let output = text(&["--records", "1", "--record-size", "64", "--flood-after-input"], "a\nb\n");
    assert!(output.starts_with("a\n{\"type\":\"flood\"") && output.ends_with("\nb\n"), "{output}");
    assert_eq!(text(&["--flood", "64k", "--flood-after-input"], ""), "");
}

#[test]
fn endless_flood_does_not_see_eof() {
    let mut fake = Fake::start(&["--flood"]);
    fake.end_input();
    let mut buffer = vec![0; 1 << 20];
    fake.stdout.as_mut().expect("open").read_exact(&mut buffer).expect("it never ends");
    assert!(fake.is_alive_after(50));
    // With the default action a SIGTERM ends it, blocked or not.
    fake.sigterm();
    assert_eq!(fake.exit().signal(), Some(15));
}

#[test]
fn flood_that_polls_stdin_leaves_at_eof() {
    let mut fake = Fake::start(&["--flood", "--read-eof-between"]);
    fake.end_input();
    fake.rest();
    assert_eq!(fake.timed_exit().0, Some(0));
    // Blocked in write(2) it cannot look.
    let mut fake = Fake::start(&["--flood", "--read-eof-between"]);
    fake.wait_until_full();
    fake.end_input();
    assert!(fake.is_alive_after(200));
    fake.rest();
    assert_eq!(fake.timed_exit().0, Some(0));
}

#[test]
fn flood_that_polls_stdin_answers() {
    let mut fake = Fake::start(&["--flood", "--read-eof-between", "--answer-initialize"]);
    fake.send(INITIALIZE);
    while fake.record()["type"] != "control_response" {}
    assert_eq!(fake.record()["type"], "flood");
}

#[test]
fn rate_is_an_upper_bound() {
    let start = Instant::now();
    let (output, _) = converse(&["--records", "50", "--rate", "500", "--record-size", "64"], "");
    assert_eq!(output.len(), 50 * 64);
    assert!(start.elapsed() >= Duration::from_millis(98), "{:?}", start.elapsed());
}

#[test]
fn huge_record_is_one_record() {
    let (output, _) = converse(&["--huge", "17m"], "");
    assert_eq!((output.len(), lines(&output).len()), (17 << 20, 1));
    assert_eq!(json(&output)["type"], "huge");
}
