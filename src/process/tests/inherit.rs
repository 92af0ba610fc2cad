//! What an agent inherits from this process, and what it must not inherit.
#![expect(unsafe_code, reason = "signal dispositions of this process have no safe form")]

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::pipe::fcntl_getpipe_size;

use super::{read_line, run, shell, start};
use crate::command::AgentCommand;
use crate::error::ErrorKind;
use crate::process::AgentProcess;
use crate::process::spawn::{Parts, spawn};

/// A `cat` that has answered once, so its loader is done and it is in its loop.
fn cat_at_work() -> Parts {
    let parts = start(&AgentCommand::new("/bin/cat"));
    write(&parts.stdin, b"ready\n");
    assert_eq!(read_line(&parts.stdout), "ready");
    parts
}

fn write(fd: &OwnedFd, bytes: &[u8]) {
    let mut file = File::from(fd.try_clone().expect("a descriptor"));
    file.write_all(bytes).expect("write");
}

fn end(mut parts: Parts) {
    assert!(parts.child.kill(None));
    super::reap(&mut parts);
}

fn status_field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("such a line");
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).expect("a mask")
}

/// A library of the host opens a descriptor without close-on-exec. In an agent it would keep a pipe of
/// another agent open.
#[test]
fn leaked_descriptor_does_not_reach_the_agent() {
    let file = File::open("/dev/null").expect("open");
    // dup(2) returns a descriptor without close-on-exec.
    let leaked = rustix::io::dup(&file).expect("dup");
    let parts = cat_at_work();
    let mut open = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", parts.child.pid())).expect("fd") {
        let entry = entry.expect("an entry");
        let target = fs::read_link(entry.path()).expect("a link");
        open.insert(entry.file_name().into_string().expect("a number"), target);
    }
    assert_eq!(open.keys().collect::<Vec<_>>(), ["0", "1", "2"], "{open:?}");
    for target in open.values() {
        assert!(target.to_string_lossy().starts_with("pipe:"), "{open:?}");
    }
    assert!(leaked.as_raw_fd() > 2);
    end(parts);
}

