//! A child shares the memory of the thread that spawns it until its exec, the errno among it.

use std::fs::File;
use std::io;

use super::{reap, start};
use crate::command::AgentCommand;

/// Has this thread's last failed call be one with this error.
fn fail_with_enoent() -> Option<i32> {
    File::open("/no/such/file").expect_err("it is not there").raw_os_error()
}

#[test]
fn a_spawn_leaves_the_errno_of_the_host_as_it_was() {
    // The story: a handler of the host, or its C code, reads errno after a call that failed, and
    // meets there what failed in a child.
    let mut agents = Vec::new();
    for command in [AgentCommand::new("/bin/true"), AgentCommand::new("/bin/true").env("A", "1")] {
        let before = fail_with_enoent();
        assert_eq!(before, Some(libc::ENOENT));
        agents.push(start(&command));
        assert_eq!(io::Error::last_os_error().raw_os_error(), before);
    }
    for mut agent in agents {
        assert_eq!(reap(&mut agent).code(), Some(0));
    }
}
