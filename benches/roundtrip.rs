//! Round trip: one small record to an agent that echoes it, and the answer, one at a time.
//!
//! On one thread: `LocalEngine` inside tokio's current-thread runtime and inside tokio-uring's, compared
//! with tokio's own pipes on the same runtime. Across threads: `Engine` with its handle in a task of
//! tokio's multi-thread runtime and with a blocking handle, compared with tokio's pipes in such a task;
//! and with an engine thread that never busy-polls before it sleeps, or always does.
//! The limit of both is a blocking write(2) and read(2). Every answer is compared. The contestants on one
//! thread are bound to one CPU.

mod support;

use std::future::Future;
use std::io::{Read, Write};
use std::pin::Pin;
use std::time::Duration;

use agentpipe::{AgentCommand, Backend, Engine, LocalEngine};
use criterion::{Criterion, criterion_group, criterion_main};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use crate::support::contest::{Contest, Contestant, Slice};
use crate::support::stopwatch::{Stopwatch, Took};

const RECORD: &str =
    r#"{"type":"ping","id":1,"text":"a hundred bytes, such as a small answer of a tool has"}"#;

fn command() -> AgentCommand {
    AgentCommand::new(support::AGENT).arg("fake")
}

/// Makes a number of round trips and returns the time.
type Run = fn(u64) -> Took;

const ONE_THREAD: [(&str, Run); 5] = [
    ("read_write", |count| on_one_processor(|| read_write(count))),
    ("tokio", |count| on_one_processor(|| local_task(tokio_pipes(count)))),
    ("local", |count| on_one_processor(|| local_task(local_with(Backend::IoUring, count)))),
    ("local_epoll", |count| on_one_processor(|| local_task(local_with(Backend::Epoll, count)))),
    ("local_in_tokio_uring", |count| {
        let run = || LocalEngine::run(async move |engine| local(engine, count).await);
        on_one_processor(|| run().expect("io_uring"))
    }),
];

const THREADS: [(&str, Run); 7] = [
    ("read_write", read_write),
    ("tokio", |count| in_a_task(Box::pin(tokio_pipes(count)))),
    ("engine", |count| in_a_task(Box::pin(engine(count)))),
    ("engine_epoll", |count| in_a_task(Box::pin(engine_epoll(count)))),
    ("engine_spin_never", |count| in_a_task(Box::pin(engine_busy_polling(count, Duration::ZERO)))),
    ("engine_spin_always", |count| {
        in_a_task(Box::pin(engine_busy_polling(count, Duration::from_micros(100))))
    }),
    ("engine_blocking", engine_blocking),
];

fn roundtrip(criterion: &mut Criterion) {
    contest(criterion, "roundtrip/one_thread", ONE_THREAD.into());
    contest(criterion, "roundtrip/threads", THREADS.into());
}

fn contest(criterion: &mut Criterion, group: &'static str, contestants: Vec<(&'static str, Run)>) {
    let slice = Duration::from_millis(150);
    let contest = Contest { group, parameter: RECORD.len().to_string(), slice, throughput: None };
    let in_slices = |run: Run| move |count| Slice::mean(run(count), count);
    let contestants: Vec<Contestant<'_>> = contestants
        .into_iter()
        .map(|(name, run)| -> Contestant<'_> { (name, Box::new(in_slices(run))) })
        .collect();
    contest.run(criterion, contestants);
}

/// Binds agent and host to one CPU. With two, the time in which an idle CPU wakes dominates, and it varies
/// by a factor of six between runs.
fn on_one_processor(program: impl FnOnce() -> Took) -> Took {
    let all = sched_getaffinity(None).expect("a set of processors");
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    sched_setaffinity(None, &one).expect("a processor of ours");
    let took = program();
    sched_setaffinity(None, &all).expect("as it was");
    took
}

/// Runs a task on one thread, as a host with a task per agent does.
fn local_task(program: impl Future<Output = Took> + 'static) -> Took {
    LocalSet::new().block_on(&support::runtime(), async {
        tokio::task::spawn_local(program).await.expect("it ends")
    })
}

/// Runs a task of a multi-thread runtime, as a server does for each connection.
fn in_a_task(program: Pin<Box<dyn Future<Output = Took> + Send>>) -> Took {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(runtime.spawn(program)).expect("it ends")
}

/// The limit.
fn read_write(count: u64) -> Took {
    let mut child = support::plain(&["fake".to_owned()]);
    let mut stdin = child.stdin.take().expect("piped");
    let mut stdout = child.stdout.take().expect("piped");
    let line = format!("{RECORD}\n");
    let mut back = vec![0; line.len()];
    let mut once = || {
        stdin.write_all(line.as_bytes()).expect("writable");
        stdout.read_exact(&mut back).expect("readable");
        assert_eq!(back, line.as_bytes());
    };
    once();
    let watch = Stopwatch::start();
    (0..count).for_each(|_| once());
    let took = watch.stop();
    child.kill().expect("killable");
    child.wait().expect("reapable");
    took
}

struct Pipes {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    line: Vec<u8>,
    back: Vec<u8>,
}

impl Pipes {
    async fn once(&mut self) {
        self.stdin.write_all(&self.line).await.expect("writable");
        self.back.clear();
        self.stdout.read_until(b'\n', &mut self.back).await.expect("readable");
        assert_eq!(self.back, self.line);
    }
}

async fn tokio_pipes(count: u64) -> Took {
    let mut child = support::tokio_child(&["fake".to_owned()]);
    let mut pipes = Pipes {
        stdin: child.stdin.take().expect("piped"),
        stdout: BufReader::new(child.stdout.take().expect("piped")),
        child,
        line: format!("{RECORD}\n").into_bytes(),
        back: Vec::new(),
    };
    pipes.once().await;
    let watch = Stopwatch::start();
    for _ in 0..count {
        pipes.once().await;
    }
    let took = watch.stop();
    pipes.child.kill().await.expect("killable");
    took
}

/// Makes `count` round trips after one that is not timed. The handles of both engines differ in type only.
macro_rules! rounds {
    ($agent:ident, $count:ident) => {{
        let mut watch = Stopwatch::start();
        for number in 0..=$count {
            if number == 1 {
                watch = Stopwatch::start();
            }
            $agent.send(RECORD).await.expect("sent");
            let answer = $agent.next_record().await.expect("an echo");
            assert_eq!(answer.as_bytes(), RECORD.as_bytes());
        }
        let took = watch.stop();
        $agent.abort().await;
        took
    }};
}

async fn local(engine: LocalEngine, count: u64) -> Took {
    let mut agent = engine.spawn(command()).await.expect("the built-in agent starts");
    rounds!(agent, count)
}

async fn local_with(backend: Backend, count: u64) -> Took {
    local(LocalEngine::builder().backend(backend).build().expect("the backend"), count).await
}

async fn engine_epoll(count: u64) -> Took {
    with_engine(Engine::builder().backend(Backend::Epoll).build().expect("epoll"), count).await
}

async fn engine(count: u64) -> Took {
    with_engine(Engine::new().expect("io_uring"), count).await
}

async fn engine_busy_polling(count: u64, spin: Duration) -> Took {
    with_engine(Engine::builder().busy_poll(spin).build().expect("io_uring"), count).await
}

async fn with_engine(engine: Engine, count: u64) -> Took {
    let mut agent = engine.spawn(command()).await.expect("the built-in agent starts");
    rounds!(agent, count)
}

fn engine_blocking(count: u64) -> Took {
    pollster::block_on(engine(count))
}

criterion_group!(benches, roundtrip);
criterion_main!(benches);
