//! The counter of the whole store. It hands out numbers below a ceiling that was synced to the card before, so that no
//! version is ever used twice, not even one that was lost with a relaxed write.
//!
//! Invariant: `next <= ceiling`, and the card holds at least `ceiling`.

use bytes::Bytes;

use super::{Change, Snapshot, Space, Store, StoreError, TYPE_META};

/// How far ahead of use the ceiling is raised.
pub const CEILING_STEP: u64 = 1 << 20;
/// Versions stay below this, so that every JSON reader takes them as a whole number.
pub const VERSION_END: u64 = 1 << 53;

/// Where the ceiling stands in the data keyspace.
const CEILING_KEY: &[u8] = &[TYPE_META, b'v', b'e', b'r', b's', b'i', b'o', b'n', b's'];

/// Hands out versions.
pub struct Versions {
    next: u64,
    ceiling: u64,
}

impl Versions {
    /// Continues above everything that an earlier run may have used.
    pub fn load(snapshot: &dyn Snapshot) -> Result<Versions, StoreError> {
        let ceiling = read_number(snapshot, CEILING_KEY)?.unwrap_or(1);
        if ceiling == 0 || ceiling > VERSION_END {
            return Err(StoreError::Corrupt(format!("the version ceiling is {ceiling}")));
        }
        Ok(Versions { next: ceiling, ceiling })
    }

    /// Makes sure that `count` versions can be taken, writing and syncing a higher ceiling if need be.
    pub fn reserve(&mut self, count: usize, store: &dyn Store) -> Result<(), StoreError> {
        let wanted = self.next.saturating_add(count as u64);
        if wanted <= self.ceiling {
            return Ok(());
        }
        let ceiling = wanted.saturating_add(CEILING_STEP);
        if ceiling > VERSION_END {
            return Err(StoreError::Corrupt("the versions are used up".into()));
        }
        store.commit(vec![number(CEILING_KEY, ceiling)], true)?;
        self.ceiling = ceiling;
        Ok(())
    }

    /// The next version. `reserve` must have covered it.
    pub fn take(&mut self) -> u64 {
        debug_assert!(self.next < self.ceiling);
        self.next += 1;
        self.next - 1
    }

    /// The last version taken, or the highest that an earlier run may have used.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Gives back the versions after `last`, which nobody has seen outside the committer and no commit has held.
    pub fn rewind(&mut self, last: u64) {
        debug_assert!(last < self.next);
        self.next = last + 1;
    }
}

/// A number among the store's metadata.
pub(super) fn read_number(snapshot: &dyn Snapshot, key: &[u8]) -> Result<Option<u64>, StoreError> {
    let Some(bytes) = snapshot.get(Space::Data, key)? else { return Ok(None) };
    match <[u8; 8]>::try_from(&bytes[..]) {
        Ok(bytes) => Ok(Some(u64::from_le_bytes(bytes))),
        Err(_) => Err(StoreError::Corrupt(format!("metadata of {} bytes where a number should be", bytes.len()))),
    }
}

/// The change that stores a number among the metadata.
pub(super) fn number(key: &'static [u8], value: u64) -> Change {
    (Space::Data, Bytes::from_static(key), Some(Bytes::copy_from_slice(&value.to_le_bytes())))
}
