//! "Always boots": whatever a power cut or a bad card makes of the journal, larder starts, with everything that stood
//! before the bad spot, and says what was lost.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use larder::store::fjall::FjallStore;
use larder::store::recovery::RecoveryReport;
use larder::store::{Space, Store};
use tempfile::TempDir;

use crate::support::{all, copy_dir, get, noise, open, put, remove};

/// A folder as it stands after a kill, with the journal apart so that it can be damaged.
struct Scene {
    dir: TempDir,
    journal: Vec<u8>,
    /// Where each batch ends in the journal.
    ends: Vec<usize>,
}

impl Scene {
    /// Commits one key a batch, `key-<n>` with the value given.
    fn new(values: &[Vec<u8>]) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let mut ends = Vec::new();
        for (n, value) in values.iter().enumerate() {
            store.commit(vec![put(format!("key-{n:03}"), value.clone())], true).unwrap();
            ends.push(used_bytes(&journal_path(dir.path())));
        }
        drop(store);
        let mut journal = fs::read(journal_path(dir.path())).unwrap();
        journal.truncate(*ends.last().unwrap());
        File::create(journal_path(dir.path())).unwrap();
        Scene { dir, journal, ends }
    }

    fn small(batches: usize) -> Scene {
        Scene::new(&(0..batches).map(|n| noise(n as u64, 20)).collect::<Vec<_>>())
    }

    fn start_of_last(&self) -> usize {
        self.ends[self.ends.len() - 2]
    }

    /// Opens a copy of the folder with this journal.
    fn open_with(&self, journal: &[u8]) -> (TempDir, FjallStore) {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), dir.path());
        fs::write(journal_path(dir.path()), journal).unwrap();
        let store = open(dir.path());
        (dir, store)
    }

    /// Opens with this journal, checks that exactly the first so many keys are there and that writing and a further
    /// start work, and returns what was reported.
    fn check(&self, journal: &[u8], keys: usize, what: &str) -> RecoveryReport {
        let (dir, store) = self.open_with(journal);
        let report = store.recovery().clone();
        assert!(!report.clean_stop && report.journals_checked == 1, "{what}: {report:?}");
        assert_eq!(key_names(&store), (0..keys).map(|n| format!("key-{n:03}")).collect::<Vec<_>>(), "{what}");
        store.commit(vec![put("after", "1")], true).unwrap();
        drop(store);
        let store = open(dir.path());
        assert_eq!(get(&store, "after"), Some(Bytes::from("1")), "{what}");
        assert_eq!(all(&store, Space::Data).len(), keys + 1, "{what}");
        let again = RecoveryReport { journals_checked: 1, ..RecoveryReport::default() };
        assert_eq!(store.recovery(), &again, "{what}: repaired once and for all");
        report
    }

    /// The same for what must be taken for an unsynced tail.
    fn check_tail(&self, journal: &[u8], keys: usize, what: &str) -> RecoveryReport {
        let report = self.check(journal, keys, what);
        assert!(report.damaged.is_empty() && report.batches_lost == 0, "{what}: {report:?}");
        report
    }
}

