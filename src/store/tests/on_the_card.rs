//! The same on fjall.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::scene::contents;
use super::support::*;
use crate::store::fjall::{FjallOptions, FjallStore};
use crate::store::*;

/// The smallest memtables that rotate all the time, so that flushes run beside the commits.
fn open(dir: &Path) -> Arc<Database> {
    let store = FjallStore::open(dir, FjallOptions { memtable_bytes: 64 * 1024, ..FjallOptions::default() }).unwrap();
    start(Arc::new(store), options())
}

#[test]
fn what_was_answered_is_there_after_a_restart_and_versions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..3 {
        let database = open(dir.path());
        assert_eq!(contents(&database).len(), round * 200);
        let results = write(&database, (0..100).map(|n| put(&format!("{round}-{n}"), "durable")).collect());
        assert!(version(&results[0]) > last);
        let ops = (100..200).map(|n| put(&format!("{round}-{n}"), "relaxed")).collect();
        let outcome = end(send_relaxed(&database, ops)).unwrap();
        last = version(outcome.results.last().unwrap());
        database.stop().unwrap();
    }
    assert!(open(dir.path()).last_version() >= last);
}

#[test]
fn readers_never_see_half_of_a_batch_while_memtables_are_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let database = open(dir.path());
    let pair = |n: u32| vec![put("a", &format!("{n:02000}")), put("b", &format!("{n:02000}"))];
    write(&database, pair(0));
    let writers: Vec<_> = (0..4_u32)
        .map(|writer| {
            let database = database.clone();
            thread::spawn(move || (0..100).for_each(|n| drop(write(&database, pair(writer * 1000 + n)))))
        })
        .collect();
    let mut looks = 0;
    while looks == 0 || writers.iter().any(|writer| !writer.is_finished()) {
        let view = database.view();
        let (a, b) = (view.read(&key("a")).unwrap().unwrap(), view.read(&key("b")).unwrap().unwrap());
        assert_eq!(a.value, b.value);
        assert_eq!(a.version + 1, b.version);
        looks += 1;
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    database.stop().unwrap();
}
