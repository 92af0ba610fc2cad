//! Spare buffers go from one agent's framer to another's, and take nothing along.

use proptest::prelude::*;

use super::*;

/// Lengths on both sides of each step by which a carry grows, and small ones.
fn any_len() -> impl Strategy<Value = usize> {
    let steps = prop::sample::select(vec![8_usize << 10, 32 << 10, 64 << 10]);
    prop_oneof![4..600_usize, steps.prop_flat_map(|step| step - 3..step + 4)]
}

/// What an agent says: lengths, and whether it is a record or a broken one.
fn any_words() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((any_len(), any::<bool>()), 1..6)
}

/// All of one letter, as the framing writes it.
fn output(framing: Framing, letter: &str, words: &[(usize, bool)]) -> Vec<u8> {
    let word = |&(len, good): &(usize, bool)| {
        let text = letter.repeat(len - 4);
        let body = if good { format!("[\"{text}\"]") } else { format!("{{{text}") };
        match framing {
            Framing::Ndjson => [body.as_bytes(), b"\n"].concat(),
            Framing::ContentLength => framed(body),
        }
    };
    words.iter().flat_map(word).collect()
}

proptest! {
    // Two agents take turns, cut anywhere. Each says what it would have said alone, and holds no
    // more than a spare buffer or four times what is unfinished.
    #[test]
    fn agents_that_share_buffers_share_no_bytes_and_hold_no_more_than_they_need(
        words in [any_words(), any_words()],
        turns in prop::collection::vec((0..2_usize, 1..9000_usize), 1..40),
    ) {
        for framing in [Framing::Ndjson, Framing::ContentLength] {
            let outputs = [output(framing, "a", &words[0]), output(framing, "b", &words[1])];
            let mut left = outputs.each_ref().map(|output| &output[..]);
            let mut framers = [(); 2].map(|()| Framer::new(framing, &Limits::new()));
            let mut seen = [const { Vec::new() }; 2];
            let mut spares = Spares::default();
            // In the end each says what it has left.
            let ends = [(0, usize::MAX), (1, usize::MAX)];
            for &(who, len) in turns.iter().chain(&ends) {
                let (read, rest) = left[who].split_at(len.min(left[who].len()));
                left[who] = rest;
                let framer = &mut framers[who];
                framer.feed(read, &mut spares, &mut |frame| seen[who].push(frame.into_event()));
                let (held, capacity) = (framer.held(), framer.capacity());
                prop_assert!(capacity <= (4 * held).max(8 << 10), "{} for {}", capacity, held);
                prop_assert!(held > 0 || capacity == 0, "{} for nothing", capacity);
            }
            for (output, seen) in outputs.iter().zip(&seen) {
                prop_assert_eq!(&feed_all(framing, &Limits::new(), [&output[..]]), seen);
            }
        }
    }
}
