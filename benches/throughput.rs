//! Throughput: one agent writes records as fast as it can, one write(2) each, and a contestant takes
//! them. `throughput/PIPE/CONTESTANT/BYTES`, for a pipe of the default size and of the largest size that
//! an unprivileged process gets.
//!
//! The writer is the same child for all, and each contestant takes its first record before the clock
//! starts. The limit, `read_loop`, is a blocking read(2) and a count of newlines; it keeps nothing.
//! `tokio_uring` and `compio` keep nothing either, they measure each line in place; `compio_owned` and the
//! other peers return owned lines. `.._framed` is agentpipe with a check of the record's shape only; `.._checked` is
//! the default, which checks that each record is JSON; `.._envelope` also reads the keys that classify it;
//! `.._value` parses the whole record, as `tokio_lines_value` does, which is what most hosts do. `engine`
//! reads on its own thread, `local` on the thread that takes the records; with `epoll` in the name on that
//! backend, else with io_uring. The size of each record is asserted.

mod support;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ChildStdout, Stdio};
use std::time::Duration;

use agentpipe::{AgentCommand, Backend, Engine, JsonCheck, Limits, LocalEngine, Record};
use compio_io::AsyncRead;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use tokio::io::AsyncBufReadExt;
use tokio::task::LocalSet;
use tokio_util::codec::{AnyDelimiterCodec, FramedRead, LinesCodec};

use crate::support::contest::{Contest, Contestant, Row, Slice};
use crate::support::read_buffer::ReadBuffer;
use crate::support::stopwatch::{Stopwatch, Took};

const SIZES: [usize; 5] = [256, 1 << 10, 4 << 10, 64 << 10, 1 << 20];
/// The buffer of all contestants but agentpipe, in bytes.
const BUFFER: usize = 64 << 10;

#[derive(Clone, Copy)]
struct Case {
    size: usize,
    pipe: usize,
}

/// Takes a number of records and returns the time.
type Take = fn(Case, u64) -> Took;

const CONTESTANTS: [(&str, Take); 18] = [
    ("read_loop", read_loop),
    ("tokio_lines", |case, records| tokio_lines(case, records, drop)),
    ("tokio_lines_codec", tokio_lines_codec),
    ("tokio_any_delimiter", tokio_any_delimiter),
    ("tokio_uring", tokio_uring),
    ("compio", |case, records| compio(case, records, Lines::Measured)),
    ("compio_owned", |case, records| compio(case, records, Lines::Owned)),
    ("engine_framed", |case, records| engine(case, records, JsonCheck::Shape, |_| ())),
    ("engine_epoll_framed", engine_epoll),
    ("engine_checked", |case, records| engine(case, records, JsonCheck::Syntax, |_| ())),
    ("engine_envelope", |case, records| engine(case, records, JsonCheck::Syntax, envelope)),
    ("local_framed", |case, records| local(case, records, JsonCheck::Shape, |_| ())),
    ("local_epoll_framed", local_epoll),
    ("local_checked", |case, records| local(case, records, JsonCheck::Syntax, |_| ())),
    ("local_envelope", |case, records| local(case, records, JsonCheck::Syntax, envelope)),
    ("tokio_lines_value", |case, records| {
        tokio_lines(case, records, |line| value(line.as_bytes()))
    }),
    // A parser checks the record, so agentpipe need not.
    ("engine_value", |case, records| {
        engine(case, records, JsonCheck::Shape, |record| value(record.as_bytes()))
    }),
    ("local_value", |case, records| {
        local(case, records, JsonCheck::Shape, |record| value(record.as_bytes()))
    }),
];

fn envelope(record: &Record) {
    assert_eq!(record.envelope().expect("an object").kind.as_deref(), Some("flood"));
}

fn value(text: &[u8]) {
    assert_eq!(serde_json::from_slice::<Value>(text).expect("JSON")["type"], "flood");
}

