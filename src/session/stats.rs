//! Floor 4. What a session counts.

/// A snapshot of a session's tables and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionStats {
    /// Requests of ours that wait for their answer.
    pub pending: usize,
    /// Requests of the agent that wait for ours, those whose handler runs included.
    pub serving: usize,
    /// Handler tasks that run or still send their answer.
    pub running: usize,
    /// Bytes that nobody has read yet: the records, and 64 bytes for each.
    pub unread: usize,
    /// Data records that came.
    pub data_records: u64,
    /// Their bytes, framing excluded.
    pub data_bytes: u64,
    /// Requests of ours that were opened. Each is pending, or in exactly one of the next four.
    pub asked: u64,
    /// Those that the agent answered, with a result or an error.
    pub settled: u64,
    /// Those that were given up by whoever asked: the future was dropped, or nothing could be sent.
    pub withdrawn: u64,
    /// Those that failed with the session's end, or because too much was unread.
    pub failed: u64,
    /// Those that met their deadline.
    pub timeouts: u64,
    /// Requests of the agent that were answered, refusals of unknown ones included.
    pub answered: u64,
    /// Requests of the agent that it withdrew before they were answered.
    pub cancelled: u64,
    /// Times the session stopped reading because too much was unread.
    pub stalls: u64,
    /// Answers to requests that had their outcome already: repeated, or too late.
    pub late: u64,
    /// Answers to requests that were never made.
    pub unknown: u64,
    /// Requests of the agent that reused the id of one still open, and were passed over.
    pub duplicate: u64,
    /// Requests of the agent that were refused: malformed, or too many at once.
    pub refused: u64,
}
