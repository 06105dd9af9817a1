//! What is deleted gives its space back, on the card and not only in the figures.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder::limits::MIB;
use larder::store::fjall::{FjallOptions, FjallStore};
use larder::store::{FullKey, Moment, Record, Snapshot, Space, Store, record};

use crate::support::{all, noise};

/// Waiting for background work ends here. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// A store with the snapshot that the committer would hold, renewed with each look.
struct Scene {
    dir: tempfile::TempDir,
    store: FjallStore,
    shared: Arc<dyn Snapshot>,
}

impl Scene {
    fn new() -> (Scene, FjallOptions) {
        let options = FjallOptions { memtable_bytes: MIB as u64, ..FjallOptions::default() };
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::open(dir.path(), options.clone()).unwrap();
        let shared = store.snapshot().unwrap();
        (Scene { dir, store, shared }, options)
    }

    fn commit(&mut self, changes: Vec<larder::store::Change>) {
        self.store.commit(changes, false).unwrap();
        self.shared = self.store.snapshot().unwrap();
        self.store.maintain().unwrap();
    }

    /// Stores so many 1 KiB records in ascending order, in chunks.
    fn load(&mut self, keys: std::ops::Range<u32>, expires_ms: u64) {
        for chunk in keys.collect::<Vec<_>>().chunks(100) {
            self.commit(chunk.iter().map(|n| (Space::Data, key(*n), Some(form(*n, expires_ms)))).collect());
        }
    }

    fn delete(&mut self, keys: impl Iterator<Item = u32>) {
        for chunk in keys.collect::<Vec<_>>().chunks(100) {
            self.commit(chunk.iter().map(|n| (Space::Data, key(*n), None)).collect());
        }
    }

    /// Brings everything to the last level.
    fn settle(&mut self) {
        self.store.reclaim();
        self.wait_for_reclaim();
    }

    fn wait_for_reclaim(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.store.is_reclaiming() {
            assert!(Instant::now() < deadline, "{:?}", self.store.figures());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the tables take on the card.
    fn table_bytes(&self) -> u64 {
        used_bytes(&self.dir.path().join("fjall/keyspaces"))
    }

    /// Waits, writing a little as any store in use does, until the tables take less than this.
    fn wait_for_tables_below(&mut self, bytes: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.table_bytes() >= bytes {
            assert!(Instant::now() < deadline, "{} bytes are left; {:?}", self.table_bytes(), self.store.figures());
            std::thread::sleep(Duration::from_millis(200));
            self.commit(vec![(Space::Data, Bytes::from_static(b"\x02heartbeat"), None)]);
        }
    }
}

fn key(n: u32) -> Bytes {
    FullKey::new("home", "sensors", &format!("reading-{n:08}")).shared()
}

fn form(n: u32, expires_ms: u64) -> Bytes {
    let content_type = Bytes::from_static(b"application/octet-stream");
    record::encode(&Record {
        version: n.into(),
        modified_ms: 1,
        expires_ms,
        content_type,
        value: noise(n.into(), 1024).into(),
    })
}

fn used_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => used_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            // Removed between the listing and the look.
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn the_space_of_ascending_records_that_all_expired_comes_back_by_itself() {
    let (mut scene, options) = Scene::new();
    scene.load(0..40_000, 1);
    let full = scene.table_bytes();
    assert!(full > 30 * MIB as u64, "{full}");
    scene.delete(0..40_000);
    // Nobody asks for it: rotations notice. What is still in memory at the end may keep some data.
    scene.wait_for_tables_below(full / 2);
    scene.store.reclaim();
    scene.wait_for_tables_below(MIB as u64);
    assert!(all(&scene.store, Space::Data).is_empty());
    scene.wait_for_reclaim();
    let Scene { dir, store, shared } = scene;
    drop((store, shared));
    // Killed now, larder must not take all those deletions from the journal into memory again.
    let store = FjallStore::open(dir.path(), options).unwrap();
    assert!(!store.recovery().clean_stop);
    assert!(store.figures().memtable_bytes < MIB as u64 / 4, "{:?}", store.figures());
    assert!(all(&store, Space::Data).is_empty());
}

#[test]
fn reclaiming_keeps_what_lives_and_what_a_snapshot_still_sees() {
    let (mut scene, options) = Scene::new();
    scene.load(0..20_000, 0);
    let old = scene.store.snapshot().unwrap();
    let full = scene.table_bytes();
    // Scattered: three of four go, so that every table is touched.
    scene.delete((0..20_000).filter(|n| n % 4 != 0));
    scene.store.reclaim();
    std::thread::sleep(Duration::from_secs(2));
    let seen = old.range(Space::Data, (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded), false);
    assert_eq!(seen.map(|pair| pair.unwrap().0).collect::<Vec<_>>(), (0..20_000).map(key).collect::<Vec<_>>());
    drop(old);
    scene.store.reclaim();
    scene.wait_for_tables_below(full / 2);
    let living: Vec<(Bytes, Bytes)> = (0..20_000).filter(|n| n % 4 == 0).map(|n| (key(n), form(n, 0))).collect();
    assert!(all(&scene.store, Space::Data) == living);
    let dir = scene.dir;
    drop((scene.shared, scene.store));
    let store = FjallStore::open(dir.path(), options).unwrap();
    assert!(all(&store, Space::Data) == living, "also after a restart");
}

#[test]
fn the_filter_drops_what_expired_and_nothing_else() {
    let (mut scene, options) = Scene::new();
    let unknown = Bytes::from_static(b"\x77not a record of ours");
    let meta = Bytes::from_static(b"\x02meta");
    let records = [(key(1), form(1, 999)), (key(2), form(2, 1000)), (key(3), form(3, 0)), (key(4), unknown)];
    let pairs: Vec<(Bytes, Bytes)> = records.into_iter().chain([(meta, form(5, 999))]).collect();
    // Two tables of one range, so that there is something to merge.
    scene.commit(pairs.iter().map(|(key, value)| (Space::Data, key.clone(), Some(value.clone()))).collect());
    scene.commit(pairs.iter().map(|(key, value)| (Space::Log, key.clone(), Some(value.clone()))).collect());
    scene.settle();
    *options.droppable.lock() = Some(Moment::at(999));
    scene.commit(vec![(Space::Data, key(0), None), (Space::Data, key(2), Some(form(2, 1000)))]);
    scene.commit(vec![(Space::Log, key(0), None), (Space::Log, key(2), Some(form(2, 1000)))]);
    scene.settle();
    assert_eq!(all(&scene.store, Space::Log), sorted(pairs.clone()), "the log is not filtered");
    assert_eq!(all(&scene.store, Space::Data), sorted(pairs.into_iter().filter(|pair| pair.0 != key(1)).collect()));
}

fn sorted(mut pairs: Vec<(Bytes, Bytes)>) -> Vec<(Bytes, Bytes)> {
    pairs.sort();
    pairs
}