/// The contestants that split lines and do nothing else, as those of agentpipe with `_framed`.
const PEERS: [&str; 6] = [
    "tokio_lines",
    "tokio_lines_codec",
    "tokio_any_delimiter",
    "tokio_uring",
    "compio",
    "compio_owned",
];

fn throughput(criterion: &mut Criterion) {
    let mut works = Vec::new();
    for (group, pipe) in [("throughput/pipe_64k", 64 << 10), ("throughput/pipe_max", pipe_max())] {
        for size in SIZES {
            let case = Case { size, pipe };
            let contest = Contest {
                group,
                parameter: size.to_string(),
                slice: Duration::from_millis(60),
                throughput: Some(Throughput::ElementsAndBytes { elements: 1, bytes: size as u64 }),
            };
            let contestants = CONTESTANTS.map(|(name, take)| contestant(case, name, take)).into();
            works.push((case, contest.run(criterion, contestants)));
        }
    }
    summarize(&works);
}

/// Prints the table of all works: the limit, the best peer, and agentpipe. Ratios are to the best peer.
#[expect(clippy::print_stdout, reason = "the table is the result")]
fn summarize(works: &[(Case, Vec<Row>)]) {
    let columns = ["local_framed", "local_epoll_framed", "engine_framed", "engine_epoll_framed"];
    println!("\n| pipe KiB, record bytes | limit us (CPU) | best peer | {} |", columns.join(" | "));
    println!("| --- | ---: | ---: | {} |", ["---:"; 4].join(" | "));
    for (case, rows) in works {
        let peers = rows.iter().filter(|row| PEERS.contains(&row.name));
        let Some(best) = peers.min_by_key(|row| row.took.wall) else { continue };
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let both = |row: &Row| format!("{:.2} ({:.2})", us(row.took.wall), us(row.took.cpu));
        let cells = columns.map(|name| {
            let row = rows.iter().find(|row| row.name == name).expect("a contestant");
            format!("{} {:.2}x", both(row), us(row.took.wall) / us(best.took.wall))
        });
        let (limit, cells) = (both(&rows[0]), cells.join(" | "));
        let work = format!("{}, {}", case.pipe >> 10, case.size);
        println!("| {work} | {limit} | {} {} | {cells} |", best.name, both(best));
    }
}

