//! Whether the data folder is still the one that was opened.
//!
//! Files that are open go on taking what is written though their names are gone: removed, hidden by another mount, or on a
//! file system that somebody has unmounted lazily. What was acknowledged as synced then is lost at the next start.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::board::folder::{Obstacle, check_writable};
use crate::board::overlap::{Identity, identity};
use crate::store::fjall::layout;

/// The folders of a store and its lock, as they were when it was opened.
pub struct Place {
    dir: PathBuf,
    held: Vec<(PathBuf, Option<Identity>)>,
}

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
        let held = layout::held(dir).into_iter().map(|path| (path.clone(), identity(&path)));
        Place { dir: dir.to_owned(), held: held.collect() }
    }

    /// Looks again.
    pub fn loss(&self) -> Option<Loss> {
        if let Some((path, _)) = self.held.iter().find(|(path, was)| is_other(path, *was)) {
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
fn is_other(path: &Path, was: Option<Identity>) -> bool {
    const GONE: [i32; 6] = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::EACCES, libc::EPERM, libc::ESTALE];
    match (std::fs::metadata(path), was) {
        (Ok(now), Some(was)) => (now.dev(), now.ino()) != was,
        (Ok(_), None) => false,
        (Err(error), _) => error.raw_os_error().is_some_and(|code| GONE.contains(&code)),
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
