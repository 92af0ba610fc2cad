//! An agent that writes faster than it is read.

use agentpipe::Framing;

use crate::support::bursts::Burst;
use crate::support::{engine, spawn};

#[test]
fn burst_of_mixed_sizes_keeps_every_byte() {
    for framing in [Framing::Ndjson, Framing::ContentLength, Framing::Concat, Framing::Auto] {
        let engine = engine();
        let burst = Burst::new(framing);
        let before = engine.metrics().total.io.completions;
        let mut agent = spawn(&engine, burst.command.clone());
        let records: Vec<_> = std::iter::from_fn(|| agent.next_record_blocking()).collect();
        burst.check(&records);
        let completions = engine.metrics().total.io.completions - before;
        assert_eq!(agent.stats().bytes_in, burst.bytes);
        assert!(agent.stats().pauses > 0, "{:?}", agent.stats());
        // A read of the pool brings 4096 bytes.
        let reads = burst.bytes / 4096;
        assert!(completions < reads / 2, "{framing:?}: {completions}, not {reads}");
    }
}
