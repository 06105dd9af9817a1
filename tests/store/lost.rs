//! What becomes of a store of which a part is gone: everything that is still there somewhere is found, what is written
//! afterwards stays, and a loss is told.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use larder::store::fjall::{FjallOptions, FjallStore};
use larder::store::versions::CEILING_FILE;
use larder::store::{Space, Store};
use tempfile::TempDir;

use crate::support::{all, copy_dir, get, noise, open, put, remove};

/// Keys in tables, and keys in the journal only.
const KEYS: usize = 40;

/// A folder as it stands after a kill: the first half of the keys flushed, the second in the journal, one removed.
fn scene() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store =
        FjallStore::open(dir.path(), FjallOptions { memtable_bytes: 64 * 1024, ..FjallOptions::default() }).unwrap();
    // As a database does before its first record.
    fs::write(dir.path().join(CEILING_FILE), "1048577 1048577\n").unwrap();
    let fill = |from: usize| {
        for n in from..from + KEYS / 2 {
            store.commit(vec![put(key(n), noise(n as u64, 5000))], true).unwrap();
        }
    };
    fill(0);
    store.maintain().unwrap();
    while store.figures().memtable_bytes > 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    fill(KEYS / 2);
    store.commit(vec![remove(key(3)), put("log", "x")], true).unwrap();
    store
        .commit(vec![(Space::Log, Bytes::from_static(b"\0\0\0\0\0\0\0\x01"), Some(Bytes::from_static(b"entry")))], true)
        .unwrap();
    drop(store);
    dir
}

fn key(n: usize) -> String {
    format!("key-{n:03}")
}

/// How many of the keys are there, and whether all bytes are right.
fn count(store: &dyn Store) -> usize {
    let found = (0..KEYS).filter(|n| {
        let value = get(store, key(*n));
        assert!(value.as_ref().is_none_or(|value| value[..] == noise(*n as u64, 5000)), "wrong bytes under {n}");
        value.is_some()
    });
    found.count()
}

/// Opens, checks, writes, and looks again after two unclean stops.
fn goes_on(dir: &Path, keys: std::ops::RangeInclusive<usize>, damaged: bool, what: &str) {
    let store = open(dir);
    assert!(keys.contains(&count(&store)), "{what}: {} keys, {:?}", count(&store), store.recovery());
    assert_eq!(get(&store, key(3)), None, "{what}: a removed key came back");
    assert_eq!(store.recovery().found_damage(), damaged, "{what}: {:?}", store.recovery());
    let before = count(&store);
    for n in 0..50 {
        store.commit(vec![put(format!("after-{n}"), n.to_string()), put(key(1), noise(1, 5000))], true).unwrap();
    }
    store
        .commit(
            vec![(Space::Log, Bytes::from_static(b"\0\0\0\0\0\0\0\x02"), Some(Bytes::from_static(b"second")))],
            true,
        )
        .unwrap();
    drop(store);
    for round in 0..2 {
        let store = open(dir);
        for n in 0..50 {
            assert_eq!(get(&store, format!("after-{n}")), Some(n.to_string().into()), "{what}: after-{n}, {round}");
        }
        assert_eq!(all(&store, Space::Log).last().unwrap().1, "second", "{what}");
        assert!(count(&store) >= before, "{what}");
        let report = store.recovery();
        assert!(!report.found_damage() && !report.rebuilt, "{what}: told once, {report:?}");
        store.commit(vec![put("more", round.to_string())], true).unwrap();
    }
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.starts_with("fjall.")).collect();
    assert!(left.is_empty(), "{what}: {left:?}");
}

