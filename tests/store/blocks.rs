//! Blocks that the card has damaged: walks go on behind them and say so, in both directions.

use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use larder::store::fjall::{FjallOptions, FjallStore};
use larder::store::{Space, Store, StoreError};

use crate::support::{copy_dir, noise, put, remove};

const RECORDS: usize = 600;

fn key(n: usize) -> Vec<u8> {
    format!("\u{1}key {n:05}").into_bytes()
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, into),
            false => into.push(path),
        }
    }
}

/// A folder with one large table and small ones over it that write a third of its keys anew, and remove some.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fill = |round: usize| {
        let store = FjallStore::open(dir.path(), FjallOptions::default()).unwrap();
        for n in (0..RECORDS).filter(|n| round == 0 || n % 3 == 0) {
            let change = if round == 1 && n % 30 == 0 { remove(key(n)) } else { put(key(n), noise(n as u64, 500)) };
            store.commit(vec![change], false).unwrap();
        }
        store.close().unwrap();
    };
    (0..2).for_each(fill);
    dir
}

fn is_there(n: usize) -> bool {
    !n.is_multiple_of(30)
}

/// The keys that a walk shows, the places at which it says that some are missing, and the error that ended it.
fn walk(store: &FjallStore, reverse: bool) -> (Vec<usize>, Vec<usize>, Option<StoreError>) {
    let (mut seen, mut gaps) = (Vec::new(), Vec::new());
    let snapshot = store.snapshot().unwrap();
    for pair in snapshot.range(Space::Data, (Bound::Unbounded, Bound::Unbounded), reverse) {
        match pair {
            Ok((key, value)) => {
                let n = std::str::from_utf8(&key[5..]).unwrap().parse().unwrap();
                assert_eq!(value, noise(n as u64, 500), "what is shown is right");
                seen.push(n);
            }
            Err(StoreError::Unreadable(_)) => gaps.push(seen.len()),
            Err(error) => return (seen, gaps, Some(error)),
        }
        assert!(seen.len() <= RECORDS && gaps.len() <= 5, "it ends");
    }
    (seen, gaps, None)
}

#[test]
fn a_walk_goes_on_behind_a_damaged_block_and_never_leaves_out_anything_in_silence() {
    let whole = folder();
    let mut tables = Vec::new();
    files(&whole.path().join("fjall"), &mut tables);
    tables.retain(|path| path.parent().unwrap().ends_with("tables"));
    let (mut passed, mut tried) = (0, 0);
    for table in tables {
        let bytes = fs::read(&table).unwrap();
        let relative = table.strip_prefix(whole.path()).unwrap();
        for at in (bytes.len() / 40..bytes.len()).step_by(bytes.len().max(5000) / 12) {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(whole.path(), dir.path());
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(dir.path().join(relative), damaged).unwrap();
            // Damage outside of the blocks of data may keep the store from opening, and says so.
            let Ok(store) = FjallStore::open(dir.path(), FjallOptions::default()) else { continue };
            tried += 1;
            // What lies in memory over the tables is not to be lost beside a gap either.
            let fresh = (0..RECORDS).filter(|n| n % 7 == 3 && is_there(*n));
            store.commit(fresh.map(|n| put(key(n), noise(n as u64, 500))).collect(), false).unwrap();
            let (seen, gaps, error) = walk(&store, false);
            let (mut back, gaps_back, error_back) = walk(&store, true);
            back.reverse();
            assert_eq!(error.is_some(), error_back.is_some());
            assert!(seen.is_sorted() && seen.iter().all(|n| is_there(*n)), "{at} of {relative:?}");
            if error.is_some() {
                continue;
            }
            assert_eq!(seen, back, "{at} of {relative:?}");
            assert_eq!(gaps.len(), gaps_back.len());
            let missing: Vec<usize> = (0..RECORDS).filter(|n| is_there(*n) && !seen.contains(n)).collect();
            if gaps.is_empty() {
                assert!(missing.is_empty(), "{at} of {relative:?}: {missing:?} are missing in silence");
                continue;
            }
            passed += 1;
            // A block holds about ten such records, and a small table has every third.
            assert!(missing.len() <= 40, "{at} of {relative:?}: {missing:?}");
            let (first, last) = (missing.first().unwrap_or(&0), missing.last().unwrap_or(&0));
            assert!(seen.iter().all(|n| n < first || n > last), "{at} of {relative:?}: they are in one stretch");
            for n in &missing {
                let got = store.snapshot().unwrap().get(Space::Data, &key(*n));
                assert!(!matches!(got, Ok(None)), "what is not shown is not denied: {n}");
            }
        }
    }
    assert!(tried >= 12 && passed >= tried / 2, "{passed} of {tried} walks went on behind damage");
}
