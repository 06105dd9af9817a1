//! Versions over restarts, crashes and lost relaxed writes.

use std::collections::HashSet;
use std::sync::Arc;

use super::scene::Scene;
use super::support::*;
use crate::store::memory::faults::Failure;
use crate::store::versions::{CEILING_STEP, IMPORT_END, IMPORT_GAP, VERSION_END};
use crate::store::*;

#[test]
fn no_version_is_used_twice_over_crashes_and_lost_relaxed_writes() {
    let mut store = MemoryStore::new();
    let mut used = HashSet::new();
    let mut highest = 0;
    for round in 0..10 {
        let database = start(store.clone(), DatabaseOptions { sync_interval: PATIENCE, ..options() });
        assert!(database.last_version() >= highest);
        for n in 0..20 {
            let ops = vec![put(&n.to_string(), "x"), add("n", 1), op("n", Action::Delete)];
            let outcome = if round % 2 == 0 { end(send_relaxed(&database, ops)) } else { end(send(&database, ops)) };
            for result in outcome.unwrap().results {
                let version = version(&result);
                assert!(version > highest, "{version} after {highest}");
                assert!(used.insert(version));
                highest = version;
            }
        }
        store = store.crash();
    }
    assert_eq!(used.len(), 10 * 20 * 3);
}

#[test]
fn the_ceiling_is_on_the_card_before_a_version_above_it_is_used() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = end(send_relaxed(&database, vec![put("a", "1")])).unwrap();
    let version = version(&first.results[0]);
    let after = start(scene.memory.crash(), options());
    assert_eq!(read(&after, "a"), None, "the write was relaxed");
    assert!(after.last_version() >= version);
    assert!(after.last_version() <= version + CEILING_STEP + 1);
}

#[test]
fn a_version_of_a_commit_in_doubt_is_not_used_again() {
    let store = MemoryStore::new();
    let database = start(store.clone(), options());
    let before = version(&one(&database, put("a", "1")));
    store.set_faults(|faults| faults.fail_commit = Some((0, Failure::Applied)));
    assert!(end(send(&database, vec![put("b", "1")])).is_err());
    let doubtful = database.view().read(&key("b")).unwrap().unwrap().version;
    assert!(doubtful > before);
    let again = start(store.crash(), options());
    assert!(version(&one(&again, put("c", "1"))) > doubtful);
}

#[test]
fn versions_go_on_past_a_raised_ceiling() {
    let store = MemoryStore::new();
    let snapshot = store.snapshot().unwrap();
    let mut versions = versions::Versions::load(&*snapshot, None).unwrap();
    let mut last = 0;
    for _ in 0..3 {
        versions.reserve(CEILING_STEP as usize, &*store).unwrap();
        for _ in 0..CEILING_STEP {
            let version = versions.take();
            assert_eq!(version, last + 1);
            last = version;
        }
    }
    let loaded = versions::Versions::load(&*store.snapshot().unwrap(), None).unwrap();
    assert!(loaded.last() >= last);
}

#[test]
fn versions_never_reach_what_json_readers_cannot_hold() {
    let store = MemoryStore::new();
    let ceiling = |value: u64| {
        let key = [&[TYPE_META][..], b"versions"].concat();
        (Space::Data, key.into(), Some(bytes::Bytes::copy_from_slice(&value.to_le_bytes())))
    };
    store.commit(vec![ceiling(VERSION_END - 5)], true).unwrap();
    let database = start(store.clone(), options());
    assert_eq!(end(send(&database, vec![put("a", "1")])).unwrap_err(), WriteError::ReadOnly);
    store.commit(vec![ceiling(VERSION_END + 1)], true).unwrap();
    let options = options();
    let started = Database::start(store, Arc::new(NoObserver), &Default::default(), options);
    assert!(matches!(started, Err(StoreError::Corrupt(_))));
}

#[test]
fn versions_go_on_although_the_batch_that_raised_the_ceiling_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let with_dir = || DatabaseOptions { data_dir: Some(dir.path().to_owned()), reserve_bytes: Some(0), ..options() };
    let mut highest = 0;
    for _ in 0..3 {
        // Each store is an empty one: all that is left of the one before is the file.
        let database = start(MemoryStore::new(), with_dir());
        let version = version(&one(&database, put("a", "1")));
        assert!(version > highest, "{version} after {highest}");
        highest = version;
    }
}

#[test]
fn a_damaged_copy_of_the_ceiling_is_not_heeded() {
    let dir = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let snapshot = store.snapshot().unwrap();
    let load = || versions::Versions::load(&*snapshot, Some(dir.path())).unwrap();
    load().reserve(1, &*store).unwrap();
    let path = dir.path().join(versions::CEILING_FILE);
    let whole = std::fs::read(&path).unwrap();
    assert!(load().last() >= CEILING_STEP);
    for index in 0..whole.len() - 1 {
        let mut damaged = whole.clone();
        damaged[index] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(load().last(), 0, "{damaged:?}");
    }
    for text in ["", "1", "0 0", "9007199254740993 9007199254740993"] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(load().last(), 0, "{text:?}");
    }
}

#[test]
fn what_follows_a_file_is_above_it_on_the_card_before_anything_is_written() {
    // The last version taken, that of the file, and the next one then.
    for (last, file, next) in [
        (0, 1, 1 + IMPORT_GAP),
        (5, 5, 5 + IMPORT_GAP),
        (5, 700, 700 + IMPORT_GAP),
        (5, 4, 6),
        (5, 0, 6),
        (5, IMPORT_END - 1, IMPORT_END - 1 + IMPORT_GAP),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = MemoryStore::new();
        let load = |store: &MemoryStore, dir| versions::Versions::load(&*store.snapshot().unwrap(), dir).unwrap();
        let mut versions = load(&store, Some(dir.path()));
        versions.reserve(10, &*store).unwrap();
        for _ in 0..last {
            versions.take();
        }
        versions.follow(file, &*store).unwrap();
        assert_eq!((versions.last() + 1, versions.imported()), (next, next - 1), "{file} after {last}");
        // The store alone knows, and so does the file beside it alone.
        let after = store.crash();
        assert!(load(&after, None).last() >= next - 1);
        assert_eq!(load(&after, None).imported(), next - 1);
        assert!(load(&MemoryStore::new(), Some(dir.path())).last() >= next - 1);
        versions.reserve(3, &*store).unwrap();
        assert_eq!(versions.take(), next);
    }
}

#[test]
fn an_import_without_space_is_refused_before_it_touches_the_card() {
    let full = std::sync::Arc::new(space::SpaceWatch::with_probe(Box::new(|| Some((0, 1000))), Some(100)));
    let database = start(MemoryStore::new(), DatabaseOptions { space: Some(full), ..options() });
    let (tell, told) = crossbeam::channel::bounded(1);
    database.follow(7, Box::new(move |outcome| tell.send(outcome).unwrap()));
    assert_eq!(end(told).unwrap_err(), WriteError::InsufficientStorage);
    assert_eq!((database.last_version(), database.imported()), (0, 0));
}
