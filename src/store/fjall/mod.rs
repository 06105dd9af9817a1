//! The store on the card: fjall behind [`Store`], with every setting explicit.
//!
//! It is not a cache and not a queue, and it starts no thread of larder's but the one that reclaims space.
//! Folder: `larder.lock` (held while open), `larder.clean` (only while closed, see [`super::recovery`]),
//! `larder.ceiling` (see [`super::versions`]), `larder.restarted` (of the service around the store),
//! `damaged-<n>.jnl` (journals kept for inspection), `fjall/` (the database).
//! Invariant: memtables are rotated by [`Store::maintain`], both keyspaces together, so that no more than one commit
//! beyond the limit is ever held active. fjall's own rotation by size comes late and can deadlock, and is out of reach;
//! but fjall seals a memtable by itself also when its journals have grown too much, so nobody may rely on knowing when.
//!
//! Limits: a key has 1 to 65 535 bytes and lies between the edges (above `00`, below sixteen `ff`), a value has less
//! than 4 GiB; anything else is refused before it reaches fjall, which would panic or cut lengths silently. Of several changes of one key in one commit the last one counts.

mod edges;
mod error;
mod gaps;
pub mod layout;
mod memtables;
mod needs;
mod open;
mod options;
mod parts;
mod point;
mod rebuild;
mod reclaim;
mod seal;
mod snapshot;
mod views;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::fjall::{AbstractTree, Database, Keyspace, OwnedWriteBatch, PersistMode};

use parking_lot::Mutex;

use super::recovery::{self, RecoveryReport};
use super::relaxed::RelaxedNote;
use super::space::{Allowed, SpaceWatch};
use super::{Change, Snapshot, Space, Store, StoreError, StoreFigures};
use error::{from_fjall, from_io, from_lsm};
use layout::DATABASE_DIR;
use memtables::Memtables;
use needs::Needing;
use open::{make_dir, open_database};
pub use options::{CACHED_FILES, FjallOptions, descriptors_max};
use reclaim::Reclaimer;
use snapshot::FjallSnapshot;
use views::Views;

const DATA_KEYSPACE: &str = "data";
const LOG_KEYSPACE: &str = "log";
/// What fjall can store as the length of a key.
const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// `maintain` waits before it seals one memtable more than these: a burst beyond two memtables goes at the pace of the
/// card. fjall itself would wait at four, without noticing that nobody is left to flush them.
const SEALED_MEMTABLES_MAX: usize = 1;
/// `maintain` waits at so many runs in the first level. fjall itself would slow down at 20 and wait for ever at 30.
const FIRST_LEVEL_RUNS_MAX: usize = 18;
/// Sealed memtables' worth of memory that views may keep before the oldest one is revoked.
const HELD_MEMTABLES_MAX: u64 = 8;
const WAIT_STEP: Duration = Duration::from_millis(5);
/// How long a clean stop may spend on flushing memtables, so that the next start has no journal to read.
const CLOSE_FLUSH_MAX: Duration = Duration::from_secs(3);

/// The two keyspaces.
#[derive(Clone)]
struct Keyspaces {
    data: Keyspace,
    log: Keyspace,
    /// In the order of [`Keyspaces::both`].
    memtables: Arc<[Memtables; 2]>,
}

impl Keyspaces {
    fn new(data: Keyspace, log: Keyspace) -> Keyspaces {
        Keyspaces { data, log, memtables: Arc::default() }
    }

    fn of(&self, space: Space) -> &Keyspace {
        match space {
            Space::Data => &self.data,
            Space::Log => &self.log,
        }
    }

    /// Takes note of the memtables that take the writes.
    fn look(&self) {
        self.both().into_iter().zip(self.memtables.iter()).for_each(|(keyspace, memtables)| memtables.look(keyspace));
    }

    /// Seals what is active of both, if it holds anything. It is flushed in the background.
    fn rotate(&self) -> ::fjall::Result<()> {
        self.look();
        self.both().into_iter().try_for_each(|keyspace| keyspace.rotate_memtable().map(drop))
    }

    /// Bytes of memtables that are sealed and still in memory.
    fn sealed_bytes(&self) -> u64 {
        self.memtables.iter().map(Memtables::sealed_bytes).sum()
    }