fn contestant(case: Case, name: &'static str, take: Take) -> Contestant<'static> {
    (name, Box::new(move |records| Slice::mean(take(case, records), records)))
}

/// Returns the largest pipe of an unprivileged process, in bytes.
fn pipe_max() -> usize {
    let text = std::fs::read_to_string("/proc/sys/fs/pipe-max-size").expect("Linux has it");
    text.trim().parse().expect("bytes")
}

impl Case {
    /// Returns the arguments of an agent that writes such records without end.
    fn flood(self) -> Vec<String> {
        let size = self.size.to_string();
        ["fake", "--flood", "--never-read-stdin", "--record-size", &size].map(str::to_owned).into()
    }

    fn set_pipe_size(self, pipe: impl AsFd) {
        let granted = rustix::pipe::fcntl_setpipe_size(pipe, self.pipe).expect("pipe-max-size");
        assert!(granted >= self.pipe, "{granted} bytes of {}", self.pipe);
    }

    /// Runs `take` on the output of a plain child.
    fn with_plain(self, take: impl FnOnce(ChildStdout) -> Took) -> Took {
        let mut child = support::plain(&self.flood());
        let stdout = child.stdout.take().expect("piped");
        self.set_pipe_size(&stdout);
        let took = take(stdout);
        child.kill().expect("killable");
        child.wait().expect("reapable");
        took
    }

    /// Runs `take` on the output of a child of tokio, inside tokio's runtime.
    fn with_tokio(self, take: impl AsyncFnOnce(tokio::process::ChildStdout) -> Took) -> Took {
        support::runtime().block_on(async {
            let mut child = support::tokio_child(&self.flood());
            let stdout = child.stdout.take().expect("piped");
            self.set_pipe_size(&stdout);
            let took = take(stdout).await;
            child.kill().await.expect("killable");
            took
        })
    }

    /// Takes `records` records, after a first one that is not timed.
    async fn timed(self, records: u64, mut next: impl AsyncFnMut() -> usize) -> Took {
        let mut watch = Stopwatch::start();
        for number in 0..=records {
            if number == 1 {
                watch = Stopwatch::start();
            }
            assert_eq!(next().await + 1, self.size);
        }
        watch.stop()
    }
}

/// The limit.
fn read_loop(case: Case, records: u64) -> Took {
    case.with_plain(|mut stdout| {
        let mut buffer = ReadBuffer::new();
        let buffer = buffer.bytes();
        let mut count_lines = || {
            let count = stdout.read(buffer).expect("readable");
            assert!(count > 0, "the output ended");
            memchr::memchr_iter(b'\n', &buffer[..count]).count() as u64
        };
        let mut lines = 0;
        while lines == 0 {
            lines = count_lines();
        }
        let watch = Stopwatch::start();
        let want = lines + records;
        while lines < want {
            lines += count_lines();
        }
        watch.stop()
    })
}

fn tokio_lines(case: Case, records: u64, each: fn(String)) -> Took {
    case.with_tokio(async |stdout| {
        let mut lines = tokio::io::BufReader::with_capacity(BUFFER, stdout).lines();
        let next = async || {
            let line = lines.next_line().await.expect("readable").expect("a line");
            let len = line.len();
            each(line);
            len
        };
        case.timed(records, next).await
    })
}

fn tokio_lines_codec(case: Case, records: u64) -> Took {
    case.with_tokio(async |stdout| {
        let lines = FramedRead::with_capacity(stdout, LinesCodec::new(), BUFFER);
        codec(case, records, lines.map(|line| line.expect("a line").len())).await
    })
}

fn tokio_any_delimiter(case: Case, records: u64) -> Took {
    case.with_tokio(async |stdout| {
        let newline = AnyDelimiterCodec::new(b"\n".to_vec(), Vec::new());
        let lines = FramedRead::with_capacity(stdout, newline, BUFFER);
        codec(case, records, lines.map(|line| line.expect("a line").len())).await
    })
}

async fn codec(case: Case, records: u64, mut sizes: impl Stream<Item = usize> + Unpin) -> Took {
    case.timed(records, async || sizes.next().await.expect("a line")).await
}

fn tokio_uring(case: Case, records: u64) -> Took {
    case.with_plain(|stdout| {
        tokio_uring::start(async {
            let stdout = tokio_uring::fs::File::from_std(OwnedFd::from(stdout).into());
            let read = async |mut buffer: Vec<u8>| {
                buffer.clear();
                let (count, buffer) = stdout.read_at(buffer, 0).await;
                count.expect("readable");
                buffer
            };
            let took = Splitter::timed(case, records, Lines::Measured, read).await;
            stdout.close().await.expect("closable");
            took
        })
    })
}

fn compio(case: Case, records: u64, lines: Lines) -> Took {
    compio_runtime::Runtime::new().expect("a runtime").block_on(async {
        let mut command = compio_process::Command::new(support::AGENT);
        command.args(case.flood());
        command.stdin(Stdio::piped()).expect("settable");
        command.stdout(Stdio::piped()).expect("settable");
        let mut child = command.spawn().expect("the built-in agent starts");
        let mut stdout = child.stdout.take().expect("piped");
        case.set_pipe_size(&stdout);
        let read = async |mut buffer: Vec<u8>| {
            buffer.clear();
            let (count, buffer) = stdout.read(buffer).await.into();
            count.expect("readable");
            buffer
        };
        let took = Splitter::timed(case, records, lines, read).await;
        child.kill().expect("killable");
        child.wait().await.expect("reapable");
        took
    })
}

/// Whether a bare reader keeps its lines.
#[derive(Clone, Copy, PartialEq)]
enum Lines {
    /// Each is measured in place.
    Measured,
    /// Each is copied to memory of its own.
    Owned,
}

/// Splits the bytes of a bare reader.
struct Splitter {
    size: usize,
    fate: Lines,
    /// The bytes of the unfinished line, if lines are kept.
    kept: Vec<u8>,
    /// Bytes of the unfinished line.
    carried: usize,
    lines: u64,
}

impl Splitter {
    fn feed(&mut self, mut bytes: &[u8]) {
        assert!(!bytes.is_empty(), "the output ended");
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            assert_eq!(self.carried + at + 1, self.size);
            if self.fate == Lines::Owned {
                let mut line = std::mem::take(&mut self.kept);
                line.extend_from_slice(&bytes[..at]);
                drop(std::hint::black_box(line));
            }
            self.carried = 0;
            self.lines += 1;
            bytes = &bytes[at + 1..];
        }
        self.carried += bytes.len();
        if self.fate == Lines::Owned {
            self.kept.extend_from_slice(bytes);
        }
    }

    async fn timed(
        case: Case,
        records: u64,
        fate: Lines,
        mut read: impl AsyncFnMut(Vec<u8>) -> Vec<u8>,
    ) -> Took {
        let mut splitter = Self { size: case.size, fate, kept: Vec::new(), carried: 0, lines: 0 };
        let mut buffer = Vec::with_capacity(BUFFER);
        while splitter.lines == 0 {
            buffer = read(buffer).await;
            splitter.feed(&buffer);
        }
        let watch = Stopwatch::start();
        let want = splitter.lines + records;
        while splitter.lines < want {
            buffer = read(buffer).await;
            splitter.feed(&buffer);
        }
        watch.stop()
    }
}

