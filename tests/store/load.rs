//! A heavy load must neither fill the memory of a small board nor come to a standstill.

use std::ops::Bound;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use larder::limits::MIB;
use larder::store::fjall::{FjallOptions, FjallStore};
use larder::store::{Space, Store};

use crate::support::{all, noise, put};

const CHILD_DIR: &str = "LARDER_TEST_CHILD_DIR";
const PEAK_RSS_MAX: u64 = 64 * MIB as u64;

/// The test calls itself in a process of its own, whose memory no other test shares.
#[test]
fn a_load_of_200_mb_peaks_below_64_mb_of_memory() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        load_200_mb(Path::new(&dir));
        println!("peak {} end", peak_rss_bytes());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["load::a_load_of_200_mb_peaks_below_64_mb_of_memory", "--exact", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        // As the unit file sets it.
        .env("MALLOC_ARENA_MAX", "2")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let (_, figure) = text.split_once("peak ").expect("the child reports its peak");
    let peak: u64 = figure.split(' ').next().unwrap().parse().unwrap();
    println!("peak RSS: {peak} bytes");
    assert!(peak <= PEAK_RSS_MAX, "{peak} bytes");
    assert!(peak > 4 * MIB as u64, "a figure that cannot be true: {peak}");
}

fn load_200_mb(dir: &Path) {
    let store = FjallStore::open(dir, FjallOptions::default()).unwrap();
    let mut block = noise(1, 1024);
    for group in 0..3200u32 {
        let changes = (0..64)
            .map(|n| {
                let number = group * 64 + n;
                // Scattered keys, so that compaction has work; values that do not compress and are all different.
                block.rotate_left(1);
                block[..4].copy_from_slice(&number.to_le_bytes());
                put(number.wrapping_mul(0x9e37_79b1).to_be_bytes().map(|byte| byte | 1), block.clone())
            })
            .collect();
        store.commit(changes, false).unwrap();
        store.maintain().unwrap();
    }
}
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// With fjall's own rotation this load stood still for ever, at times with two workers and always with one.
#[test]
fn many_small_commits_over_a_small_memtable_do_not_stand_still() {
    for round in 0..2u64 {
        let (sender, done) = mpsc::channel();
        let writer = std::thread::spawn(move || {
            let dir = tempfile::tempdir().unwrap();
            let options = FjallOptions { memtable_bytes: MIB as u64, ..FjallOptions::default() };
            let store = FjallStore::open(dir.path(), options).unwrap();
            let value = Bytes::from(noise(round, 200));
            for n in 0..30_000u32 {
                let key = Bytes::copy_from_slice(&n.wrapping_mul(0x9e37_79b1).to_be_bytes().map(|byte| byte | 1));
                store.commit(vec![(Space::Data, key, Some(value.clone()))], false).unwrap();
                store.maintain().unwrap();
            }
            store.close().unwrap();
            sender.send((all(&store, Space::Data).len(), store.figures())).unwrap();
        });
        let (keys, figures) = done.recv_timeout(Duration::from_secs(180)).expect("the writer stands still");
        writer.join().unwrap();
        assert!(keys > 1000);
        assert_eq!(figures.memtable_bytes, 0, "everything was flushed");
    }
}

/// fjall keeps every memtable that an open snapshot may have to look into: a forgotten export would take all memory.
#[test]
fn a_snapshot_that_is_held_under_heavy_writes_is_revoked_before_it_takes_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let options = FjallOptions { memtable_bytes: MIB as u64 / 4, ..FjallOptions::default() };
    let store = FjallStore::open(dir.path(), options).unwrap();
    store.commit((1..200u8).map(|n| put([n, 1], [n])).collect(), true).unwrap();
    let held = store.snapshot().unwrap();
    let mut entries = held.range(Space::Data, (Bound::Unbounded, Bound::Unbounded), false);
    assert_eq!(entries.next().unwrap().unwrap().0[0], 1);
    // Young snapshots are spared, whatever is written.
    std::thread::sleep(Duration::from_millis(2100));
    let mut held_bytes_max = 0;
    let mut shared = store.snapshot().unwrap();
    for group in 0..100u32 {
        let changes =
            (0..64u32).map(|n| put([9, n as u8, group as u8], noise((group * 64 + n).into(), 1024))).collect();
        store.commit(changes, false).unwrap();
        shared = store.snapshot().unwrap();
        store.maintain().unwrap();
        held_bytes_max = held_bytes_max.max(store.figures().memtable_bytes);
    }
    assert!(held_bytes_max < 4 * MIB as u64, "{held_bytes_max} bytes of 6.5 MiB written");
    assert!(held.get(Space::Data, &[1, 1]).is_err(), "an error, never an answer from another moment");
    assert!(entries.next().unwrap().is_err());
    assert!(held.range(Space::Data, (Bound::Unbounded, Bound::Unbounded), true).next().unwrap().is_err());
    assert_eq!(shared.get(Space::Data, &[1, 1]).unwrap(), Some(Bytes::from(vec![1])));
}
