//! Parents of all kinds that die at random moments, by SIGKILL, and leave no process behind.
//!
//! Each is a process, and all it does follows from its seed. A thousand of them:
//! `AGENTPIPE_PARENTS=1000 cargo test --release --test cli leave_no_process -- --nocapture`; another
//! thousand with `AGENTPIPE_SEED`, the number of the first.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::own_process::test_name;
use crate::support::{CEILING, PROGRAM};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, getpid, kill_process};

const SEED: &str = "AGENTPIPE_TEST_PARENT";
const FOLDER: &str = "AGENTPIPE_TEST_PARENT_FOLDER";
/// Every process that a parent starts has it in its environment.
const MARK: &str = "AGENTPIPE_TEST_MARK";

/// Numbers that follow from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).expect("below a usize")
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

const AGENTS: &[&[&str]] = &[
    &[],
    &["--flood"],
    &["--flood", "--ignore-sigterm", "--ignore-epipe"],
    &["--flood", "--flood-stderr", "--sigterm-restart"],
    &["--flood", "1m", "--flood-stderr", "200k"],
    &["--flood", "1m", "--noise", "--read-eof-between"],
    &["--flood-stderr"],
    &["--never-read-stdin", "--ignore-eof"],
    &["--never-read-stdin", "--ignore-eof", "--ignore-sigterm"],
    &["--ignore-eof", "--ignore-sigterm", "--noise"],
    &["--grandchild-holds-stdout", "20s"],
    &["--close-stdout", "--ignore-eof"],
    &["--exit-after", "100", "--flood"],
    &["--exit-now", "--die-by-signal", "SEGV"],
    &["--huge", "20m"],
    &["--like", "claude-native", "--backlog", "2m", "--backlog-at-start"],
    &["--like", "claude-node", "--backlog", "2m", "--mid-turn"],
];

const FLAGS: &[&[&str]] = &[
    &[],
    &["--drain", "200ms", "--terminate", "100ms"],
    &["--drain", "0", "--terminate", "0", "-q"],
    &["--close", "abort"],
    &["--framing", "content-length", "--drain", "500ms"],
    &["--record-max", "64", "--drain", "300ms"],
    &["--report", "-", "--drain", "300ms"],
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Pipe,
    NonBlocking,
    Socket,
    Fifo,
    Null,
    Full,
    /// Its other end is gone from the start.
    Broken,
}

const KINDS: &[Kind] = &[
    Kind::Pipe,
    Kind::Pipe,
    Kind::NonBlocking,
    Kind::Socket,
    Kind::Fifo,
    Kind::Null,
    Kind::Full,
    Kind::Broken,
];

/// What the parent keeps, and what the run gets.
fn stream(kind: Kind, writes: bool, path: &Path) -> (Option<File>, Stdio) {
    let split =
        |(read, write): (OwnedFd, OwnedFd)| if writes { (read, write) } else { (write, read) };
    let (ours, theirs): (OwnedFd, OwnedFd) = match kind {
        Kind::Null => return (None, Stdio::null()),
        Kind::Full => {
            let full = File::options().read(true).write(true).open("/dev/full").expect("there");
            // To read it never ends: as an input it is another kind.
            return (None, if writes { full.into() } else { Stdio::null() });
        }
        Kind::Socket => {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            (ours.into(), theirs.into())
        }
        Kind::Fifo => {
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a FIFO");
            let read = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let read = rustix::fs::open(path, read, Mode::empty()).expect("there");
            let write = OFlags::WRONLY | OFlags::CLOEXEC;
            let write = rustix::fs::open(path, write, Mode::empty()).expect("there");
            rustix::io::ioctl_fionbio(&read, false).expect("settable");
            split((read, write))
        }
        Kind::Pipe | Kind::NonBlocking | Kind::Broken => {
            split(pipe_with(PipeFlags::CLOEXEC).expect("a pipe"))
        }
    };
    if kind == Kind::NonBlocking {
        rustix::io::ioctl_fionbio(&theirs, true).expect("settable");
    }
    // The parent itself waits for nothing.
    rustix::io::ioctl_fionbio(&ours, true).expect("settable");
    ((kind != Kind::Broken).then(|| ours.into()), theirs.into())
}

