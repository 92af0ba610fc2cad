//! A random script through the ring and through plain system calls must agree byte for byte.

use super::*;

/// SplitMix64: a failure can be repeated with its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// A pipe that the ring reads.
struct Inbound {
    end: EndId,
    write: Option<OwnedFd>,
    sent: Vec<u8>,
}

/// A pipe that the ring writes.
struct Outbound {
    end: EndId,
    read: OwnedFd,
    came: Vec<u8>,
    /// The bytes that the ring reported as written.
    wrote: Vec<u8>,
    pending: Option<Vec<u8>>,
}

const PIPES: usize = 5;

pub(super) fn check(seed: u64, set: usize) {
    println!("seed {seed}, set {set}");
    let mut random = Random(seed);
    // All sizes are too small, so that every list in the ring is used.
    let config = RingConfig {
        entries: 2 << random.below(3),
        cq_entries: 8 << random.below(4),
        buffers: 1 << random.below(4),
        buffer_size: 512,
        ..config()
    };
    let Some(mut rig) = Rig::with_flags(config, set) else { return };
    let inbound = |agent: usize, rig: &mut Rig| {
        let (read, write) = pipe();
        let end = rig.adopt(read, u32::try_from(agent).unwrap(), Role::Stdout);
        Inbound { end, write: Some(write), sent: Vec::new() }
    };
    let outbound = |agent: usize, rig: &mut Rig| {
        let (end, read) = rig.writing(u32::try_from(agent).unwrap());
        Outbound { end, read, came: Vec::new(), wrote: Vec::new(), pending: None }
    };
    let mut ins: Vec<_> = (0..PIPES).map(|agent| inbound(agent, &mut rig)).collect();
    let mut outs: Vec<_> = (PIPES..2 * PIPES).map(|agent| outbound(agent, &mut rig)).collect();
    let mut acted = 0;

    for _ in 0..400 {
        let (at, len) = (random.below(PIPES), 1 + random.below(9000));
        match random.below(8) {
            0 | 1 => {
                let bytes = random.bytes(len);
                let write = ins[at].write.as_ref().unwrap();
                let moved = rustix::io::write(write, &bytes).unwrap_or(0);
                ins[at].sent.extend_from_slice(&bytes[..moved]);
            }
            2 => rig.ring.read(ins[at].end),
            3 => rig.ring.pause(ins[at].end),
            4 => {
                let bytes = random.bytes(len);
                let out = &mut outs[at];
                match rig.ring.write(out.end, bytes.clone(), 0) {
                    Ok(()) => assert!(out.pending.replace(bytes).is_none(), "two in flight"),
                    Err(refused) => {
                        assert_eq!(errno(refused.error), libc::EBUSY);
                        assert!(refused.buf == bytes && out.pending.is_some());
                    }
                }
            }
            5 => {
                let came = get(&outs[at].read).0;
                outs[at].came.extend(came);
            }
            _ => rig.turn(Duration::from_micros(random.next() % 300)),
        }
        note_writes(&rig.seen, &mut acted, &mut outs);
    }

    // At the end all reads continue, all writes finish, and everything is closed.
    for inbound in &mut ins {
        rig.ring.read(inbound.end);
        inbound.write = None;
    }
    let start = Instant::now();
    let eof = |seen: &Seen| matches!(seen, Seen::ReadEnd(_, ReadEnd::Eof));
    while count(&rig.seen, eof) < PIPES || outs.iter().any(|out| out.pending.is_some()) {
        assert!(start.elapsed() < LIMIT, "seed {seed}");
        rig.turn(Duration::from_millis(5));
        note_writes(&rig.seen, &mut acted, &mut outs);
        for out in &mut outs {
            out.came.extend(get(&out.read).0);
        }
    }
    let mut ends: Vec<_> = ins.iter().map(|inbound| inbound.end).collect();
    ends.extend(outs.iter().map(|out| out.end));
    rig.ring.close(&ends);
    rig.until("closed", |seen| count(seen, closed) == 2 * PIPES);
    for (agent, inbound) in ins.iter().enumerate() {
        assert!(
            rig.bytes(u32::try_from(agent).unwrap()) == inbound.sent,
            "seed {seed}: in {agent}"
        );
    }
    for (at, out) in outs.iter_mut().enumerate() {
        // A child that another test is spawning holds a copy of the pipe until its exec.
        let start = Instant::now();
        let mut ended = false;
        while !ended {
            assert!(start.elapsed() < LIMIT, "seed {seed}: out {at} has no end");
            let (rest, eof) = get(&out.read);
            out.came.extend(rest);
            ended = eof;
        }
        assert!(out.came == out.wrote, "seed {seed}: out {at}");
    }
    let counters = rig.ring.counters();
    assert_eq!((counters.stale, counters.in_kernel, counters.queued), (0, 0, 0), "seed {seed}");
    assert_eq!(counters.buffers_free, counters.buffers, "seed {seed}");
}

/// Applies the results of writes.
fn note_writes(seen: &[Seen], acted: &mut usize, outs: &mut [Outbound]) {
    for seen in &seen[*acted..] {
        if let Seen::Wrote(agent, _, result) = seen {
            let out = &mut outs[*agent as usize - PIPES];
            let bytes = out.pending.take().unwrap();
            out.wrote.extend_from_slice(&bytes[..result.unwrap()]);
        }
    }
    *acted = seen.len();
}

/// Fixed seeds make failures depend on the code alone. One seed is new each time.
#[test]
fn random_script_agrees_with_plain_syscalls() {
    for seed in 0..40 {
        check(seed, 0);
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    check(now.as_nanos().to_le_bytes()[..8].try_into().map(u64::from_le_bytes).unwrap(), 0);
}
