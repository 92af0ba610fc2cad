//! A host that forks: what the child has of the engine.
#![expect(unsafe_code, reason = "what a fork copies is seen in the child, before its exec")]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::check_close;
use crate::support::own_process::test_name;
use crate::support::{check_alive, engine, fake, has_ring};

/// The mappings of a forked child of this process, as `/proc` shows them: `from-to`, and the line.
fn maps_of_a_fork() -> Vec<(String, String)> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let copy = OwnedFd::from(file.reopen().expect("a file"));
    let tell = move || {
        let maps = File::open("/proc/self/maps")?;
        let mut chunk = [0; 4096];
        loop {
            let len = rustix::io::read(&maps, &mut chunk)?;
            if len == 0 {
                return Ok(());
            }
            rustix::io::write(&copy, &chunk[..len])?;
        }
    };
    let mut command = Command::new("true");
    // SAFETY: opening a file of a short name, reads and writes allocate nothing: sound after a fork.
    unsafe { command.pre_exec(tell) };
    assert!(command.status().expect("starts").success());
    by_range(&fs::read_to_string(file.path()).expect("the child's maps"))
}

fn by_range(maps: &str) -> Vec<(String, String)> {
    let range = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    maps.lines().map(|line| (range(line), line.to_owned())).collect()
}

/// The bytes of `from-to`.
fn bytes(range: &str) -> u64 {
    let number = |text: &str| u64::from_str_radix(text, 16).expect("an address");
    let (from, to) = range.split_once('-').expect("a range");
    number(to) - number(from)
}

// The host forks a worker. With the ring mapped there, a drop in the worker moves the queues of the
// parent; with the buffers, the kernel copies each one that it fills.
#[test]
fn fork_has_neither_ring_nor_buffers() {
    if !has_ring(test_name!()) {
        return;
    }
    const BUFFERS: u64 = 128 * 4096;
    let engine = engine();
    let mut agent = engine.spawn_blocking(fake(&[])).expect("spawns");
    check_alive(&mut agent);
    let is_ring = |(_, line): &(String, String)| line.contains("[io_uring]");

    let ours = by_range(&fs::read_to_string("/proc/self/maps").expect("proc"));
    let its = maps_of_a_fork();
    assert!(ours.iter().any(is_ring), "{ours:?}");
    assert!(its.len() > 10, "{its:?}");
    let shared: Vec<_> = its.iter().filter(|mapping| is_ring(mapping)).collect();
    assert!(shared.is_empty(), "{shared:?}");
    let is_missing = |range: &str| its.iter().all(|(its, _)| its != range);
    let buffers = ours.iter().filter(|(range, line)| {
        is_missing(range) && !line.contains("[io_uring]") && bytes(range) >= BUFFERS
    });
    assert!(buffers.count() > 0, "the buffers are in the child, too");

    check_alive(&mut agent);
    check_close(&agent);
}
