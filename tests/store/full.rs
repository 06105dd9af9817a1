//! A store on a card without room for writes: what it gives back, and that a merge which finds no room does no harm.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder::limits::MIB;
use larder::store::fjall::{FjallOptions, FjallStore};
use larder::store::space::{Allowed, SpaceWatch};
use larder::store::{Snapshot, Space, Store};

use crate::support::{all, noise};

const PATIENCE: Duration = Duration::from_secs(90);

/// A store on a card that has so many MiB free, and a reserve of 100.
struct Scene {
    dir: tempfile::TempDir,
    free_mib: Arc<AtomicU64>,
    space: Arc<SpaceWatch>,
    store: Option<FjallStore>,
    /// What the committer would hold.
    shared: Option<Arc<dyn Snapshot>>,
}

impl Scene {
    fn new(free_mib: u64) -> Scene {
        let (dir, free_mib) = (tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(free_mib)));
        let mut scene = Scene { dir, free_mib, space: Arc::default(), store: None, shared: None };
        scene.open();
        scene
    }

    /// Opens the store, again as after a kill.
    fn open(&mut self) {
        (self.shared, self.store) = (None, None);
        let free_mib = self.free_mib.clone();
        let probe = move || Some((free_mib.load(Ordering::SeqCst) * MIB as u64, 1000 * MIB as u64));
        let space = Arc::new(SpaceWatch::with_probe(Box::new(probe), Some(100 * MIB as u64)));
        assert_eq!(space.allowed(), Allowed::Deletes);
        self.space = space.clone();
        let options = FjallOptions { memtable_bytes: MIB as u64, space, ..FjallOptions::default() };
        let store = FjallStore::open(self.dir.path(), options).unwrap();
        assert!(!store.recovery().found_damage());
        self.store = Some(store);
    }

    fn store(&self) -> &FjallStore {
        self.store.as_ref().unwrap()
    }

    fn commit(&mut self, key: String, value: Option<Vec<u8>>) {
        let change = (Space::Data, Bytes::from(format!("\x01{key}")), value.map(Bytes::from));
        self.store().commit(vec![change], true).unwrap();
        self.shared = Some(self.store().snapshot().unwrap());
        self.store().maintain().unwrap();
    }

    fn fill(&mut self, count: u64) {
        (0..count).for_each(|n| self.commit(format!("{n:05}"), Some(noise(n, 16 << 10))));
    }

    /// A run of the reclaimer, while the committer does its part.
    fn reclaim(&mut self) {
        self.store().reclaim();
        let deadline = Instant::now() + PATIENCE;
        while self.store().is_reclaiming() {
            assert!(Instant::now() < deadline, "{:?}", self.store().figures());
            std::thread::sleep(Duration::from_millis(20));
            self.shared = Some(self.store().snapshot().unwrap());
            self.store().maintain().unwrap();
        }
    }

    fn table_files(&self) -> usize {
        // 0 is fjall's own.
        ["1", "2"].map(|number| self.tables_of(number).count()).into_iter().sum()
    }

    /// The tables of one of fjall's keyspaces, with their sizes.
    fn tables_of(&self, number: &str) -> impl Iterator<Item = (PathBuf, u64)> {
        let tables = self.dir.path().join("fjall/keyspaces").join(number).join("tables");
        fs::read_dir(tables)
            .unwrap()
            .map(|entry| entry.map(|entry| (entry.path(), entry.metadata().unwrap().len())).unwrap())
    }
}

#[test]
fn the_journal_gives_its_space_back_and_goes_on_in_a_new_file() {
    // The journal of a first start is not written in the same way as one that was opened again.
    for opened_again in [false, true] {
        let mut scene = Scene::new(50);
        scene.fill(100);
        if opened_again {
            scene.open();
            scene.fill(200);
        }
        let before = scene.store().figures().journal_bytes;
        assert!(before > MIB as u64, "{before}");
        let held = all(scene.store(), Space::Data);
        scene.reclaim();
        let after = scene.store().figures().journal_bytes;
        assert!(after < MIB as u64 / 4, "{after} of {before}");
        assert!(all(scene.store(), Space::Data) == held);
        // What is written into the new journal is found again, and so is what was in the old one.
        scene.commit("a new one".into(), Some(b"new".to_vec()));
        let held = all(scene.store(), Space::Data);
        for _ in 0..2 {
            scene.open();
            assert!(all(scene.store(), Space::Data) == held, "opened again before: {opened_again}");
        }
    }
}

