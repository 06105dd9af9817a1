//! The files of a data folder as others may need to know them, and its lock.
//!
//! The lock is larder's own: fjall's comes too late, since journals are repaired before fjall opens them.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::error::from_io;
use super::parts::{KEYSPACES_DIR, TABLES_DIR};
use super::rebuild::{ASIDE_DIR, DONE_DIR};
use crate::board::folder::{self, Obstacle, Use};
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

/// What is there as long as a store is open: its folders, and the lock.
pub fn held(dir: &Path) -> Vec<PathBuf> {
    let (database, mut held) = (dir.join(DATABASE_DIR), vec![dir.to_owned(), dir.join(LOCK_FILE)]);
    let keyspaces = database.join(KEYSPACES_DIR);
    let each = std::fs::read_dir(&keyspaces).into_iter().flatten().flatten().map(|entry| entry.path());
    let tables: Vec<PathBuf> = each.map(|path| path.join(TABLES_DIR)).filter(|path| path.is_dir()).collect();
    held.extend([database, keyspaces]);
    held.extend(tables);
    held
}

/// Whether there may be any journal. A new one is there before an old one goes; where the folder cannot be looked through,
/// as without descriptors, there may.
pub fn has_journal(dir: &Path) -> bool {
    let is_journal = |entry: std::fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "jnl");
    match std::fs::read_dir(dir.join(DATABASE_DIR)) {
        Ok(mut entries) => entries.any(|entry| entry.map_or(true, is_journal)),
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory),
    }
}

/// Folders lie no deeper in the database; what leads deeper leads in circles.
const DEPTH_MAX: usize = 4;

/// The lock, and the notes beside the database: `larder.lock` and so on. Other files are none of ours, as a
/// `larder.backup` that root made there.
const NOTES: [&str; 7] = ["lock", "clean", "ceiling", "relaxed", "ballast", "restarted", "starts"];

/// What stands in the way of a start in a folder that is there: root may have started larder here once, and then the
/// folder is ours, and what is in it is not.
pub fn check(dir: &Path) -> Result<(), Obstacle> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let note = name.to_str().and_then(|name| name.strip_prefix("larder.")?.split('.').next());
        if note.is_some_and(|note| NOTES.contains(&note)) {
            folder::check(&entry.path(), Use::Written)?;
        }
    }
    for aside in [ASIDE_DIR, DONE_DIR] {
        folder::check(&dir.join(aside), Use::Folder)?;
    }
    check_tree(&dir.join(DATABASE_DIR), 0)
}

/// Names of a running database come and go meanwhile.
fn check_tree(dir: &Path, depth: usize) -> Result<(), Obstacle> {
    folder::check(dir, Use::Folder)?;
    if depth == DEPTH_MAX {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_numbered = dir.ends_with(KEYSPACES_DIR) && entry.file_name().to_string_lossy().parse::<u64>().is_ok();
        let is_named = [KEYSPACES_DIR, TABLES_DIR].iter().any(|name| entry.file_name() == *name);
        let is_journal = path.extension().is_some_and(|extension| extension == "jnl");
        match path.is_dir() && !is_journal {
            true => check_tree(&path, depth + 1)?,
            false if is_numbered || is_named => folder::check(&path, Use::Folder)?,
            // Tables, and the lists of them, are never changed.
            false => folder::check(&path, if depth == 0 { Use::Written } else { Use::Read })?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::store::fjall::{FjallOptions, FjallStore};

    /// What makes a place unfit, and what is said of it then.
    type Case = (&'static str, fn(&Path), fn(PathBuf) -> Obstacle);

    #[test]
    fn what_a_start_would_stumble_over_is_found_at_every_level() {
        let as_file = |path: &Path| {
            let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
            fs::write(path, "").unwrap();
        };
        let as_folder = |path: &Path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        };
        let as_link = |path: &Path| {
            let _ = fs::remove_dir_all(path).or_else(|_| fs::remove_file(path));
            symlink("not-there/at-all", path).unwrap();
        };
        let as_loop = |path: &Path| {
            fs::remove_dir_all(path).unwrap();
            symlink(path, path).unwrap();
        };
        let cases: [Case; 11] = [
            ("fjall", as_file, Obstacle::NotAFolder),
            ("fjall/keyspaces", as_file, Obstacle::NotAFolder),
            ("fjall/keyspaces/1", as_file, Obstacle::NotAFolder),
            ("fjall/keyspaces/1/tables", as_file, Obstacle::NotAFolder),
            ("larder.lock", as_folder, Obstacle::NotAFile),
            ("fjall/0.jnl", as_folder, Obstacle::NotAFile),
            ("larder.lock", as_link, Obstacle::Dangling),
            ("fjall", as_link, Obstacle::Dangling),
            ("fjall/keyspaces/1", as_link, Obstacle::Dangling),
            ("fjall/version", as_link, Obstacle::Dangling),
            ("fjall/keyspaces", as_loop, Obstacle::Dangling),
        ];
        for (name, spoil, obstacle) in cases {
            let dir = tempfile::tempdir().unwrap();
            drop(FjallStore::open(dir.path(), FjallOptions::default()).unwrap());
            assert_eq!(check(dir.path()), Ok(()), "{name}");
            let path = dir.path().join(name);
            assert!(path.exists(), "{name} is not there");
            // What people leave there stands in nobody's way.
            fs::create_dir(dir.path().join("larder.old")).unwrap();
            symlink("not-there/at-all", dir.path().join("larder.backup")).unwrap();
            assert_eq!(check(dir.path()), Ok(()), "{name}");
            spoil(&path);
            assert_eq!(check(dir.path()), Err(obstacle(path)), "{name}");
        }
    }
}
