//! Commits and syncs that fail, and panics where they hurt.

use std::time::Duration;

use super::scene::{Event, Scene};
use super::support::*;
use crate::limits::GROUP_OPERATIONS_MAX;
use crate::store::memory::faults::Failure;
use crate::store::*;

#[test]
fn when_a_commit_fails_everyone_in_the_group_is_left_in_doubt_and_writes_end() {
    for (failure, there) in [(Failure::NotApplied, false), (Failure::Applied, true), (Failure::NoSpace, false)] {
        let scene = Scene::new();
        let database = scene.start(options());
        one(&database, put("old", "1"));
        let first = scene.hold(&database);
        let group = [
            send(&database, vec![put("a", "1")]),
            send(&database, vec![op("none", Action::Delete)]),
            send(&database, vec![if_absent(put("old", "2"))]),
            send_relaxed(&database, vec![put("b", "1")]),
        ];
        scene.release();
        end(first).unwrap();
        scene.wait_at_gate();
        let after = send(&database, vec![put("later", "1")]);
        scene.memory.set_faults(|faults| faults.fail_commit = Some((0, failure)));
        scene.open_gate();
        for receiver in group {
            assert_eq!(end(receiver).unwrap_err(), WriteError::OutcomeUnknown);
        }
        assert_eq!(end(after).unwrap_err(), WriteError::ReadOnly);
        assert_eq!(end(send(&database, vec![put("c", "1")])).unwrap_err(), WriteError::ReadOnly);
        assert!(matches!(database.state(), StoreState::ReadOnly(_)), "{:?}", database.state());
        assert_eq!(read(&database, "old").as_deref(), Some("1"));
        assert_eq!(read(&database, "a").is_some(), there, "readers see what the store holds");
        assert!(database.stop().is_err());
        assert!(matches!(database.state(), StoreState::ReadOnly(_)));
    }
}

#[test]
fn a_failed_sync_of_relaxed_writes_ends_writes_too() {
    let scene = Scene::new();
    let database = scene.start(DatabaseOptions { sync_interval: Duration::from_millis(5), ..options() });
    scene.memory.set_faults(|faults| faults.fail_sync = Some(0));
    end(send_relaxed(&database, vec![put("a", "1")])).unwrap();
    eventually("read-only", || matches!(database.state(), StoreState::ReadOnly(_)));
    assert_eq!(end(send_relaxed(&database, vec![put("b", "1")])).unwrap_err(), WriteError::ReadOnly);
    assert_eq!(read(&database, "a").as_deref(), Some("1"));
}

#[test]
fn a_snapshot_that_fails_after_the_commit_leaves_the_group_in_doubt() {
    let scene = Scene::new();
    let database = scene.start(options());
    one(&database, put("a", "1"));
    scene.memory.set_faults(|faults| faults.fail_snapshots = true);
    assert_eq!(end(send(&database, vec![put("a", "2")])).unwrap_err(), WriteError::OutcomeUnknown);
    assert!(matches!(database.state(), StoreState::ReadOnly(_)));
    assert!(scene.take().contains(&Event::Abort("a".into())));
}

#[test]
fn a_ceiling_that_cannot_be_raised_means_not_written() {
    let scene = Scene::new();
    let database = scene.start(options());
    scene.memory.set_faults(|faults| faults.fail_commit = Some((0, Failure::NotApplied)));
    assert_eq!(end(send(&database, vec![put("a", "1")])).unwrap_err(), WriteError::ReadOnly);
    assert_eq!(scene.take(), [Event::CommitFailed, Event::Snapshot]);
}

#[test]
fn a_panicking_update_costs_its_own_request_only() {
    let scene = Scene::new();
    let database = scene.start(options());
    let first = scene.hold(&database);
    let update: Update = Box::new(|_| panic!("a panic that the test asked for"));
    let broken = send(&database, vec![put("a", "1"), op("b", Action::Update { update, bytes: 0, ttl: Ttl::Keep })]);
    let fine = send(&database, vec![put("c", "1")]);
    scene.open_gate();
    end(first).unwrap();
    assert_eq!(end(broken).unwrap_err(), WriteError::Unavailable);
    end(fine).unwrap();
    assert_eq!((read(&database, "a"), read(&database, "c").as_deref()), (None, Some("1")));
    assert_eq!(database.state(), StoreState::Ok);
    one(&database, put("d", "1"));
}

#[test]
fn a_panicking_reply_stops_nothing() {
    let database = start(MemoryStore::new(), options());
    let (mut request, _) = request(vec![put("a", "1")]);
    request.reply = Box::new(|_| panic!("a panic that the test asked for"));
    database.submit(request);
    one(&database, put("b", "1"));
    assert_eq!(read(&database, "a").as_deref(), Some("1"));
}

#[test]
fn a_panic_of_the_committer_answers_everyone_and_ends_writes() {
    let scene = Scene::new();
    let many = GROUP_OPERATIONS_MAX + 100;
    let database = scene.start(DatabaseOptions { queued_writes_max: 2 * many, ..options() });
    let first = scene.hold(&database);
    *scene.panic_on.lock() = Some("bad".into());
    let mut group = vec![send(&database, vec![put("good", "1")]), send(&database, vec![put("bad", "1")])];
    // More than a group may hold: what does not fit is carried over, and what waits stays in the queue.
    let waiting: Vec<_> = (0..many).map(|n| send(&database, vec![put(&format!("w{n}"), "1")])).collect();
    scene.open_gate();
    end(first).unwrap();
    let mut outcomes: Vec<WriteError> = group.drain(..).map(|receiver| end(receiver).unwrap_err()).collect();
    outcomes.dedup();
    assert_eq!(outcomes, [WriteError::OutcomeUnknown]);
    let errors: Vec<WriteError> = waiting.into_iter().map(|receiver| end(receiver).unwrap_err()).collect();
    assert!(errors.contains(&WriteError::ReadOnly) && errors.contains(&WriteError::OutcomeUnknown));
    assert!(matches!(database.state(), StoreState::ReadOnly(_)));
    assert_eq!(end(send(&database, vec![put("c", "1")])).unwrap_err(), WriteError::ReadOnly);
    assert_eq!(read(&database, "good").as_deref(), Some("1"), "it panicked after the commit, and readers see that");
    assert!(scene.take().contains(&Event::Abort("good".into())));
    eventually("the committer at rest", || database.busy_for().is_none());
    assert!(database.stop().is_err());
}

#[test]
fn a_damaged_record_can_be_replaced_and_deleted_but_not_built_upon() {
    let store = MemoryStore::new();
    let damaged = |name: &str| (Space::Data, key(name).shared(), Some(bytes::Bytes::from_static(&[0xff, 1, 2])));
    store.commit(vec![damaged("a"), damaged("b")], true).unwrap();
    let database = start(store, options());
    for op in [add("a", 1), if_version(put("a", "1"), 1), put_for("a", "1", Ttl::Keep), op("a", Action::Get)] {
        assert_eq!(end(send(&database, vec![put("other", "1"), op])).unwrap_err(), WriteError::Unavailable);
    }
    assert_eq!(read(&database, "other"), None);
    assert!(matches!(one(&database, put("a", "1")), OpOutcome::Stored { created: false, .. }));
    assert!(matches!(one(&database, op("b", Action::Delete)), OpOutcome::Deleted { .. }));
    assert_eq!((read(&database, "a").as_deref(), read(&database, "b")), (Some("1"), None));
}
