//! Each option of a spawn, as the child sees it, and the error if it is refused.
//!
//! Users and cgroups need root. Without root the same tests check the refusal.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, dumpable_behavior, geteuid, getgid, getuid};

use super::{
    PATIENCE, await_readable, read_line, read_to_end, read_until, reap, run, shell, start,
};
use crate::close::ExitStatus;
use crate::command::AgentCommand;
use crate::command::ResourceLimit;
use crate::error::{Error, ErrorKind};
use crate::process::host_limits::tightest;
use crate::process::procfs::living_members;
use crate::process::spawn::spawn;
use crate::process::{AgentProcess, Removal, capacity};
use crate::process::{cgroup::own_folder, procfs::cgroup_folder};

fn refusal(command: &AgentCommand, kind: ErrorKind, says: &[&str]) -> Error {
    let error = spawn(command).expect_err("must be refused");
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in says {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    error
}

fn is_root() -> bool {
    geteuid().is_root()
}

const IDS: &str = "grep -E '^(Uid|Gid|Groups):' /proc/self/status | tr -s '\\t ' ' '";

/// Any of the four ids, or a supplementary group, that is not changed is a way back to root.
#[test]
fn all_ids_of_the_user_are_set() {
    let command = shell(IDS).user(65_534, 65_533);
    if is_root() {
        check_all_ids(command);
    } else {
        refusal(&command, ErrorKind::NotPermitted, &["CAP_SETGID"]);
    }
}

fn check_all_ids(command: AgentCommand) {
    let ids = "Uid: 65534 65534 65534 65534\nGid: 65533 65533 65533 65533\n";
    assert_eq!(run(&command).0.replace(": \n", ":\n"), format!("{ids}Groups:\n"));
    let (text, _) = run(&command.groups([7, 8]));
    assert_eq!(text.trim_end(), format!("{ids}Groups: 7 8"));
    // Groups alone do not change the user.
    assert!(run(&shell(IDS).groups([9])).0.contains("Uid: 0 0 0 0\nGid: 0 0 0 0\nGroups: 9"));
    // No thread of this process has changed: the calls of the C library would have changed all.
    for task in fs::read_dir("/proc/self/task").expect("tasks").flatten() {
        // A thread of another test may be gone, or have changed its user itself.
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        assert!(!status.contains("65533"), "{comm}{status}");
    }
}

/// An agent that runs a forged command must not become root by a set-user-ID program. The flag reaches
/// what it starts, too.
#[test]
fn agent_cannot_gain_privileges_by_default() {
    let script = "grep NoNewPrivs: /proc/self/status; sh -c 'grep NoNewPrivs: /proc/self/status'";
    let command = shell(script);
    assert_eq!(run(&command).0, "NoNewPrivs:\t1\n".repeat(2));
    // This process has not changed, and neither have its other agents.
    let ours = fs::read_to_string("/proc/thread-self/status").expect("status");
    let ours = ours.lines().find(|line| line.starts_with("NoNewPrivs:")).expect("a line");
    let with = run(&command.no_new_privs(false)).0;
    assert_eq!(with, format!("{ours}\n").repeat(2));
}

/// An agent that may write `cgroup.procs` of an ancestor leaves its cgroup. Another user may not.
#[test]
fn other_user_cannot_leave_its_cgroup() {
    let Some(folder) = may_make_cgroups() else {
        return drop(refusal(&shell("true").cgroup(), ErrorKind::CgroupUnavailable, &["cgroup"]));
    };
    let script = format!(
        "if (echo 0 >{}/cgroup.procs) 2>/dev/null; then echo left; else echo stays; fi",
        folder.display()
    );
    assert_eq!(run(&shell(&script).cgroup()).0, "left\n", "it may, as docs/guide/security.md says");
    if is_root() {
        assert_eq!(run(&shell(&script).cgroup().user(65_534, 65_534)).0, "stays\n");
    }
}

/// Log settings of servers name `/dev/stdout`, and shells redirect to `/dev/stderr`. The kernel checks
/// the owner of the pipe then, which was the user of this process.
#[test]
fn other_user_opens_its_pipes_by_name() {
    let script = "read line </dev/stdin; echo $line >/dev/stdout; echo two >>/proc/self/fd/1; \
                  echo three >/dev/stderr";
    let command = shell(script);
    let command = if is_root() { command.user(65_534, 65_533) } else { command };
    let parts = start(&command);
    rustix::io::write(&parts.stdin, b"one\n").expect("room");
    assert_eq!(read_to_end(parts.stderr), "three\n");
    assert_eq!(read_to_end(parts.stdout), "one\ntwo\n");
    reap_child(parts.child, &parts.pidfd);
}

fn reap_child(mut child: crate::process::child::Child, pidfd: &std::os::fd::OwnedFd) {
    await_readable(pidfd, Instant::now() + PATIENCE);
    assert_eq!(child.try_reap(), Some(ExitStatus::Code(0)));
}

/// The kernel makes the memory that a child of another user shares undumpable. It must be dumpable
/// again afterwards.
#[test]
fn host_stays_dumpable_after_user_spawn() {
    if super::limits::alone("options", "host_stays_dumpable_after_user_spawn") {
        let before = dumpable_behavior().expect("a value");
        assert_eq!(before, DumpableBehavior::Dumpable);
        let command = shell("exit 3").user(65_534, 65_534);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let expected = if is_root() { Some(ExitStatus::Code(3)) } else { None };
                        let ended = spawn(&command).ok().map(|child| reap(&mut child.into_parts()));
                        assert_eq!(ended, expected);
                    }
                });
            }
        });
        assert_eq!(dumpable_behavior().expect("a value"), DumpableBehavior::Dumpable);
    }
}

