//! What of a database folder is there, looked at before fjall is let near it: fjall makes what is missing anew, under
//! other numbers, deletes what it cannot place, and then reads the journals as if nothing had happened.
//!
//! It changes nothing but a lost `current` file, which it writes again.
//! Invariant: [`Parts::is_whole`] only if fjall finds both keyspaces where they are and deletes nothing of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::AbstractTree;
use lsm_tree::{Cache, Guard, SeqNo, SequenceNumberCounter};
use xxhash_rust::xxh3::xxh3_128;

use super::{DATA_KEYSPACE, LOG_KEYSPACE};
use crate::store::Space;
use crate::store::recovery::{self, sync_dir};

pub(super) const KEYSPACES_DIR: &str = "keyspaces";
pub(super) const TABLES_DIR: &str = "tables";
/// fjall's marker of the format: `FJL` and a number. A longer one is for fjall to judge.
pub(super) const VERSION_FILE: &str = "version";
const VERSION_BYTES: u64 = 4;
/// What fjall holds locked.
pub(super) const LOCK_FILE: &str = "lock";
/// Names the file with the list of tables that counts.
const CURRENT_FILE: &str = "current";
const CURRENT_BYTES: u64 = 25;
/// What a list of tables ends with, and the bytes from there: mark, two kinds, checksum, place, length.
const LIST_MARK: &[u8] = b"SFA!";
const LIST_END_BYTES: usize = 4 + 2 + 16 + 8 + 8;
/// The keyspace that names the others.
const META: u64 = 0;
/// Larder makes the keyspaces in this order.
const FIRST_NUMBERS: [(u64, &str); 2] = [(1, DATA_KEYSPACE), (2, LOG_KEYSPACE)];

/// The folder of a keyspace in a database folder.
pub(super) fn keyspace_dir(database_dir: &Path, number: u64) -> PathBuf {
    database_dir.join(KEYSPACES_DIR).join(number.to_string())
}

/// The number of the keyspace in a database that was just made.
pub(super) fn first_number(space: Space) -> u64 {
    FIRST_NUMBERS[space as usize].0
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The numbers of the keyspaces that have a folder with a list of tables.
    numbers: Vec<u64>,
    /// Folders with tables in them and no list of them.
    pub(super) unlisted: Vec<PathBuf>,
    /// What the keyspaces are called; `None` if that is lost.
    names: Option<Vec<(u64, String)>>,
    has_version: bool,
    pub(super) has_journal: bool,
}

impl Parts {
    /// Looks at a database folder. With `trusted`, after a clean stop, what the keyspaces are called is taken for granted.
    pub(super) fn look(database_dir: &Path, trusted: bool) -> io::Result<Parts> {
        let mut parts = Parts::default();
        for number in folders(&database_dir.join(KEYSPACES_DIR))? {
            let folder = keyspace_dir(database_dir, number);
            if has_current(&folder)? {
                parts.numbers.push(number);
            } else if number != META && !entries(&folder.join(TABLES_DIR))?.is_empty() {
                parts.unlisted.push(folder);
            }
        }
        parts.has_version = length(&database_dir.join(VERSION_FILE))? >= VERSION_BYTES;
        parts.has_journal = !recovery::journals(database_dir)?.is_empty();
        if trusted && parts.numbers == [META, 1, 2] {
            parts.names = Some(FIRST_NUMBERS.map(|(number, name)| (number, name.to_owned())).into());
        } else if parts.numbers.contains(&META) {
            parts.names = names(&keyspace_dir(database_dir, META))?;
        }
        Ok(parts)
    }

    /// Whether fjall may open it as it stands.
    pub(super) fn is_whole(&self) -> bool {
        let named = |space| self.names.is_some() && self.number(space).is_some();
        self.has_version && self.unlisted.is_empty() && named(Space::Data) && named(Space::Log)
    }

    /// The keyspace's number, if its folder is there.
    pub(super) fn number(&self, space: Space) -> Option<u64> {
        self.numbers.iter().rev().copied().find(|number| self.space(*number) == Some(space))
    }

    /// The keyspace with this number, whether its folder is there or not.
    pub(super) fn space(&self, number: u64) -> Option<Space> {
        let named = |name: &str| match name {
            DATA_KEYSPACE => Some(Space::Data),
            LOG_KEYSPACE => Some(Space::Log),
            _ => None,
        };
        let by_name = self.names.iter().flatten().find(|(named, _)| *named == number);
        let by_order = || FIRST_NUMBERS.iter().find(|(first, _)| *first == number).map(|(_, name)| *name);
        named(by_name.map(|(_, name)| &name[..]).or_else(by_order)?)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether the bytes are to blame, or that there are none: who reads in front of a short file's beginning gets EINVAL.
fn is_of_bytes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput)
}

