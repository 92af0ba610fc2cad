//! Either framing, found out from the output.

use super::*;

fn auto(input: impl AsRef<[u8]>) -> Vec<Event> {
    frames_with(Framing::Auto, &Limits::new(), input.as_ref())
}

#[test]
fn framing_is_found_in_the_first_bytes() {
    let two = [framed("{\"a\":1}"), framed("[2]")].concat();
    assert_eq!(auto(&two), [record("{\"a\":1}"), record("[2]")]);
    assert_eq!(auto("{\"a\":1}\n[2]\n"), [record("{\"a\":1}"), record("[2]")]);
    for log in ["starting\n", "[info] starting\r\n", "\u{feff}", "\n\r\n", "{oops\n"] {
        let lines = [log.as_bytes(), b"{}\n[]"].concat();
        let headers = [log.as_bytes(), &framed("{}"), &framed("[]")].concat();
        let (lines, headers) = (auto(lines), auto(headers));
        assert_eq!(lines, headers, "{log:?}");
        assert!(lines.ends_with(&[record("{}"), record("[]")]), "{log:?}: {lines:?}");
    }
    // Another header first, LF headers, text without a line end.
    let other = "Content-Type: x\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(auto(other), [noise("Content-Type: x"), record("{}")]);
    assert_eq!(auto("content-length: 2\n\n{}"), [record("{}")]);
    let glued = [b"loading ", &framed("{}")[..], &framed("[]")].concat();
    assert_eq!(auto(glued), [noise("loading "), record("{}"), record("[]")]);
}

#[test]
fn first_record_settles_the_framing() {
    // A log line about a length, behind a record.
    let input = "{}\nContent-Length: 2\n[]\n";
    assert_eq!(auto(input), [record("{}"), noise("Content-Length: 2"), record("[]")]);
    let input = [b"{}\n", &framed("[]")[..]].concat();
    let told = Event::FramingMismatch(Framing::ContentLength);
    assert_eq!(auto(input), [record("{}"), noise("Content-Length: 2"), told, record("[]")]);
    assert_eq!(auto("Content-Length: 20\r\n\r\n{"), [truncated("{")]);
    // The end of the output is no line end.
    assert_eq!(auto("Content-Length: 20"), [truncated("Content-Length: 20")]);
    assert_eq!(auto("loading Content-Length: 20"), [noise("loading Content-Length: 20")]);
}
