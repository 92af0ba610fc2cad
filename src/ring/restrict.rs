//! Restrictions: a ring that can do only what its engine does.
//!
//! A ring passes system calls by which a seccomp filter cannot see. So an attacker who gains control of a
//! process that may have rings could use the ring of an engine to open files or sockets. The kernel answers
//! EACCES to all opcodes, flags and registrations that are not listed here, for the life of the ring. A
//! process that may make rings can still make another one; see `docs/guide/security.md`.

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode};

use super::error::setup_error;
use crate::error::Result;

// Numbers of `enum io_uring_register_op`; the crate keeps its own private.
const REGISTER_EVENTFD: u8 = 4;
const UNREGISTER_PBUF_RING: u8 = 23;

/// Restricts a ring that was set up disabled, and enables it. Returns whether the kernel took the
/// restrictions (Linux 5.10). `has_window`: waits may last until a TIMEOUT.
pub(super) fn restrict_and_enable(
    uring: &IoUring,
    multishot: bool,
    has_window: bool,
) -> Result<bool> {
    let opcodes = [
        Some(opcode::Read::CODE),
        multishot.then_some(opcode::ReadMulti::CODE),
        Some(opcode::Write::CODE),
        Some(opcode::PollAdd::CODE),
        Some(opcode::AsyncCancel::CODE),
        Some(opcode::Close::CODE),
        has_window.then_some(opcode::Timeout::CODE),
    ];
    let registrations =
        [Some(UNREGISTER_PBUF_RING), cfg!(feature = "local").then_some(REGISTER_EVENTFD)];
    let flags = Flags::BUFFER_SELECT | Flags::IO_LINK | Flags::IO_HARDLINK;
    let mut restrictions: Vec<Restriction> = opcodes
        .into_iter()
        .flatten()
        .map(Restriction::sqe_op)
        .chain(registrations.into_iter().flatten().map(Restriction::register_op))
        .chain([Restriction::sqe_flags_allowed(flags.bits())])
        .collect();
    let restricted = uring.submitter().register_restrictions(&mut restrictions);
    if let Err(error) = &restricted {
        // The ring works without, and is no more than a ring of any other program.
        crate::trace::debug!(%error, "the ring is not restricted");
    }
    let enabled = uring.submitter().register_enable_rings();
    enabled.map_err(|error| setup_error("enabling the ring", error))?;
    Ok(restricted.is_ok())
}
