//! The files of a data folder as others may need to know them, and its lock.
//!
//! The lock is larder's own: fjall's comes too late, since journals are repaired before fjall opens them.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::error::from_io;
use crate::store::StoreError;

pub(super) const LOCK_FILE: &str = "larder.lock";
pub(super) const DATABASE_DIR: &str = "fjall";

/// Takes the folder for this process, until the file is dropped.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(from_io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked),
        Err(TryLockError::Error(error)) => Err(from_io(error)),
    }
}

/// Whether a process has the folder open. Makes nothing; a folder that cannot be looked at counts as free.
///
/// NOTE: to ask is to hold the lock for a moment: a larder that starts in just that moment finds it taken.
pub fn is_in_use(dir: &Path) -> bool {
    File::open(dir.join(LOCK_FILE)).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// The folder itself, and that of the database, which may be a link to elsewhere.
pub fn folders(dir: &Path) -> [PathBuf; 2] {
    [dir.to_owned(), dir.join(DATABASE_DIR)]
}

/// What is there of the files that a start writes to, journals included.
pub fn written_at_start(dir: &Path) -> Vec<PathBuf> {
    let database = dir.join(DATABASE_DIR);
    let entries = std::fs::read_dir(&database).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = [dir.join(LOCK_FILE), database.clone()].into_iter().chain(entries);
    all.filter(|path| path.exists()).collect()
}
