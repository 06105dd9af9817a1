//! The stored form of a value.

use bytes::Bytes;

/// A stored value with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The version it got when it was written.
    pub version: u64,
    /// Wall time of the write, ms since 1970.
    pub modified_ms: u64,
    /// Expiry by the expiry clock, ms; 0 if it does not expire.
    pub expires_ms: u64,
    /// The content type as given.
    pub content_type: Bytes,
    /// The value.
    pub value: Bytes,
}
