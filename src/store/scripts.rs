//! What every store must do, as scripts that run on any of them: the twin in memory and the one on the card.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::{Change, Snapshot, Space, Store};

/// Runs all scripts, each on a store of its own.
pub(crate) fn run_all(open: impl Fn() -> Arc<dyn Store>) {
    basics(&*open());
    snapshots_never_change(&*open());
    batches_are_whole(&*open());
    spaces_are_apart(&*open());
    ranges_in_both_directions_with_all_bounds(&*open());
    iterators_outlive_what_follows(&*open());
    many_commits_equal_a_model(&*open());
}

fn put(key: &str, value: &str) -> Change {
    (Space::Data, Bytes::copy_from_slice(key.as_bytes()), Some(Bytes::copy_from_slice(value.as_bytes())))
}

fn delete(key: &str) -> Change {
    (Space::Data, Bytes::copy_from_slice(key.as_bytes()), None)
}

fn get(snapshot: &dyn Snapshot, key: &str) -> Option<String> {
    let value = snapshot.get(Space::Data, key.as_bytes()).unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

fn keys(snapshot: &dyn Snapshot, range: (Bound<&[u8]>, Bound<&[u8]>), reverse: bool) -> Vec<String> {
    let pairs = snapshot.range(Space::Data, range, reverse);
    pairs.map(|pair| String::from_utf8(pair.unwrap().0.to_vec()).unwrap()).collect()
}

const ALL: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, Bound::Unbounded);

fn basics(store: &dyn Store) {
    assert_eq!(get(&*store.snapshot().unwrap(), "a"), None);
    store.commit(vec![put("a", "1"), put("empty", "")], true).unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!(get(&*snapshot, "a").as_deref(), Some("1"));
    assert_eq!(get(&*snapshot, "empty").as_deref(), Some(""));
    store.commit(vec![put("a", "2")], false).unwrap();
    assert_eq!(get(&*store.snapshot().unwrap(), "a").as_deref(), Some("2"));
    store.commit(vec![delete("a"), delete("never there")], false).unwrap();
    assert_eq!(keys(&*store.snapshot().unwrap(), ALL, false), ["empty"]);
    store.sync().unwrap();
    store.maintain().unwrap();
    assert_eq!(keys(&*store.snapshot().unwrap(), ALL, false), ["empty"]);
}

fn snapshots_never_change(store: &dyn Store) {
    store.commit(vec![put("a", "1"), put("b", "1")], false).unwrap();
    let before = store.snapshot().unwrap();
    store.commit(vec![put("a", "2"), delete("b"), put("c", "2")], true).unwrap();
    let between = store.snapshot().unwrap();
    store.commit(vec![delete("a"), put("b", "3")], false).unwrap();
    store.maintain().unwrap();
    assert_eq!(keys(&*before, ALL, false), ["a", "b"]);
    assert_eq!(get(&*before, "a").as_deref(), Some("1"));
    assert_eq!(keys(&*between, ALL, true), ["c", "a"]);
    assert_eq!(get(&*between, "a").as_deref(), Some("2"));
    assert_eq!(keys(&*store.snapshot().unwrap(), ALL, false), ["b", "c"]);
}

fn batches_are_whole(store: &dyn Store) {
    for round in 0..20 {
        let value = round.to_string();
        let batch = (0..50).map(|n| put(&format!("k{n:02}"), &value)).collect();
        store.commit(batch, round % 3 == 0).unwrap();
        let snapshot = store.snapshot().unwrap();
        for n in 0..50 {
            assert_eq!(get(&*snapshot, &format!("k{n:02}")).as_deref(), Some(&*value));
        }
    }
}

