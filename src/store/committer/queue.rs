//! Where write requests wait for the committer: bounded in number and in bytes, and no request leaves it unanswered.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use crossbeam::sync::{Parker, Unparker};
use parking_lot::RwLock;

use crate::board::watchdog::Heartbeat;
use crate::metrics::Gauge;
use crate::store::DatabaseOptions;
use crate::store::space::Allowed;
use crate::store::{Action, Durability, Reply, WriteError, WriteOp, WriteOutcome, WriteRequest};

/// Nobody waits for the queue to fill.
const NO_TARGET: usize = usize::MAX;

/// A reply that is given for certain: with the outcome, or with `otherwise` when it is dropped.
pub(super) struct Answer {
    reply: Option<Reply>,
    otherwise: WriteError,
}

impl Answer {
    pub(super) fn give(mut self, result: Result<WriteOutcome, WriteError>) {
        self.call(result);
    }

    /// From now on nobody can say any more that the request was not written.
    pub(super) fn begin(&mut self) {
        self.otherwise = WriteError::OutcomeUnknown;
    }

    fn call(&mut self, result: Result<WriteOutcome, WriteError>) {
        let Some(reply) = self.reply.take() else { return };
        if catch_unwind(AssertUnwindSafe(|| reply(result))).is_err() {
            log::error!("the receiver of a write's outcome panicked");
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let otherwise = self.otherwise.clone();
        self.call(Err(otherwise));
    }
}

/// A write request in the queue.
pub(super) struct Pending {
    pub(super) ops: Vec<WriteOp>,
    pub(super) atomic: bool,
    pub(super) durability: Durability,
    pub(super) deadline: Option<Instant>,
    /// Keys, values brought and values read ahead, by which groups and the queue are bounded.
    pub(super) bytes: usize,
    /// The version up to which a file goes whose import begins with this request.
    pub(super) follows: Option<u64>,
    pub(super) answer: Answer,
}

impl From<WriteRequest> for Pending {
    fn from(request: WriteRequest) -> Pending {
        let WriteRequest { ops, atomic, durability, deadline, reply } = request;
        let bytes = ops.iter().map(op_bytes).sum();
        let answer = Answer { reply: Some(reply), otherwise: WriteError::ReadOnly };
        Pending { ops, atomic, durability, deadline, bytes, follows: None, answer }
    }
}

impl Pending {
    /// What the card must allow for it.
    pub(super) fn needs(&self) -> Allowed {
        if self.follows.is_some() { Allowed::Writes } else { needs(&self.ops) }
    }
}

/// What the card must allow for these operations.
pub(in crate::store) fn needs(ops: &[WriteOp]) -> Allowed {
    let needs = ops.iter().map(|op| match op.action {
        Action::Put { .. } | Action::Update { .. } => Allowed::Writes,
        Action::Delete | Action::Expire { .. } => Allowed::Deletes,
        Action::Get => Allowed::Nothing,
    });
    needs.min().unwrap_or(Allowed::Nothing)
}

fn op_bytes(op: &WriteOp) -> usize {
    let read =
        || op.preread.as_ref().and_then(|preread| preread.record.as_ref()).map_or(0, |record| record.value.len());
    let value = match &op.action {
        Action::Put { content_type, value, .. } => content_type.len() + value.len(),
        Action::Update { bytes, .. } => bytes + read(),
        Action::Get => read(),
        Action::Delete | Action::Expire { .. } => 0,
    };
    op.key.as_bytes().len() + value
}

/// The door to the committer, shared by all who submit.
pub(in crate::store) struct WriteQueue {
    door: Arc<Door>,
    level: Arc<Level>,
    bytes_max: u64,
    unparker: Unparker,
}

/// `None` once closed. Locked for reading over a `try_send`, for writing to close: after that nothing comes in.
type Door = RwLock<Option<Sender<Pending>>>;

/// How full the queue is, and the fill at which the gathering committer wants to be woken.
struct Level {
    bytes: AtomicU64,
    depth: Gauge,
    target: AtomicUsize,
}

/// The committer's end.
pub(super) struct WriteSource {
    door: Arc<Door>,
    receiver: Receiver<Pending>,
    level: Arc<Level>,
    parker: Parker,
    heartbeat: Heartbeat,
}

/// A queue for so many requests and so many bytes; a single request may be larger than that if nothing else waits.
pub(super) fn write_queue(options: &DatabaseOptions, depth: Gauge) -> (WriteQueue, WriteSource) {
    let (sender, receiver) = bounded(options.queued_writes_max);
    let level = Arc::new(Level { bytes: AtomicU64::new(0), depth, target: AtomicUsize::new(NO_TARGET) });
    let parker = Parker::new();
    let door = Arc::new(Door::new(Some(sender)));
    let queue = WriteQueue {
        door: door.clone(),
        level: level.clone(),
        bytes_max: options.queued_bytes_max,
        unparker: parker.unparker().clone(),
    };
    (queue, WriteSource { door, receiver, level, parker, heartbeat: options.watchdog.heartbeat("larder-committer") })
}

impl WriteQueue {
    /// Queues a request without blocking; one that has no place is answered at once.
    pub(in crate::store) fn submit(&self, request: WriteRequest) {
        self.push(Pending::from(request));
    }

