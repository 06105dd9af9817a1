//! The order of commit, announcement, snapshot, publication and reply.

use std::time::Duration;

use super::scene::{Event, Scene};
use super::support::*;
use crate::store::memory::faults::Failure;
use crate::store::*;

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// Sends a request whose reply is written down among the other events.
fn send_noted(scene: &std::sync::Arc<Scene>, database: &Database, ops: Vec<WriteOp>, name: &'static str) {
    let (reply, end) = crossbeam::channel::bounded(1);
    let noted = scene.clone();
    database.submit(WriteRequest {
        ops,
        atomic: true,
        durability: Durability::Sync,
        deadline: None,
        reply: Box::new(move |_| {
            noted.note(Event::Reply(name));
            reply.send(()).unwrap();
        }),
    });
    end.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn keys_are_announced_after_the_commit_and_published_after_the_swap_and_replies_come_last() {
    let scene = Scene::new();
    let database = scene.start(options());
    send_noted(&scene, &database, vec![put("a", "1"), put("b", "2"), put("a", "3"), op("c", Action::Delete)], "done");
    let name = |name: &str| name.to_owned();
    assert_eq!(
        scene.take(),
        [
            Event::Commit(2, true),
            Event::Snapshot,
            Event::Announce(name("a")),
            Event::Announce(name("b")),
            Event::Publish(name("a"), some("3")),
            Event::Publish(name("b"), some("2")),
            Event::Reply("done"),
        ]
    );
    send_noted(&scene, &database, vec![op("b", Action::Delete)], "gone");
    assert_eq!(
        scene.take(),
        [
            Event::Commit(1, true),
            Event::Snapshot,
            Event::Announce(name("b")),
            Event::Publish(name("b"), None),
            Event::Reply("gone")
        ]
    );
}

#[test]
fn after_a_failed_commit_a_fresh_snapshot_comes_before_the_aborts_and_those_before_the_replies() {
    let scene = Scene::new();
    let database = scene.start(options());
    write(&database, vec![put("warm", "up")]);
    scene.take();
    scene.memory.set_faults(|faults| faults.fail_commit = Some((0, Failure::NotApplied)));
    send_noted(&scene, &database, vec![put("a", "1"), put("b", "2")], "unknown");
    let name = |name: &str| name.to_owned();
    assert_eq!(
        scene.take(),
        [
            Event::CommitFailed,
            Event::Announce(name("a")),
            Event::Announce(name("b")),
            Event::Snapshot,
            Event::Abort(name("a")),
            Event::Abort(name("b")),
            Event::Reply("unknown"),
        ]
    );
}

#[test]
fn no_answer_computed_from_a_group_leaves_before_its_commit() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = scene.hold(&database);
    let changing = send(&database, vec![put("a", "1")]);
    let not_found = send(&database, vec![op("none", Action::Delete)]);
    let refused = send(&database, vec![if_absent(put("a", "2"))]);
    let got = send(&database, vec![op("a", Action::Get)]);
    scene.release();
    end(first).unwrap();
    scene.wait_at_gate();
    let receivers = [changing, not_found, refused, got];
    assert!(receivers.iter().all(|receiver| receiver.is_empty()), "an answer before the commit");
    scene.open_gate();
    let results: Vec<OpOutcome> =
        receivers.into_iter().map(|receiver| end(receiver).unwrap().results.remove(0)).collect();
    assert!(matches!(results[0], OpOutcome::Stored { .. }));
    assert!(matches!(results[1], OpOutcome::NotFound));
    assert!(matches!(results[2], OpOutcome::PreconditionFailed));
    assert!(matches!(&results[3], OpOutcome::Got(Some(record)) if &record.value[..] == b"1"));
}

#[test]
fn a_group_that_changes_nothing_is_answered_without_a_commit() {
    let scene = Scene::new();
    let database = scene.start(options());
    send_noted(&scene, &database, vec![op("none", Action::Delete), op("none", Action::Get)], "nothing");
    send_noted(&scene, &database, vec![put("a", "1"), if_version(put("b", "1"), 7)], "aborted");
    assert_eq!(scene.take(), [Event::Reply("nothing"), Event::Reply("aborted")]);
}

#[test]
fn a_held_commit_shows_nothing_to_readers() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = scene.hold(&database);
    assert_eq!(read(&database, "first"), None);
    assert_eq!(database.view().instant, 0);
    assert!(database.busy_for().is_some());
    scene.open_gate();
    end(first).unwrap();
    assert_eq!(read(&database, "first").as_deref(), Some("x"));
    eventually("the committer idle", || database.busy_for().is_none());
}

#[test]
fn relaxed_writes_are_answered_unsynced_and_synced_in_time() {
    let scene = Scene::new();
    let interval = Duration::from_millis(20);
    let database = scene.start(DatabaseOptions { sync_interval: interval, ..options() });
    let outcome = end(send_relaxed(&database, vec![put("a", "1")])).unwrap();
    assert!(matches!(outcome.promise, Promise::Relaxed { max_loss } if max_loss >= interval));
    assert_eq!(read(&database, "a").as_deref(), Some("1"));
    eventually("the sync", || scene.take().contains(&Event::Sync));
    let after = start(scene.memory.crash(), options());
    assert_eq!(read(&after, "a").as_deref(), Some("1"));
}

#[test]
fn a_relaxed_write_says_what_can_be_lost_where_a_sync_takes_longer_than_the_interval() {
    let (interval, sync) = (Duration::from_millis(10), Duration::from_millis(60));
    let store = MemoryStore::with_sync_delay(sync);
    let database = start(store, DatabaseOptions { sync_interval: interval, ..options() });
    end(send(&database, vec![put("a", "1")])).unwrap();
    let outcome = end(send_relaxed(&database, vec![put("a", "2")])).unwrap();
    assert!(matches!(outcome.promise, Promise::Relaxed { max_loss } if max_loss >= sync), "{:?}", outcome.promise);
}

#[test]
fn a_mixed_group_is_synced_and_says_so_to_all() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = scene.hold(&database);
    let relaxed = send_relaxed(&database, vec![put("a", "1")]);
    let durable = send(&database, vec![put("b", "1")]);
    scene.open_gate();
    end(first).unwrap();
    assert_eq!(end(relaxed).unwrap().promise, Promise::Synced);
    assert_eq!(end(durable).unwrap().promise, Promise::Synced);
    assert!(scene.take().contains(&Event::Commit(2, true)));
}

#[test]
fn an_idle_store_that_compacts_gets_a_new_snapshot_of_the_same_instant() {
    let scene = Scene::new();
    let database = scene.start(options());
    write(&database, vec![put("a", "1")]);
    let instant = database.view().instant;
    scene.take();
    scene.compactions.store(1, std::sync::atomic::Ordering::SeqCst);
    eventually("the renewal", || scene.take() == [Event::Snapshot]);
    assert_eq!(database.view().instant, instant);
    assert_eq!(read(&database, "a").as_deref(), Some("1"));
}
