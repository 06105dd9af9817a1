//! Short names for what the store tests do over and over.

use std::fs;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use larder::store::fjall::{FjallOptions, FjallStore};
use larder::store::{Change, Space, Store};

pub fn open(dir: &Path) -> FjallStore {
    FjallStore::open(dir, FjallOptions::default()).unwrap()
}

pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Change {
    (Space::Data, Bytes::from(key.into()), Some(Bytes::from(value.into())))
}

pub fn remove(key: impl Into<Vec<u8>>) -> Change {
    (Space::Data, Bytes::from(key.into()), None)
}

pub fn get(store: &dyn Store, key: impl AsRef<[u8]>) -> Option<Bytes> {
    store.snapshot().unwrap().get(Space::Data, key.as_ref()).unwrap()
}

/// All pairs of a keyspace.
pub fn all(store: &dyn Store, space: Space) -> Vec<(Bytes, Bytes)> {
    let everything = (Bound::Unbounded, Bound::Unbounded);
    store.snapshot().unwrap().range(space, everything, false).map(|pair| pair.unwrap()).collect()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

/// Copies what a folder holds into another one.
pub fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
