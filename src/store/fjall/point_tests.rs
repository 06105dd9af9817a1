//! Single keys are read as they were committed, whoever seals memtables, flushes and merges meanwhile.
//!
//! In these builds each read is also held against fjall's own way to read it, see [`super::super::views`].

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::super::{FjallOptions, FjallStore, Keyspaces, Space};
use super::*;
use crate::store::{Change, Snapshot, Store};

const KEYS: u64 = 8;

fn open(dir: &Path) -> FjallStore {
    FjallStore::open(dir, FjallOptions { memtable_bytes: 64 * 1024, ..FjallOptions::default() }).unwrap()
}

fn key(n: u64) -> Bytes {
    Bytes::copy_from_slice(&[&[1], &n.to_be_bytes()[..]].concat())
}

fn put(n: u64, value: u64) -> Change {
    (Space::Data, key(n), Some(Bytes::from(value.to_string())))
}

fn noise(round: u64) -> Change {
    (Space::Data, key(1000 + round % 40), Some(vec![round as u8; 4096].into()))
}

fn get(snapshot: &dyn Snapshot, n: u64) -> Option<u64> {
    let value = snapshot.get(Space::Data, &key(n)).unwrap()?;
    Some(std::str::from_utf8(&value).unwrap().parse().unwrap())
}

/// What fjall does by itself when its journals have grown too much.
fn seal_as_fjall_does(keyspaces: &Keyspaces) {
    keyspaces.data.rotate_memtable().unwrap();
}

fn wait_for_flush(keyspaces: &Keyspaces) {
    while keyspaces.data.tree.sealed_memtable_count() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Whether single keys of a new snapshot are read without fjall's lock.
fn is_fast(store: &FjallStore) -> bool {
    Point::new(&store.keyspaces.data, &store.keyspaces.memtables[0]).is_some()
}

#[test]
fn a_memtable_that_fjall_sealed_by_itself_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for value in 1..200 {
        store.commit(vec![put(0, value)], false).unwrap();
        seal_as_fjall_does(&store.keyspaces);
        assert_eq!(get(&*store.snapshot().unwrap(), 0), Some(value));
        assert!(is_fast(&store), "one at a time is seen");
    }
}

#[test]
fn a_memtable_that_was_sealed_unseen_is_read_the_slow_way_until_it_is_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for value in 1..100 {
        store.commit(vec![put(0, value), put(1, value)], false).unwrap();
        // Two between two looks: nobody has seen the one in the middle.
        seal_as_fjall_does(&store.keyspaces);
        store.commit(vec![put(0, value + 1000)], false).unwrap();
        seal_as_fjall_does(&store.keyspaces);
        store.commit(vec![put(2, value)], false).unwrap();
        let snapshot = store.snapshot().unwrap();
        assert_eq!([0, 1, 2].map(|n| get(&*snapshot, n)), [Some(value + 1000), Some(value), Some(value)]);
        wait_for_flush(&store.keyspaces);
        assert!(is_fast(&store));
    }
}

#[test]
fn a_flushed_memtable_that_a_view_keeps_does_not_hide_younger_tables() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut held = Vec::new();
    for value in 1..30 {
        store.commit(vec![put(0, value)], false).unwrap();
        let snapshot = store.snapshot().unwrap();
        // Every third is held, the others are gone once they are flushed.
        if value % 3 == 0 {
            held.push((value, snapshot));
        } else {
            drop(snapshot);
        }
        seal_as_fjall_does(&store.keyspaces);
        wait_for_flush(&store.keyspaces);
        store.free_memory().unwrap();
        assert_eq!(get(&*store.snapshot().unwrap(), 0), Some(value));
    }
    for (value, snapshot) in held {
        assert_eq!(get(&*snapshot, 0), Some(value), "a view shows its own moment");
    }
}

#[test]
fn what_was_sealed_before_the_opening_is_read() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..6 {
        let store = open(dir.path());
        if round > 1 {
            let snapshot = store.snapshot().unwrap();
            assert_eq!((0..KEYS).map(|n| get(&*snapshot, n)).collect::<Vec<_>>(), vec![Some(round - 1); 8]);
        }
        for n in 0..KEYS {
            store.commit(vec![put(n, round)], true).unwrap();
            seal_as_fjall_does(&store.keyspaces);
        }
    }
}

#[test]
fn readers_and_writers_agree_while_others_seal_flush_and_merge() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                seal_as_fjall_does(&store.keyspaces);
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                store.reclaim();
                std::thread::yield_now();
            }
        });
        let _end = EndsOnDrop(&ended);
        for round in 1..600 {
            store.commit(vec![put(round % KEYS, round), noise(round)], false).unwrap();
            let snapshot = store.snapshot().unwrap();
            for before in round.saturating_sub(KEYS - 1).max(1)..=round {
                assert_eq!(get(&*snapshot, before % KEYS), Some(before), "in round {round}");
            }
            drop(snapshot);
            store.maintain().unwrap();
        }
    });
}

struct EndsOnDrop<'a>(&'a AtomicBool);

impl Drop for EndsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