fn command(case: Case, check: JsonCheck) -> AgentCommand {
    let limits = Limits::new().json_check(check);
    AgentCommand::new(support::AGENT).args(case.flood()).limits(limits).pipe_size(case.pipe)
}

/// Takes records of an agent of either engine, whose handles differ in type only.
macro_rules! timed {
    ($agent:ident, $case:ident, $records:ident, $each:ident) => {{
        let next = async || {
            let record = $agent.next_record().await.expect("a record");
            $each(&record);
            record.len()
        };
        let took = $case.timed($records, next).await;
        assert_eq!($agent.stats().stdout_pipe_size, $case.pipe as u64);
        $agent.abort().await;
        took
    }};
}

fn engine(case: Case, records: u64, check: JsonCheck, each: fn(&Record)) -> Took {
    with_engine(Engine::new().expect("io_uring"), case, records, check, each)
}

fn engine_epoll(case: Case, records: u64) -> Took {
    let engine = Engine::builder().backend(Backend::Epoll).build().expect("epoll");
    with_engine(engine, case, records, JsonCheck::Shape, |_| ())
}

fn with_engine(
    engine: Engine,
    case: Case,
    records: u64,
    check: JsonCheck,
    each: fn(&Record),
) -> Took {
    pollster::block_on(async {
        let mut agent = engine.spawn(command(case, check)).await.expect("it starts");
        timed!(agent, case, records, each)
    })
}

fn local(case: Case, records: u64, check: JsonCheck, each: fn(&Record)) -> Took {
    with_local(Backend::IoUring, case, records, check, each)
}

fn local_epoll(case: Case, records: u64) -> Took {
    with_local(Backend::Epoll, case, records, JsonCheck::Shape, |_| ())
}

fn with_local(
    backend: Backend,
    case: Case,
    records: u64,
    check: JsonCheck,
    each: fn(&Record),
) -> Took {
    LocalSet::new().block_on(&support::runtime(), async {
        let engine = LocalEngine::builder().backend(backend).build().expect("the backend");
        let mut agent = engine.spawn(command(case, check)).await.expect("it starts");
        timed!(agent, case, records, each)
    })
}

criterion_group!(benches, throughput);
criterion_main!(benches);
