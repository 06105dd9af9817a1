//! The simulated card keeps its promises: what is tested with it would otherwise prove nothing.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod nth;
mod power;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{Card, CardOptions, Fault, eventually};

/// A card over a folder, or nothing where there is no FUSE.
fn card(backing: &Path, options: CardOptions) -> Option<Card> {
    match Card::mount(backing, options) {
        Ok(card) => Some(card),
        Err(error) => {
            support::skipped(&format!("no FUSE here: {error}"));
            None
        }
    }
}

fn cuttable() -> CardOptions {
    CardOptions { power_cuts: true, ..CardOptions::default() }
}

fn sync_folder(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// A file that holds its own name.
fn make(path: &Path, name: &str) {
    fs::write(path.join(name), name).unwrap();
}

#[test]
fn the_card_is_the_folder_behind_it() {
    let backing = tempfile::tempdir().unwrap();
    let Some(card) = card(backing.path(), CardOptions::default()) else { return };
    let at = card.path();
    fs::create_dir(at.join("folder")).unwrap();
    fs::write(at.join("folder/a"), b"one").unwrap();
    fs::rename(at.join("folder/a"), at.join("b")).unwrap();
    assert_eq!(fs::read(backing.path().join("b")).unwrap(), b"one");
    let mut appended = OpenOptions::new().append(true).open(at.join("b")).unwrap();
    appended.write_all(b" two").unwrap();
    assert_eq!(fs::read(at.join("b")).unwrap(), b"one two");
    let mut file = File::open(at.join("b")).unwrap();
    fs::remove_file(at.join("b")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two", "an open file lives on without its name");
    fs::remove_dir(at.join("folder")).unwrap();
    assert_eq!(fs::read_dir(at).unwrap().count(), 0);
    assert_eq!(fs::read_dir(backing.path()).unwrap().count(), 0);
}

#[test]
fn syncs_take_their_time_and_are_counted_with_their_pages() {
    let backing = tempfile::tempdir().unwrap();
    let delay = Duration::from_millis(30);
    let Some(card) = card(backing.path(), CardOptions { sync_delay: delay, ..CardOptions::default() }) else { return };
    let file = File::create(card.path().join("a")).unwrap();
    for _ in 0..2 {
        file.write_all_at(&[7; 5000], 0).unwrap();
    }
    let began = Instant::now();
    file.sync_data().unwrap();
    assert!(began.elapsed() >= delay);
    let stats = card.stats();
    assert_eq!((stats.bytes_written, stats.bytes_to_card, stats.syncs), (10_000, 8192, 1));
    file.write_all_at(&[7], 0).unwrap();
    assert_eq!(card.stats().bytes_to_card, 8192 + 4096, "a dirty page will reach the card");
}

#[test]
fn reads_and_writes_go_on_while_a_sync_is_held() {
    let backing = tempfile::tempdir().unwrap();
    let Some(card) = card(backing.path(), CardOptions::default()) else { return };
    fs::write(card.path().join("other"), b"here").unwrap();
    let file = File::create(card.path().join("a")).unwrap();
    card.hold_syncs(true);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            file.sync_data().unwrap();
            ended.store(true, Ordering::SeqCst);
        });
        eventually("the sync has begun", || card.syncs_in_progress() == 1);
        assert_eq!(fs::read(card.path().join("other")).unwrap(), b"here");
        fs::write(card.path().join("third"), b"new").unwrap();
        assert!(!ended.load(Ordering::SeqCst));
        card.hold_syncs(false);
    });
}

#[test]
fn a_power_cut_takes_back_what_was_not_synced_and_nothing_else() {
    let backing = tempfile::tempdir().unwrap();
    let Some(card) = card(backing.path(), cuttable()) else { return };
    let at = card.path();
    let file = File::create(at.join("a")).unwrap();
    file.write_all_at(b"synced bytes", 0).unwrap();
    file.sync_data().unwrap();
    sync_folder(at);
    file.write_all_at(b"LOST", 3).unwrap();
    file.write_all_at(b"and more behind the end", 12).unwrap();
    file.set_len(2).unwrap();
    fs::write(at.join("no name yet"), b"x").unwrap();
    fs::write(at.join("new a"), b"replacement").unwrap();
    fs::rename(at.join("new a"), at.join("a")).unwrap();
    fs::create_dir(at.join("folder")).unwrap();
    fs::write(at.join("folder/x"), b"x").unwrap();
    fs::remove_file(at.join("no name yet")).unwrap();
    card.cut_power();
    assert!(file.write_all_at(b"x", 0).is_err(), "no power, no writes");
    let names: Vec<_> = fs::read_dir(backing.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(fs::read(backing.path().join("a")).unwrap(), b"synced bytes");
}

#[test]
fn a_failed_sync_makes_nothing_durable_and_a_full_card_takes_nothing() {
    let backing = tempfile::tempdir().unwrap();
    let Some(card) = card(backing.path(), cuttable()) else { return };
    let at = card.path();
    let file = File::create(at.join("a")).unwrap();
    sync_folder(at);
    card.set_fault(Fault::SyncFails);
    file.write_all_at(b"bytes", 0).unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    card.set_fault(Fault::WriteFindsNoSpace);
    assert_eq!(file.write_all_at(b"x", 9).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert!(File::create(at.join("b")).is_err());
    assert!(rustix::fs::statvfs(at).unwrap().f_bavail > 0);
    card.set_fault(Fault::Full);
    assert_eq!(rustix::fs::statvfs(at).unwrap().f_bavail, 0);
    assert_eq!(fs::read(at.join("a")).unwrap(), b"bytes");
    card.cut_power();
    assert_eq!(fs::read(backing.path().join("a")).unwrap(), b"");
}
