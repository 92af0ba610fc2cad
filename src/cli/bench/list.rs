//! F5, bench: the scenarios.

use super::scenario::{Own, Scenario};
use super::{
    blocked_abort, blocked_graceful, envelope, first_record, flush_1m, hundred, idle_close,
    pipeline, roundtrip, spawn, throughput,
};

pub(super) static ALL: [Scenario; 19] = [
    envelope("envelope_256", 256, 2000),
    // The rest of a record's way, up to here, is in benches/frame.rs: framers are not public.
    Scenario {
        targets: &[("us_per_record", 0.5), ("allocations_per_1000_records", 0.0)],
        ..envelope("envelope_1k", 1 << 10, 1000)
    },
    envelope("envelope_4k", 4 << 10, 400),
    envelope("envelope_64k", 64 << 10, 40),
    envelope("envelope_1m", 1 << 20, 3),
    throughput("throughput_256", 256, 8000),
    throughput("throughput_1k", 1 << 10, 4000),
    Scenario {
        // 0.8 of the loop's pace, 1.3 of the peer's.
        targets: &[("ratio", 1.25), ("ratio_to_peer", 0.77)],
        ..throughput("throughput_4k", 4 << 10, 2000)
    },
    // 0.9 of the loop's pace.
    Scenario { targets: &[("ratio", 1.11)], ..throughput("throughput_64k", 64 << 10, 200) },
    throughput("throughput_1m", 1 << 20, 16),
    Scenario {
        peer: Some("tokio's BufReader::lines, serde_json::Value"),
        open: pipeline::open,
        // 5 times the peer's pace.
        targets: &[("ratio_to_peer", 0.2)],
        ..throughput("pipeline_1k", 1 << 10, 4000)
    },
    Scenario {
        name: "close_idle",
        group: "shutdown",
        limit: "close stdin, read to the end, waitpid",
        own: Own::Always,
        open: idle_close::open,
        ..CLOSE
    },
    Scenario {
        name: "flush_1m",
        limit: "close stdin, read 1 MiB, waitpid",
        peer: Some(
            "close stdin, read nothing, SIGTERM after 20 ms, SIGKILL after 20 ms (loses it)",
        ),
        targets: &[("ratio", 1.5)],
        open: flush_1m::open,
        ..CLOSE
    },
    Scenario {
        name: "close_blocked_abort",
        limit: "SIGKILL, waitpid",
        peer: Some("close(2) of stdout, waitpid"),
        targets: &[("ratio", 1.1), ("p99_us", 5000.0)],
        open: blocked_abort::open,
        ..CLOSE
    },
    Scenario {
        name: "close_blocked_graceful",
        limit: "close stdin, read for 40 ms, SIGTERM, read to the end, waitpid",
        peer: Some("close stdin, read nothing, SIGTERM after 40 ms, SIGKILL after 40 ms"),
        thin: 5,
        open: blocked_graceful::open,
        ..CLOSE
    },
    Scenario {
        name: "close_100",
        limit: "100 times SIGKILL, 100 times waitpid",
        peer: Some("100 times close(2) of stdout, 100 times waitpid"),
        thin: 10,
        open: hundred::open,
        ..CLOSE
    },
    Scenario {
        name: "spawn",
        group: "spawn",
        limit: "std::process::Command, which is posix_spawn",
        peer: Some("std::process::Command with a uid, which forks"),
        own: Own::Always,
        open: spawn::open,
        ..CLOSE
    },
    Scenario {
        name: "first_record",
        group: "spawn",
        limit: "std::process::Command, read(2) up to a newline",
        own: Own::IfNamed,
        open: first_record::open,
        ..CLOSE
    },
    Scenario {
        name: "roundtrip",
        group: "roundtrip",
        limit: "write(2), read(2)",
        peer: Some("write(2), a thread that reads lines, a channel"),
        records: 1,
        own: Own::WithPing,
        open: roundtrip::open,
        ..CLOSE
    },
];

/// What most closes have in common.
const CLOSE: Scenario = Scenario {
    name: "",
    group: "shutdown",
    limit: "",
    peer: None,
    records: 0,
    record_bytes: 0,
    thin: 1,
    own: Own::Never,
    targets: &[],
    open: idle_close::open,
};

const fn envelope(name: &'static str, record_bytes: u64, records: u64) -> Scenario {
    Scenario {
        name,
        group: "frame",
        limit: "memchr for a newline",
        peer: Some("serde_json::Value"),
        records,
        record_bytes,
        open: envelope::open,
        ..CLOSE
    }
}

const fn throughput(name: &'static str, record_bytes: u64, records: u64) -> Scenario {
    Scenario {
        name,
        group: "throughput",
        limit: "blocking read(2) loop that counts lines",
        peer: Some("tokio's BufReader::lines on one thread"),
        records,
        record_bytes,
        // A sample of the largest takes as long as several of the others.
        thin: if record_bytes >= 1 << 20 { 3 } else { 1 },
        open: throughput::open,
        ..CLOSE
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_says_what_it_is_held_against() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|it| !it.name.is_empty() && !it.limit.is_empty() && it.thin > 0));
    }
}