/// One parent, from its birth to its death.
#[expect(clippy::zombie_processes, reason = "it dies before its child, on purpose")]
fn live_and_die(seed: u64) {
    let mut random = Random(seed);
    let folder = std::env::var(FOLDER).expect("a folder");
    let folder = Path::new(&folder);
    let [input, output, errors] =
        [(); 3].map(|()| if random.below(3) == 0 { Kind::Pipe } else { random.one(KINDS) });
    let (mut stdin, theirs_in) = stream(input, false, &folder.join("stdin"));
    let (mut stdout, theirs_out) = stream(output, true, &folder.join("stdout"));
    let (mut stderr, theirs_err) = stream(errors, true, &folder.join("stderr"));
    let (flags, agent) = (random.one(FLAGS), random.one(AGENTS));
    let mut command = Command::new(PROGRAM);
    command.arg("run").args(flags).args(["--", PROGRAM, "fake"]).args(agent);
    let child = command.stdin(theirs_in).stdout(theirs_out).stderr(theirs_err).spawn();
    let child = child.expect("starts");
    drop(command);
    let shown = format!("{input:?} {output:?} {errors:?} {flags:?} {agent:?}");
    fs::write(folder.join("shown"), shown).expect("written");
    for _ in 0..random.below(12) {
        act(&mut random, &child, &mut stdin, &mut stdout, &mut stderr);
    }
    kill_process(getpid(), Signal::KILL).expect("allowed");
}

fn act(
    random: &mut Random,
    child: &Child,
    stdin: &mut Option<File>,
    stdout: &mut Option<File>,
    stderr: &mut Option<File>,
) {
    let mut chunk = vec![0; 100_000];
    // It may have ended already, and is a zombie then.
    let signal = |signal| kill_process(Pid::from_child(child), signal).expect("not reaped");
    match random.below(10) {
        0 | 1 => {
            let record = format!("{{\"pad\":\"{}\"}}\n", "x".repeat(random.below(20_000)));
            let much = record.repeat(1 + random.below(200));
            let _some_of_it = stdin.as_mut().map(|stdin| stdin.write(much.as_bytes()));
        }
        2 => drop(stdout.as_mut().map(|stdout| stdout.read(&mut chunk))),
        3 => drop(stderr.as_mut().map(|stderr| stderr.read(&mut chunk))),
        4 => *stdin = None,
        5 if random.below(2) == 0 => *stdout = None,
        5 => *stderr = None,
        6 => signal(random.one(&[Signal::TERM, Signal::INT, Signal::HUP])),
        7 => {
            signal(Signal::STOP);
            thread::sleep(Duration::from_millis(random.below(10) as u64));
            signal(Signal::CONT);
        }
        _ => thread::sleep(Duration::from_millis(random.below(30) as u64)),
    }
}

/// Processes that have the mark, by number, and what they are.
fn marked(mark: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    let has_mark = |entry: &fs::DirEntry| {
        let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let named = |entry: fs::DirEntry| {
        let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        format!("{}: {}", entry.file_name().display(), words.replace('\0', " "))
    };
    processes.filter(has_mark).map(named).collect()
}

/// How long it took from the death of the parent until nothing was left of it.
fn check(test: &str, seed: u64) -> Duration {
    let folder = tempfile::tempdir().expect("a folder");
    let mark = format!("{}-{seed}", std::process::id());
    let mut parent = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test])
        .env(SEED, seed.to_string())
        .env(FOLDER, folder.path())
        .env(MARK, &mark)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let status = parent.wait().expect("our child");
    let died = Instant::now();
    let shown = fs::read_to_string(folder.path().join("shown")).unwrap_or_default();
    assert_eq!(status.code(), None, "seed {seed}: it dies of SIGKILL: {shown}");
    let mark = format!("{MARK}={mark}");
    let mut pause = Duration::from_millis(1);
    loop {
        let left = marked(&mark);
        if left.is_empty() {
            return died.elapsed();
        }
        assert!(died.elapsed() < CEILING, "seed {seed}: {shown} has left {left:?}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

// An editor crashes, a shell is closed, a test is killed. Everything they started must end.
#[test]
fn random_parents_leave_no_process() {
    if let Ok(seed) = std::env::var(SEED) {
        live_and_die(seed.parse().expect("a number"));
    } else {
        let test = test_name!();
        let setting = |name| std::env::var(name).map(|text| text.parse().expect("a number"));
        let count = setting("AGENTPIPE_PARENTS").unwrap_or(24);
        let first: u64 = setting("AGENTPIPE_SEED").unwrap_or(1);
        let next = AtomicU64::new(first);
        let slowest = thread::scope(|scope| {
            let one = || {
                let mut slowest = Duration::ZERO;
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count {
                        return slowest;
                    }
                    slowest = slowest.max(check(test, seed));
                }
            };
            let threads = [(); 4].map(|()| scope.spawn(one));
            threads.into_iter().map(|thread| thread.join().expect("no panic")).max()
        });
        assert!(slowest > Some(Duration::ZERO));
        println!("{count} parents from seed {first}: nothing is left after {slowest:?}");
    }
}