    fn both(&self) -> [&Keyspace; 2] {
        [&self.data, &self.log]
    }
}

/// A folder of larder's, open.
pub struct FjallStore {
    reclaimer: Reclaimer,
    keyspaces: Keyspaces,
    views: Arc<Views>,
    db: Database,
    dir: PathBuf,
    memtable_bytes: u64,
    space: Arc<SpaceWatch>,
    needing: Needing,
    report: RecoveryReport,
    closed: AtomicBool,
    /// How far what was committed is on the card. Only the committer's thread asks.
    progress: Mutex<Progress>,
    /// Held until all of the above is gone.
    _lock: File,
}

/// How far what was committed is on the card.
struct Progress {
    note: RelaxedNote,
    /// The last batch has at least this number, and whatever is below it was committed before.
    last: Option<u64>,
    /// The same of the last batch that is on the card.
    synced: Option<u64>,
    /// Whether there may be commits that are not on the card.
    unsynced: bool,
}

impl Progress {
    fn synced(&mut self) {
        (self.synced, self.unsynced) = (self.last, false);
    }
}

impl FjallStore {
    /// `last_seqno`: the highest in the journals, if they were read. fjall syncs what it has read.
    fn new(
        dir: &Path,
        (db, keyspaces): (Database, Keyspaces),
        options: &FjallOptions,
        last_seqno: Option<u64>,
        lock: File,
    ) -> FjallStore {
        let note = RelaxedNote::new(dir);
        let views = Arc::new(Views::default());
        let space = options.space.clone();
        let needing = Needing::default();
        needing.tell(&keyspaces, &space);
        FjallStore {
            reclaimer: Reclaimer::new(db.clone(), keyspaces.clone(), views.clone(), space.clone()),
            keyspaces,
            views,
            db,
            dir: dir.to_path_buf(),
            memtable_bytes: options.memtable_bytes,
            space,
            needing,
            report: RecoveryReport::default(),
            closed: AtomicBool::new(false),
            progress: Mutex::new(Progress { note, last: last_seqno, synced: last_seqno, unsynced: false }),
            _lock: lock,
        }
    }

    /// What the start found and repaired.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Whether space is being given back at the moment.
    pub fn is_reclaiming(&self) -> bool {
        self.reclaimer.is_running()
    }

