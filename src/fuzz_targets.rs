//! The bodies of the fuzz targets, for tests/fuzz. Only `cargo fuzz` builds this.

/// Splits any bytes into frames, in any reads.
pub fn frame(data: &[u8]) {
    crate::frame::fuzz::target(data);
}

/// Checks whether any bytes are JSON, and finds their members.
pub fn json(data: &[u8]) {
    crate::json::fuzz::target(data);
}

/// Classifies any record.
pub fn jsonrpc(data: &[u8]) {
    crate::session::jsonrpc::fuzz::target(data);
}

/// Routes any order of records, cancellations and deadlines.
pub fn router(data: &[u8]) {
    crate::session::router_fuzz::target(data);
}

/// Closes an agent with any events at any times.
pub fn close(data: &[u8]) {
    crate::close::fuzz::target(data);
}
