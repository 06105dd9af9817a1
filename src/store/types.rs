//! What the rest of larder says to the store: keys, records, write requests and their outcomes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::record::Record;

/// The full key of a value in the data keyspace: type byte, `namespace 0x00 collection 0x00 key`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FullKey(Bytes);

/// The type byte of records.
pub const TYPE_RECORD: u8 = 0x01;
/// The type byte of the store's own rare metadata.
pub const TYPE_META: u8 = 0x02;

impl FullKey {
    /// Builds a key from names that the caller has validated: none of them holds a NUL.
    pub fn new(namespace: &str, collection: &str, key: &str) -> FullKey {
        let mut bytes = Vec::with_capacity(3 + namespace.len() + collection.len() + key.len());
        bytes.push(TYPE_RECORD);
        bytes.extend_from_slice(namespace.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(collection.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(key.as_bytes());
        FullKey(bytes.into())
    }

    /// A key as it stands in the store, or `None` if it is not a record's.
    pub fn from_stored(bytes: Bytes) -> Option<FullKey> {
        let key = FullKey(bytes);
        (key.0.first() == Some(&TYPE_RECORD) && key.split().is_some()).then_some(key)
    }

    fn split(&self) -> Option<(&str, &str, &str)> {
        let mut parts = self.0.get(1..)?.splitn(3, |&byte| byte == 0);
        let mut next = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
        Some((next()?, next()?, next()?))
    }

    /// Namespace, collection and key.
    pub fn parts(&self) -> (&str, &str, &str) {
        self.split().unwrap_or(("", "", ""))
    }

    /// The stored form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The stored form, shared.
    pub fn shared(&self) -> Bytes {
        self.0.clone()
    }
}

impl std::fmt::Debug for FullKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (namespace, collection, key) = self.parts();
        write!(f, "{namespace}/{collection}/{key}")
    }
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Answered after its journal entry was synced to the card.
    Sync,
    /// Answered after the journal write; synced within `store.sync_interval`.
    Relaxed,
}

/// What a write does to the expiry of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// The record does not expire.
    Clear,
    /// The moment at which the present record expires, if it does.
    Keep,
    /// So long after the write.
    After(Duration),
    /// At this date, ms since 1970 (imports).
    At(u64),
}

/// Versions named by a precondition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionSet {
    /// `*`: any version, so long as there is one.
    Any,
    /// One of these.
    List(Vec<u64>),
}

impl VersionSet {
    /// Whether the present version (`None`: absent or expired) is in the set.
    pub fn holds(&self, version: Option<u64>) -> bool {
        match (self, version) {
            (_, None) => false,
            (VersionSet::Any, Some(_)) => true,
            (VersionSet::List(list), Some(version)) => list.contains(&version),
        }
    }
}

/// Conditions on the present state, checked by the committer against the state the write would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The present version must be one of these (`If-Match`).
    pub version_in: Option<VersionSet>,
    /// The present version must not be one of these (`If-None-Match`; `Any` means "must be absent").
    pub version_not_in: Option<VersionSet>,
    /// The present record must not be modified after this wall time (`If-Unmodified-Since`, whole seconds, in ms).
    pub unmodified_since_ms: Option<u64>,
    /// Also counts for a `Delete` of an absent key, which is then `PreconditionFailed` instead of `NotFound`.
    pub also_if_absent: bool,
}

impl Precondition {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Precondition::default()
    }
}

/// What an update makes of the present record.
#[derive(Clone)]
pub struct NewValue {
    /// The content type to store.
    pub content_type: Bytes,
    /// The value to store.
    pub value: Bytes,
}

/// Why an update could not be applied to the present record: becomes a 4xx of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateRefused {
    /// The value is no decimal 64-bit integer.
    NotAnInteger,
    /// The sum does not fit 64 bits.
    IntegerOverflow,
    /// The value is no JSON document.
    NotJson,
    /// The result would be larger than a value may be.
    TooLarge,
}

/// Computes a new value from the present one (`None`: absent or expired). Runs on the committer's thread, possibly
/// twice; it must be quick and pure.
pub type Update = Box<dyn Fn(Option<&Record>) -> Result<NewValue, UpdateRefused> + Send>;

/// One operation of a write request.
pub enum Action {
    /// Reads the state as of this operation (batches).
    Get,
    /// Stores a value.
    Put {
        /// Its content type.
        content_type: Bytes,
        /// Its bytes.
        value: Bytes,
        /// Its expiry.
        ttl: Ttl,
    },
    /// Removes the key; absent is [`OpOutcome::NotFound`], whatever the precondition says, unless that asks to be heard
    /// ([`Precondition::also_if_absent`]).
    Delete,
    /// Stores what a function makes of the present value (counters, merge patches).
    Update {
        /// The function.
        update: Update,
        /// What the function holds, by which the queue is bounded.
        bytes: usize,
        /// The expiry.
        ttl: Ttl,
    },
    /// Removes the key if it still has this version and has expired (the sweeper).
    Expire {
        /// The version that was seen expired.
        version: u64,
    },
}

