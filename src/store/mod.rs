//! The truth: records on the card, one committer that owns all writes, one shared snapshot for all reads.

mod ballast;
pub mod bounds;
pub mod clock;
mod committer;
pub mod database;
pub mod epochs;
pub mod fjall;
mod journal;
mod keeper;
pub mod memory;
pub mod record;
pub mod recovery;
mod relaxed;
#[cfg(test)]
pub(crate) mod scripts;
pub mod space;
pub mod state;
mod sweeper;
mod ttl_filter;
pub mod types;
pub mod versions;
pub mod view;

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

pub use clock::{Clock, Moment};
pub use database::{Database, DatabaseOptions};
pub use memory::MemoryStore;
pub use record::Record;
pub use state::StoreState;
pub use types::*;
pub use view::View;

/// An error of the storage below larder.
#[derive(Debug)]
pub enum StoreError {
    /// Reading, writing or syncing failed; the text is for the log, never for a client.
    Io(String),
    /// The card is full.
    NoSpace,
    /// The stored bytes are not what larder writes.
    Corrupt(String),
    /// Keys of a range cannot be read, since the bytes are damaged. The walk goes on behind them.
    Unreadable(String),
    /// The view was taken away: too much was written since it was opened. A new one can be read.
    Revoked,
    /// Another process has the folder open.
    Locked,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Io(text) => write!(f, "storage I/O failed: {text}"),
            StoreError::NoSpace => f.write_str("no space left on the storage device"),
            StoreError::Corrupt(text) => write!(f, "stored data is damaged: {text}"),
            StoreError::Unreadable(text) => write!(f, "stored keys cannot be read: {text}"),
            StoreError::Revoked => f.write_str("the view was revoked: too much was written since it was opened"),
            StoreError::Locked => f.write_str("another process uses this data folder"),
        }
    }
}

impl std::error::Error for StoreError {}

/// The two keyspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Records and metadata.
    Data,
    /// The change log.
    Log,
}

/// One change of a batch: a value, or `None` to remove.
pub type Change = (Space, Bytes, Option<Bytes>);

/// A key and its stored bytes.
pub type Pair = (Bytes, Bytes);

/// A consistent view of the store at one moment.
pub trait Snapshot: Send + Sync {
    /// The stored bytes of a key.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// The pairs of a range in byte order of the key, backwards if `reverse`. An error ends the walk, but for
    /// [`StoreError::Unreadable`].
    fn range(
        &self,
        space: Space,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send>;
}

/// An ordered, durable map under larder: fjall on the card, or its twin in memory.
///
/// Only the committer's thread may call anything but `figures` and `reclaim`.
pub trait Store: Send + Sync + 'static {
    /// A view that holds every commit that has returned and nothing of one that has not.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError>;
    /// Applies all changes or none. With `sync` they are durable when this returns `Ok`; without, after the next
    /// `commit` with `sync` or `sync()`. After an `Err` nobody knows whether they were applied.
    fn commit(&self, changes: Vec<Change>, sync: bool) -> Result<(), StoreError>;
    /// Makes everything committed so far durable.
    fn sync(&self) -> Result<(), StoreError>;
    /// House-keeping between commits (rotating memtables). Called after each commit.
    fn maintain(&self) -> Result<(), StoreError>;
    /// Starts giving back the space of what was deleted, in the background, if the store does not by itself. Worth
    /// calling after a pass that deleted much. Returns at once; callable from any thread.
    fn reclaim(&self) {}
    /// Ends the store's life cleanly: syncs everything, so that the next start is quick and sure. Later commits fail.
    fn close(&self) -> Result<(), StoreError> {
        self.sync()
    }
    /// Figures for the metrics page. Callable from any thread.
    fn figures(&self) -> StoreFigures;
}

/// What a store tells of itself.
#[derive(Clone, Debug, Default)]
pub struct StoreFigures {
    /// Bytes of tables and journals.
    pub disk_bytes: u64,
    /// Bytes of journals alone.
    pub journal_bytes: u64,
    /// Bytes held in memtables.
    pub memtable_bytes: u64,
    /// Tables on disk.
    pub tables: u64,
    /// Compactions completed since start.
    pub compactions: u64,
    /// An estimate of the number of keys, tombstones included.
    pub keys_estimate: u64,
    /// Views that were taken away since start, as they kept too much.
    pub views_revoked: u64,
}

#[cfg(test)]
mod tests;
