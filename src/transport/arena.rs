//! Floor 2. Where the bytes of records live: chunks shared by all agents of a thread.
//!
//! A record is a slice of a chunk. While readers keep up, a chunk's records are gone by the time
//! it is full and the same memory serves again: no allocation per record. A record that is kept
//! keeps its chunk, so chunks are small.

use bytes::{Bytes, BytesMut};

/// A chunk. Larger ones save allocations and cost memory where few records are kept.
const CHUNK: usize = 32 << 10;

/// Records above this get memory of their own.
const OWN: usize = CHUNK / 4;

/// Copies records out of ring buffers.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    chunk: BytesMut,
}

impl Arena {
    /// The bytes, owned.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > OWN {
            return Bytes::copy_from_slice(bytes);
        }
        if self.chunk.capacity() < bytes.len() {
            // Takes the same memory again where every record in it is gone.
            self.chunk.reserve(CHUNK);
        }
        self.chunk.extend_from_slice(bytes);
        self.chunk.split().freeze()
    }
}