/// What a worker read before it handed the write over.
pub struct Preread {
    /// The instant of the view it was read from.
    pub instant: u64,
    /// The record found; expired ones included, the committer judges expiry.
    pub record: Option<Record>,
}

impl Preread {
    /// The same with so many bytes of the value at most, and no content type. What waits in the queue then holds no
    /// value that its write does not look at: a `Put` and a `Delete` need no byte of the value that they replace.
    pub fn cut(mut self, value_bytes_max: usize) -> Preread {
        if let Some(record) = &mut self.record {
            record.content_type = Bytes::new();
            // A copy: a slice would keep all that the record was read from.
            record.value = Bytes::copy_from_slice(&record.value[..record.value.len().min(value_bytes_max)]);
        }
        self
    }
}

/// One operation with its key.
pub struct WriteOp {
    /// The key.
    pub key: FullKey,
    /// What to do.
    pub action: Action,
    /// On what condition.
    pub precondition: Precondition,
    /// The worker's pre-read. Without it the committer reads by itself, which costs all who wait.
    pub preread: Option<Preread>,
}

/// How one operation ended.
#[derive(Clone, Debug)]
pub enum OpOutcome {
    /// A `Put` was applied.
    Stored {
        /// The version it got.
        version: u64,
        /// Whether the key was absent before.
        created: bool,
    },
    /// An `Update` was applied; the record as it now stands.
    Updated {
        /// The new record, its version in it.
        record: Record,
        /// Whether the key was absent before.
        created: bool,
    },
    /// A `Delete` or `Expire` was applied.
    Deleted {
        /// The version the deletion got.
        version: u64,
    },
    /// A `Get`: the record, or `None` if absent or expired.
    Got(Option<Record>),
    /// Nothing there to delete or expire.
    NotFound,
    /// The precondition did not hold. Nothing was changed.
    PreconditionFailed,
    /// The update refused. Nothing was changed.
    Refused(UpdateRefused),
    /// Not tried, or undone, because another operation of its atomic request failed.
    Aborted,
}

impl OpOutcome {
    /// Whether this outcome aborts an atomic request. A `Get` or `Delete` of an absent key does not.
    pub fn is_failure(&self) -> bool {
        matches!(self, OpOutcome::PreconditionFailed | OpOutcome::Refused(_))
    }
}

/// How a write request ended.
#[derive(Debug)]
pub struct WriteOutcome {
    /// One outcome an operation, in order.
    pub results: Vec<OpOutcome>,
    /// The operation that made an atomic request fail; then nothing of it was applied.
    pub failed: Option<usize>,
    /// What was really done.
    pub promise: Promise,
}

/// What is promised of a write that was answered. The worse of two is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// It is on the card: also a relaxed write that shared a synced group.
    Synced,
    /// It will be, as long as syncs take no longer than of late.
    Relaxed {
        /// The most that a power cut can take: what was written in this time before it.
        max_loss: Duration,
    },
}

/// Why a write request has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The commit failed, or nobody can say whether it happened: read before repeating.
    OutcomeUnknown,
    /// The committer's queue is full, or the deadline passed before the write was begun. Not written.
    Overloaded,
    /// The store takes no writes (after a failed sync). Not written.
    ReadOnly,
    /// The card is too full for this write; deletes make room for it. Not written.
    InsufficientStorage,
    /// The card is too full even for deletes: others hold the rest of it. Not written.
    CardFull,
    /// The store is closing. Not written.
    Draining,
    /// The store could not be opened or read. Not written.
    Unavailable,
}

/// Called once with the end of a write request, on the committer's thread: it must not block.
pub type Reply = Box<dyn FnOnce(Result<WriteOutcome, WriteError>) + Send>;

/// Operations that go to the committer together.
pub struct WriteRequest {
    /// The operations, in order; each sees what earlier ones did.
    pub ops: Vec<WriteOp>,
    /// All or nothing, in one group.
    pub atomic: bool,
    /// When it counts as done.
    pub durability: Durability,
    /// Not begun after this instant.
    pub deadline: Option<Instant>,
    /// Who is told.
    pub reply: Reply,
}

/// What the committer tells the cache, in the order that keeps every hit fresh: `announce` after the commit and before
/// the new snapshot is in place, then `publish` or `abort`. Each is called once a key of the group.
pub trait CommitObserver: Send + Sync + 'static {
    /// A write of this key is about to be seen: forget it, and let no reader fill it.
    fn announce(&self, key: &FullKey);
    /// The write is committed and visible; `record` is what now stands (`None`: deleted).
    fn publish(&self, key: &FullKey, record: Option<&Arc<Record>>);
    /// The commit failed; what stands is in the snapshot.
    fn abort(&self, key: &FullKey);
}

/// An observer that watches nothing, for tests and tools.
pub struct NoObserver;

impl CommitObserver for NoObserver {
    fn announce(&self, _: &FullKey) {}
    fn publish(&self, _: &FullKey, _: Option<&Arc<Record>>) {}
    fn abort(&self, _: &FullKey) {}
}
