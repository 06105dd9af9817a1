//! A file that only takes space, so that deletions go on when others have taken all the rest of the card: given up, it
//! leaves room for what a deletion writes before it gives anything back.
//!
//! Invariant: it is made only by the keeper, where there is room besides, and holding none of it is never an error. What
//! an earlier run has left counts as held, whatever its size.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::FallocateFlags;

/// Its name in the data folder.
pub const BALLAST_FILE: &str = "larder.ballast";

/// Space held back, or to be held back again.
pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
    held_bytes: AtomicU64,
    /// Whether it cannot be made here. It is not tried again and again: each time writes to the card.
    is_impossible: AtomicBool,
}

impl Ballast {
    /// Takes over what an earlier run has left.
    pub(super) fn new(dir: &Path, bytes: u64) -> Ballast {
        let path = dir.join(BALLAST_FILE);
        let held_bytes = AtomicU64::new(fs::metadata(&path).map_or(0, |found| found.blocks() * 512));
        Ballast { path, bytes, held_bytes, is_impossible: AtomicBool::new(false) }
    }

    /// Bytes to be held; 0 where that is impossible.
    pub(super) fn bytes(&self) -> u64 {
        if self.is_impossible.load(Ordering::Acquire) { 0 } else { self.bytes }
    }

    /// Bytes held at the moment.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Acquire)
    }

    /// Whether it is held, or not to be. File systems may take a few blocks more for it than it has bytes.
    pub(super) fn is_whole(&self) -> bool {
        let (held_bytes, bytes) = (self.held_bytes(), self.bytes());
        held_bytes == bytes || (bytes > 0 && (bytes..bytes + bytes / 8).contains(&held_bytes))
    }

    /// Gives the space up.
    pub(super) fn give_up(&self) {
        let held_bytes = self.held_bytes.swap(0, Ordering::AcqRel);
        if held_bytes == 0 {
            return;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => log::warn!("gave up the {held_bytes} bytes held back for deletions"),
            Err(error) => log::error!("{} could not be removed: {error}", self.path.display()),
        }
    }

    /// Takes the space again.
    pub(super) fn make(&self) {
        let made = (|| -> io::Result<()> {
            let file = File::create(&self.path)?;
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
            file.sync_all()
        })();
        match made {
            Ok(()) => self.held_bytes.store(self.bytes, Ordering::Release),
            Err(error) => {
                let _ = fs::remove_file(&self.path);
                if error.kind() == io::ErrorKind::StorageFull {
                    return;
                }
                // Also file systems that cannot allocate ahead: deletions then have the reserve alone.
                log::info!("no space is held back for deletions: {error}");
                self.is_impossible.store(true, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_space_until_it_is_given_up_and_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 1 << 20);
        assert_eq!(ballast.held_bytes(), 0);
        ballast.make();
        assert_eq!(ballast.held_bytes(), 1 << 20);
        assert!(fs::metadata(dir.path().join(BALLAST_FILE)).unwrap().blocks() * 512 >= 1 << 20);
        let again = Ballast::new(dir.path(), 1 << 20);
        assert_eq!((again.held_bytes(), again.is_whole()), (1 << 20, true), "what an earlier run has left");
        let other = Ballast::new(dir.path(), 2 << 20);
        assert_eq!((other.held_bytes(), other.is_whole()), (1 << 20, false), "of another size it can be given up too");
        other.make();
        assert!(other.is_whole());
        assert_eq!(fs::metadata(dir.path().join(BALLAST_FILE)).unwrap().len(), 2 << 20);
        other.give_up();
        other.give_up();
        assert!(!dir.path().join(BALLAST_FILE).exists());
    }

    #[test]
    fn where_it_cannot_be_made_nothing_is_held_and_nothing_left() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path(), 1 << 60);
        ballast.make();
        assert_eq!((ballast.held_bytes(), dir.path().join(BALLAST_FILE).exists()), (0, false));
        let nowhere = Ballast::new(&dir.path().join("none"), 1 << 20);
        assert_eq!(nowhere.bytes(), 1 << 20);
        nowhere.make();
        assert_eq!((nowhere.held_bytes(), nowhere.bytes()), (0, 0));
        assert!(nowhere.is_whole(), "it is not tried again");
    }
}
