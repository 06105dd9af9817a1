//! Every limit, its unit and its default, in one place. Hitting one is a counted, documented status.

use std::time::Duration;

/// The limits of a running larder; `limits.*` in the configuration sets those that have a field here.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Connections open at once; one more waits or pushes out the longest idle.
    pub connections_max: usize,
    /// Connections open at once from one address.
    pub connections_per_address_max: usize,
    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Bytes of a request line with all its fields.
    pub head_bytes_max: usize,
    /// Fields in a head.
    pub head_fields_max: usize,
    /// Bytes of a request target: more is 414.
    pub target_bytes_max: usize,
    /// From the end of the head to the end of the body.
    pub body_timeout: Duration,
    /// Bytes a second a body must come at, after `body_grace`.
    pub body_rate_min: u64,
    /// How long a body may be slower than `body_rate_min`.
    pub body_grace: Duration,
    /// A connection without a request for this long is closed; also the longest a client may take no byte of an answer.
    pub idle_timeout: Duration,
    /// A request's time over queue, read and commit: after it 503, or 504 `OUTCOME_UNKNOWN` for a write that was begun.
    pub request_timeout: Duration,
    /// Bytes of one value: more is 413 `VALUE_TOO_LARGE`.
    pub value_bytes_max: u64,
    /// Bytes of any other body, decoded: more is 413 `BODY_TOO_LARGE`.
    pub body_bytes_max: u64,
    /// Bytes held of request bodies over all connections, until their answer; what does not fit waits unread, for
    /// `request_timeout`, and is then 503 `OVERLOADED`. Those up to 16 KiB are counted with the heads.
    pub bodies_bytes_max: u64,
    /// Bytes held of heads that have not come whole, and of requests with bodies up to 16 KiB (epoll; on tiny_http, apart,
    /// of heads that wait behind an unanswered one): beyond it those that came longest ago, on tiny_http the heaviest, end
    /// with 408.
    pub heads_bytes_max: u64,
    /// Bytes held of answers that their clients do not take. While three quarters are held, large answers are 503
    /// `OVERLOADED`, and those who take nothing are cut.
    pub answers_bytes_max: u64,
    /// Operations in one batch: more is 400 `BATCH_SIZE_EXCEEDED`.
    pub batch_operations_max: usize,
    /// Requests of one connection that wait behind an unanswered one; one more ends the connection.
    ///
    /// For tiny_http, which reads ahead without end. The epoll engine reads no further than one buffer behind the request
    /// that it answers: the rest waits in the kernel, and in the client, whose window closes.
    pub pipelined_requests_max: usize,
    /// Requests that wait for a worker: more is 503 `OVERLOADED`.
    pub queued_requests_max: usize,
    /// Write requests that wait for the committer: more is 503 `OVERLOADED`.
    pub queued_writes_max: usize,
    /// Imports at once.
    pub imports_max: usize,
    /// Streams (feeds, long polls, NDJSON) at once: more is 503 `OVERLOADED`.
    pub streams_max: usize,
    /// How long a stream may hold its snapshot.
    pub snapshot_age: Duration,
    /// tiny_http threads that cannot be freed; at this number the process drains and exits 75.
    pub leaked_threads_max: usize,
    /// How long a stop may take before connections are cut.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: CONNECTIONS_TINY_HTTP,
            connections_per_address_max: 64,
            head_timeout: Duration::from_secs(10),
            head_bytes_max: 32 * KIB,
            head_fields_max: 100,
            target_bytes_max: 8 * KIB,
            body_timeout: Duration::from_secs(60),
            body_rate_min: KIB as u64,
            body_grace: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(65),
            request_timeout: Duration::from_secs(15),
            value_bytes_max: MIB as u64,
            body_bytes_max: 4 * MIB as u64,
            bodies_bytes_max: 32 * MIB as u64,
            heads_bytes_max: 8 * MIB as u64,
            answers_bytes_max: 32 * MIB as u64,
            batch_operations_max: 1000,
            pipelined_requests_max: 16,
            queued_requests_max: 1024,
            queued_writes_max: 1024,
            imports_max: 2,
            streams_max: 100,
            snapshot_age: Duration::from_secs(600),
            leaked_threads_max: 64,
            drain_timeout: Duration::from_secs(8),
        }
    }
}

/// 1024 bytes.
pub const KIB: usize = 1024;
/// 1024 KiB.
pub const MIB: usize = 1024 * KIB;
/// `limits.connections` where the engine is tiny_http, which spends a thread on each.
pub const CONNECTIONS_TINY_HTTP: usize = 500;
/// `limits.connections` where the engine is epoll.
pub const CONNECTIONS_EPOLL: usize = 12_000;
/// Objects and lists within one another in a value that stands as JSON in an answer; a deeper one stands in base64. Parsers
/// give up at some depth (serde_json at 128), and would take the whole page for broken.
pub const SHOWN_DEPTH_MAX: usize = 64;
/// Bytes of a namespace or collection name.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a key after percent-decoding.
pub const KEY_BYTES_MAX: usize = 512;
/// Items on a page of a list, and its default.
pub const LIST_ITEMS_MAX: usize = 1000;
/// Items on a page when the request does not say.
pub const LIST_ITEMS_DEFAULT: usize = 100;
/// Operations that the committer merges into one group. One atomic request may exceed it alone.
///
/// Large enough for a score of batches: at 256 only two batches of a hundred small values shared a sync, and the card's
/// syncs, not its bytes, were what everybody waited for. The bytes of a group have a bound of their own.
pub const GROUP_OPERATIONS_MAX: usize = 2048;
/// Bytes that the committer merges into one group.
pub const GROUP_BYTES_MAX: usize = MIB;
/// Operations of a non-atomic batch, an import or a prefix delete that go to the committer at once.
pub const CHUNK_OPERATIONS: usize = 100;
/// Bodies up to this many bytes are read where the head was read.
pub const SMALL_BODY_BYTES: usize = KIB;
/// Bytes of a body where the request needs none, or next to none.
pub const SPARE_BODY_BYTES: u64 = 4 * KIB as u64;
/// Bytes of values that one page, or one batch, answers with; a single value may exceed it alone.
pub const PAGE_BYTES: usize = MIB;

const _: () = {
    assert!(CHUNK_OPERATIONS <= GROUP_OPERATIONS_MAX);
    assert!(LIST_ITEMS_DEFAULT <= LIST_ITEMS_MAX);
};

/// The limits in force, replaceable while larder runs (SIGHUP).
#[derive(Default)]
pub struct LiveLimits(parking_lot::RwLock<std::sync::Arc<Limits>>);

impl LiveLimits {
    /// Puts limits in force.
    pub fn new(limits: Limits) -> LiveLimits {
        LiveLimits(parking_lot::RwLock::new(std::sync::Arc::new(limits)))
    }
    /// The limits in force now.
    pub fn get(&self) -> std::sync::Arc<Limits> {
        self.0.read().clone()
    }
    /// Replaces them.
    pub fn set(&self, limits: Limits) {
        *self.0.write() = std::sync::Arc::new(limits);
    }
}
