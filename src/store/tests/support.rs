//! Short words for the tests of the database.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, bounded};

use crate::metrics::Registry;
use crate::store::clock::ManualTime;
use crate::store::*;

/// How long a test waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// 2026-01-01T00:00:00Z in ms.
pub(super) const NEW_YEAR_MS: u64 = 1_767_225_600_000;

pub(super) type Outcome = Result<WriteOutcome, WriteError>;

/// Options that leave out what a test does not ask for: no sweeper, a clock that stands.
pub(super) fn options() -> DatabaseOptions {
    DatabaseOptions {
        expiry_scan_rate: 0,
        keeper_interval: Duration::from_millis(5),
        time: ManualTime::new(NEW_YEAR_MS, true),
        ..DatabaseOptions::default()
    }
}

pub(super) fn start(store: Arc<dyn Store>, options: DatabaseOptions) -> Arc<Database> {
    Database::start(store, Arc::new(NoObserver), &Registry::default(), options).unwrap()
}

pub(super) fn key(name: &str) -> FullKey {
    FullKey::new("ns", "col", name)
}

pub(super) fn op(name: &str, action: Action) -> WriteOp {
    WriteOp { key: key(name), action, precondition: Precondition::default(), preread: None }
}

pub(super) fn put(name: &str, value: &str) -> WriteOp {
    put_for(name, value, Ttl::Clear)
}

pub(super) fn put_for(name: &str, value: &str, ttl: Ttl) -> WriteOp {
    let (content_type, value) = (Bytes::from_static(b"text/plain"), Bytes::copy_from_slice(value.as_bytes()));
    op(name, Action::Put { content_type, value, ttl })
}

pub(super) fn if_version(mut op: WriteOp, version: u64) -> WriteOp {
    op.precondition.version_in = Some(VersionSet::List(vec![version]));
    op
}

pub(super) fn if_absent(mut op: WriteOp) -> WriteOp {
    op.precondition.version_not_in = Some(VersionSet::Any);
    op
}

/// Adds to a decimal number; an absent key counts as 0.
pub(super) fn add(name: &str, by: i64) -> WriteOp {
    let update: Update = Box::new(move |present| {
        let text = present.map_or("0", |record| std::str::from_utf8(&record.value).unwrap_or(""));
        let number: i64 = text.parse().map_err(|_| UpdateRefused::NotAnInteger)?;
        let sum = number.checked_add(by).ok_or(UpdateRefused::IntegerOverflow)?;
        Ok(NewValue { content_type: Bytes::from_static(b"application/json"), value: sum.to_string().into() })
    });
    op(name, Action::Update { update, bytes: 0, ttl: Ttl::Keep })
}

/// A request and the place where its end shows.
pub(super) fn request(ops: Vec<WriteOp>) -> (WriteRequest, Receiver<Outcome>) {
    let (reply, end) = bounded(1);
    let request = WriteRequest {
        ops,
        atomic: true,
        durability: Durability::Sync,
        deadline: None,
        reply: Box::new(move |outcome| reply.send(outcome).unwrap()),
    };
    (request, end)
}

/// Hands a request over and leaves.
pub(super) fn send(database: &Database, ops: Vec<WriteOp>) -> Receiver<Outcome> {
    let (request, end) = request(ops);
    database.submit(request);
    end
}

pub(super) fn send_relaxed(database: &Database, ops: Vec<WriteOp>) -> Receiver<Outcome> {
    let (mut request, end) = request(ops);
    request.durability = Durability::Relaxed;
    database.submit(request);
    end
}

/// Waits for the end of a request.
pub(super) fn end(receiver: Receiver<Outcome>) -> Outcome {
    receiver.recv_timeout(PATIENCE).expect("an answer in time")
}

/// Hands a request over and waits for its end.
pub(super) fn write(database: &Database, ops: Vec<WriteOp>) -> Vec<OpOutcome> {
    end(send(database, ops)).unwrap().results
}

/// Writes one operation; what came of it.
pub(super) fn one(database: &Database, op: WriteOp) -> OpOutcome {
    write(database, vec![op]).pop().unwrap()
}

/// The version of a `Stored`, `Updated` or `Deleted`.
pub(super) fn version(outcome: &OpOutcome) -> u64 {
    match outcome {
        OpOutcome::Stored { version, .. } | OpOutcome::Deleted { version } => *version,
        OpOutcome::Updated { record, .. } => record.version,
        other => panic!("{other:?} has no version"),
    }
}

/// The value that readers see, expired ones left out.
pub(super) fn read(database: &Database, name: &str) -> Option<String> {
    let record = database.view().read(&key(name)).unwrap()?;
    (!database.clock().is_expired(&record)).then(|| String::from_utf8(record.value.to_vec()).unwrap())
}
/// Waits until something holds.
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what} did not come to hold");
        std::thread::sleep(Duration::from_millis(1));
    }
}
