//! What every caller of the store relies on.

use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use larder::store::fjall::{FjallOptions, FjallStore};
use larder::store::space::{Needs, SpaceWatch};
use larder::store::{Space, Store, StoreError};

use crate::support::{all, get, noise, open, put, remove};

#[test]
fn a_commit_is_seen_by_the_next_snapshot_and_not_by_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit(vec![put("a", "1")], true).unwrap();
    let before = store.snapshot().unwrap();
    store.commit(vec![put("a", "2"), put("b", "1"), remove("missing")], false).unwrap();
    assert_eq!(before.get(Space::Data, b"a").unwrap(), Some(Bytes::from("1")));
    assert_eq!(before.get(Space::Data, b"b").unwrap(), None);
    assert_eq!(get(&store, "a"), Some(Bytes::from("2")));
    store.commit(vec![remove("a")], true).unwrap();
    assert_eq!(get(&store, "a"), None);
    assert_eq!(get(&store, "b"), Some(Bytes::from("1")));
}

#[test]
fn the_last_of_several_changes_of_one_key_counts_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store
        .commit(vec![put("a", "1"), put("a", "2"), put("b", "1"), remove("b"), remove("c"), put("c", "3")], true)
        .unwrap();
    let expected = vec![(Bytes::from("a"), Bytes::from("2")), (Bytes::from("c"), Bytes::from("3"))];
    assert_eq!(all(&store, Space::Data), expected);
    drop(store);
    assert_eq!(all(&open(dir.path()), Space::Data), expected);
}

#[test]
fn the_two_keyspaces_are_apart_and_committed_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log_entry = (Space::Log, Bytes::from("k"), Some(Bytes::from("in the log")));
    store.commit(vec![put("k", "in the data"), log_entry], true).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(all(&store, Space::Data), vec![(Bytes::from("k"), Bytes::from("in the data"))]);
    assert_eq!(all(&store, Space::Log), vec![(Bytes::from("k"), Bytes::from("in the log"))]);
}

#[test]
fn ranges_equal_a_model_in_both_directions_in_memory_and_in_tables() {
    let dir = tempfile::tempdir().unwrap();
    let options = FjallOptions { memtable_bytes: 0, ..FjallOptions::default() };
    let store = FjallStore::open(dir.path(), options).unwrap();
    let keys: Vec<Vec<u8>> = (0..60u8).map(|n| vec![n / 8 + 1, n % 8, n]).collect();
    for chunk in keys.chunks(20) {
        store.commit(chunk.iter().map(|key| put(key.clone(), key.clone())).collect(), false).unwrap();
        // Rotates, since the limit is 0: the last chunk is in memory alone.
        if chunk[0] != keys[40] {
            store.maintain().unwrap();
        }
    }
    let edges: [&[u8]; 5] = [b"\x01", b"\x02\x03\x0b", b"\x02\x03", b"\x05", b"\xff"];
    let bounds = |edge| [Included(edge), Excluded(edge), Unbounded];
    let snapshot = store.snapshot().unwrap();
    for start in edges.into_iter().flat_map(bounds) {
        for end in edges.into_iter().flat_map(bounds) {
            let mut model: Vec<&Vec<u8>> = keys.iter().filter(|key| holds(start, end, key)).collect();
            for reverse in [false, true] {
                let found: Vec<Bytes> =
                    snapshot.range(Space::Data, (start, end), reverse).map(|pair| pair.unwrap().0).collect();
                assert_eq!(found, model, "{start:?} to {end:?}, reverse: {reverse}");
                model.reverse();
            }
        }
    }
}

fn holds(start: Bound<&[u8]>, end: Bound<&[u8]>, key: &[u8]) -> bool {
    let after_start = match start {
        Included(edge) => key >= edge,
        Excluded(edge) => key > edge,
        Unbounded => true,
    };
    let before_end = match end {
        Included(edge) => key <= edge,
        Excluded(edge) => key < edge,
        Unbounded => true,
    };
    after_start && before_end
}

#[test]
fn an_iterator_outlives_the_snapshot_it_came_from_and_reads_on_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.commit((1..100u8).map(|n| put([n], [n])).collect(), false).unwrap();
    let snapshot = store.snapshot().unwrap();
    let pairs = snapshot.range(Space::Data, (Unbounded, Unbounded), true);
    drop(snapshot);
    store.commit((1..100u8).map(|n| remove([n])).collect(), true).unwrap();
    let read = std::thread::spawn(move || pairs.map(|pair| pair.unwrap().0[0]).collect::<Vec<u8>>()).join().unwrap();
    assert_eq!(read, (1..100u8).rev().collect::<Vec<u8>>());
}

#[test]
fn keys_that_fjall_cannot_hold_are_refused_and_those_it_can_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for key in [Vec::new(), vec![0], vec![0xff; 16], vec![7; 65_536]] {
        assert!(store.commit(vec![put("good", "1"), put(key, "x")], true).is_err());
    }
    assert_eq!(get(&store, "good"), None, "a refused commit applies nothing");
    let longest = vec![7; 65_535];
    store.commit(vec![put(longest.clone(), ""), put([9], noise(1, 1 << 20))], true).unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(get(&store, &longest), Some(Bytes::new()));
    assert_eq!(get(&store, [9]), Some(Bytes::from(noise(1, 1 << 20))));
}