/// A file's length; 0 if it is not there.
fn length(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.len()),
        Err(error) if is_absent(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

/// The names in a folder; none if it is not there.
fn entries(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The numbers among the names in a folder.
fn folders(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> = entries(dir)?.iter().filter_map(|name| name.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// Whether a keyspace's folder names its list of tables. Where only that name is lost, it is written again: of the lists,
/// which are written and synced before they are named, the last whole one counts. Without tables a list says nothing, and
/// may never have been written whole.
fn has_current(folder: &Path) -> io::Result<bool> {
    let has_tables = !entries(&folder.join(TABLES_DIR))?.is_empty();
    if length(&folder.join(CURRENT_FILE))? >= CURRENT_BYTES {
        return Ok(has_tables || last_list(folder)?.is_some());
    }
    let Some((last, list)) = last_list(folder)?.filter(|_| has_tables) else { return Ok(false) };
    // Its number, its checksum, and the kind of the checksum.
    let current = [&last.to_le_bytes()[..], &xxh3_128(&list).to_le_bytes(), &[0]].concat();
    recovery::write_synced(folder, CURRENT_FILE, &current)?;
    log::error!("{} had lost the name of its list of tables: v{last} is the last one", folder.display());
    Ok(true)
}

/// The last list of tables in a keyspace's folder that was written to its end.
fn last_list(folder: &Path) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut lists: Vec<u64> = entries(folder)?.iter().filter_map(|name| name.strip_prefix('v')?.parse().ok()).collect();
    lists.sort_unstable();
    for number in lists.into_iter().rev() {
        let list = fs::read(folder.join(format!("v{number}")))?;
        if is_whole_list(&list) {
            return Ok(Some((number, list)));
        }
    }
    Ok(None)
}

/// Whether a list ends as all do: with a table of its contents, and that one's mark, checksum, place and length.
fn is_whole_list(list: &[u8]) -> bool {
    let Some((contents, end)) = list.split_last_chunk::<LIST_END_BYTES>() else { return false };
    let number = |at: usize| end[at..].first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
    let place = usize::try_from(number(22)).unwrap_or(usize::MAX);
    let Some(contents) = contents.get(place..) else { return false };
    end.starts_with(LIST_MARK) && end[6..22] == xxh3_128(contents).to_le_bytes() && number(30) == contents.len() as u64
}

/// What the keyspaces are called; `None` if that cannot be told any more.
fn names(folder: &Path) -> io::Result<Option<Vec<(u64, String)>>> {
    let counter = SequenceNumberCounter::default;
    let cache = Arc::new(Cache::with_capacity_bytes(64 * 1024));
    let read = || -> lsm_tree::Result<Vec<(u64, String)>> {
        let tree = lsm_tree::Config::new(folder, counter(), counter()).use_cache(cache).open()?;
        let mut names = Vec::new();
        for pair in tree.prefix("n", SeqNo::MAX, None) {
            let (key, name) = pair.into_inner()?;
            if let Some(number) = key.get(1..).and_then(|number| number.try_into().ok()) {
                names.push((u64::from_be_bytes(number), String::from_utf8_lossy(&name).into_owned()));
            }
        }
        Ok(names)
    };
    match read() {
        Ok(names) => Ok(Some(names)),
        Err(lsm_tree::Error::Io(error)) if !is_of_bytes(&error) => Err(error),
        Err(error) => {
            log::error!("the names of the keyspaces cannot be read: {error}");
            Ok(None)
        }
    }
}

/// Makes the names of all folders durable, as far as the database's own syncs do not. On file systems that promise no more
/// than they must, a folder's name is durable only once the folder above it is synced.
///
/// Only the folders are looked for: fjall renames files while this runs.
pub(super) fn sync_folders(database_dir: &Path) -> io::Result<()> {
    let keyspaces = database_dir.join(KEYSPACES_DIR);
    for folder in folders(&keyspaces)?.into_iter().map(|number| keyspace_dir(database_dir, number)) {
        sync_dir(&folder.join(TABLES_DIR))?;
        sync_dir(&folder)?;
    }
    sync_dir(&keyspaces)?;
    sync_dir(database_dir)
}