fn key_names(store: &FjallStore) -> Vec<String> {
    all(store, Space::Data).into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

fn journal_path(dir: &Path) -> PathBuf {
    dir.join("fjall/0.jnl")
}

/// The journal's length without the zeros at its end. Batches end with a byte that is not zero.
fn used_bytes(journal: &Path) -> usize {
    use std::io::Read;
    let mut head = Vec::new();
    File::open(journal).unwrap().take(1 << 20).read_to_end(&mut head).unwrap();
    head.iter().rposition(|byte| *byte != 0).map_or(0, |place| place + 1)
}

#[test]
fn a_whole_journal_is_left_alone_with_and_without_its_zeros() {
    let scene = Scene::small(5);
    let report = scene.check_tail(&scene.journal, 5, "exact");
    assert_eq!(report.tail_bytes_cut, 0);
    let mut padded = scene.journal.clone();
    padded.resize(padded.len() + 100_000, 0);
    assert_eq!(scene.check_tail(&padded, 5, "zeros behind").tail_bytes_cut, 0);
    scene.check_tail(&[], 0, "an empty file");
}

#[test]
fn a_last_batch_cut_at_any_byte_is_an_unsynced_tail() {
    let scene = Scene::small(4);
    for length in scene.start_of_last()..scene.journal.len() {
        let report = scene.check_tail(&scene.journal[..length], 3, &format!("cut at {length}"));
        assert!(report.tail_bytes_cut as usize <= length - scene.start_of_last());
    }
}

#[test]
fn a_last_batch_zeroed_from_any_byte_is_an_unsynced_tail() {
    let scene = Scene::small(4);
    for start in scene.start_of_last()..scene.journal.len() {
        let mut journal = scene.journal.clone();
        journal[start..].fill(0);
        journal.resize(journal.len() + 5000, 0);
        scene.check_tail(&journal, 3, &format!("zeroed from {start}"));
    }
}

#[test]
fn a_last_batch_with_any_byte_flipped_is_an_unsynced_tail() {
    let scene = Scene::small(4);
    // The sequence number is not under fjall's checksum: with it changed the batch is still a whole one.
    let seqno = scene.start_of_last() + 5..scene.start_of_last() + 13;
    for place in (scene.start_of_last()..scene.journal.len()).filter(|place| !seqno.contains(place)) {
        let mut journal = scene.journal.clone();
        journal[place] ^= 0xff;
        scene.check_tail(&journal, 3, &format!("flipped at {place}"));
    }
}

#[test]
fn garbage_behind_the_last_batch_is_an_unsynced_tail() {
    let scene = Scene::small(4);
    for length in [1, 13, 5000, 200_000] {
        let mut journal = scene.journal.clone();
        journal.extend(noise(9, length - 1).into_iter().chain([1]));
        let report = scene.check_tail(&journal, 4, "garbage behind");
        assert_eq!(report.tail_bytes_cut as usize, length);
    }
}

#[test]
fn holes_of_a_page_in_the_last_batch_are_an_unsynced_tail() {
    let mut values: Vec<Vec<u8>> = (0..3).map(|n| noise(n, 100)).collect();
    values.push(noise(9, 64 << 10));
    let scene = Scene::new(&values);
    for page in (scene.start_of_last() / 4096 + 1)..scene.journal.len() / 4096 {
        let mut journal = scene.journal.clone();
        journal[page * 4096..(page + 1) * 4096].fill(0);
        scene.check_tail(&journal, 3, &format!("a hole in the value at page {page}"));
    }
    let mut journal = scene.journal.clone();
    let start = scene.start_of_last();
    journal[start..start + 4096].fill(0);
    scene.check_tail(&journal, 3, "a hole over the headers");
}

#[test]
fn a_bad_spot_before_valid_batches_is_reported_as_damage_and_the_journal_is_kept() {
    let scene = Scene::small(9);
    let middle = scene.ends[3];
    for (what, place) in [("start tag", 0), ("item count", 1), ("item tag", 13), ("value", 50)] {
        let mut journal = scene.journal.clone();
        journal[middle + place] ^= 0xff;
        let (dir, store) = scene.open_with(&journal);
        let report = store.recovery();
        assert_eq!(report.batches_lost, 4, "{what}: the four behind the bad one; {report:?}");
        assert_eq!(report.damaged.len(), 1);
        assert_eq!(report.damaged[0].cut_at_bytes as usize, middle);
        let copy = report.damaged[0].copy.clone().unwrap();
        assert_eq!(copy, dir.path().join("damaged-1.jnl"));
        assert_eq!(fs::read(copy).unwrap(), journal, "{what}: kept as it was found");
        assert_eq!(key_names(&store).len(), 4, "{what}: what stood before it is there");
        assert_eq!(report.tail_bytes_cut, 0);
        store.commit(vec![put("after", "1")], true).unwrap();
        drop(store);
        let store = open(dir.path());
        assert_eq!(all(&store, Space::Data).len(), 5);
        assert!(store.recovery().damaged.is_empty(), "{what}: reported once");
    }
}

#[test]
fn a_value_that_looks_like_a_journal_does_not_turn_a_torn_tail_into_damage() {
    let forged = Scene::small(2).journal;
    let mut values: Vec<Vec<u8>> = (0..30).map(|n| noise(n, 20)).collect();
    values.push(forged);
    let scene = Scene::new(&values);
    // The header of the batch that holds it is gone; the batches inside are older than what stands before.
    let mut journal = scene.journal.clone();
    journal[scene.start_of_last()] = 0;
    scene.check_tail(&journal, 30, "forged batches");
}

#[test]
fn values_made_to_look_like_endless_batches_do_not_hold_up_the_start() {
    // A row of start tags, each with an item that claims to reach the end of the file.
    let mut hostile = Vec::new();
    while hostile.len() < 400_000 {
        hostile.extend([1, 1, 0, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0]);
        let claim = (500_000u32 - hostile.len() as u32).to_le_bytes();
        hostile.extend([2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        hostile.extend(claim.iter().chain(&claim));
    }
    let scene = Scene::new(&[noise(1, 20), hostile]);
    let mut journal = scene.journal.clone();
    journal[scene.start_of_last()] = 0;
    journal.extend(noise(2, 300_000));
    let (_dir, store) = scene.open_with(&journal);
    assert_eq!(key_names(&store).len(), 1);
}

#[test]
fn the_eight_newest_copies_of_damaged_journals_are_kept() {
    let scene = Scene::small(5);
    let mut journal = scene.journal.clone();
    journal[scene.ends[1]] = 0xee;
    let (dir, store) = scene.open_with(&journal);
    drop(store);
    let kept = || {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut copies: Vec<u32> =
            names.filter_map(|name| name.strip_prefix("damaged-")?.strip_suffix(".jnl")?.parse().ok()).collect();
        copies.sort();
        copies
    };
    for n in 2..=12 {
        fs::write(journal_path(dir.path()), &journal).unwrap();
        let store = open(dir.path());
        let report = store.recovery();
        assert_eq!(report.damaged.len(), 1);
        let copy = report.damaged[0].copy.clone().unwrap();
        assert_eq!(fs::read(copy).unwrap(), journal, "copy {n}");
        assert_eq!(kept(), (n.max(8) - 7..=n).collect::<Vec<u32>>());
    }
}

#[test]
fn a_sequence_number_that_was_changed_or_used_twice_loses_no_batch() {
    let scene = Scene::small(6);
    for (what, number) in [("lower", 1u64), ("the same again", 6), ("far too high", 1 << 40), ("absurd", u64::MAX / 3)]
    {
        for batch in [1, 3, 5] {
            let mut journal = scene.journal.clone();
            let start = scene.ends[batch - 1];
            journal[start + 5..start + 13].copy_from_slice(&number.to_le_bytes());
            let (dir, store) = scene.open_with(&journal);
            let what = format!("{what}, batch {batch}");
            assert_eq!(key_names(&store).len(), 6, "{what}");
            assert!(!store.recovery().found_damage() && store.recovery().rebuilt, "{what}: {:?}", store.recovery());
            store.commit(vec![put("key-000", "anew"), put("after", "1")], true).unwrap();
            drop(store);
            let store = open(dir.path());
            assert_eq!(get(&store, "key-000"), Some(Bytes::from("anew")), "{what}");
            assert_eq!((all(&store, Space::Data).len(), store.recovery().rebuilt), (7, false), "{what}");
        }
    }
}

#[test]
fn a_journal_that_broke_after_a_clean_stop_is_repaired_all_the_same() {
    let scene = Scene::small(5);
    let mut journal = scene.journal.clone();
    // A flipped value byte: fjall alone would refuse to open.
    journal[scene.start_of_last() + 50] ^= 0xff;
    let dir = tempfile::tempdir().unwrap();
    copy_dir(scene.dir.path(), dir.path());
    fs::write(journal_path(dir.path()), journal).unwrap();
    fs::write(dir.path().join("larder.clean"), "larder 1 clean\n").unwrap();
    let store = open(dir.path());
    assert_eq!(key_names(&store).len(), 4);
    assert!(!store.recovery().clean_stop && store.recovery().tail_bytes_cut > 0);
}

#[test]
fn an_unreadable_marker_counts_as_an_unclean_stop() {
    let scene = Scene::small(2);
    let dir = tempfile::tempdir().unwrap();
    copy_dir(scene.dir.path(), dir.path());
    fs::write(journal_path(dir.path()), &scene.journal).unwrap();
    fs::write(dir.path().join("larder.clean"), "").unwrap();
    let store = open(dir.path());
    assert!(!store.recovery().clean_stop);
    assert_eq!(key_names(&store).len(), 2);
}

#[test]
fn batches_of_many_items_removals_and_large_values_are_read_as_fjall_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let many = (0..1000u32).map(|n| put(n.to_be_bytes(), noise(n.into(), (n % 700) as usize))).collect();
    store.commit(many, true).unwrap();
    store.commit((0..1000u32).step_by(3).map(|n| remove(n.to_be_bytes())).collect(), true).unwrap();
    // Compressible and beyond fjall's threshold for compressing journal values.
    store.commit(vec![put("large", vec![b'a'; 300_000])], true).unwrap();
    let before = all(&store, Space::Data);
    drop(store);
    let store = open(dir.path());
    let whole = RecoveryReport { journals_checked: 1, ..RecoveryReport::default() };
    assert_eq!(store.recovery(), &whole);
    assert_eq!(all(&store, Space::Data), before);
}

/// Three durable batches, then five relaxed ones of which nothing was synced, and where each ends.
fn relaxed_scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut ends = Vec::new();
    for n in 0..8u64 {
        store.commit(vec![put(format!("key-{n:03}"), noise(n, 30))], n < 3).unwrap();
        ends.push(used_bytes(&journal_path(dir.path())));
    }
    drop(store);
    let mut journal = fs::read(journal_path(dir.path())).unwrap();
    journal.truncate(*ends.last().unwrap());
    Scene { dir, journal, ends }
}

#[test]
fn whole_relaxed_batches_behind_a_torn_one_are_what_a_power_cut_leaves() {
    let scene = relaxed_scene();
    for torn in 3..7 {
        for (what, place) in [("start tag", 0), ("item tag", 13), ("value", 60)] {
            let mut journal = scene.journal.clone();
            journal[scene.ends[torn - 1] + place] ^= 0xff;
            let report = scene.check_tail(&journal, torn, &format!("{what} of {torn}"));
            assert_eq!(report.relaxed_batches_cut, 7 - torn as u64, "{what} of {torn}");
        }
    }
    // A page of several batches that never came to the card, with others behind it.
    let mut journal = scene.journal.clone();
    journal[scene.ends[2]..scene.ends[5]].fill(0);
    assert_eq!(scene.check_tail(&journal, 3, "a hole").relaxed_batches_cut, 2);
}

#[test]
fn relaxed_writes_do_not_hide_damage_of_what_was_synced_before() {
    let scene = relaxed_scene();
    for damaged in 0..3 {
        let mut journal = scene.journal.clone();
        let start = if damaged == 0 { 0 } else { scene.ends[damaged - 1] };
        // The edges stand before the first batch; their journal place is not ours to know, so its value is hit.
        let value = scene.ends[damaged] - 13 - 20;
        assert!(value > start);
        journal[value] ^= 0xff;
        let (_dir, store) = scene.open_with(&journal);
        let report = store.recovery();
        assert!(report.found_damage() && report.batches_lost == 7 - damaged as u64, "batch {damaged}: {report:?}");
        assert_eq!(key_names(&store).len(), damaged);
    }
}

#[test]
fn without_the_note_of_relaxed_writes_a_bad_spot_is_damage() {
    let scene = relaxed_scene();
    let mut journal = scene.journal.clone();
    journal[scene.ends[4]] ^= 0xff;
    for note in [None, Some("not a note")] {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(scene.dir.path(), dir.path());
        fs::write(journal_path(dir.path()), &journal).unwrap();
        match note {
            None => fs::remove_file(dir.path().join("larder.relaxed")).unwrap(),
            Some(text) => fs::write(dir.path().join("larder.relaxed"), text).unwrap(),
        }
        let store = open(dir.path());
        assert!(store.recovery().found_damage(), "{note:?}: {:?}", store.recovery());
        assert!(!dir.path().join("larder.relaxed").exists(), "heeded once");
    }
}

#[test]
fn purely_durable_traffic_leaves_no_note_and_a_clean_stop_removes_it() {
    let dir = tempfile::tempdir().unwrap();
    let note = dir.path().join("larder.relaxed");
    let store = open(dir.path());
    store.commit(vec![put("a", "1")], true).unwrap();
    store.maintain().unwrap();
    assert!(!note.exists());
    store.commit(vec![put("a", "2")], false).unwrap();
    assert!(note.exists());
    store.close().unwrap();
    assert!(!note.exists());
}