#[test]
fn a_first_start_that_ended_within_a_list_of_tables_is_begun_anew() {
    for keyspace in 0..3 {
        for (left, named) in [(0, false), (9, false), (40, false), (9, true), (0, true)] {
            let dir = tempfile::tempdir().unwrap();
            drop(open(dir.path()));
            let folder = |number| dir.path().join(format!("fjall/keyspaces/{number}"));
            // As each of them begins.
            let (list, current) =
                (fs::read(folder(0).join("v0")).unwrap(), fs::read(folder(0).join("current")).unwrap());
            assert!(list.len() > 40);
            take_away(&folder(keyspace));
            fs::create_dir_all(folder(keyspace).join("tables")).unwrap();
            fs::write(folder(keyspace).join("v0"), &list[..left]).unwrap();
            if named {
                fs::write(folder(keyspace).join("current"), current).unwrap();
            }
            goes_on(dir.path(), 0..=0, false, &format!("{left} bytes of the list of {keyspace}, named: {named}"));
        }
    }
}

#[test]
fn a_list_of_tables_that_was_being_written_gives_way_to_the_one_before() {
    let scene = scene();
    for (number, bytes) in [(7, 0), (8, 20), (9, 60)] {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(scene.path(), dir.path());
        let folder = dir.path().join("fjall/keyspaces/1");
        take_away(&folder.join("current"));
        fs::write(folder.join(format!("v{number}")), noise(1, bytes)).unwrap();
        goes_on(dir.path(), KEYS - 1..=KEYS - 1, false, &format!("{bytes} bytes of v{number}"));
    }
}

fn take_away(path: &Path) {
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

#[test]
fn a_lost_part_is_made_anew_with_what_the_journals_hold() {
    let scene = scene();
    let all_but_removed = KEYS - 1;
    let in_journal = KEYS / 2;
    // (what is taken away, the least and the most keys that are left, whether that is damage)
    let rows: &[(&[&str], usize, usize, bool)] = &[
        (&[], all_but_removed, all_but_removed, false),
        (&["keyspaces/2"], all_but_removed, all_but_removed, false),
        (&["keyspaces/0"], all_but_removed, all_but_removed, false),
        (&["keyspaces/0", "keyspaces/2"], all_but_removed, all_but_removed, false),
        (&["keyspaces/0/current"], all_but_removed, all_but_removed, false),
        (&["keyspaces/1/current"], all_but_removed, all_but_removed, false),
        (&["keyspaces/2/current"], all_but_removed, all_but_removed, false),
        (
            &["keyspaces/0/current", "keyspaces/1/current", "keyspaces/2/current"],
            all_but_removed,
            all_but_removed,
            false,
        ),
        (&["version"], all_but_removed, all_but_removed, false),
        (&["version", "keyspaces/2"], all_but_removed, all_but_removed, false),
        (&["lock"], all_but_removed, all_but_removed, false),
        // The journals hold all of it, since none was removed yet.
        (&["keyspaces/1"], in_journal, all_but_removed, true),
        (&["keyspaces/1", "keyspaces/2"], in_journal, all_but_removed, true),
        (&["keyspaces/0", "keyspaces/1"], in_journal, all_but_removed, true),
        (&["keyspaces"], in_journal, all_but_removed, true),
        (&["0.jnl"], KEYS / 2 - 1, KEYS / 2, true),
        (&["0.jnl", "keyspaces/2"], KEYS / 2 - 1, KEYS / 2, true),
    ];
    for (gone, least, most, damaged) in rows {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(scene.path(), dir.path());
        gone.iter().for_each(|part| take_away(&dir.path().join("fjall").join(part)));
        if gone.contains(&"0.jnl") {
            // The removal stood in the journal only.
            let store = open(dir.path());
            assert_eq!((count(&store), store.recovery().journals_missing), (KEYS / 2, 1));
            store.commit(vec![remove(key(3))], true).unwrap();
            continue;
        }
        goes_on(dir.path(), *least..=*most, *damaged, &format!("without {gone:?}"));
    }
}

#[test]
fn a_store_whose_database_is_gone_says_so_and_a_new_one_does_not() {
    let scene = scene();
    take_away(&scene.path().join("fjall"));
    goes_on(scene.path(), 0..=0, true, "without a database");
    let new = tempfile::tempdir().unwrap();
    goes_on(new.path(), 0..=0, false, "new");
}

/// Every name in the database's folder, in the order in which a first start makes them.
fn parts(dir: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        found.push(path.clone());
        if path.is_dir() {
            parts(&path, found);
        }
    }
}

