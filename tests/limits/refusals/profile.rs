//! The seccomp profile of the guide, as a container runtime would apply it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::seccomp;
use crate::support::own_process::test_name;
use crate::support::{PROGRAM, gets_ring, skipped};

const RING: [&str; 3] = ["io_uring_setup", "io_uring_enter", "io_uring_register"];

/// What no container needs, or what would reach out of it: <https://docs.docker.com/engine/security/seccomp/>.
const BLOCKED: &[&str] = &[
    "acct",
    "add_key",
    "bpf",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsopen",
    "get_mempolicy",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_load",
    "keyctl",
    "mbind",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "quotactl",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
];

/// The rules of the profile.
fn rules() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/seccomp.json");
    let profile: Value =
        serde_json::from_slice(&fs::read(path).expect("the profile")).expect("JSON");
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(profile["defaultErrnoRet"], libc::EPERM);
    let known = ["defaultAction", "defaultErrnoRet", "architectures", "syscalls"];
    let keys: Vec<&String> = profile.as_object().expect("an object").keys().collect();
    assert!(keys.iter().all(|key| known.contains(&key.as_str())), "every runtime reads: {keys:?}");
    profile["syscalls"].as_array().expect("a list").clone()
}

/// The names in the rules with this action, with conditions or without.
fn names(rules: &[Value], action: &str) -> BTreeSet<String> {
    let rules = rules.iter().filter(|rule| rule["action"] == action);
    let names = rules.flat_map(|rule| rule["names"].as_array().expect("names"));
    names.map(|name| name.as_str().expect("text").to_owned()).collect()
}

/// The numbers of this architecture's system calls, from the kernel's header.
fn numbers() -> Option<BTreeMap<String, libc::c_long>> {
    let machine = std::env::consts::ARCH;
    let folders = [format!("/usr/include/{machine}-linux-gnu/"), "/usr/include/".to_owned()];
    let files = ["asm/unistd_64.h", "asm-generic/unistd.h"];
    let mut paths = folders.iter().flat_map(|folder| files.map(|file| format!("{folder}{file}")));
    let text = paths.find_map(|path| fs::read_to_string(path).ok())?;
    let calls = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("#define __NR")?;
        let (name, number) = rest.trim_start_matches("3264").strip_prefix('_')?.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    });
    Some(calls.collect())
}

/// `agentpipe ARGS` where the kernel refuses every call but these, with a record as its input.
fn under(allowed: &BTreeSet<libc::c_long>, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_remove("AGENTPIPE_BACKEND")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // A filter has room for 4096 instructions, and no kernel has as many calls.
    let refused = (0..1000).filter(|call| !allowed.contains(call));
    // The C library then takes clone, whose flags the runtime can check.
    seccomp::deny(&mut command, libc::SYS_clone3, libc::ENOSYS);
    let refused = refused.filter(|call| *call != libc::SYS_clone3);
    let mut child = seccomp::deny_all(&mut command, refused, 1).spawn().expect("starts");
    // `doctor` reads nothing.
    let _unread = child.stdin.take().expect("piped").write_all(b"{\"a\":1}\n");
    child.wait_with_output().expect("ends")
}

// A profile that lacks one call leaves an agent that does not start, in production.
#[test]
fn profile_of_the_guide_carries_agents() {
    let rules = rules();
    let allowed = names(&rules, "SCMP_ACT_ALLOW");
    let denied = names(&rules, "SCMP_ACT_ERRNO");
    assert!(RING.iter().all(|call| allowed.contains(*call)), "io_uring");
    assert!(denied.iter().eq(["clone3"]), "{denied:?}");
    let blocked: Vec<_> = BLOCKED.iter().filter(|call| allowed.contains(**call)).collect();
    assert!(blocked.is_empty(), "allowed: {blocked:?}");
    let Some(numbers) = numbers() else {
        return skipped(test_name!(), "the kernel's headers are not installed");
    };
    let unknown: Vec<_> = BLOCKED.iter().filter(|call| !numbers.contains_key(**call)).collect();
    assert!(unknown.is_empty(), "no such calls: {unknown:?}");

    let mut allowed: BTreeSet<libc::c_long> =
        allowed.iter().filter_map(|name| numbers.get(name).copied()).collect();
    let ring: Vec<_> = RING.iter().map(|call| numbers[*call]).collect();
    let run = ["run", "--report", "-", "--", "sh", "-c", "cat; sleep 0 & wait; exit 3"];
    // With the profile, and with the default one, which lacks the three calls.
    for backend in ["io_uring", "epoll"] {
        if backend == "io_uring" && !gets_ring() {
            continue;
        }
        if backend == "epoll" {
            allowed.retain(|call| !ring.contains(call));
        }
        let output = under(&allowed, PROGRAM, &run);
        let said = String::from_utf8(output.stderr).expect("text");
        let came = (output.status.code(), &*output.stdout);
        assert_eq!(came, (Some(3), &b"{\"a\":1}\n"[..]), "{said}");
        let report = said.lines().last().expect("a report");
        let report: Value = serde_json::from_str(report).expect("JSON");
        assert_eq!(report["backend"], backend, "{report}");
        assert_eq!(report["left_running"], 0, "it has a guard: {report}");
        let output = under(&allowed, PROGRAM, &["doctor"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    // The profile is in force.
    let output = under(&allowed, "unshare", &["-U", "true"]);
    assert!(!output.status.success(), "{output:?}");
}