/// The error names the refused step and the remedy. The thread is unprivileged, also if root runs the
/// tests.
#[test]
fn missing_privilege_is_named() {
    let refused = || {
        super::become_nobody();
        let says = ["supplementary groups", "CAP_SETGID"];
        refusal(&shell("true").user(1, 1), ErrorKind::NotPermitted, &says);
        refusal(&shell("true").groups([1]), ErrorKind::NotPermitted, &says);
        let above = shell("true").limit(ResourceLimit::OpenFiles, 1 << 40, 1 << 40);
        let says = ["RLIMIT_NOFILE could not be set to 1099511627776:1099511627776", "hard limit"];
        refusal(&above, ErrorKind::NotPermitted, &says);
        // The current user needs no privilege.
        let same = shell("echo same").user(getuid().as_raw(), getgid().as_raw());
        assert_eq!(run(&same).0, "same\n");
        if let Some(folder) = own_folder() {
            let says = ["could not be made", "Permission denied", "Delegate=yes"];
            let folder = fs::canonicalize(folder).expect("there");
            let says = if fs::metadata(&folder).is_ok() { &says[..] } else { &says[2..] };
            refusal(&shell("true").cgroup(), ErrorKind::CgroupUnavailable, says);
        } else {
            refusal(&shell("true").cgroup(), ErrorKind::CgroupUnavailable, &["cgroup2"]);
        }
    };
    thread::scope(|scope| scope.spawn(refused).join().expect("as nobody"));
    let wrong = shell("true").user(u32::MAX, 0);
    refusal(&wrong, ErrorKind::InvalidCommand, &["4294967295"]);
    let wrong = shell("true").limit(ResourceLimit::Core, 2, 1);
    refusal(&wrong, ErrorKind::InvalidCommand, &["soft limit 2 of RLIMIT_CORE", "hard limit 1"]);
}