/// O_NONBLOCK on the agent's ends makes programs lose output with EAGAIN.
#[test]
fn agents_pipe_ends_block() {
    let parts = cat_at_work();
    for fd in [&parts.stdin, &parts.stdout, &parts.stderr] {
        assert!(fcntl_getfl(fd).expect("flags").contains(OFlags::NONBLOCK));
        assert!(rustix::io::fcntl_getfd(fd).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
        assert!(fd.as_raw_fd() > 2);
    }
    assert!(
        rustix::io::fcntl_getfd(&parts.pidfd)
            .expect("flags")
            .contains(rustix::io::FdFlags::CLOEXEC)
    );
    for number in 0..3 {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", parts.child.pid()))
            .expect("fdinfo");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags");
        let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
        assert_eq!(flags & OFlags::NONBLOCK.bits(), 0, "{info}");
    }
    end(parts);
}

/// A server ignores SIGPIPE and SIGHUP and blocks signals. An agent that inherits that survives SIGTERM,
/// or never learns that its reader is gone.
#[test]
fn ignored_and_blocked_signals_do_not_reach_the_agent() {
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGPIPE, libc::SIGTTOU, 40] {
        // SAFETY: ignoring a signal installs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: a set of bits, for which zero is a value.
    let mut mask = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    for signal in [libc::SIGTERM, libc::SIGUSR1, 41] {
        // SAFETY: `mask` is a set, `signal` is one.
        unsafe { libc::sigaddset(&raw mut mask, signal) };
    }
    // SAFETY: `mask` is a set; a null pointer asks for no old one. This thread only.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut()) };

    let ours = || {
        let status = fs::read_to_string("/proc/thread-self/status").expect("status");
        let signals = status.lines().filter(|line| line.starts_with("Sig")).collect::<Vec<_>>();
        // The length of the queue changes at any time.
        signals.into_iter().filter(|line| !line.starts_with("SigQ")).collect::<String>()
    };
    let before = ours();
    let parts = cat_at_work();
    assert_eq!(ours(), before, "the signals of this thread have changed");
    let pid = parts.child.pid();
    assert_eq!(status_field(pid, "SigIgn"), 0);
    assert_eq!(status_field(pid, "SigBlk"), 0);
    assert_eq!(status_field(pid, "SigCgt"), 0);
    // So SIGTERM ends it.
    let mut parts = parts;
    assert!(parts.child.terminate(None));
    assert_eq!(super::reap(&mut parts).signal(), Some(libc::SIGTERM));
}

#[test]
fn agent_leads_a_process_group() {
    let parts = cat_at_work();
    let pid = parts.child.pid();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    assert_eq!(rustix::process::getpgid(pid).expect("a group"), pid.expect("a pid"));
    end(parts);
}

// The number of one is that of another in this process: neither may take the place of the other, nor that of
// a pipe of the agent.
#[test]
fn passed_descriptors_keep_their_numbers() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| {
        fs::write(folder.path().join(name), name).expect("written");
        OwnedFd::from(File::open(folder.path().join(name)).expect("open"))
    };
    let (one, two) = (file("one"), file("two"));
    let [first, second] = [&one, &two].map(|fd| u32::try_from(fd.as_raw_fd()).expect("a number"));
    let fds = "/proc/self/fd";
    let script = format!("cat {fds}/{first} {fds}/{second} {fds}/9; ls {fds} | wc -l");
    let command = shell(&script);
    // Swapped, and the last call for 9 takes effect.
    let command = command.pass_fd(one, second).pass_fd(two, first).pass_fd(file("lost"), 9);
    let command = command.pass_fd(file("three"), 9);
    // `ls` has its pipes, the three, and the folder that it lists.
    assert_eq!(run(&command).0, "twoonethree7\n");
    for number in [0, 2, u32::MAX, 1 << 30] {
        let refused = spawn(&shell("true").pass_fd(file("x"), number)).expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::InvalidCommand);
        assert!(refused.to_string().contains(&format!("descriptor {number} ")), "{refused}");
    }
}

#[test]
fn environment_options_apply_in_order() {
    let ours = std::env::var("PATH").expect("a PATH");
    assert_eq!(run(&shell("echo $PATH")).0, format!("{ours}\n"));
    let command = shell("echo ${A-none} ${B-none}").env("A", "1").env("B", "2=3");
    assert_eq!(run(&command).0, "1 2=3\n");
    // The last option wins.
    assert_eq!(run(&command.clone().env_remove("A").env("B", "")).0, "none\n");
    assert_eq!(run(&command.clone().env_remove("A").env("A", "4")).0, "4 2=3\n");
    let bare = AgentCommand::new("env").env("A", "1").env_clear().env("B", "2");
    // Without PATH the default one finds it.
    assert_eq!(run(&bare).0, "B=2\n");
}

/// The standard library forks for this: 45 ms at 1 GiB.
#[test]
fn program_is_searched_in_the_path_of_the_agent() {
    let dir = tempfile::tempdir().expect("a directory");
    super::write_file(&dir.path().join("only-here"), "#!/bin/sh\necho found $0 $1\n", 0o755);
    let command = AgentCommand::new("only-here").arg("x").env("PATH", dir.path());
    let file = dir.path().join("only-here");
    assert_eq!(run(&command).0, format!("found {} x\n", file.display()));
    let parts = start(&command);
    assert_eq!(parts.program, file);
    end_quietly(parts);
    let gone = command.clone().env_remove("PATH");
    assert!(spawn(&gone).is_err());
}

fn end_quietly(mut parts: Parts) {
    super::reap(&mut parts);
}

/// Programs with several names choose what to do by argv[0].
#[test]
fn first_argument_is_the_name_as_given() {
    let (text, _) = run(&AgentCommand::new("cat").arg("/proc/self/cmdline"));
    assert_eq!(text, "cat\0/proc/self/cmdline\0");
}

