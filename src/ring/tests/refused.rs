//! Hosts that refuse what the setup asks for. Seccomp filters make the refusals.

use super::*;
use crate::counters::KernelFeatures;
use crate::error::{ErrorKind, Result};
use crate::seccomp::{Filter, Rule};

/// Sets a ring up on a new thread, because a filter stays.
fn setup(config: RingConfig, rules: &[Rule]) -> Option<Result<KernelFeatures>> {
    if !has_ring() {
        return None;
    }
    let filter = Filter::new(rules);
    let thread = std::thread::spawn(move || {
        filter.install(false).unwrap();
        Ring::new(&config).map(|ring| ring.kernel_features())
    });
    Some(thread.join().unwrap())
}

fn refuse(call: std::ffi::c_long, when: Option<(u8, u32)>, errno: i32) -> Rule {
    Rule { call, when, errno: u16::try_from(errno).unwrap() }
}

/// Refuses rings of these sizes.
fn refuse_sizes(sizes: &[u32], errno: i32) -> Vec<Rule> {
    sizes.iter().map(|&size| refuse(libc::SYS_io_uring_setup, Some((0, size)), errno)).collect()
}

/// A low RLIMIT_MEMLOCK costs enters and not the engine.
#[test]
fn ring_shrinks_to_the_memory_there_is() {
    let sized = RingConfig { entries: 256, cq_entries: 2048, ..config() };
    for (refused, sizes) in
        [(&[][..], (256, 2048)), (&[256], (128, 1024)), (&[256, 128], (64, 512))]
    {
        let Some(made) = setup(sized, &refuse_sizes(refused, libc::ENOMEM)) else { return };
        let made = made.unwrap();
        assert_eq!((made.sq_entries, made.cq_entries), sizes, "{refused:?}");
    }
    // The smallest is tried once, also from a size between.
    let odd = RingConfig { entries: 100, cq_entries: 1, ..config() };
    for (refused, sizes) in [(&[][..], (128, 256)), (&[100], (64, 128))] {
        let Some(made) = setup(odd, &refuse_sizes(refused, libc::ENOMEM)) else { return };
        let made = made.unwrap();
        assert_eq!((made.sq_entries, made.cq_entries), sizes, "{refused:?}");
    }
    let Some(made) = setup(sized, &refuse_sizes(&[256, 128, 64], libc::ENOMEM)) else { return };
    assert_eq!(made.unwrap_err().kind(), ErrorKind::ResourceLimit);
    // No other error is one of the size.
    let Some(made) = setup(sized, &refuse_sizes(&[256], libc::EMFILE)) else { return };
    assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::EMFILE));
}

/// An older kernel does not know a flag of the first sets.
#[test]
fn unknown_flags_are_left_out() {
    let unknown: FlagSet = ("unknown", |builder| {
        // Needs SINGLE_ISSUER.
        builder.setup_defer_taskrun();
    });
    let Some(mut rig) = Rig::with_flag_sets(config(), &[unknown, FLAG_SETS[3]]) else { return };
    assert_eq!(rig.ring.kernel_features().setup_flags, FLAG_SETS[3].0);
    let error = Ring::with_flag_sets(&config(), &[unknown]).err().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    // What the self-test has found out is told.
    for nosignal in [false, true] {
        rig.ring.inflight.nosignal = nosignal;
        assert_eq!(rig.ring.kernel_features().nosignal, nosignal);
    }
}

/// A filter may allow a ring and deny its use. Then the engine must not start with it.
#[test]
fn ring_that_cannot_be_used_is_refused() {
    const OPCODE: u8 = 1; // The second argument of io_uring_register.
    const REGISTER_PROBE: u32 = 8;
    for rule in [
        refuse(libc::SYS_io_uring_register, Some((OPCODE, REGISTER_PROBE)), libc::EPERM),
        refuse(libc::SYS_io_uring_enter, None, libc::EPERM),
    ] {
        let Some(made) = setup(config(), &[rule]) else { return };
        let error = made.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BackendDenied, "{error}");
        // The filter of this thread is seen, and it is what denies.
        assert!(error.to_string().contains("seccomp filter"), "{error}");
    }
    // Without a filter of its own this thread is told of one only if its host has one.
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let missing = std::io::Error::from_raw_os_error(libc::ENOSYS);
    let told = crate::ring::error::setup_error("", missing).to_string();
    assert_eq!(told.contains("seccomp filter"), status.contains("Seccomp:\t2"), "{told}");
}