#[test]
fn writes_between_the_wish_for_a_new_journal_and_the_flush_are_kept() {
    let mut scene = Scene::new(50);
    scene.fill(100);
    for round in 0..5 {
        scene.store().reclaim();
        let mut n = 0;
        while scene.store().is_reclaiming() {
            scene.commit(format!("round {round} {n:04}"), Some(noise(n, 2 << 10)));
            n += 1;
        }
        let held = all(scene.store(), Space::Data);
        scene.open();
        assert!(all(scene.store(), Space::Data) == held, "round {round}");
    }
}

#[test]
fn a_merge_that_finds_no_room_is_given_up_and_done_once_there_is() {
    let mut scene = Scene::new(50);
    // In no order, so that there is much to merge and nothing to move.
    (0..400).for_each(|n| scene.commit(format!("{:05}", n * 7919 % 400), Some(noise(n, 16 << 10))));
    scene.reclaim();
    (0..150).for_each(|n| scene.commit(format!("{:05}", n * 7919 % 400), Some(noise(n + 1000, 16 << 10))));
    (0..10).for_each(|n| scene.commit(format!("{n:05}"), None));
    let held = all(scene.store(), Space::Data);
    // Room for a flush, and for no more than a little.
    scene.free_mib.store(4, Ordering::SeqCst);
    scene.reclaim();
    assert!(all(scene.store(), Space::Data) == held);
    let unmerged = scene.store().figures().disk_bytes;
    assert!(unmerged > 8 * MIB as u64, "{unmerged}");
    // Nothing is left of what was given up, once no snapshot keeps what was merged.
    let deadline = Instant::now() + PATIENCE;
    while scene.table_files() != scene.store().figures().tables as usize {
        assert!(Instant::now() < deadline, "{} files; {:?}", scene.table_files(), scene.store().figures());
        scene.shared = Some(scene.store().snapshot().unwrap());
        scene.store().maintain().unwrap();
    }
    scene.free_mib.store(50, Ordering::SeqCst);
    scene.reclaim();
    assert!(all(scene.store(), Space::Data) == held);
    let bytes = scene.store().figures().disk_bytes;
    assert!(bytes < 8 * MIB as u64, "{bytes} bytes for 6.3 MiB");
    scene.open();
    assert!(all(scene.store(), Space::Data) == held);
}

#[test]
fn a_large_last_level_that_no_merge_of_a_flush_rewrites_takes_no_room_from_writes() {
    let mut scene = Scene::new(50);
    scene.fill(40 * 64);
    (1..8).for_each(|n| scene.commit(format!("{:05}", n * 300), None));
    scene.reclaim();
    let large: Vec<_> = scene.tables_of("1").filter(|(_, bytes)| *bytes > 2 * MIB as u64).collect();
    assert!(large.len() >= 4, "{large:?}");
    scene.free_mib.store(500, Ordering::SeqCst);
    scene.space.look();
    assert_eq!(scene.space.allowed(), Allowed::Writes);
    // Over all of it, table after table, until fjall has merged some.
    for round in 0..8 {
        for n in 0..80 {
            scene.commit(format!("{:05}", n * 32), Some(noise(round * 80 + n, 16 << 10)));
            let merge_bytes = scene.space.needs().merge_bytes;
            assert!(merge_bytes < 20 * MIB as u64, "{merge_bytes} in round {round}");
        }
    }
    let is_there = |(table, _): &&(PathBuf, u64)| table.exists();
    assert_eq!(large.iter().filter(is_there).count(), large.len(), "nothing rewrote them");
}
