//! Runs a fuzz target on stable, as a unit test: on its corpus, then on mutations of it until the time is
//! over. tests/fuzz/README.md says how to go on with an input that fails.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// The seconds for all targets together, unless `AGENTPIPE_FUZZ_SECONDS` names others.
const SECONDS: f64 = 1.0;

/// The folders of tests/fuzz/corpus.
const TARGETS: f64 = 7.0;

/// How many inputs are tried between two looks at the clock.
const ROUND: u32 = 64;

/// The longest input, as much as the longest in the corpus.
const INPUT_MAX: usize = 16 << 10;

/// Runs the target `name`. A failure prints the smallest input that still fails.
pub(crate) fn run(name: &str, target: fn(&[u8])) {
    let corpus = corpus(name);
    for (path, bytes) in &corpus {
        // Shown if it fails.
        println!("{}", path.display());
        target(bytes);
    }
    let seconds = std::env::var("AGENTPIPE_FUZZ_SECONDS").map_or(SECONDS, |text| {
        text.parse().expect("AGENTPIPE_FUZZ_SECONDS is a number of seconds")
    });
    let until = Instant::now() + Duration::from_secs_f64(seconds / TARGETS);
    let corpus: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    let inputs = inputs(&corpus);
    let count = Cell::new(0_u32);
    while Instant::now() < until {
        // A new runner for each round: it counts its cases over all runs, and has none left after one.
        let config = Config { cases: ROUND, failure_persistence: None, ..Config::default() };
        let before = count.get();
        let outcome = TestRunner::new(config).run(&inputs, |input| {
            count.set(count.get() + 1);
            target(&input);
            Ok(())
        });
        if let Err(proptest::test_runner::TestError::Fail(why, input)) = outcome {
            panic!("{why}; the input: b\"{}\"", input.escape_ascii());
        }
        assert_eq!(count.get(), before + ROUND, "a round without inputs tests nothing");
    }
    println!("{name}: {} mutations", count.get());
}

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).expect("each target has a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("a file of the corpus");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// One change of an input. The indices choose a range of it, and a range of a file of the corpus.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
    Splice { at: Index, file: Index, from: Index, len: usize },
    Cut(Index),
}

/// Mutations of the corpus, and a few inputs from nothing.
fn inputs(corpus: &[Vec<u8>]) -> impl Strategy<Value = Vec<u8>> + use<> {
    let byte =
        || prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\\n\r 019-e\x00\xFF".to_vec())];
    let index = any::<Index>;
    let mutation = prop_oneof![
        3 => (index(), byte()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        3 => (index(), byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        2 => (index(), 1..64_usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (index(), 1..64_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        2 => (index(), index(), index(), 1..200_usize)
            .prop_map(|(at, file, from, len)| Mutation::Splice { at, file, from, len }),
        1 => index().prop_map(Mutation::Cut),
    ];
    let corpus = corpus.to_vec();
    let mutated =
        (index(), prop::collection::vec(mutation, 0..12)).prop_map(move |(file, steps)| {
            let mut input = file.get(&corpus).clone();
            steps.iter().for_each(|step| apply(step, &corpus, &mut input));
            input
        });
    prop_oneof![9 => mutated, 1 => prop::collection::vec(byte(), 0..300)]
}

fn apply(step: &Mutation, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
    let place = |at: &Index, len: usize| at.index(len + 1);
    let size = input.len();
    match step {
        Mutation::Set(at, byte) => {
            if size > 0 {
                input[at.index(size)] = *byte;
            }
        }
        Mutation::Insert(at, byte) => input.insert(place(at, size), *byte),
        Mutation::Remove(at, len) => {
            let at = place(at, size);
            input.drain(at..(at + len).min(size));
        }
        Mutation::Repeat(at, len) => {
            let at = place(at, size);
            let part = input[at..(at + len).min(size)].to_vec();
            input.splice(at..at, part);
        }
        Mutation::Splice { at, file, from, len } => {
            let other = file.get(corpus);
            let from = place(from, other.len());
            let part = &other[from..(from + len).min(other.len())];
            let at = place(at, size);
            input.splice(at..at, part.iter().copied());
        }
        Mutation::Cut(at) => input.truncate(place(at, size)),
    }
    input.truncate(INPUT_MAX);
}
