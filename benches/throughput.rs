//! One agent writing records as fast as it can, one write(2) each; how fast are they taken?
//!
//! The limit is a blocking read(2) loop that counts newlines. Peers: tokio's ChildStdout with
//! `lines()`. Ours: the engine, with records checked to be JSON (the default) and by shape only
//! (as the peers do). The answer, the size of each record, is asserted inside.

mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use agentpipe::{AgentCommand, Engine, JsonCheck, Limits};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::io::AsyncBufReadExt;

const SIZES: [usize; 4] = [256, 1024, 4096, 65_536];

/// Arguments of an agent that writes records of `size` bytes for ever.
fn flood(size: usize) -> Vec<String> {
    ["fake", "--flood", "--never-read-stdin", "--record-size", &size.to_string()]
        .map(str::to_owned)
        .to_vec()
}

fn throughput(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("throughput");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group.sample_size(20);
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("read_loop", size), |bencher| {
            bencher.iter_custom(|records| read_loop(size, records));
        });
        group.bench_function(BenchmarkId::new("tokio_lines", size), |bencher| {
            bencher.iter_custom(|records| tokio_lines(size, records));
        });
        for (name, check) in [("shape", JsonCheck::Shape), ("json", JsonCheck::Syntax)] {
            let id = BenchmarkId::new(format!("agentpipe_{name}"), size);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|records| agentpipe(size, records, check));
            });
        }
    }
    group.finish();
}

/// The limit: nothing but read(2) and a newline count.
fn read_loop(size: usize, records: u64) -> Duration {
    let mut child = support::plain(&flood(size));
    let mut stdout = child.stdout.take().expect("piped");
    let mut buffer = vec![0; 64 << 10];
    let mut seen = stdout.read(&mut buffer).expect("readable") as u64;
    let start = Instant::now();
    let want = seen + records * size as u64;
    let mut lines = 0;
    while seen < want {
        let count = stdout.read(&mut buffer).expect("readable");
        lines += buffer[..count].iter().filter(|byte| **byte == b'\n').count();
        seen += count as u64;
    }
    let took = start.elapsed();
    assert!(lines as u64 + 1 >= records, "{lines} lines of {records}");
    child.kill().expect("killable");
    child.wait().expect("reapable");
    took
}

fn tokio_lines(size: usize, records: u64) -> Duration {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut child = tokio::process::Command::new(support::AGENT)
            .args(flood(size))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the built-in agent starts");
        let stdout = tokio::io::BufReader::new(child.stdout.take().expect("piped"));
        let mut lines = stdout.lines();
        lines.next_line().await.expect("readable").expect("a line");
        let start = Instant::now();
        for _ in 0..records {
            let line = lines.next_line().await.expect("readable").expect("a line");
            assert_eq!(line.len() + 1, size);
        }
        let took = start.elapsed();
        child.kill().await.expect("killable");
        took
    })
}

fn agentpipe(size: usize, records: u64, check: JsonCheck) -> Duration {
    let engine = Engine::new().expect("io_uring");
    let command =
        AgentCommand::new(support::AGENT).args(flood(size)).limits(Limits::new().json_check(check));
    let mut agent = engine.spawn_blocking(command).expect("the built-in agent starts");
    agent.next_record_blocking().expect("a record");
    let start = Instant::now();
    for _ in 0..records {
        let record = agent.next_record_blocking().expect("a record");
        assert_eq!(record.len() + 1, size);
    }
    let took = start.elapsed();
    agent.abort_blocking();
    took
}

criterion_group!(benches, throughput);
criterion_main!(benches);
