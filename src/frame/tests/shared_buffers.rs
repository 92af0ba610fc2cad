//! Carry buffers move between the framers of a thread and carry no bytes along.

use proptest::prelude::*;

use super::*;

/// Small lengths, and lengths on both sides of each growth step of a carry.
fn any_len() -> impl Strategy<Value = usize> {
    let steps = prop::sample::select(vec![8_usize << 10, 32 << 10, 64 << 10]);
    prop_oneof![4..600_usize, steps.prop_flat_map(|step| step - 3..step + 4)]
}

/// The output of an agent: lengths, and whether each is a record or a broken one.
fn any_words() -> impl Strategy<Value = Vec<(usize, bool)>> {
    prop::collection::vec((any_len(), any::<bool>()), 1..6)
}

/// The output with its framing, with text of one letter.
fn output(framing: Framing, letter: &str, words: &[(usize, bool)]) -> Vec<u8> {
    let word = |&(len, good): &(usize, bool)| {
        let text = letter.repeat(len - 4);
        let body = if good { format!("[\"{text}\"]") } else { format!("{{{text}") };
        match framing {
            Framing::Ndjson | Framing::Concat | Framing::Auto => [body.as_bytes(), b"\n"].concat(),
            Framing::ContentLength => framed(body),
        }
    };
    words.iter().flat_map(word).collect()
}

proptest! {
    // Two agents take turns, cut anywhere. Each gets the frames it would get alone, and holds no
    // more than one carry buffer or four times its unfinished bytes.
    #[test]
    fn shared_buffers_leak_no_bytes_between_agents(
        words in [any_words(), any_words()],
        turns in prop::collection::vec((0..2_usize, 1..9000_usize), 1..40),
    ) {
        for framing in [Framing::Ndjson, Framing::ContentLength] {
            let outputs = [output(framing, "a", &words[0]), output(framing, "b", &words[1])];
            let mut left = outputs.each_ref().map(|output| &output[..]);
            let mut framers = [(); 2].map(|()| Framer::new(framing, &Limits::new()));
            let mut seen = [const { Vec::new() }; 2];
            let mut buffers = CarryBuffers::default();
            // At the end each agent writes its rest.
            let ends = [(0, usize::MAX), (1, usize::MAX)];
            for &(who, len) in turns.iter().chain(&ends) {
                let (read, rest) = left[who].split_at(len.min(left[who].len()));
                left[who] = rest;
                let framer = &mut framers[who];
                seen[who].extend(feed_with(framer, &mut buffers, read));
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