#[test]
fn a_second_opening_is_refused_while_the_first_lives() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(FjallStore::open(dir.path(), FjallOptions::default()), Err(StoreError::Locked)));
    // On a full card it does not take away what the first one holds back for deletions.
    let ballast = dir.path().join("larder.ballast");
    std::fs::write(&ballast, vec![1; 100_000]).unwrap();
    let full = || {
        let watch = SpaceWatch::with_probe(Box::new(|| Some((0, 1 << 30))), None).with_ballast(dir.path(), 4 << 20);
        watch.set_needs(Needs { flush_bytes: 8 << 20, ..Needs::default() });
        FjallOptions { space: Arc::new(watch), ..FjallOptions::default() }
    };
    assert!(matches!(FjallStore::open(dir.path(), full()), Err(StoreError::Locked)));
    assert!(ballast.exists());
    drop(store);
    drop(FjallStore::open(dir.path(), full()));
    assert!(!ballast.exists(), "a start that has the folder needs it");
    open(dir.path());
}

#[test]
fn what_was_committed_is_there_after_a_clean_stop_and_commits_after_it_fail() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(store.recovery().clean_stop, "a new folder was never stopped uncleanly");
    store.commit(vec![put("a", "1")], false).unwrap();
    store.close().unwrap();
    store.close().unwrap();
    assert!(store.commit(vec![put("late", "1")], true).is_err());
    drop(store);
    for round in 0..3 {
        let store = open(dir.path());
        assert!(store.recovery().clean_stop);
        assert_eq!(get(&store, "a"), Some(Bytes::from("1")));
        assert_eq!(get(&store, "late"), None);
        // Sequence numbers go on where they were, although the journals were emptied: an overwrite wins.
        store.commit(vec![put("counter", [round])], true).unwrap();
        assert_eq!(get(&store, "counter"), Some(Bytes::from(vec![round])));
        store.close().unwrap();
    }
    drop(open(dir.path()));
    assert!(!open(dir.path()).recovery().clean_stop, "the marker is used up by the start before");
}

#[test]
fn a_clean_stop_leaves_no_journal_to_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for n in 0..100u32 {
        store.commit(vec![put(n.to_be_bytes(), noise(n.into(), 1000))], false).unwrap();
    }
    assert!(store.figures().journal_bytes > 100_000);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.figures().journal_bytes, 0);
    assert_eq!(store.figures().memtable_bytes, 0);
    assert_eq!(all(&store, Space::Data).len(), 100);
}

#[test]
fn maintain_keeps_the_active_memtable_near_its_limit_and_rotates_both_keyspaces() {
    let dir = tempfile::tempdir().unwrap();
    let options = FjallOptions { memtable_bytes: 100_000, ..FjallOptions::default() };
    let store: Arc<dyn Store> = Arc::new(FjallStore::open(dir.path(), options).unwrap());
    for n in 0..1000u32 {
        let log_entry = (Space::Log, Bytes::copy_from_slice(&n.to_be_bytes()), Some(Bytes::from("x")));
        store.commit(vec![put(n.to_be_bytes(), noise(n.into(), 1000)), log_entry], false).unwrap();
        store.maintain().unwrap();
        // Active and sealed ones of both keyspaces, and as many that a compaction may keep, with one commit each.
        assert!(store.figures().memtable_bytes < 2 * 4 * 102_000, "{:?}", store.figures());
    }
    assert!(store.figures().tables >= 2);
    assert_eq!(all(&*store, Space::Data).len(), 1000);
    assert_eq!(all(&*store, Space::Log).len(), 1000);
}

#[test]
fn a_first_start_that_was_cut_off_at_any_step_does_not_keep_larder_from_starting() {
    let whole = tempfile::tempdir().unwrap();
    open(whole.path()).commit(vec![put("a", "1")], true).unwrap();
    for version in [None, Some(&b""[..]), Some(&b"FJ"[..])] {
        for journal_bytes in [None, Some(0), Some(64 << 20)] {
            let dir = tempfile::tempdir().unwrap();
            let unborn = dir.path().join("fjall");
            std::fs::create_dir_all(unborn.join("keyspaces")).unwrap();
            std::fs::write(unborn.join("lock"), b"").unwrap();
            if let Some(length) = journal_bytes {
                std::fs::File::create(unborn.join("0.jnl")).unwrap().set_len(length).unwrap();
            }
            if let Some(bytes) = version {
                std::fs::write(unborn.join("version"), bytes).unwrap();
            }
            let store = open(dir.path());
            store.commit(vec![put("a", "1")], true).unwrap();
        }
    }
    // With data in it a folder is never cleared, whatever its marker says.
    std::fs::write(whole.path().join("fjall/version"), b"").unwrap();
    assert_eq!(get(&open(whole.path()), "a"), Some(Bytes::from("1")));
}
