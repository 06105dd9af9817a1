//! Whether the data folder is still the one that was opened.
//!
//! Files that are open go on taking what is written though their names are gone: removed, hidden by another mount, or on a
//! file system that somebody has unmounted lazily. What was acknowledged as synced then is lost at the next start.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::board::folder::{Obstacle, check_writable};
use crate::store::fjall::layout;

/// The folders of a store and its lock, as they were when it was opened.
pub struct Place {
    dir: PathBuf,
    /// What each was, held open: some file systems give a folder another number once nobody has it open.
    held: Vec<(PathBuf, Option<OwnedFd>)>,
    /// How often in a row it was not found as it was.
    misses: u32,
}

/// So many looks must agree: a folder that is moved away for a moment, or may not be entered for one, is none that is lost.
const MISSES: u32 = 3;

/// What has become of it: in words for everyone, and for the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Loss {
    /// Without paths.
    pub reason: &'static str,
    /// With them.
    pub detail: String,
}

impl Place {
    /// That of the store that is open in this folder.
    pub fn of(dir: &Path) -> Place {
        let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok();
        let held = layout::held(dir).into_iter().map(|path| (path.clone(), open(&path)));
        Place { dir: dir.to_owned(), held: held.collect(), misses: 0 }
    }

    /// Looks again: what has become of it, and whether that is certain by now.
    pub fn look(&mut self) -> Option<(Loss, bool)> {
        let loss = self.loss();
        self.misses = if loss.is_some() { self.misses + 1 } else { 0 };
        loss.map(|loss| (loss, self.misses >= MISSES))
    }

    fn loss(&self) -> Option<Loss> {
        if let Some((path, _)) = self.held.iter().find(|(path, was)| is_other(path, was.as_ref())) {
            let reason = "the data folder, or a part of it, was removed or replaced while larder ran";
            return Some(Loss { reason, detail: format!("{} is not what was opened", path.display()) });
        }
        if !layout::has_journal(&self.dir) {
            let reason = "the journal was removed while larder ran";
            return Some(Loss { reason, detail: format!("there is none in {}", self.dir.display()) });
        }
        let folders = self.held.iter().filter(|(path, _)| path.is_dir());
        let obstacle = folders.into_iter().find_map(|(path, _)| check_writable(path).err())?;
        let reason = match obstacle {
            Obstacle::ReadOnly(_) => "the file system of the data folder has become read-only",
            Obstacle::Denied(_) => "the data folder may not be written any more",
            _ => return None,
        };
        Some(Loss { reason, detail: obstacle.to_string() })
    }
}

/// Whether a path certainly does not lead any more to what it led to. A process that is short of descriptors or memory may
/// be told nothing.
fn is_other(path: &Path, was: Option<&OwnedFd>) -> bool {
    use rustix::io::Errno;
    const GONE: [Errno; 6] = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::ACCESS, Errno::PERM, Errno::STALE];
    let was = was.and_then(|held| rustix::fs::fstat(held).ok());
    match (rustix::fs::stat(path), was) {
        (Ok(now), Some(was)) => (now.st_dev, now.st_ino) != (was.st_dev, was.st_ino),
        (Ok(_), None) => false,
        (Err(error), _) => GONE.contains(&error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::fjall::{FjallOptions, FjallStore};

    #[test]
    fn a_folder_that_is_removed_moved_or_replaced_is_lost_at_every_level() {
        // The store may make files there meanwhile.
        let remove = |path: &Path| while fs::remove_dir_all(path).or_else(|_| fs::remove_file(path)).is_err() {};
        let copy = |path: &Path| {
            let aside = path.with_file_name("aside");
            fs::rename(path, &aside).unwrap();
            let copied = std::process::Command::new("cp").arg("-a").args([&aside, path]).status().unwrap();
            assert!(copied.success());
        };
        for (name, part) in [
            ("", "data folder"),
            ("fjall", "data folder"),
            ("fjall/keyspaces", "data folder"),
            ("fjall/keyspaces/1/tables", "data folder"),
            ("larder.lock", "data folder"),
            ("fjall/0.jnl", "journal"),
        ] {
            for spoil in [remove, copy] {
                let folder = tempfile::tempdir().unwrap();
                let dir = folder.path().join("data");
                let store = FjallStore::open(&dir, FjallOptions::default()).unwrap();
                let place = Place::of(&dir);
                assert_eq!(place.loss(), None);
                let path = if name.is_empty() { dir.clone() } else { dir.join(name) };
                spoil(&path);
                let loss = place.loss();
                let is_a_copy_of_the_journal = part == "journal" && path.exists();
                assert_eq!(loss.is_some(), !is_a_copy_of_the_journal, "{name}");
                if let Some(loss) = loss {
                    assert!(loss.reason.contains(part) && !loss.reason.contains('/'), "{name}: {loss:?}");
                    assert!(loss.detail.contains(&dir.display().to_string()), "{name}: {loss:?}");
                }
                std::mem::forget(store);
            }
        }
    }
}
