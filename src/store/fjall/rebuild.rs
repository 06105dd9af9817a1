//! Makes the database anew from what is left of it, when fjall must not open it as it stands: a keyspace's folder or the
//! list of their names is gone, or sequence numbers were given out twice, as they are after such a loss.
//!
//! The old folder is set aside. The new one takes over the tables of the keyspaces that are left, by hard links, and then
//! everything that the journals hold, in their order and under new numbers. What is in the tables already is only written
//! again: a journal is the last part of the history, so at its end each key stands as it should.
//! Invariant: the old folder is untouched, under its own name or [`ASIDE_DIR`], until the new one is complete and synced;
//! cut off at any moment, this begins again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::error::{from_fjall, from_io};
use super::layout::DATABASE_DIR;
use super::parts::{Parts, first_number, keyspace_dir};
use super::{DATA_KEYSPACE, FjallOptions, FjallStore, LOG_KEYSPACE, Space, edges, make_dir, open_database};
use crate::store::journal::{self, Item};
use crate::store::recovery::{self, sync_dir};
use crate::store::{Change, Store, StoreError};

/// The old database while a new one is made from it. That it is there means that the new one is not complete.
pub(super) const ASIDE_DIR: &str = "fjall.old";
/// The old database once nothing of it is needed any more.
pub(super) const DONE_DIR: &str = "fjall.done";
/// Folders of keyspaces whose list of tables is lost. Nobody can read them as they are; kept for whoever may.
const UNLISTED_PREFIX: &str = "lost-keyspace-";
const UNLISTED_MAX: usize = 2;

/// The old database, set aside.
pub(super) struct Rebuild {
    dir: PathBuf,
    parts: Parts,
}

/// Whether a rebuilding was cut off. Also removes what one that came to its end has left.
pub(super) fn is_under_way(dir: &Path) -> io::Result<bool> {
    let done = dir.join(DONE_DIR);
    if done.exists() {
        fs::remove_dir_all(done)?;
    }
    Ok(dir.join(ASIDE_DIR).exists())
}

/// The folder in which the journals are.
pub(super) fn old_dir(dir: &Path) -> PathBuf {
    let aside = dir.join(ASIDE_DIR);
    if aside.exists() { aside } else { dir.join(DATABASE_DIR) }
}

impl Rebuild {
    /// Sets the database aside and makes one in its place with the same tables.
    pub(super) fn begin(dir: &Path, options: &FjallOptions) -> Result<Rebuild, StoreError> {
        let (database, aside) = (dir.join(DATABASE_DIR), dir.join(ASIDE_DIR));
        if aside.exists() {
            match fs::remove_dir_all(&database) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(from_io(error)),
                _ => {}
            }
        } else {
            fs::rename(&database, &aside).map_err(from_io)?;
            sync_dir(dir).map_err(from_io)?;
        }
        let parts = Parts::look(&aside, false).map_err(from_io)?;
        keep_unlisted(dir, &parts.unlisted).map_err(from_io)?;
        make_dir(&database)?;
        let db = open_database(&database, options)?;
        for name in [DATA_KEYSPACE, LOG_KEYSPACE] {
            db.keyspace(name, || options.keyspace()).map_err(from_fjall)?;
        }
        drop(db);
        for space in [Space::Data, Space::Log] {
            let Some(number) = parts.number(space) else { continue };
            let (from, to) = (keyspace_dir(&aside, number), keyspace_dir(&database, first_number(space)));
            fs::remove_dir_all(&to).and_then(|()| link_all(&from, &to)).map_err(from_io)?;
        }
        Ok(Rebuild { dir: dir.to_path_buf(), parts })
    }

    /// Whether the folder of this keyspace was gone.
    pub(super) fn is_lost(&self, space: Space) -> bool {
        self.parts.number(space).is_none()
    }

    /// Writes into the new store what the old journals hold, and makes it durable. Tells how many changes that were.
    pub(super) fn replay(&self, store: &FjallStore) -> Result<u64, StoreError> {
        let mut count = 0;
        for (_, path) in recovery::journals(&self.dir.join(ASIDE_DIR)).map_err(from_io)? {
            let file = File::open(path).map_err(from_io)?;
            journal::for_each_batch(&file, |items| {
                let changes: Vec<Change> = items.into_iter().filter_map(|item| self.change(item)).collect();
                if !changes.is_empty() {
                    count += changes.len() as u64;
                    store.write(changes, false)?;
                    store.maintain()?;
                }
                Ok(())
            })
            .map_err(|error: Stopped| error.0)?;
        }
        store.sync()?;
        Ok(count)
    }

    fn change(&self, item: Item) -> Option<Change> {
        let space = self.parts.space(item.keyspace);
        if space.is_none() {
            log::error!("a change of keyspace {} in the journal belongs to none that is known", item.keyspace);
        }
        Some((space.filter(|_| edges::spans(&item.key))?, item.key, item.value))
    }

    /// Removes the old database: everything is in the new one.
    pub(super) fn finish(self) -> io::Result<()> {
        let done = self.dir.join(DONE_DIR);
        // IMPORTANT: renamed before anything of it is removed. A part of it must never pass for the whole.
        fs::rename(self.dir.join(ASIDE_DIR), &done)?;
        sync_dir(&self.dir)?;
        fs::remove_dir_all(done)
    }
}

/// Why a replay ended early.
struct Stopped(StoreError);

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Stopped {
        Stopped(error)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Stopped {
        Stopped(from_io(error))
    }
}

/// Gives a folder's files new names in another one; copies them where the file system knows no links.
fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let new = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            link_all(&path, &new)?;
        } else if fs::hard_link(&path, &new).is_err() {
            fs::copy(&path, &new)?;
            File::open(&new)?.sync_all()?;
        }
    }
    sync_dir(to)
}

fn keep_unlisted(dir: &Path, folders: &[PathBuf]) -> io::Result<()> {
    for folder in folders {
        let mut kept = recovery::numbered(dir, UNLISTED_PREFIX, "")?;
        let number = kept.last().map_or(1, |(last, _)| last + 1);
        kept.truncate((kept.len() + 1).saturating_sub(UNLISTED_MAX));
        let new = dir.join(format!("{UNLISTED_PREFIX}{number}"));
        log::error!("{} has lost its list of tables; it is kept as {}", folder.display(), new.display());
        fs::rename(folder, new)?;
        for (_, old) in kept {
            fs::remove_dir_all(old)?;
        }
    }
    sync_dir(dir)
}
