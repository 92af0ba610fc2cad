//! The buffer of the plain readers, for this command and for `benches/`.

/// The size that most readers use.
const LEN: usize = 64 << 10;

const PAGE: usize = 4096;

/// A buffer that starts at a page, like the kernel's. Some processors copy into a buffer that starts
/// 1 to 31 bytes after a page at a third of the speed, which would make the limit too easy.
pub(crate) struct ReadBuffer(Vec<u8>);

impl ReadBuffer {
    pub(crate) fn new() -> Self {
        Self(vec![0; LEN + PAGE])
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(PAGE);
        &mut self.0[start..start + LEN]
    }
}