#[test]
fn soft_and_hard_limits_are_set() {
    let script = "ulimit -n; ulimit -Hn; ulimit -c; ulimit -Ht";
    let command = shell(script)
        .limit(ResourceLimit::OpenFiles, 1, 1)
        .limit(ResourceLimit::OpenFiles, 100, 200)
        .limit(ResourceLimit::Core, 0, 0)
        .limit(ResourceLimit::Cpu, 7, u64::MAX);
    let hard = rustix::process::getrlimit(rustix::process::Resource::Cpu).maximum;
    assert_eq!(hard, None, "this test wants an unlimited hard limit to start from");
    assert_eq!(run(&command).0, "100\n200\n0\nunlimited\n");
    // The lowest limit: the pipes are in place before it is set.
    let mut parts = start(&AgentCommand::new("/bin/sh").limit(ResourceLimit::OpenFiles, 0, 0));
    // The loader cannot open its libraries, which shows that the exec succeeded.
    parts.child.kill(None);
    reap(&mut parts);
}

/// The agent may enter a directory of its user that this process may not enter, and the reverse.
#[test]
fn working_directory_is_entered_as_the_user() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = dir.path().join("home");
    fs::create_dir(&home).expect("mkdir");
    let mode = fs::Permissions::from_mode;
    fs::set_permissions(dir.path(), mode(0o755)).expect("chmod");
    fs::set_permissions(&home, mode(0o700)).expect("chmod");
    let inside = shell("/bin/pwd; echo $PWD").cwd(&home);
    if is_root() {
        check_entered_as_the_user(&home, inside);
    } else {
        refusal(&inside.user(65_534, 65_534), ErrorKind::NotPermitted, &["CAP_SETGID"]);
    }
}

fn check_entered_as_the_user(home: &Path, inside: AgentCommand) {
    chown(home, Some(65_534), Some(65_534)).expect("chown");
    let path = fs::canonicalize(home).expect("there");
    let expected = format!("{}\n{}\n", path.display(), home.display());
    assert_eq!(run(&inside.clone().user(65_534, 65_534)).0, expected);
    let says = ["working directory", "home` cannot be entered", "Permission denied"];
    refusal(&inside.user(65_533, 65_533), ErrorKind::BadWorkingDirectory, &says);
    // The program is executed as the user, too.
    let tool = home.join("tool");
    super::write_file(&tool, "#!/bin/sh\n", 0o755);
    let says = ["tool`, or the interpreter it names, may not be executed as 65533:65533"];
    let command = AgentCommand::new(&tool).user(65_533, 65_533);
    refusal(&command, ErrorKind::ProgramNotExecutable, &says);
}

/// The folder in which this process may make cgroups. `None` if it may not: then a spawn must be refused.
fn may_make_cgroups() -> Option<PathBuf> {
    let folder = own_folder()?;
    let probe = folder.join(format!("agentpipe-test-{}", std::process::id()));
    fs::create_dir(&probe).ok()?;
    fs::remove_dir(&probe).expect("just made");
    Some(folder)
}

/// After `setsid` no signal to the group reaches the grandchild.
#[test]
fn cgroup_kill_reaches_a_grandchild_outside_the_group() {
    let script = "setsid sh -c 'echo away; exec sleep 1000' & cat /proc/self/cgroup; cat; exit 5";
    let command = shell(script).cgroup();
    if let Some(folder) = may_make_cgroups() {
        check_the_grandchild_dies(&command, &folder);
    } else {
        refusal(&command, ErrorKind::CgroupUnavailable, &["cgroup"]);
    }
}

fn check_the_grandchild_dies(command: &AgentCommand, folder: &Path) {
    let mut parts = start(command);
    let mut said = Vec::new();
    let mut stdout = File::from(parts.stdout.try_clone().expect("a descriptor"));
    // Both write at once, in either order; with several hierarchies these are many lines.
    read_until(&mut stdout, &mut said, |text| {
        let text = String::from_utf8_lossy(text);
        text.ends_with('\n') && text.contains("away") && text.contains("/agentpipe-")
    });
    let said = String::from_utf8(said).expect("UTF-8");
    let name = said.split('/').find(|part| part.starts_with("agentpipe-")).expect(&said);
    let name = name.split_whitespace().next().expect("a name");
    let path = folder.join(name);
    assert!(path.exists(), "{}", path.display());
    drop(parts.stdin);
    await_readable(&parts.pidfd, Instant::now() + PATIENCE);
    // The process that holds the pipe lives on in another group.
    assert_eq!(living_members([parts.child.pid()]), [[]]);
    assert!(parts.child.kill(None));
    assert_eq!(parts.child.killed_in_cgroup(), 1);
    read_to_end(parts.stdout);
    assert_eq!(parts.child.try_reap(), Some(ExitStatus::Code(5)));
    while let Removal::Busy(events) = parts.child.remove_cgroup() {
        let mut polled = [PollFd::new(&events, PollFlags::PRI)];
        assert_eq!(
            poll(&mut polled, Some(&rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 })),
            Ok(1)
        );
    }
    assert!(!path.exists(), "removed");
}