    /// Writes a batch, with or without waiting for the card.
    fn write(&self, changes: Vec<Change>, sync: bool) -> Result<(), StoreError> {
        // fdatasync is enough also when the journal grows: it writes the file's size along, as POSIX asks.
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), changes.len()).durability(Some(mode));
        for (space, key, value) in changes {
            match value {
                Some(value) => batch.insert(self.keyspaces.of(space), key, value),
                None => batch.remove(self.keyspaces.of(space), key),
            }
        }
        let mut progress = self.progress.lock();
        progress.last = Some(self.db.seqno());
        batch.commit().map_err(from_fjall)?;
        if sync {
            progress.synced();
        } else {
            progress.unsynced = true;
        }
        Ok(())
    }

    /// Notes that relaxed writes are under way, before the first of them. `false` if that cannot be done: then they are
    /// to be synced.
    fn note_relaxed(&self) -> bool {
        let mut progress = self.progress.lock();
        let synced = progress.synced;
        let noted = progress.note.before_write(synced, Instant::now());
        noted.inspect_err(|error| log::warn!("a relaxed write is synced at once: {error}")).is_ok()
    }

    /// Removes the note of relaxed writes some time after the last one.
    fn end_note(&self) {
        let mut progress = self.progress.lock();
        if !progress.unsynced
            && let Err(error) = progress.note.after_sync(Instant::now())
        {
            log::warn!("the note of relaxed writes could not be removed: {error}");
        }
    }

    /// Whether fjall refuses writes after a failed write, sync, flush or compaction. Only a new start clears that.
    fn check_poison(&self) -> Result<(), StoreError> {
        // Also writes the journal's buffer to the system, which every commit has done already.
        self.db.persist(PersistMode::Buffer).map_err(from_fjall)
    }

    /// Syncs the journals though fjall will have no more to do with them: what was committed before something failed
    /// stands there, and some of it may be promised.
    fn sync_in_spite(&self) {
        let synced = recovery::journals(&self.dir.join(DATABASE_DIR)).and_then(|journals| {
            journals.iter().try_for_each(|(_, journal)| File::open(journal).and_then(|file| file.sync_data()))
        });
        if let Err(error) = synced {
            log::error!("relaxed writes from before the failure may be lost with the power: {error}");
        }
    }

    fn memtable_over_limit(&self) -> bool {
        self.keyspaces.both().into_iter().any(|keyspace| memtables::active_bytes(keyspace) > self.memtable_bytes)
    }

    /// Whether a flush finds room, and the merge that it may set going. Else the reclaimer flushes.
    fn may_flush(&self) -> bool {
        let has_room = self.space.allowed() == Allowed::Writes || !needs::merges_next(&self.keyspaces.data);
        has_room && self.space.has_room_for_flush()
    }

    /// Waits until the flushers have caught up.
    fn wait_for_room(&self) -> Result<(), StoreError> {
        let is_full = |keyspace: &Keyspace| {
            keyspace.tree.sealed_memtable_count() >= SEALED_MEMTABLES_MAX
                || keyspace.tree.l0_run_count() >= FIRST_LEVEL_RUNS_MAX
        };
        while self.keyspaces.both().into_iter().any(is_full) {
            self.check_poison()?;
            std::thread::sleep(WAIT_STEP);
        }
        Ok(())
    }

    /// Frees what no view can see any more, and revokes views that keep too much of it in memory.
    fn free_memory(&self) -> Result<(), StoreError> {
        loop {
            free_versions(&self.db, &self.keyspaces, &self.views).map_err(from_lsm)?;
            if self.keyspaces.sealed_bytes() <= self.memtable_bytes * HELD_MEMTABLES_MAX || !self.views.revoke_oldest()
            {
                return Ok(());
            }
            log::info!("revoked a view: too much was written since it was opened");
        }
    }

    /// Has everything that is in memory flushed, and the journal that holds it begun anew, so that both give their space
    /// back.
    fn seal(&self) -> Result<(), StoreError> {
        // Also sees to it that there is something to flush.
        edges::renew(&self.db, &self.keyspaces.data).map_err(from_fjall)?;
        if let Err(error) = seal::seal(&self.dir.join(DATABASE_DIR)) {
            log::warn!("the journal keeps its space for now: {error}");
        }
        self.keyspaces.rotate().map_err(from_fjall)
    }

    /// Flushes all memtables; `false` if that took too long, or the card has no room.
    fn flush(&self) -> Result<bool, StoreError> {
        if !self.space.has_room_for_flush() {
            return Ok(false);
        }
        let deadline = Instant::now() + CLOSE_FLUSH_MAX;
        self.keyspaces.rotate().map_err(from_fjall)?;
        let is_flushed = |keyspace: &Keyspace| keyspace.tree.get_highest_memtable_seqno().is_none();
        while !self.keyspaces.both().into_iter().all(is_flushed) {
            self.check_poison()?;
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(WAIT_STEP);
        }
        self.free_memory()?;
        Ok(true)
    }
}

