//! Floor 1. Is a process at rest: does nothing run that could still write?
//!
//! Who has output queued and finds room for it runs, or waits for its disk; who waits for input
//! or time sleeps. Said only where it is certain: a process with children works through them
//! while it sleeps, and what `/proc` hides is not known.

use std::fs;
use std::io::Read;

/// What is seen of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rest {
    /// It is one thread, and that one sleeps.
    One,
    /// All its threads sleep. They are looked at one after the other, twice: a thread that hands
    /// work to one that was just looked at may slip through.
    Threads,
    /// It has children, or is stopped, or is hidden, or has too many threads.
    Unknown,
    /// A thread runs, or would if it had a processor, or waits for a disk.
    AtWork,
}

/// Looks at one thread after the other; each costs some 10 us, and one of `budget`. Of a process
/// with more than that nothing is known.
pub(crate) fn rest(pid: u32, budget: &mut usize) -> Rest {
    match look(pid, budget).unwrap_or(Rest::Unknown) {
        Rest::Threads => look(pid, budget).unwrap_or(Rest::Unknown),
        rest => rest,
    }
}

fn look(pid: u32, budget: &mut usize) -> Option<Rest> {
    let mut buffer = [0; 512];
    let mut threads = 0;
    let mut known = true;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let thread = thread.ok()?.path();
        threads += 1;
        *budget = budget.checked_sub(1)?;
        let mut read = |name: &str, see: &dyn Fn(&[u8]) -> Option<bool>| {
            let len = fs::File::open(thread.join(name)).ok()?.read(&mut buffer).ok()?;
            see(&buffer[..len])
        };
        match read("stat", &at_work) {
            Some(true) => return Some(Rest::AtWork),
            Some(false) => {}
            None => known = false,
        }
        known &= read("children", &|children| Some(children.is_empty())) == Some(true);
    }
    Some(match threads {
        _ if !known => Rest::Unknown,
        0 => Rest::Unknown,
        1 => Rest::One,
        _ => Rest::Threads,
    })
}

/// From its line: `S` is a sleep that a signal ends, waiting for input, output, time or another
/// thread. `None` for what is neither: stopped, a zombie.
fn at_work(stat: &[u8]) -> Option<bool> {
    // The name stands in parentheses, and may hold spaces and parentheses itself.
    let end = memchr::memrchr(b')', stat)?;
    match stat.get(end + 1..end + 4)? {
        b" S " => Some(false),
        b" R " | b" D " => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::{Rest, at_work};

    /// With time for any process.
    fn rest(pid: u32) -> Rest {
        super::rest(pid, &mut 1000)
    }

    fn shell(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("there is a shell")
    }

    fn end(mut child: Child) {
        child.kill().expect("ours");
        child.wait().expect("ours");
    }

    /// Waits until the answer is `wanted`; the process needs its time to get there.
    fn comes_to(pid: u32, wanted: Rest) -> bool {
        (0..2_000_000).any(|_| {
            std::thread::yield_now();
            rest(pid) == wanted
        })
    }

    #[test]
    fn who_waits_for_input_is_at_rest() {
        let child = shell("read line");
        assert!(comes_to(child.id(), Rest::One));
        end(child);
    }

    #[test]
    fn who_is_at_work_is_not_at_rest() {
        let child = shell("while :; do :; done");
        assert!(comes_to(child.id(), Rest::AtWork));
        // Stopped is not at rest: it goes on where it was.
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::STOP,
        )
        .expect("ours");
        assert!(comes_to(child.id(), Rest::Unknown));
        end(child);
    }

    /// A wrapper sleeps in wait(2) while the agent that it wraps is at work.
    #[test]
    fn who_has_children_is_not_known_to_be_at_rest() {
        let mut child = shell("sleep 1000 & echo; read line; kill $!");
        let mut said = [0];
        std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut said)
            .expect("a line");
        assert!(comes_to(child.id(), Rest::Unknown));
        assert!((0..1000).all(|_| rest(child.id()) == Rest::Unknown));
        let pid = child.id();
        // It ends the child that it has, which would outlive it.
        drop(child.stdin.take());
        child.wait().expect("ours");
        assert_eq!(rest(pid), Rest::Unknown, "it is gone");
    }

    /// Of this process at least the thread that asks is at work.
    #[test]
    fn who_has_a_thread_at_work_is_not_at_rest() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || wait.recv());
        assert_eq!(rest(std::process::id()), Rest::AtWork);
        drop(stop);
        assert!(sleeper.join().expect("no panic").is_err());
    }

    /// The story: a hundred agents of many threads each are closed at once, and their engine looks
    /// at every thread of each before it reads on.
    #[test]
    fn of_more_threads_than_there_is_time_for_nothing_is_known() {
        let child = shell("read line");
        assert!(comes_to(child.id(), Rest::One));
        let mut budget = 2;
        assert_eq!(super::rest(child.id(), &mut budget), Rest::One);
        assert_eq!(super::rest(child.id(), &mut budget), Rest::One);
        assert_eq!(super::rest(child.id(), &mut budget), Rest::Unknown);
        assert_eq!(budget, 0);
        end(child);
    }

    #[test]
    fn a_name_that_looks_like_a_state_deceives_nobody() {
        assert_eq!(at_work(b"7 (a) S b) R 1 7"), Some(true));
        assert_eq!(at_work(b"7 (a) R b) S 1 7"), Some(false));
        assert_eq!(at_work(b"7 (a) R b) T 1 7"), None);
        assert_eq!(at_work(b"7 (a"), None);
        assert_eq!(at_work(b""), None);
    }
}
