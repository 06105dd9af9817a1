//! The counter of the whole store. It hands out numbers below a ceiling that was synced to the card before, so that no
//! version is ever used twice, not even one that was lost with a relaxed write.
//!
//! The ceiling stands in the store and, for a store in a folder, in a small file beside it: a damaged journal is cut, and
//! with it may go the very batch that raised the ceiling, while records above the old one are already in clients' hands.
//! Invariant: `next <= ceiling`, and the card holds at least `ceiling`, in both places.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::recovery::write_synced;
use super::{Change, Snapshot, Space, Store, StoreError, TYPE_META};

/// How far ahead of use the ceiling is raised.
pub const CEILING_STEP: u64 = 1 << 20;
/// Versions stay below this, so that every JSON reader takes them as a whole number.
pub const VERSION_END: u64 = 1 << 53;
/// An import goes on so far above the versions of its file: those in between its store may have given out since.
pub const IMPORT_GAP: u64 = 1 << 40;
/// Versions of an imported file stay below this, so that no import uses up all that there are.
pub const IMPORT_END: u64 = 1 << 52;

const _: () = assert!(IMPORT_END + IMPORT_GAP + 2 * CEILING_STEP < VERSION_END);

/// Where the ceiling stands in the data keyspace.
const CEILING_KEY: &[u8] = &[TYPE_META, b'v', b'e', b'r', b's', b'i', b'o', b'n', b's'];

/// Where the version of the last import stands, from which on `since` can be relied upon.
const IMPORTED_KEY: &[u8] = &[TYPE_META, b'i', b'm', b'p', b'o', b'r', b't', b'e', b'd'];

/// The file beside the store with the same number: twice, so that a changed byte is noticed.
pub const CEILING_FILE: &str = "larder.ceiling";

/// Hands out versions.
pub struct Versions {
    next: u64,
    ceiling: u64,
    imported: u64,
    /// Where the second copy of the ceiling is kept.
    dir: Option<PathBuf>,
}

impl Versions {
    /// Continues above everything that an earlier run may have used. `dir`: the folder of a store that is in one.
    pub fn load(snapshot: &dyn Snapshot, dir: Option<&Path>) -> Result<Versions, StoreError> {
        let ceiling = read_number(snapshot, CEILING_KEY)?.unwrap_or(1);
        if ceiling == 0 || ceiling > VERSION_END {
            return Err(StoreError::Corrupt(format!("the version ceiling is {ceiling}")));
        }
        let in_file = dir.and_then(ceiling_in_file).unwrap_or(1);
        if in_file > ceiling && ceiling > 1 {
            log::warn!("the store has lost its last version ceiling; versions go on above the one kept beside it");
        }
        let ceiling = ceiling.max(in_file);
        let imported = read_number(snapshot, IMPORTED_KEY)?.unwrap_or(0);
        Ok(Versions { next: ceiling, ceiling, imported, dir: dir.map(Path::to_path_buf) })
    }

    /// To raise the ceiling takes so many syncs, if it has a second copy.
    pub const RAISE_SYNCS: u32 = 3;

    /// Makes sure that `count` versions can be taken, writing and syncing a higher ceiling if need be; `true` if it was.
    pub fn reserve(&mut self, count: usize, store: &dyn Store) -> Result<bool, StoreError> {
        let wanted = self.next.saturating_add(count as u64);
        if wanted <= self.ceiling {
            return Ok(false);
        }
        self.raise(wanted.saturating_add(CEILING_STEP), Vec::new(), store)?;
        Ok(true)
    }

    /// Begins the import of a file that goes up to this version, which is below [`IMPORT_END`]: goes on far above it, if
    /// it is not below ours, and notes the import. Both are on the card before any record of the file is.
    ///
    /// The tags of the file's records are in clients' hands, and stand for what its store held.
    pub fn follow(&mut self, version: u64, store: &dyn Store) -> Result<(), StoreError> {
        debug_assert!(version < IMPORT_END);
        let mut ceiling = self.ceiling;
        if version >= self.last() {
            self.next = version + IMPORT_GAP;
            ceiling = ceiling.max(self.next + CEILING_STEP);
        }
        self.imported = self.last();
        self.raise(ceiling, vec![number(IMPORTED_KEY, self.imported)], store)
    }

    /// Puts a higher ceiling on the card, with other metadata.
    fn raise(&mut self, ceiling: u64, mut changes: Vec<Change>, store: &dyn Store) -> Result<(), StoreError> {
        if ceiling > VERSION_END {
            return Err(StoreError::Corrupt("the versions are used up".into()));
        }
        if let Some(dir) = &self.dir {
            write_synced(dir, CEILING_FILE, format!("{ceiling} {ceiling}\n"))
                .map_err(|error| StoreError::Io(format!("{CEILING_FILE}: {error}")))?;
        }
        changes.push(number(CEILING_KEY, ceiling));
        store.commit(changes, true)?;
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

    /// The version of the last import: what came before it is no part of any chain of exports that began before.
    pub fn imported(&self) -> u64 {
        self.imported
    }

    /// Gives back the versions after `last`, which nobody has seen outside the committer and no commit has held.
    pub fn rewind(&mut self, last: u64) {
        debug_assert!(last < self.next);
        self.next = last + 1;
    }
}

/// The second copy of the ceiling. One that cannot be read is no reason not to start: the store has the first.
fn ceiling_in_file(dir: &Path) -> Option<u64> {
    let text = match fs::read_to_string(dir.join(CEILING_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            log::error!("{CEILING_FILE} cannot be read: {error}");
            return None;
        }
    };
    let ceiling = text
        .trim_end()
        .split_once(' ')
        .filter(|(one, other)| one == other)
        .and_then(|(one, _)| one.parse().ok())
        .filter(|ceiling| (1..=VERSION_END).contains(ceiling));
    if ceiling.is_none() {
        log::error!("{CEILING_FILE} is damaged and was not heeded");
    }
    ceiling
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
