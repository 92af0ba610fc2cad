//! The io_uring backend: every pipe read and write is an operation of one ring.
//!
//! The only module that names io_uring. Each engine thread has one [`Ring`]. It implements
//! [`PipeIo`](crate::io::PipeIo) and knows neither agents nor records.
//!
//! | file | holds |
//! | --- | --- |
//! | `turn` | `Ring`: the `PipeIo` methods, one turn of submit, collect and act, and the drain |
//! | `read`, `write`, `poll`, `close` | one operation each: submit it, act on its completion |
//! | `inflight` | what the kernel holds or owes: the state that the operations work on |
//! | `queue` | the submission and completion queues, `io_uring_enter`, the trace |
//! | `op`, `fd_table`, `buffer` | operations, descriptors, pool buffers |
//! | `setup`, `probe` | setup flags and sizes, kernel features |
//! | `restrict`, `error` | what the ring may do, why a host refuses |
//!
//! Each test runs with multishot and with single reads. Pitfalls, each covered by a test: a read without
//! MORE has ended whatever its result says; a read armed on an empty pool spins; a close without a
//! cancel leaves the writer alive; a cancel and its close must not be split over two submissions; memory
//! named by an operation belongs to the kernel until the final completion.

mod buffer;
mod close;
mod error;
mod fd_table;
mod inflight;
mod op;
mod poll;
mod probe;
mod queue;
mod read;
mod restrict;
mod setup;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "tests/mod.rs"]
#[expect(clippy::duplicate_mod, reason = "the same tests, of a ring with single reads")]
mod tests_single;
mod turn;
mod write;

pub(crate) use error::setup_error;
pub(crate) use setup::RingConfig;
#[cfg(test)]
pub(crate) use setup::is_denied;
pub(crate) use turn::Ring;
pub(crate) use write::block_sigpipe;