/// Cgroups that an agent has made itself must not be left behind.
#[test]
fn nested_cgroups_are_removed() {
    if let Some(folder) = may_make_cgroups() {
        check_cgroups_below(&folder);
    } else {
        refusal(&shell("true").cgroup(), ErrorKind::CgroupUnavailable, &["cgroup"]);
    }
}

fn check_cgroups_below(folder: &Path) {
    let base = folder.join(format!("agentpipe-test-below-{}", std::process::id()));
    fs::create_dir(&base).expect("a cgroup");
    let mut parts = start(&shell("read line").cgroup_beneath(&base));
    let made = fs::read_dir(&base).expect("there").flatten().map(|entry| entry.path());
    let made: Vec<PathBuf> = made.filter(|path| path.is_dir()).collect();
    assert_eq!(made.len(), 1);
    fs::create_dir_all(made[0].join("a/b")).expect("cgroups");
    parts.child.kill(None);
    reap(&mut parts);
    drop(parts.child);
    assert!(!made[0].exists());
    // The cgroup of a dropped spawn, and that of a failed one.
    drop(spawn(&shell("setsid sleep 1000 & sleep 1000").cgroup_beneath(&base)).expect("spawns"));
    let unfit = AgentCommand::new("/bin/sh").arg("x".repeat(200_000)).cgroup_beneath(&base);
    refusal(&unfit, ErrorKind::InvalidCommand, &["128 KiB"]);
    fs::remove_dir(&base).expect("nothing is left in it");
}

#[test]
fn folder_outside_cgroup2_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let command = shell("true").cgroup_beneath(dir.path());
    refusal(&command, ErrorKind::CgroupUnavailable, &["is on no cgroup2 file system", "findmnt"]);
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
    let command = shell("true").cgroup_beneath(dir.path().join("none"));
    refusal(&command, ErrorKind::CgroupUnavailable, &["could not be made", "No such file"]);
}

/// The kernel watches the thread that spawned. An engine spawns on one that outlives such agents.
#[test]
fn die_with_parent_follows_the_spawning_thread() {
    let command = shell("trap '' TERM HUP; echo up; exec sleep 1000");
    let spawn_elsewhere = |command: &AgentCommand| {
        let parts = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let parts = start(command);
                    assert_eq!(read_line(&parts.stdout), "up");
                    parts
                })
                .join()
        });
        parts.expect("spawned")
    };
    let mut parts = spawn_elsewhere(&command.clone().die_with_parent(true));
    assert_eq!(reap(&mut parts), ExitStatus::Signal(libc::SIGKILL));
    parts.child.kill(None);
    // Without the option the agent lives on.
    let mut parts = spawn_elsewhere(&command);
    assert!(!parts.child.has_exited());
    assert!(parts.child.kill(None));
    reap(&mut parts);
}

/// A change of the user clears the death signal, so the order of the steps matters.
#[test]
fn all_options_work_together() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let command = AgentCommand::new("sh")
        .arg("-c")
        .arg("id -u; id -g; ulimit -n; pwd; cat /proc/self/cgroup | tail -1; sleep 1000")
        .env("PATH", "/nowhere:/usr/bin:/bin")
        .cwd(dir.path())
        .limit(ResourceLimit::OpenFiles, 64, 64)
        .die_with_parent(true);
    let whole = command.clone().user(65_534, 65_533).cgroup();
    if is_root() && may_make_cgroups().is_some() {
        check_everything(&whole, dir.path());
    } else {
        assert!(spawn(&whole).is_err());
    }
}

