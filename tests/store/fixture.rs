//! Folders that earlier releases wrote: every later one must open them and find the same records.
//!
//! `tests/fixtures/store-v1` was written by [`write`] of release 0.1 and is never written again. For a new format,
//! run this test with `LARDER_FIXTURE_DIR` naming the new folder, commit that beside the old one, and test both.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use larder::store::{Change, FullKey, Record, Space, Store, record};

use crate::support::{all, copy_dir, noise, open};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/store-v1");
const FIXTURE_DIR: &str = "LARDER_FIXTURE_DIR";

fn full_key(n: u64) -> Bytes {
    FullKey::new("home", "sensors", &format!("reading/{n} é")).shared()
}

fn sample(n: u64) -> Record {
    let content_type: &[u8] = [b"application/json".as_slice(), b"", b"text/plain; charset=utf-8"][n as usize % 3];
    Record {
        version: n * n * 1_000_003,
        modified_ms: 1_700_000_000_000 + n,
        expires_ms: if n.is_multiple_of(4) { 0 } else { 4_000_000_000_000 + n },
        content_type: Bytes::from_static(content_type),
        value: noise(n, [0, 1, 127, 128, 300, 5000][n as usize % 6]).into(),
    }
}

fn stored(n: u64) -> Change {
    (Space::Data, full_key(n), Some(record::encode(&sample(n))))
}

fn logged(n: u64) -> Change {
    (Space::Log, Bytes::copy_from_slice(&n.to_be_bytes()), Some(full_key(n)))
}

/// Writes a folder that holds both tables and a journal that must be replayed.
fn write(dir: &Path) {
    let store = open(dir);
    for n in 0..20 {
        store.commit(vec![stored(n), logged(n)], false).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let store = open(dir);
    for n in 20..30 {
        store.commit(vec![stored(n), logged(n)], true).unwrap();
    }
    store.commit(vec![(Space::Data, full_key(3), None), (Space::Data, full_key(23), None)], true).unwrap();
}

/// Opens the folder and finds all that [`write`] stored, after an unclean stop and after a clean one.
fn check(dir: &Path) {
    for clean_stop in [false, true] {
        let store = open(dir);
        assert_eq!(store.recovery().clean_stop, clean_stop);
        assert!(store.recovery().damaged.is_empty());
        let mut expected: Vec<(Bytes, Record)> =
            (0..30).filter(|n| ![3, 23].contains(n)).map(|n| (full_key(n), sample(n))).collect();
        expected.sort_by(|one, other| one.0.cmp(&other.0));
        let found: Vec<(Bytes, Record)> = all(&store, Space::Data)
            .into_iter()
            .map(|(key, form)| (key, record::decode(form).expect("a record of this release or an earlier one")))
            .collect();
        assert_eq!(found, expected);
        let log: Vec<Change> =
            all(&store, Space::Log).into_iter().map(|(key, value)| (Space::Log, key, Some(value))).collect();
        assert_eq!(log, (0..30).map(logged).collect::<Vec<_>>());
        store.close().unwrap();
    }
}

#[test]
fn the_folder_that_release_0_1_wrote_opens_with_all_its_records() {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(Path::new(FIXTURE), dir.path());
    check(dir.path());
}

#[test]
fn a_folder_written_today_is_like_the_one_kept() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    if let Some(target) = std::env::var_os(FIXTURE_DIR) {
        fs::create_dir(&target).unwrap();
        copy_dir(dir.path(), Path::new(&target));
    }
    check(dir.path());
}
