//! The memory twin by itself: versions, snapshots, faults and crashes.

use super::*;
use crate::store::scripts;

fn change(key: &str, value: Option<&str>) -> Change {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    (Space::Data, bytes(key), value.map(bytes))
}

fn get(store: &MemoryStore, key: &str) -> Option<Bytes> {
    store.snapshot().unwrap().get(Space::Data, key.as_bytes()).unwrap()
}

#[test]
fn it_does_what_every_store_does() {
    scripts::run_all(|| MemoryStore::new());
}

#[test]
fn a_crash_loses_what_was_not_synced_and_nothing_else() {
    let store = MemoryStore::new();
    store.commit(vec![change("a", Some("1")), change("b", Some("1"))], true).unwrap();
    store.commit(vec![change("a", Some("2")), change("c", Some("2"))], false).unwrap();
    store.commit(vec![change("a", Some("3")), change("b", None)], false).unwrap();
    let after = store.crash();
    assert_eq!(get(&after, "a").as_deref(), Some(&b"1"[..]));
    assert_eq!(get(&after, "b").as_deref(), Some(&b"1"[..]));
    assert_eq!(get(&after, "c"), None);
    assert!(store.commit(vec![change("a", None)], true).is_err());
    assert_eq!(get(&after, "a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_later_sync_keeps_earlier_unsynced_commits() {
    for separate in [true, false] {
        let store = MemoryStore::new();
        store.commit(vec![change("a", Some("1"))], false).unwrap();
        if separate {
            store.sync().unwrap();
        } else {
            store.commit(vec![change("b", Some("1"))], true).unwrap();
        }
        assert!(get(&store.crash(), "a").is_some());
    }
}

#[test]
fn a_failure_comes_when_asked_for_and_stays() {
    for (failure, there) in [(Failure::Applied, true), (Failure::NotApplied, false), (Failure::NoSpace, false)] {
        let store = MemoryStore::new();
        store.set_faults(|faults| faults.fail_commit = Some((1, failure)));
        store.commit(vec![change("a", Some("1"))], true).unwrap();
        assert!(store.commit(vec![change("b", Some("1"))], true).is_err());
        assert_eq!(get(&store, "b").is_some(), there);
        assert!(store.commit(vec![change("c", Some("1"))], true).is_err());
        assert!(store.sync().is_err());
        assert_eq!(get(&store, "c"), None);
    }
}

#[test]
fn what_no_snapshot_sees_is_let_go() {
    let store = MemoryStore::new();
    let held = store.snapshot().unwrap();
    for n in 0..100 {
        store.commit(vec![change("a", Some(&n.to_string())), change("b", Some("x"))], true).unwrap();
        store.commit(vec![change("b", None)], true).unwrap();
    }
    assert!(store.trees.read().data.held() > 100);
    drop(held);
    store.commit(vec![change("c", Some("1"))], true).unwrap();
    let trees = store.trees.read();
    assert_eq!(trees.data.held(), 2);
    assert_eq!((trees.data.len(), trees.data.bytes()), (2, 3 + 2));
}