fn check_everything(whole: &AgentCommand, dir: &Path) {
    let parts = thread::scope(|scope| {
        scope
            .spawn(|| {
                let parts = start(whole);
                let mut said = String::new();
                while said.lines().count() < 5 {
                    said = format!("{said}{}\n", read_line(&parts.stdout));
                }
                assert!(said.starts_with("65534\n65533\n64\n"), "{said}");
                assert!(said.contains(&dir.display().to_string()), "{said}");
                assert!(said.contains("/agentpipe-"), "{said}");
                parts
            })
            .join()
    });
    let mut parts = parts.expect("spawned");
    assert_eq!(reap(&mut parts), ExitStatus::Signal(libc::SIGKILL), "with the thread");
}

#[test]
fn cgroup_folders_are_found_in_every_layout() {
    let unified =
        b"24 1 0:22 / /sys/fs/cgroup rw shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";
    let hybrid = b"30 1 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
        31 1 0:28 / /sys/fs/cgroup/unified\\040x rw - cgroup2 none rw\n";
    let found = |cgroups, mounts, controller| {
        cgroup_folder(cgroups, mounts, controller).map(|path| path.display().to_string())
    };
    let is = |path: &str| Some(path.to_owned());
    assert_eq!(found("0::/a/b.service\n", unified, ""), is("/sys/fs/cgroup/a/b.service"));
    assert_eq!(found("0::/\n", unified, ""), is("/sys/fs/cgroup/"));
    assert_eq!(found("8:pids:/x\n0::/y\n", hybrid, ""), is("/sys/fs/cgroup/unified x/y"));
    assert_eq!(found("8:pids:/x\n0::/y\n", hybrid, "pids"), is("/sys/fs/cgroup/pids/x"));
    assert_eq!(found("3:cpu,pids:/x\n", hybrid, "pids"), is("/sys/fs/cgroup/pids/x"));
    // A bind mount of a part of the hierarchy, as in a container without a cgroup namespace.
    let part = b"24 1 0:22 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";
    assert_eq!(found("0::/docker/1/in\n", part, ""), is("/sys/fs/cgroup/in"));
    assert_eq!(found("0::/elsewhere\n", part, ""), None);
    assert_eq!(found("0::/x\n", b"torn line\n\n1 2 3 4\n", ""), None);
    assert_eq!(found("torn", unified, ""), None);
}

#[test]
fn tightest_pids_max_up_to_the_root_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    let put = |folder: &str, max: &str, now: &str| {
        let folder = dir.path().join(folder);
        fs::create_dir_all(&folder).expect("mkdir");
        fs::write(folder.join("pids.max"), max).expect("write");
        fs::write(folder.join("pids.current"), now).expect("write");
    };
    put("", "max\n", "900\n");
    put("a", "100\n", "90\n");
    put("a/b", "50\n", "20\n");
    assert_eq!(tightest(&dir.path().join("a/b")), Some((100, 90)));
    put("a", "80\n", "90\n");
    assert_eq!(tightest(&dir.path().join("a/b")), Some((80, 80)), "no room above the limit");
    assert_eq!(tightest(dir.path()), None);
}

#[test]
fn capacity_names_the_limits_of_this_host() {
    let capacity = capacity();
    let names: Vec<&str> = capacity.limits().iter().map(|limit| limit.name).collect();
    for name in ["RLIMIT_NOFILE", "kernel.threads-max", "kernel.pid_max"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let first = capacity.bottleneck().expect("some limit refuses");
    assert!(
        capacity.limits().iter().all(|limit| !limit.refuses || limit.agents() >= first.agents())
    );
    assert_eq!(capacity.agents(), Some(first.agents()));
}