impl Store for FjallStore {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(Arc::new(FjallSnapshot::new(self.views.open(&self.db, &self.keyspaces), self.keyspaces.clone())))
    }

    fn commit(&self, changes: Vec<Change>, sync: bool) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Io("the store is closed".into()));
        }
        if changes.is_empty() {
            return if sync { self.sync() } else { Ok(()) };
        }
        for (_, key, value) in &changes {
            check_change(key, value.as_deref())?;
        }
        let sync = sync || !self.note_relaxed();
        self.write(changes, sync)
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut progress = self.progress.lock();
        match self.db.persist(PersistMode::SyncData) {
            Ok(()) => progress.synced(),
            Err(error) => {
                if progress.unsynced {
                    self.sync_in_spite();
                }
                return Err(from_fjall(error));
            }
        }
        Ok(())
    }

    fn maintain(&self) -> Result<(), StoreError> {
        self.free_memory()?;
        self.needing.tell(&self.keyspaces, &self.space);
        if self.memtable_over_limit() && self.may_flush() {
            // The wait has no bound, and the promise of when a relaxed write is on the card has one.
            if self.progress.lock().unsynced {
                self.sync()?;
            }
            self.wait_for_room()?;
            self.keyspaces.rotate().map_err(from_fjall)?;
        }
        self.reclaimer.start_if_worthwhile();
        self.reclaimer.seal_if_wanted(|| self.seal())?;
        self.end_note();
        Ok(())
    }

    fn reclaim(&self) {
        self.reclaimer.start();
    }

    fn close(&self) -> Result<(), StoreError> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.reclaimer.ask_to_stop();
        self.sync()?;
        let flushed = self.flush()?;
        self.progress.lock().note.remove().map_err(from_io)?;
        // IMPORTANT: the marker comes last, when everything it promises is on the card.
        match recovery::write_marker(&self.dir, flushed).map_err(from_io) {
            // The next start reads the journals, which hold everything.
            Err(StoreError::NoSpace) => {
                log::warn!("there is no room on the card for the mark of a clean stop");
                Ok(())
            }
            written => written,
        }
    }

    fn figures(&self) -> StoreFigures {
        let journal_bytes = journal_bytes(&self.dir.join(DATABASE_DIR));
        let keyspaces = self.keyspaces.both();
        StoreFigures {
            disk_bytes: journal_bytes + keyspaces.iter().map(|keyspace| keyspace.disk_space()).sum::<u64>(),
            journal_bytes,
            memtable_bytes: self.keyspaces.sealed_bytes()
                + keyspaces.iter().map(|keyspace| memtables::active_bytes(keyspace)).sum::<u64>(),
            tables: keyspaces.iter().map(|keyspace| keyspace.table_count() as u64).sum(),
            compactions: self.db.compactions_completed() as u64,
            keys_estimate: (self.keyspaces.data.approximate_len() as u64).saturating_sub(2),
            views_revoked: self.views.revoked(),
        }
    }
}

impl Drop for FjallStore {
    fn drop(&mut self) {
        // fjall's threads are awaited next.
        self.space.close();
    }
}

/// Has fjall forget the states of the tables before the oldest view, and with them memtables and obsolete files.
///
/// fjall does so at rotations, by what was open at the one before: with a whole memtable more in memory.
fn free_versions(db: &Database, keyspaces: &Keyspaces, views: &Views) -> Result<(), ::fjall::LsmError> {
    for keyspace in keyspaces.both() {
        if keyspace.tree.version_free_list_len() > 0 {
            // A view of instant i reads the last state before i, and that one is kept.
            let instant = views.oldest_instant(db);
            keyspace.tree.get_version_history_lock().maintenance(keyspace.path(), instant)?;
        }
    }
    Ok(())
}

fn check_change(key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
    let value_bytes = value.map_or(0, <[u8]>::len);
    if !edges::spans(key) || key.len() > KEY_BYTES_MAX || u32::try_from(value_bytes).is_err() {
        let key_bytes = key.len();
        return Err(StoreError::Io(format!(
            "cannot store such a key of {key_bytes} bytes with {value_bytes} of value"
        )));
    }
    Ok(())
}

/// What the journals take on the card: they are sparse, so this is not their length.
fn journal_bytes(database_dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(database_dir) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "jnl"))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.blocks() * 512)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_on_the_card_does_what_every_store_must_do() {
        let dirs = std::cell::RefCell::new(Vec::new());
        crate::store::scripts::run_all(|| {
            let dir = tempfile::tempdir().unwrap();
            let store = FjallStore::open(dir.path(), FjallOptions::default()).unwrap();
            dirs.borrow_mut().push(dir);
            Arc::new(store)
        });
    }

    #[test]
    fn relaxed_writes_are_synced_before_the_store_waits_for_room() {
        let dir = tempfile::tempdir().unwrap();
        let options = FjallOptions { memtable_bytes: 64 * 1024, ..FjallOptions::default() };
        let store = FjallStore::open(dir.path(), options).unwrap();
        let commit = |bytes: usize| {
            let change = (Space::Data, bytes::Bytes::from_static(b"\x01k"), Some(vec![1; bytes].into()));
            store.commit(vec![change], false).unwrap();
            store.maintain().unwrap();
            store.progress.lock().unsynced
        };
        assert!(commit(10), "a small write waits for its turn");
        assert!(!commit(128 * 1024), "a full memtable may have to wait for the card");
    }
}