#[test]
fn a_first_start_that_was_cut_off_is_begun_again_without_a_word_of_damage() {
    let first = tempfile::tempdir().unwrap();
    drop(open(first.path()));
    let mut names = Vec::new();
    parts(&first.path().join("fjall"), &mut names);
    assert!(names.len() > 10, "{names:?}");
    for gone in &names {
        let name = gone.strip_prefix(first.path()).unwrap();
        // A table is synced before any list names it.
        if name.components().any(|part| part.as_os_str() == "tables") || name.to_str().unwrap().contains("/v") {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        copy_dir(first.path(), dir.path());
        take_away(&dir.path().join(name));
        goes_on(dir.path(), 0..=0, false, &format!("without {}", name.display()));
    }
}

#[test]
fn a_rebuilding_that_was_cut_off_begins_again() {
    let scene = scene();
    let old = |dir: &Path| dir.join("fjall.old");
    type Make = fn(&Path);
    let states: [(&str, Make); 4] = [
        ("set aside, nothing made", |_| {}),
        ("half made", |dir| {
            fs::create_dir_all(dir.join("fjall/keyspaces/1")).unwrap();
            fs::write(dir.join("fjall/version"), "FJ").unwrap();
        }),
        ("made, nothing replayed", |dir| {
            let elsewhere = tempfile::tempdir().unwrap();
            drop(open(elsewhere.path()));
            fs::create_dir(dir.join("fjall")).unwrap();
            copy_dir(&elsewhere.path().join("fjall"), &dir.join("fjall"));
        }),
        ("something else in its place", |dir| fs::create_dir(dir.join("fjall")).unwrap()),
    ];
    for (what, make) in states {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(scene.path(), dir.path());
        take_away(&dir.path().join("fjall/keyspaces/2"));
        fs::rename(dir.path().join("fjall"), old(dir.path())).unwrap();
        make(dir.path());
        goes_on(dir.path(), KEYS - 1..=KEYS - 1, false, what);
    }
    let dir = tempfile::tempdir().unwrap();
    copy_dir(scene.path(), dir.path());
    fs::create_dir_all(dir.path().join("fjall.done/keyspaces/1")).unwrap();
    goes_on(dir.path(), KEYS - 1..=KEYS - 1, false, "complete, and the old one partly removed");
}

#[test]
fn a_keyspace_without_its_list_of_tables_is_kept_aside() {
    let scene = scene();
    let folder = scene.path().join("fjall/keyspaces/1");
    for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            fs::remove_file(entry).unwrap();
        }
    }
    goes_on(scene.path(), KEYS / 2..=KEYS - 1, true, "without a list of tables");
    assert!(fs::read_dir(scene.path().join("lost-keyspace-1/tables")).unwrap().count() > 0);
}

#[test]
fn a_store_that_an_older_release_left_with_numbers_given_out_twice_loses_nothing() {
    // What it did: the keyspace came back under a new number, and batches were numbered from below.
    let scene = scene();
    take_away(&scene.path().join("fjall/keyspaces/2"));
    let options = FjallOptions::default();
    let db = fjall::Database::builder(scene.path().join("fjall")).open().unwrap();
    let data = db.keyspace("data", fjall::KeyspaceCreateOptions::default).unwrap();
    db.keyspace("log", fjall::KeyspaceCreateOptions::default).unwrap();
    for n in 0..5 {
        data.insert(format!("later-{n}"), n.to_string()).unwrap();
    }
    db.persist(fjall::PersistMode::SyncAll).unwrap();
    drop((data, db));
    let store = FjallStore::open(scene.path(), options).unwrap();
    assert_eq!((0..5).filter(|n| get(&store, format!("later-{n}")).is_some()).count(), 5);
    assert_eq!(count(&store), KEYS - 1);
    assert!(!store.recovery().found_damage(), "{:?}", store.recovery());
    drop(store);
    goes_on(scene.path(), KEYS - 1..=KEYS - 1, false, "after an older release");
}
