//! Until its exec a child shares the memory of the thread that spawns it, including its errno.

use std::fs::File;
use std::io;

use super::{reap, start};
use crate::command::AgentCommand;

/// Makes ENOENT the errno of this thread.
fn fail_with_enoent() -> Option<i32> {
    File::open("/no/such/file").expect_err("it is not there").raw_os_error()
}

#[test]
fn spawn_preserves_errno() {
    // C code of the host reads errno after a failed call of its own, and must not find the errno of a
    // call that failed in a child.
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
