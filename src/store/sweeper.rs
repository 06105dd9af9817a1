//! Deletes what has expired. It walks the data keyspace slowly, chunk by chunk, and asks the committer to delete, which
//! checks again: a key that was written meanwhile stays.
//!
//! A store without any expiring record is walked once after a start and then left alone.
//!
//! It also lets the clock forget the epochs of which a whole walk has met no record that expires. If there are many all the
//! same, it has their records written anew, as of now: they get new versions, and expire when they would have.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, RecvError, bounded, select};

use super::committer::WriteQueue;
use super::database::{Shared, submit};
use super::epochs::EPOCHS_MAX;
use super::{
    Action, Durability, FullKey, Moment, NewValue, OpOutcome, Precondition, Preread, Record, Space, Store, StoreError,
    TYPE_META, TYPE_RECORD, Ttl, Update, UpdateRefused, VersionSet, WriteError, WriteOp, WriteOutcome, WriteRequest,
    record,
};
use crate::board::watchdog::Heartbeat;
use crate::limits::{CHUNK_OPERATIONS, MIB};
use crate::metrics::{Counter, Registry};

/// Keys looked at under one view.
const CHUNK_KEYS: u64 = 256;
/// Bytes read under one view.
const CHUNK_BYTES: usize = MIB;
/// Bytes of records read in a second, so that large values do not turn a walk into a flood of reads.
const BYTES_PER_SECOND: usize = 8 * MIB;

/// With more old epochs than this, their records are written anew.
const OLD_EPOCHS: usize = EPOCHS_MAX / 2;
/// After a walk that deleted so many, the store is asked to give back their space.
const RECLAIM_RECORDS: u64 = 1000;

/// The walk over the store.
pub(super) struct Sweeper {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    queue: Arc<WriteQueue>,
    scan_rate: u64,
    stopped: Receiver<()>,
    /// The last key looked at; `None` between two walks.
    cursor: Option<Bytes>,
    /// Whether this walk has met a record that expires some day.
    met_expiring: bool,
    /// The epochs at the beginning of this walk, as this moment knows them, and which of them it has not met.
    began: Moment,
    unmet: Vec<u64>,
    /// Whether this walk has records of old epochs written anew.
    renews: bool,
    /// Records deleted in this walk.
    deleted_now: u64,
    scanned: Counter,
    deleted: Counter,
    unreadable: Counter,
}

/// What one look at the store found.
#[derive(Default)]
struct Chunk {
    expired: Vec<WriteOp>,
    old: Vec<WriteOp>,
    keys: u64,
    bytes: usize,
    ended: bool,
}

