//! An agent that writes faster than it is read.

use agentpipe::{Framing, LocalEngine};

use super::in_each;
use crate::support::bursts::Burst;

#[test]
fn burst_of_mixed_sizes_keeps_every_byte() {
    in_each(async |engine: LocalEngine| {
        for framing in [Framing::Ndjson, Framing::ContentLength] {
            let burst = Burst::new(framing);
            let mut agent = engine.spawn(burst.command.clone()).await.expect("cat starts");
            let mut records = Vec::new();
            while let Some(record) = agent.next_record().await {
                records.push(record);
            }
            burst.check(&records);
            assert_eq!(agent.stats().bytes_in, burst.bytes);
        }
    });
}
