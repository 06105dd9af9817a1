//! Queues and groups at their limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::scene::Scene;
use super::support::*;
use crate::limits::{GROUP_BYTES_MAX, GROUP_OPERATIONS_MAX};
use crate::store::*;

fn puts(prefix: &str, count: usize) -> Vec<WriteOp> {
    (0..count).map(|n| put(&format!("{prefix}{n}"), "x")).collect()
}

#[test]
fn a_full_queue_refuses_at_once_and_takes_again_later() {
    let scene = Scene::new();
    let database = scene.start(DatabaseOptions { queued_writes_max: 3, ..options() });
    let first = scene.hold(&database);
    let queued: Vec<_> = (0..3).map(|n| send(&database, vec![put(&n.to_string(), "x")])).collect();
    let refused = send(&database, vec![put("refused", "x")]);
    assert_eq!(refused.try_recv().unwrap().unwrap_err(), WriteError::Overloaded);
    scene.open_gate();
    end(first).unwrap();
    queued.into_iter().for_each(|receiver| drop(end(receiver).unwrap()));
    one(&database, put("later", "x"));
    assert_eq!(read(&database, "refused"), None);
}

#[test]
fn the_queue_is_bounded_in_bytes_too_but_takes_any_single_request() {
    let scene = Scene::new();
    let database = scene.start(DatabaseOptions { queued_bytes_max: 1000, ..options() });
    let first = scene.hold(&database);
    let large = send(&database, vec![put("large", &"x".repeat(5000))]);
    let refused = send(&database, vec![put("small", "x")]);
    assert_eq!(refused.try_recv().unwrap().unwrap_err(), WriteError::Overloaded);
    scene.open_gate();
    end(first).unwrap();
    end(large).unwrap();
    one(&database, put("small", "x"));
}

#[test]
fn a_write_past_its_deadline_is_not_begun() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = scene.hold(&database);
    let (mut late, late_end) = request(vec![put("late", "x")]);
    late.deadline = Some(Instant::now());
    database.submit(late);
    let (mut early, early_end) = request(vec![put("early", "x")]);
    early.deadline = Some(Instant::now() + PATIENCE);
    database.submit(early);
    scene.open_gate();
    end(first).unwrap();
    assert_eq!(end(late_end).unwrap_err(), WriteError::Overloaded);
    end(early_end).unwrap();
    assert_eq!((read(&database, "late"), read(&database, "early").as_deref()), (None, Some("x")));
}

#[test]
fn an_atomic_request_of_a_thousand_operations_is_one_group() {
    let scene = Scene::new();
    let database = scene.start(options());
    let results = write(&database, puts("k", 1000));
    assert_eq!(scene.batches(), [1000]);
    let versions: Vec<u64> = results.iter().map(version).collect();
    assert!(versions.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[test]
fn merging_stops_at_the_operations_of_a_group() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = scene.hold(&database);
    let waiting: Vec<_> = (0..4).map(|n| send(&database, puts(&format!("r{n}-"), 900))).collect();
    let huge = send(&database, puts("h", 3000));
    let last = send(&database, puts("l", 1));
    scene.open_gate();
    end(first).unwrap();
    waiting.into_iter().chain([huge, last]).for_each(|receiver| drop(end(receiver).unwrap()));
    assert_eq!(scene.batches(), [1, 1800, 1800, 3000, 1]);
    const { assert!(GROUP_OPERATIONS_MAX < 2700 && GROUP_OPERATIONS_MAX >= 1800) };
}

#[test]
fn merging_stops_at_the_bytes_of_a_group() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = scene.hold(&database);
    let value = "x".repeat(GROUP_BYTES_MAX / 3);
    let waiting: Vec<_> = (0..5).map(|n| send(&database, vec![put(&n.to_string(), &value)])).collect();
    scene.open_gate();
    end(first).unwrap();
    waiting.into_iter().for_each(|receiver| drop(end(receiver).unwrap()));
    assert_eq!(scene.batches(), [1, 2, 2, 1]);
}

#[test]
fn all_who_wait_share_one_sync() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = scene.hold(&database);
    let waiting: Vec<_> = (0..200).map(|n| send(&database, vec![put(&n.to_string(), "x")])).collect();
    scene.open_gate();
    end(first).unwrap();
    waiting.into_iter().for_each(|receiver| drop(end(receiver).unwrap()));
    assert_eq!(scene.batches(), [1, 200]);
}

#[test]
fn a_full_card_takes_deletes_but_no_writes_until_there_is_room() {
    let free = Arc::new(AtomicU64::new(100));
    let probe = free.clone();
    let store = MemoryStore::new();
    let mib = crate::limits::MIB as u64;
    let ask = move || Some((probe.load(Ordering::SeqCst) * mib, 1000 * mib));
    let space = Arc::new(crate::store::space::SpaceWatch::with_probe(Box::new(ask), Some(50 * mib)));
    space.set_needs(crate::store::space::Needs { flush_bytes: 8 * mib, ..Default::default() });
    let database = start(store, DatabaseOptions { space: Some(space), ..options() });
    one(&database, put("a", "1"));
    one(&database, put("b", "1"));

    // There is room for others, but not for this one twice, in the journal and in a table.
    let large = put("large", &"x".repeat(46 << 20));
    assert_eq!(end(send(&database, vec![large])).unwrap_err(), WriteError::InsufficientStorage);
    one(&database, put("b", "1"));

    // Nobody has looked yet: the committer does before each group.
    free.store(40, Ordering::SeqCst);
    assert_eq!(end(send(&database, vec![put("c", "1")])).unwrap_err(), WriteError::InsufficientStorage);
    let mixed = vec![op("a", Action::Delete), put("c", "1")];
    assert_eq!(end(send(&database, mixed)).unwrap_err(), WriteError::InsufficientStorage);
    assert!(matches!(database.state(), StoreState::NoSpace(_)));
    assert!(matches!(one(&database, op("a", Action::Delete)), OpOutcome::Deleted { .. }));

    free.store(9, Ordering::SeqCst);
    assert_eq!(end(send(&database, vec![op("b", Action::Delete)])).unwrap_err(), WriteError::CardFull);
    assert_eq!(end(send(&database, vec![put("c", "1")])).unwrap_err(), WriteError::CardFull);
    assert!(database.state().reason().contains("deletes wait"));
    assert_eq!(read(&database, "b").as_deref(), Some("1"));
    assert!(matches!(one(&database, op("b", Action::Get)), OpOutcome::Got(Some(_))));

    free.store(100, Ordering::SeqCst);
    eventually("room", || database.state() == StoreState::Ok);
    one(&database, put("c", "1"));
}

#[test]
fn clients_that_come_back_are_gathered_into_one_group() {
    let scene = Scene::new();
    scene.memory.set_faults(|faults| faults.sync_delay = Duration::from_millis(40));
    let database = scene.start(options());
    // Three rounds of the same ten clients; each round is sent when the round before was answered.
    let first = scene.hold(&database);
    let mut round: Vec<_> = (0..10).map(|n| send(&database, vec![put(&n.to_string(), "1")])).collect();
    scene.open_gate();
    end(first).unwrap();
    for _ in 0..3 {
        round.into_iter().for_each(|receiver| drop(end(receiver).unwrap()));
        round = (0..10).map(|n| send(&database, vec![put(&n.to_string(), "2")])).collect();
    }
    round.into_iter().for_each(|receiver| drop(end(receiver).unwrap()));
    let batches = scene.batches();
    assert_eq!(batches.iter().sum::<usize>(), 1 + 10 * 4);
    assert_eq!(&batches[..2], [1, 10]);
}
