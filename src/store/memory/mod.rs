//! The twin of the store in memory: an ordered map with versions of each pair, so that a snapshot costs nothing and
//! a commit costs what it changes. Not durable: it is for tests, benches and `store = "memory"`.
//!
//! Invariant: a commit is seen by a snapshot as a whole or not at all, and a snapshot never changes.
//! [`faults`] makes it slow, makes it fail and makes it crash, as a card would.

pub mod faults;
mod tree;

use std::ops::Bound;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::bounds::{self, KeyRange};
use super::{Change, Pair, Snapshot, Space, Store, StoreError, StoreFigures};
use faults::{Failure, Faults};
use tree::Tree;

/// Pairs that an iterator copies out under one hold of the lock.
const CHUNK_PAIRS: usize = 64;
/// Bytes after which such a copy ends early.
const CHUNK_BYTES: usize = 64 * 1024;

/// An ordered map in memory behind the store's trait.
pub struct MemoryStore {
    /// The pairs; the lock is held for the changes of one batch or one chunk of a range, never over a delay.
    trees: Arc<RwLock<Trees>>,
    /// What tests ask for; never locked together with `trees`.
    faults: Mutex<Faults>,
}

/// Both keyspaces and what a crash would take back.
#[derive(Default)]
struct Trees {
    data: Tree,
    log: Tree,
    /// What each unsynced change replaced, oldest first.
    unsynced: Vec<Change>,
    commits: u64,
}

impl Trees {
    fn tree(&self, space: Space) -> &Tree {
        match space {
            Space::Data => &self.data,
            Space::Log => &self.log,
        }
    }

    fn tree_mut(&mut self, space: Space) -> &mut Tree {
        match space {
            Space::Data => &mut self.data,
            Space::Log => &mut self.log,
        }
    }

    fn apply(&mut self, changes: Vec<Change>, sync: bool) {
        for (space, key, value) in changes {
            let replaced = self.tree_mut(space).write(key.clone(), value);
            self.unsynced.push((space, key, replaced));
        }
        self.data.close_batch();
        self.log.close_batch();
        self.commits += 1;
        if sync {
            self.unsynced.clear();
        }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Arc<MemoryStore> {
        Arc::new(MemoryStore { trees: Arc::default(), faults: Mutex::default() })
    }

    /// An empty store on a pretended card: each sync takes this long.
    pub fn with_sync_delay(delay: std::time::Duration) -> Arc<MemoryStore> {
        let store = MemoryStore::new();
        store.faults.lock().sync_delay = delay;
        store
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock());
    }

    /// Pulls the plug: this store fails from now on, and the one returned holds what had been synced.
    pub fn crash(&self) -> Arc<MemoryStore> {
        self.faults.lock().broken = true;
        let mut trees = self.trees.write();
        let mut after = Trees { data: trees.data.latest(), log: trees.log.latest(), ..Trees::default() };
        for (space, key, replaced) in std::mem::take(&mut trees.unsynced).into_iter().rev() {
            after.tree_mut(space).write(key, replaced);
        }
        after.data.close_batch();
        after.log.close_batch();
        Arc::new(MemoryStore { trees: Arc::new(RwLock::new(after)), faults: Mutex::default() })
    }

    /// Commits and syncs so far; failed ones count.
    pub fn calls(&self) -> (u64, u64) {
        let faults = self.faults.lock();
        (faults.commits, faults.syncs)
    }
}

impl Store for MemoryStore {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        if self.faults.lock().fail_snapshots {
            return Err(StoreError::Io("injected failure of a snapshot".into()));
        }
        let mut trees = self.trees.write();
        let (data, log) = (trees.data.pin(), trees.log.pin());
        drop(trees);
        Ok(Arc::new(MemorySnapshot { pin: Arc::new(Pin { trees: self.trees.clone(), data, log }) }))
    }

    fn commit(&self, changes: Vec<Change>, sync: bool) -> Result<(), StoreError> {
        let (delay, failure) = self.faults.lock().next_commit(sync);
        thread::sleep(delay);
        match failure {
            None => self.trees.write().apply(changes, sync),
            Some(Failure::Applied) => {
                self.trees.write().apply(changes, sync);
                return Err(StoreError::Io("injected failure after the commit".into()));
            }
            Some(Failure::NotApplied) => return Err(StoreError::Io("injected failure of a commit".into())),
            Some(Failure::NoSpace) => return Err(StoreError::NoSpace),
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let (delay, failure) = self.faults.lock().next_sync();
        thread::sleep(delay);
        if failure.is_some() {
            return Err(StoreError::Io("injected failure of a sync".into()));
        }
        self.trees.write().unsynced.clear();
        Ok(())
    }

    fn maintain(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn figures(&self) -> StoreFigures {
        let trees = self.trees.read();
        StoreFigures {
            memtable_bytes: trees.data.bytes() + trees.log.bytes(),
            keys_estimate: trees.data.len() as u64,
            ..StoreFigures::default()
        }
    }
}

/// Keeps the versions of pairs that a snapshot sees; its end lets them go.
struct Pin {
    trees: Arc<RwLock<Trees>>,
    data: u64,
    log: u64,
}

impl Pin {
    fn sequence(&self, space: Space) -> u64 {
        match space {
            Space::Data => self.data,
            Space::Log => self.log,
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut trees = self.trees.write();
        trees.data.unpin(self.data);
        trees.log.unpin(self.log);
    }
}

struct MemorySnapshot {
    pin: Arc<Pin>,
}

impl Snapshot for MemorySnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.pin.trees.read().tree(space).get(key, self.pin.sequence(space)))
    }

    fn range(
        &self,
        space: Space,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send> {
        Box::new(Walk {
            pin: self.pin.clone(),
            space,
            range: bounds::owned(range),
            reverse,
            chunk: Vec::new().into_iter(),
            ended: false,
        })
    }
}

/// Walks a range chunk by chunk, so that the lock is never held while the caller works.
struct Walk {
    pin: Arc<Pin>,
    space: Space,
    range: KeyRange,
    reverse: bool,
    chunk: std::vec::IntoIter<Pair>,
    ended: bool,
}

impl Walk {
    fn fill(&mut self) {
        let mut pairs = Vec::new();
        let trees = self.pin.trees.read();
        let tree = trees.tree(self.space);
        let range = bounds::borrowed(&self.range);
        self.ended =
            tree.chunk(range, self.reverse, self.pin.sequence(self.space), CHUNK_PAIRS, CHUNK_BYTES, &mut pairs);
        drop(trees);
        if let Some((last, _)) = pairs.last() {
            let edge = if self.reverse { &mut self.range.1 } else { &mut self.range.0 };
            *edge = Bound::Excluded(last.clone());
        }
        self.chunk = pairs.into_iter();
    }
}

impl Iterator for Walk {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.chunk.len() == 0 && !self.ended {
            self.fill();
        }
        self.chunk.next().map(Ok)
    }
}

#[cfg(test)]
mod tests;