impl Sweeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        store: Arc<dyn Store>,
        queue: Arc<WriteQueue>,
        registry: &Registry,
        scan_rate: u64,
        stopped: Receiver<()>,
    ) -> Sweeper {
        let counter = |name, help| registry.counter(name, help, &[]);
        let began = shared.clock.moment();
        Sweeper {
            shared,
            store,
            queue,
            scan_rate,
            stopped,
            cursor: None,
            met_expiring: false,
            began,
            unmet: Vec::new(),
            renews: false,
            deleted_now: 0,
            scanned: counter("larder_expiry_scanned_total", "Records the sweeper looked at."),
            deleted: counter("larder_expiry_deleted_total", "Expired records deleted by the sweeper."),
            unreadable: counter("larder_expiry_unreadable_total", "Records the sweeper could not read."),
        }
    }

    /// Looks at one chunk and deletes what expired in it. Tells how long to rest; `None`: there is nothing to do now.
    pub(super) fn step(&mut self, heartbeat: &Heartbeat) -> Option<Duration> {
        if !self.shared.clock.may_delete() || self.shared.switches.has_failed() || !self.begin() {
            return None;
        }
        let chunk = match self.look() {
            Ok(chunk) => chunk,
            Err(error) => {
                log::warn!("the sweeper could not read: {error}");
                (self.cursor, self.met_expiring) = (None, true);
                self.shared.expiring.store(true, Ordering::Relaxed);
                return None;
            }
        };
        self.scanned.add(chunk.keys);
        if !self.write(chunk.expired, heartbeat) {
            self.shared.expiring.store(true, Ordering::Relaxed);
            return None;
        }
        // A full card takes no writes; there is no haste.
        self.renews = self.renews && self.write(chunk.old, heartbeat);
        if chunk.ended {
            self.end();
            return None;
        }
        let by_keys = Duration::from_secs(chunk.keys) / u32::try_from(self.scan_rate).unwrap_or(u32::MAX);
        Some(by_keys.max(Duration::from_secs(1).mul_f64(chunk.bytes as f64 / BYTES_PER_SECOND as f64)))
    }

    /// Whether there is a walk to go on with or reason to begin one.
    fn begin(&mut self) -> bool {
        if self.cursor.is_none() {
            if !self.shared.expiring.swap(false, Ordering::Relaxed) {
                return false;
            }
            self.cursor = Some(Bytes::from_static(&[TYPE_RECORD]));
            (self.met_expiring, self.deleted_now) = (false, 0);
            self.began = self.shared.clock.moment();
            self.unmet = self.began.old_epochs();
            self.renews = self.unmet.len() > OLD_EPOCHS;
        }
        true
    }

    fn end(&mut self) {
        self.cursor = None;
        if self.deleted_now >= RECLAIM_RECORDS {
            self.store.reclaim();
        }
        if self.met_expiring {
            self.shared.expiring.store(true, Ordering::Relaxed);
        }
        self.shared.clock.forget(&self.began, &self.unmet);
    }

    fn look(&mut self) -> Result<Chunk, StoreError> {
        let view = self.shared.view.get();
        let from = self.cursor.clone().unwrap_or_default();
        let range = (Bound::Excluded(&from[..]), Bound::Excluded(&[TYPE_META][..]));
        let mut pairs = view.snapshot.range(Space::Data, range, false);
        let mut chunk = Chunk::default();
        while chunk.keys < CHUNK_KEYS.min(self.scan_rate) && chunk.bytes < CHUNK_BYTES {
            let Some(pair) = pairs.next() else {
                chunk.ended = true;
                break;
            };
            let (stored_key, form) = match pair {
                Err(StoreError::Unreadable(_)) => {
                    self.note_unreadable();
                    continue;
                }
                pair => pair?,
            };
            chunk.keys += 1;
            chunk.bytes += stored_key.len() + form.len();
            self.cursor = Some(stored_key.clone());
            match (FullKey::from_stored(stored_key), record::decode(form)) {
                (Some(key), Ok(record)) if record.expires_ms != 0 => {
                    self.met_expiring = true;
                    self.unmet.retain(|first| *first != self.began.epoch_of(record.version));
                    if self.shared.clock.is_expired(&record) {
                        chunk.expired.push(expire(key, record, view.instant));
                    } else if self.renews && self.began.is_old(record.version) {
                        chunk.old.push(renew(key, record, view.instant));
                    }
                }
                (Some(_), Ok(_)) => {}
                _ => self.note_unreadable(),
            }
        }
        Ok(chunk)
    }

    /// Nobody knows of which epoch it is.
    fn note_unreadable(&mut self) {
        self.unreadable.inc();
        self.unmet.clear();
    }

    /// Has it written in steps. False if a step was refused or the database is stopping.
    fn write(&mut self, ops: Vec<WriteOp>, heartbeat: &Heartbeat) -> bool {
        let mut ops = ops.into_iter().peekable();
        while ops.peek().is_some() {
            if !self.commit(ops.by_ref().take(CHUNK_OPERATIONS).collect(), heartbeat) {
                return false;
            }
        }
        true
    }

    /// Asks the committer, and waits for its answer: that is the pace.
    fn commit(&mut self, ops: Vec<WriteOp>, heartbeat: &Heartbeat) -> bool {
        let (reply, answered) = bounded::<Result<WriteOutcome, WriteError>>(1);
        let request = WriteRequest {
            ops,
            atomic: false,
            // Lost with the power, they are found expired again.
            durability: Durability::Relaxed,
            deadline: None,
            reply: Box::new(move |result| {
                let _ = reply.try_send(result);
            }),
        };
        submit(&self.shared, &self.queue, request);
        let wait = |max| {
            select! {
                recv(answered) -> result => Some(result),
                recv(self.stopped) -> _ => Some(Err(RecvError)),
                // The committer has its own heartbeat: it may have more before this than one piece of work.
                default(max) => None,
            }
        };
        let result = loop {
            if let Some(result) = heartbeat.wait(wait) {
                break result;
            }
        };
        let Ok(Ok(outcome)) = result else { return false };
        let deleted = |result: &&OpOutcome| matches!(result, OpOutcome::Deleted { .. });
        let count = outcome.results.iter().filter(deleted).count() as u64;
        self.deleted_now += count;
        self.deleted.add(count);
        true
    }
}

fn expire(key: FullKey, record: Record, instant: u64) -> WriteOp {
    WriteOp {
        key,
        action: Action::Expire { version: record.version },
        precondition: Precondition::default(),
        preread: Some(Preread { instant, record: Some(record) }),
    }
}

/// Stores what stands there once more, if it is still the same.
fn renew(key: FullKey, record: Record, instant: u64) -> WriteOp {
    let update: Update = Box::new(|present| {
        let Record { content_type, value, .. } = present.cloned().ok_or(UpdateRefused::NotJson)?;
        Ok(NewValue { content_type, value })
    });
    let version_in = Some(VersionSet::List(vec![record.version]));
    WriteOp {
        key,
        action: Action::Update { update, bytes: 0, ttl: Ttl::Keep },
        precondition: Precondition { version_in, ..Precondition::default() },
        preread: Some(Preread { instant, record: Some(record) }),
    }
}
