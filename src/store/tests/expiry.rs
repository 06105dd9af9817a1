//! Entries that end by themselves, and the sweeper that removes them.

use std::time::Duration;

use super::scene::{Event, Scene, contents};
use super::support::*;
use crate::store::clock::ManualTime;
use crate::store::*;

const SECOND: Ttl = Ttl::After(Duration::from_secs(1));

fn stored_keys(database: &Database) -> usize {
    let all = (std::ops::Bound::Included(&[TYPE_RECORD][..]), std::ops::Bound::Excluded(&[TYPE_META][..]));
    database.view().snapshot.range(Space::Data, all, false).count()
}

#[test]
fn what_expired_is_absent_to_readers_and_writers() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let database = start(MemoryStore::new(), DatabaseOptions { time: time.clone(), ..options() });
    one(&database, put_for("a", "5", SECOND));
    time.advance(999);
    assert_eq!(read(&database, "a").as_deref(), Some("5"));
    assert!(matches!(one(&database, if_absent(put("a", "6"))), OpOutcome::PreconditionFailed));
    time.advance(1);
    assert_eq!(read(&database, "a"), None);
    assert!(matches!(one(&database, op("a", Action::Get)), OpOutcome::Got(None)));
    assert!(matches!(one(&database, op("a", Action::Delete)), OpOutcome::NotFound));
    let outcome = one(&database, add("a", 1));
    assert!(matches!(&outcome, OpOutcome::Updated { record, created: true } if &record.value[..] == b"1"));
    assert!(matches!(outcome, OpOutcome::Updated { record, .. } if record.expires_ms == 0));
}

#[test]
fn a_ttl_is_kept_replaced_or_cleared_as_asked() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let database = start(MemoryStore::new(), DatabaseOptions { time: time.clone(), ..options() });
    let expires = |database: &Database| database.view().read(&key("n")).unwrap().unwrap().expires_ms;
    one(&database, put_for("n", "1", SECOND));
    assert_eq!(expires(&database), NEW_YEAR_MS + 1000);
    time.advance(500);
    one(&database, add("n", 1));
    assert_eq!(expires(&database), NEW_YEAR_MS + 1000);
    one(&database, put_for("n", "1", SECOND));
    assert_eq!(expires(&database), NEW_YEAR_MS + 1500);
    one(&database, put("n", "1"));
    assert_eq!(expires(&database), 0);
}

#[test]
fn the_sweeper_deletes_what_expired_and_nothing_else() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let scene = Scene::new();
    let options = DatabaseOptions { time: time.clone(), expiry_scan_rate: 1_000_000, ..options() };
    let database = scene.start(options.clone());
    let ops =
        |range: std::ops::Range<usize>, ttl| range.map(|n| put_for(&format!("{n:04}"), "x", ttl)).collect::<Vec<_>>();
    write(&database, ops(0..700, SECOND));
    write(&database, ops(700..800, Ttl::Clear));
    write(&database, ops(800..900, Ttl::After(Duration::from_secs(3600))));
    scene.take();
    time.advance(1000);
    eventually("the sweep", || stored_keys(&database) == 200);
    assert_eq!(contents(&database).len(), 200);
    assert!(scene.batches().iter().all(|size| *size <= 100), "chunks of 100");
    assert!(scene.take().contains(&Event::Publish("0000".into(), None)), "the cache is told");
    let told = || options.droppable.lock().as_ref().map(Moment::now_ms);
    eventually("compactions are told", || told() == Some(NEW_YEAR_MS + 1000));
}

#[test]
fn a_key_written_after_it_was_seen_expired_stays() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let database = start(MemoryStore::new(), DatabaseOptions { time: time.clone(), ..options() });
    let seen = version(&one(&database, put_for("a", "1", SECOND)));
    let expire = |version| op("a", Action::Expire { version });
    assert!(matches!(one(&database, expire(seen)), OpOutcome::NotFound), "not expired yet");
    time.advance(1000);
    one(&database, put("a", "2"));
    assert!(matches!(one(&database, expire(seen)), OpOutcome::NotFound));
    assert_eq!(read(&database, "a").as_deref(), Some("2"));
    let again = version(&one(&database, put_for("a", "3", SECOND)));
    time.advance(1000);
    assert!(matches!(one(&database, expire(again)), OpOutcome::Deleted { .. }));
}

#[test]
fn nothing_expired_is_deleted_while_the_clock_cannot_be_trusted() {
    let time = ManualTime::new(NEW_YEAR_MS, false);
    let options = DatabaseOptions { time: time.clone(), expiry_scan_rate: 1_000_000, ..options() };
    let database = start(MemoryStore::new(), options.clone());
    let seen = version(&one(&database, put_for("a", "1", SECOND)));
    time.advance(2000);
    assert_eq!(read(&database, "a"), None, "hidden all the same");
    assert!(matches!(one(&database, op("a", Action::Expire { version: seen })), OpOutcome::NotFound));
    assert!(options.droppable.lock().is_none());
    time.set_synchronised(true);
    eventually("the sweep", || stored_keys(&database) == 0);
}

#[test]
fn a_store_is_stopped_in_the_middle_of_a_sweep() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let store = MemoryStore::new();
    let options = DatabaseOptions { time: time.clone(), ..options() };
    let database = start(store.clone(), options.clone());
    for chunk in 0..10 {
        write(&database, (0..500).map(|n| put_for(&format!("{chunk}-{n}"), "x", SECOND)).collect());
    }
    database.stop().unwrap();
    time.advance(1000);
    store.set_faults(|faults| faults.commit_delay = Duration::from_millis(2));
    let database = start(store, DatabaseOptions { expiry_scan_rate: 1_000_000, ..options });
    eventually("the first deletions", || stored_keys(&database) < 5000);
    database.stop().unwrap();
}
