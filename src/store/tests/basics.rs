//! What one write does, and what one reader sees of it.

use super::support::*;
use crate::store::*;

#[test]
fn a_write_is_visible_when_it_is_answered() {
    let database = start(MemoryStore::new(), options());
    for n in 0..50 {
        let outcome = one(&database, put("a", &n.to_string()));
        assert!(matches!(outcome, OpOutcome::Stored { created, .. } if created == (n == 0)));
        assert_eq!(read(&database, "a"), Some(n.to_string()));
        assert_eq!(database.last_version(), version(&outcome));
    }
    assert!(matches!(one(&database, op("a", Action::Delete)), OpOutcome::Deleted { .. }));
    assert_eq!(read(&database, "a"), None);
    assert!(matches!(one(&database, op("a", Action::Delete)), OpOutcome::NotFound));
}

#[test]
fn a_view_does_not_change_under_its_holder() {
    let database = start(MemoryStore::new(), options());
    one(&database, put("a", "1"));
    let view = database.view();
    one(&database, put("a", "2"));
    assert_eq!(&view.read(&key("a")).unwrap().unwrap().value[..], b"1");
    assert!(database.view().instant > view.instant);
}

#[test]
fn operations_of_a_batch_see_earlier_ones() {
    let database = start(MemoryStore::new(), options());
    let get = || op("a", Action::Get);
    let results = write(
        &database,
        vec![get(), put("a", "5"), get(), add("a", 2), get(), op("a", Action::Delete), get(), add("a", 1)],
    );
    let seen = |index: usize| match &results[index] {
        OpOutcome::Got(record) => record.as_ref().map(|record| String::from_utf8_lossy(&record.value).into_owned()),
        other => panic!("{other:?}"),
    };
    assert_eq!((seen(0), seen(2), seen(4), seen(6)), (None, Some("5".into()), Some("7".into()), None));
    let versions: Vec<u64> = [1, 3, 5, 7].map(|index| version(&results[index])).into();
    assert_eq!(versions, (versions[0]..versions[0] + 4).collect::<Vec<_>>());
    assert_eq!(read(&database, "a").as_deref(), Some("1"));
}

#[test]
fn an_aborted_request_leaves_nothing_and_uses_no_version() {
    let database = start(MemoryStore::new(), options());
    let first = version(&one(&database, put("a", "1")));
    let ops = vec![
        op("b", Action::Get),
        put("b", "2"),
        op("b", Action::Get),
        put("a", "2"),
        if_absent(put("a", "3")),
        put("c", "4"),
    ];
    let outcome = end(send(&database, ops)).unwrap();
    assert_eq!(outcome.failed, Some(4));
    assert!(matches!(outcome.results[4], OpOutcome::PreconditionFailed));
    for index in [0, 1, 2, 3, 5] {
        assert!(matches!(outcome.results[index], OpOutcome::Aborted), "{index}");
    }
    assert_eq!((read(&database, "a").as_deref(), read(&database, "b"), read(&database, "c")), (Some("1"), None, None));
    assert_eq!(version(&one(&database, put("d", "5"))), first + 1);
}

#[test]
fn a_request_that_is_not_atomic_keeps_what_succeeded() {
    let database = start(MemoryStore::new(), options());
    let (mut request, receiver) = request(vec![put("a", "1"), if_version(put("a", "2"), 99), put("b", "3")]);
    request.atomic = false;
    database.submit(request);
    let outcome = end(receiver).unwrap();
    assert_eq!(outcome.failed, None);
    assert!(matches!(outcome.results[1], OpOutcome::PreconditionFailed));
    assert_eq!((read(&database, "a").as_deref(), read(&database, "b").as_deref()), (Some("1"), Some("3")));
}

#[test]
fn an_update_refuses_before_its_precondition_is_asked() {
    let database = start(MemoryStore::new(), options());
    one(&database, put("text", "abc"));
    let outcome = one(&database, if_version(add("text", 1), 99));
    assert!(matches!(outcome, OpOutcome::Refused(UpdateRefused::NotAnInteger)));
    let outcome = one(&database, if_version(add("none", 1), 99));
    assert!(matches!(outcome, OpOutcome::PreconditionFailed));
}

#[test]
fn a_delete_of_nothing_is_not_found_whatever_its_precondition() {
    let database = start(MemoryStore::new(), options());
    assert!(matches!(one(&database, if_version(op("a", Action::Delete), 7)), OpOutcome::NotFound));
    let version = version(&one(&database, put("a", "1")));
    assert!(matches!(one(&database, if_version(op("a", Action::Delete), version + 1)), OpOutcome::PreconditionFailed));
    assert!(matches!(one(&database, if_version(op("a", Action::Delete), version)), OpOutcome::Deleted { .. }));
}

#[test]
fn an_update_may_not_make_a_value_too_large() {
    let database = start(MemoryStore::new(), DatabaseOptions { value_bytes_max: 2, ..options() });
    assert!(matches!(one(&database, add("n", 99)), OpOutcome::Updated { created: true, .. }));
    assert!(matches!(one(&database, add("n", 1)), OpOutcome::Refused(UpdateRefused::TooLarge)));
    assert_eq!(read(&database, "n").as_deref(), Some("99"));
}

#[test]
fn an_overtaken_preread_is_not_believed() {
    let database = start(MemoryStore::new(), options());
    let first = version(&one(&database, put("a", "1")));
    let view = database.view();
    let record = view.read(&key("a")).unwrap();
    one(&database, put("a", "2"));
    let mut stale = if_version(put("a", "3"), first);
    stale.preread = Some(Preread { instant: view.instant, record });
    assert!(matches!(one(&database, stale), OpOutcome::PreconditionFailed));
}

#[test]
fn stopping_finishes_what_waits_and_refuses_the_rest() {
    let store = MemoryStore::with_sync_delay(std::time::Duration::from_millis(5));
    let database = start(store.clone(), options());
    let waiting: Vec<_> = (0..100).map(|n| send(&database, vec![put(&n.to_string(), "x")])).collect();
    let relaxed = send_relaxed(&database, vec![put("relaxed", "x")]);
    database.stop().unwrap();
    database.stop().unwrap();
    waiting.into_iter().chain([relaxed]).for_each(|receiver| drop(end(receiver).unwrap()));
    assert_eq!(end(send(&database, vec![put("late", "x")])).unwrap_err(), WriteError::Draining);
    assert_eq!(database.state(), StoreState::Draining);
    let again = start(store.crash(), options());
    assert_eq!(read(&again, "relaxed").as_deref(), Some("x"));
    assert_eq!(read(&again, "99").as_deref(), Some("x"));
}
