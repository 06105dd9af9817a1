//! A file that only takes space, so that deletions go on when others have taken all the rest of the card: given up, it
//! leaves room for what a deletion writes before it gives anything back.
//!
//! Invariant: it is made only by the keeper, where there is room besides, and holding none of it is never an error.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FallocateFlags;

/// Its name in the data folder.
pub const BALLAST_FILE: &str = "larder.ballast";

/// Space held back, or to be held back again.
pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
    held_bytes: AtomicU64,
}

impl Ballast {
    /// Takes over what an earlier run has left, if it has this size.
    pub(super) fn new(dir: &Path, bytes: u64) -> Ballast {
        let path = dir.join(BALLAST_FILE);
        let held_bytes = match fs::metadata(&path) {
            Ok(found) if found.len() == bytes && found.blocks() * 512 >= bytes => bytes,
            _ => 0,
        };
        Ballast { path, bytes, held_bytes: AtomicU64::new(held_bytes) }
    }

    /// Bytes to be held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes held at the moment: all or none.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Acquire)
    }

    /// Gives the space up.
    pub(super) fn give_up(&self) {
        if self.held_bytes.swap(0, Ordering::AcqRel) == 0 {
            return;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => log::warn!("gave up the {} bytes held back for deletions", self.bytes),
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
                // Also file systems that cannot allocate ahead: deletions then have the reserve alone.
                log::debug!("no space is held back for deletions: {error}");
                let _ = fs::remove_file(&self.path);
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
        assert_eq!(Ballast::new(dir.path(), 1 << 20).held_bytes(), 1 << 20, "what an earlier run has left");
        let other = Ballast::new(dir.path(), 2 << 20);
        assert_eq!(other.held_bytes(), 0, "another size is made anew");
        other.make();
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
        nowhere.make();
        assert_eq!(nowhere.held_bytes(), 0);
    }
}