    /// Queues the beginning of an import, without blocking.
    pub(in crate::store) fn follow(&self, version: u64, request: WriteRequest) {
        self.push(Pending { follows: Some(version), ..Pending::from(request) });
    }

    /// Answers a request that is not even queued.
    pub(in crate::store) fn refuse(request: WriteRequest, error: WriteError) {
        Pending::from(request).answer.give(Err(error));
    }

    fn push(&self, pending: Pending) {
        let bytes = pending.bytes as u64;
        let sender = self.door.read();
        let Some(open) = sender.as_ref() else {
            drop(sender);
            return pending.answer.give(Err(WriteError::Draining));
        };
        let before = self.level.bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = if before > 0 && before + bytes > self.bytes_max {
            Err(TrySendError::Full(pending))
        } else {
            // Counted first, so that the committer never counts it out before it was counted in.
            self.level.depth.inc();
            open.try_send(pending).inspect_err(|_| self.level.depth.dec())
        };
        let waiting = open.len();
        drop(sender);
        match sent {
            Ok(()) if waiting >= self.level.target.load(Ordering::SeqCst) => self.unparker.unpark(),
            Ok(()) => {}
            Err(refused) => {
                self.level.bytes.fetch_sub(bytes, Ordering::Relaxed);
                let (pending, error) = match refused {
                    TrySendError::Full(pending) => (pending, WriteError::Overloaded),
                    TrySendError::Disconnected(pending) => (pending, WriteError::ReadOnly),
                };
                pending.answer.give(Err(error));
            }
        }
    }

    /// Takes nothing more. The committer finishes what waits and ends.
    pub(in crate::store) fn close(&self) {
        *self.door.write() = None;
    }
}

/// What waiting for a request came to.
pub(super) enum Next {
    Request(Pending),
    TimedOut,
    Closed,
}

impl WriteSource {
    /// The next request, waiting for it until then at most: now and then the wait ends with nothing.
    pub(super) fn next(&self, until: Instant) -> Next {
        match self.heartbeat.wait(|max| self.receiver.recv_deadline(until.min(Instant::now() + max))) {
            Ok(pending) => Next::Request(self.counted_out(pending)),
            Err(RecvTimeoutError::Timeout) => Next::TimedOut,
            Err(RecvTimeoutError::Disconnected) => Next::Closed,
        }
    }

    /// A request that was taken before, as the next one.
    pub(super) fn again(&self, pending: Pending) -> Next {
        self.heartbeat.beat();
        Next::Request(pending)
    }

    /// The next request if one waits.
    pub(super) fn try_next(&self) -> Option<Pending> {
        self.receiver.try_recv().ok().map(|pending| self.counted_out(pending))
    }

    /// Lets nothing more in and refuses what waits. A channel's end alone would keep it until the last sender is gone.
    pub(super) fn refuse_all(&self) {
        *self.door.write() = None;
        while let Some(pending) = self.try_next() {
            pending.answer.give(Err(WriteError::ReadOnly));
        }
    }

    fn counted_out(&self, pending: Pending) -> Pending {
        self.level.bytes.fetch_sub(pending.bytes as u64, Ordering::Relaxed);
        self.level.depth.dec();
        pending
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.receiver.len()
    }

    /// Sleeps until `target` requests wait or the time has come. One wake-up, however many come meanwhile.
    pub(super) fn wait_for(&self, target: usize, until: Instant) {
        self.level.target.store(target, Ordering::SeqCst);
        while self.receiver.len() < target && Instant::now() < until {
            self.parker.park_deadline(until);
        }
        self.level.target.store(NO_TARGET, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::{FullKey, NewValue, Precondition, Preread, Record, Ttl};

    #[test]
    fn an_update_counts_what_it_brings_and_what_was_read_for_it() {
        let (content_type, value) = (Bytes::new(), Bytes::from_static(b"1234567"));
        let record = Some(Record { version: 1, modified_ms: 0, expires_ms: 0, content_type, value });
        let update = Box::new(|_: Option<&Record>| Ok(NewValue { content_type: Bytes::new(), value: Bytes::new() }));
        let key = FullKey::new("n", "c", "k");
        let op = WriteOp {
            action: Action::Update { update, bytes: 1000, ttl: Ttl::Keep },
            precondition: Precondition::default(),
            preread: Some(Preread { instant: 0, record }),
            key: key.clone(),
        };
        assert_eq!(op_bytes(&op), key.as_bytes().len() + 1007);
    }
}