/// Runtimes trust PWD, so an inherited one would put the agent into the directory of this process.
#[test]
fn pwd_follows_the_working_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let real = dir.path().join("real");
    fs::create_dir(&real).expect("mkdir");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).expect("symlink");
    let pwd = |command: AgentCommand| {
        let env = run(&command).0;
        env.lines().filter(|line| line.starts_with("PWD=")).collect::<String>()
    };
    let env = || AgentCommand::new("env");
    let is = |path: &Path| format!("PWD={}", path.display());
    assert_eq!(pwd(env().cwd(&real)), is(&real));
    assert_eq!(pwd(env().cwd(&link)), is(&link), "the link is kept");
    assert_eq!(pwd(env().cwd(real.join("../link/"))), is(&fs::canonicalize(&real).expect("real")));
    assert_eq!(pwd(env().cwd("src/.")), is(&std::env::current_dir().expect("cwd").join("src")));
    assert_eq!(pwd(env().cwd(&real).env("PWD", "/mine")), "PWD=/mine");
    assert_eq!(pwd(env().cwd(&real).env_remove("PWD")), "");
    assert_eq!(pwd(env().env_clear().cwd(&real)), is(&real));
    // The working directory itself is right, too.
    let (text, _) = run(&shell("cat /proc/self/cmdline >/dev/null; /bin/pwd -P").cwd(&link));
    assert_eq!(text.trim_end(), fs::canonicalize(&real).expect("real").to_string_lossy());
}

#[test]
fn pipe_size_is_set_and_reported() {
    let command = AgentCommand::new("/bin/cat").pipe_size(200_000);
    let parts = start(&command);
    assert_eq!(parts.stdin_pipe_size, 262_144, "rounded up by the kernel");
    assert_eq!(parts.stdout_pipe_size, 262_144);
    assert_eq!(fcntl_getpipe_size(&parts.stdin).expect("size"), parts.stdin_pipe_size);
    end(parts);
    let parts = start(&AgentCommand::new("/bin/cat").pipe_size(1));
    assert_eq!(parts.stdin_pipe_size, 4096, "a page at least");
    end(parts);
    let parts = start(&AgentCommand::new("/bin/cat"));
    assert_eq!(fcntl_getpipe_size(&parts.stdout).expect("size"), parts.stdout_pipe_size);
    end(parts);
}

/// The kernel refuses a size above its limit instead of granting less. The agent must run with the
/// largest size that the limit allows.
#[test]
fn pipe_size_above_the_limit_is_reduced() {
    let limit = fs::read_to_string("/proc/sys/fs/pipe-max-size").expect("a limit");
    let limit: usize = limit.trim().parse().expect("a number");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The limit does not apply to root. Changes this thread only.
            super::become_nobody();
            let parts = start(&AgentCommand::new("/bin/cat").pipe_size(1 << 40));
            for size in [parts.stdin_pipe_size, parts.stdout_pipe_size] {
                assert!(size <= limit && size > limit / 2, "{size} of {limit}");
            }
            end(parts);
        });
    });
}

/// An agent that inherits the pipe end of another agent keeps it open, so the output of that one never
/// ends.
#[test]
fn concurrent_spawns_share_no_pipes() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut living: Vec<Parts> = Vec::new();
                for round in 0..25 {
                    let command = AgentCommand::new("/bin/cat");
                    let mut parts = start(&command);
                    write(&parts.stdin, b"x\n");
                    drop(parts.stdin);
                    assert_eq!(super::read_to_end(parts.stdout), "x\n", "round {round}");
                    super::await_readable(
                        &parts.pidfd,
                        std::time::Instant::now() + super::PATIENCE,
                    );
                    assert_eq!(parts.child.try_reap(), Some(crate::close::ExitStatus::Code(0)));
                    // This one outlives the following rounds.
                    living.push(start(&command));
                }
                living.into_iter().for_each(end);
            });
        }
    });
}