fn spaces_are_apart(store: &dyn Store) {
    let key = Bytes::from_static(b"k");
    let pair = |space, value: &'static [u8]| (space, key.clone(), Some(Bytes::from_static(value)));
    store.commit(vec![pair(Space::Data, b"data"), pair(Space::Log, b"log")], true).unwrap();
    store.commit(vec![(Space::Data, key.clone(), None)], true).unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.get(Space::Data, &key).unwrap(), None);
    assert_eq!(snapshot.get(Space::Log, &key).unwrap().as_deref(), Some(&b"log"[..]));
    assert_eq!(snapshot.range(Space::Log, ALL, true).count(), 1);
}

fn ranges_in_both_directions_with_all_bounds(store: &dyn Store) {
    store.commit(["b", "d", "f", "h"].map(|key| put(key, key)).into(), false).unwrap();
    store.commit(vec![delete("f")], false).unwrap();
    let snapshot = store.snapshot().unwrap();
    let edges: Vec<Bound<&[u8]>> = ["a", "b", "c", "d", "f", "h", "i"]
        .iter()
        .flat_map(|key| [Bound::Included(key.as_bytes()), Bound::Excluded(key.as_bytes())])
        .chain([Bound::Unbounded])
        .collect();
    for &low in &edges {
        for &high in &edges {
            let above = |key: &&[u8]| match low {
                Bound::Included(low) => *key >= low,
                Bound::Excluded(low) => *key > low,
                Bound::Unbounded => true,
            };
            let below = |key: &&[u8]| match high {
                Bound::Included(high) => *key <= high,
                Bound::Excluded(high) => *key < high,
                Bound::Unbounded => true,
            };
            let all: [&[u8]; 3] = [b"b", b"d", b"h"];
            let mut expected: Vec<String> = all
                .iter()
                .filter(|key| above(key) && below(key))
                .map(|key| String::from_utf8_lossy(key).into())
                .collect();
            assert_eq!(keys(&*snapshot, (low, high), false), expected, "{low:?} {high:?}");
            expected.reverse();
            assert_eq!(keys(&*snapshot, (low, high), true), expected, "{low:?} {high:?} backwards");
        }
    }
}

fn iterators_outlive_what_follows(store: &dyn Store) {
    store.commit((0..500).map(|n| put(&format!("{n:04}"), "old")).collect(), false).unwrap();
    let snapshot = store.snapshot().unwrap();
    let mut pairs = snapshot.range(Space::Data, ALL, false);
    let first = pairs.next().unwrap().unwrap();
    drop(snapshot);
    store.commit((0..500).map(|n| delete(&format!("{n:04}"))).collect(), false).unwrap();
    store.commit(vec![put("0001x", "new")], false).unwrap();
    let rest: Vec<_> = pairs.map(Result::unwrap).collect();
    assert_eq!(&first.0[..], b"0000");
    assert_eq!(rest.len(), 499);
    assert!(rest.iter().all(|(_, value)| &value[..] == b"old"));
    assert_eq!(keys(&*store.snapshot().unwrap(), ALL, false), ["0001x"]);
}

fn many_commits_equal_a_model(store: &dyn Store) {
    let mut model = BTreeMap::new();
    let mut held = Vec::new();
    let mut state = 12345_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..300 {
        let mut batch = Vec::new();
        for _ in 0..=random(8) {
            let key = format!("{:02}", random(60));
            if random(3) == 0 {
                model.remove(&key);
                batch.push(delete(&key));
            } else {
                model.insert(key.clone(), round.to_string());
                batch.push(put(&key, &round.to_string()));
            }
        }
        store.commit(batch, random(4) == 0).unwrap();
        if random(10) == 0 {
            held.push((store.snapshot().unwrap(), model.clone()));
        }
        if random(20) == 0 {
            store.maintain().unwrap();
        }
    }
    held.push((store.snapshot().unwrap(), model));
    for (snapshot, model) in held {
        let pairs: BTreeMap<String, String> = snapshot
            .range(Space::Data, ALL, false)
            .map(|pair| pair.unwrap())
            .map(|(key, value)| (String::from_utf8_lossy(&key).into(), String::from_utf8_lossy(&value).into()))
            .collect();
        assert_eq!(pairs, model);
    }
}
