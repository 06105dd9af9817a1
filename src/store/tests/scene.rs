//! A store and an observer that write down what the committer does to them, and a gate that holds a commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam::channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::support::*;
use crate::metrics::Registry;
use crate::store::*;

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Announce(String),
    /// Records in the batch (metadata left out), and whether it was synced.
    Commit(usize, bool),
    CommitFailed,
    Sync,
    Snapshot,
    Publish(String, Option<String>),
    Abort(String),
    Reply(&'static str),
}

/// The memory store, watched.
pub(super) struct Scene {
    pub(super) memory: Arc<MemoryStore>,
    events: Mutex<Vec<Event>>,
    gated: AtomicBool,
    entered: Sender<()>,
    has_entered: Receiver<()>,
    release: Sender<()>,
    may_go: Receiver<()>,
    /// What the store says it has compacted.
    pub(super) compactions: AtomicU64,
    /// Keys whose announcement panics.
    pub(super) panic_on: Mutex<Option<String>>,
}

fn name(key: &FullKey) -> String {
    key.parts().2.to_owned()
}

impl Scene {
    pub(super) fn new() -> Arc<Scene> {
        let (entered, has_entered) = unbounded();
        let (release, may_go) = unbounded();
        let (memory, events, panic_on) = (MemoryStore::new(), Mutex::default(), Mutex::default());
        let (gated, compactions) = (AtomicBool::new(false), AtomicU64::new(0));
        Arc::new(Scene { memory, events, gated, compactions, entered, has_entered, release, may_go, panic_on })
    }

    pub(super) fn start(self: &Arc<Self>, options: DatabaseOptions) -> Arc<Database> {
        let database =
            Database::start(self.store(), Arc::new(Watcher(self.clone())), &Registry::default(), options).unwrap();
        self.events.lock().clear();
        database
    }

    pub(super) fn store(self: &Arc<Self>) -> Arc<dyn Store> {
        Arc::new(Watched(self.clone()))
    }

    pub(super) fn note(&self, event: Event) {
        self.events.lock().push(event);
    }

    /// What happened since the last call.
    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock())
    }

    /// From now on each commit of records waits for `release`.
    pub(super) fn close_gate(&self) {
        self.gated.store(true, Ordering::SeqCst);
    }

    /// Waits until a commit stands at the gate.
    pub(super) fn wait_at_gate(&self) {
        self.has_entered.recv_timeout(PATIENCE).expect("a commit at the gate");
    }

    /// Lets one commit pass.
    pub(super) fn release(&self) {
        self.release.send(()).unwrap();
    }

    /// Lets all commits pass from now on.
    pub(super) fn open_gate(&self) {
        self.gated.store(false, Ordering::SeqCst);
        self.release();
    }

    /// Holds the committer inside the commit of a first write; what is sent until `open_gate` waits behind it.
    pub(super) fn hold(self: &Arc<Self>, database: &Database) -> Receiver<Outcome> {
        self.close_gate();
        let first = send(database, vec![put("first", "x")]);
        self.wait_at_gate();
        first
    }

    /// Sizes of the batches that were committed since the last `take`.
    pub(super) fn batches(&self) -> Vec<usize> {
        let size = |event: &Event| match event {
            Event::Commit(records, _) => Some(*records),
            _ => None,
        };
        self.events.lock().iter().filter_map(size).collect()
    }
}

struct Watched(Arc<Scene>);

impl Store for Watched {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.0.note(Event::Snapshot);
        self.0.memory.snapshot()
    }

    fn commit(&self, changes: Vec<Change>, sync: bool) -> Result<(), StoreError> {
        let records = changes.iter().filter(|(_, key, _)| key[0] == TYPE_RECORD).count();
        if records > 0 && self.0.gated.load(Ordering::SeqCst) {
            self.0.entered.send(()).unwrap();
            self.0.may_go.recv_timeout(PATIENCE).expect("a release of the gate");
        }
        let result = self.0.memory.commit(changes, sync);
        match &result {
            Ok(()) if records > 0 => self.0.note(Event::Commit(records, sync)),
            Ok(()) => {}
            Err(_) => self.0.note(Event::CommitFailed),
        }
        result
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.0.note(Event::Sync);
        self.0.memory.sync()
    }

    fn maintain(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn figures(&self) -> StoreFigures {
        StoreFigures { compactions: self.0.compactions.load(Ordering::SeqCst), ..StoreFigures::default() }
    }
}

struct Watcher(Arc<Scene>);

impl CommitObserver for Watcher {
    fn announce(&self, key: &FullKey) {
        self.0.note(Event::Announce(name(key)));
        assert_ne!(*self.0.panic_on.lock(), Some(name(key)), "a panic that the test asked for");
    }

    fn publish(&self, key: &FullKey, record: Option<&Arc<Record>>) {
        let value = record.map(|record| String::from_utf8_lossy(&record.value).into_owned());
        self.0.note(Event::Publish(name(key), value));
    }

    fn abort(&self, key: &FullKey) {
        self.0.note(Event::Abort(name(key)));
    }
}

/// All records that readers see, by key, each with its value.
pub(super) fn contents(database: &Database) -> BTreeMap<String, String> {
    use std::ops::Bound;
    let range = (Bound::Included(&[TYPE_RECORD][..]), Bound::Excluded(&[TYPE_META][..]));
    let pairs = database.view().snapshot.range(Space::Data, range, false);
    pairs
        .map(|pair| pair.unwrap())
        .map(|(key, form)| (FullKey::from_stored(key).unwrap(), record::decode(form).unwrap()))
        .filter(|(_, record)| !database.clock().is_expired(record))
        .map(|(key, record)| (name(&key), String::from_utf8(record.value.to_vec()).unwrap()))
        .collect()
}
