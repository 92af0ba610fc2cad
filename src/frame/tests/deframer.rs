//! The framers for bytes of another origin, as users have them.

use super::*;
use crate::frame::Deframer;

/// A host asks for the framing to answer in the same one, and for the kept bytes to limit them.
#[test]
fn deframer_tells_what_it_found_and_keeps() {
    for (input, framing, event) in [
        (&b"{}\n{"[..], Framing::Ndjson, record("{}")),
        (b"Content-Length: 2\r\n\r\n{}{", Framing::ContentLength, record("{}")),
        (b"words\n{", Framing::Auto, noise("words")),
    ] {
        let mut deframer = Deframer::new(Framing::Auto, &Limits::new());
        assert_eq!((deframer.framing(), deframer.unfinished_bytes()), (None, 0));
        let rest = &mut &*input;
        assert_eq!(deframer.next(rest), Some(event));
        assert_eq!(deframer.next(rest), None);
        let found = (framing != Framing::Auto).then_some(framing);
        assert_eq!((deframer.framing(), deframer.unfinished_bytes()), (found, 1));
        assert!(format!("{deframer:?}").contains("unfinished_bytes: 1"));
        assert!(deframer.finish().is_some());
        assert_eq!(deframer.finish(), None);
    }
    assert_eq!(Deframer::new(Framing::Concat, &Limits::new()).framing(), Some(Framing::Concat));
}
