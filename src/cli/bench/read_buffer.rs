//! F5, bench: what the limits read into.

/// What most readers have.
const LEN: usize = 64 << 10;

const PAGE: usize = 4096;

/// A buffer that begins a page, as the kernel's does: one that begins up to 31 bytes later is
/// filled at a third of the speed on some processors (docs/kernel.md), and that is no limit.
pub(super) struct ReadBuffer(Vec<u8>);

impl ReadBuffer {
    pub(super) fn new() -> Self {
        Self(vec![0; LEN + PAGE])
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(PAGE);
        &mut self.0[start..start + LEN]
    }
}
