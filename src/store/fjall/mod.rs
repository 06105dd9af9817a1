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
mod options;
mod point;
mod reclaim;
mod snapshot;
mod views;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::fjall::compaction::filter::Factory;
use ::fjall::{AbstractTree, Database, Keyspace, OwnedWriteBatch, PersistMode};

use crate::board::folder::make_private;

use super::recovery::{self, LastStop, RecoveryReport};
use super::ttl_filter::TtlFilterFactory;
use super::{Change, Snapshot, Space, Store, StoreError, StoreFigures};
use error::{from_fjall, from_io, from_lsm, is_journal_damage};
use layout::DATABASE_DIR;
use memtables::Memtables;
pub use options::FjallOptions;
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
    report: RecoveryReport,
    closed: AtomicBool,
    /// Whether there may be commits that are not on the card.
    unsynced: AtomicBool,
    /// Held until all of the above is gone.
    _lock: File,
}

impl FjallStore {
    /// Opens the folder, making it if there is none, and repairing its journals after an unclean stop: torn or damaged
    /// journals never make this fail, see [`FjallStore::recovery`].
    pub fn open(dir: &Path, options: FjallOptions) -> Result<FjallStore, StoreError> {
        FjallStore::open_telling(dir, options, &mut |_| {})
    }

    /// As [`FjallStore::open`]. Tells what was found and repaired as soon as that is done: an opening that fails
    /// afterwards leaves repaired journals, in which the next one finds nothing.
    pub fn open_telling(
        dir: &Path,
        options: FjallOptions,
        tell: &mut dyn FnMut(&RecoveryReport),
    ) -> Result<FjallStore, StoreError> {
        make_dir(dir)?;
        let lock = layout::lock(dir)?;
        let database_dir = dir.join(DATABASE_DIR);
        recovery::clear_unborn(&database_dir).map_err(from_io)?;
        let is_new = !database_dir.exists();
        make_dir(&database_dir)?;
        let last_stop = if is_new { LastStop::Clean } else { recovery::take_marker(dir).map_err(from_io)? };
        let mut report = repair(dir, &database_dir, last_stop)?;
        tell(&report);
        let db = match open_database(&database_dir, &options) {
            // The marker promised whole journals and the card did not keep it.
            Err(error) if report.clean_stop && is_journal_damage(&error) => {
                log::error!("the journals are damaged although the last stop was clean: {error}");
                report = repair(dir, &database_dir, LastStop::Unclean)?;
                tell(&report);
                open_database(&database_dir, &options)
            }
            opened => opened,
        }
        .map_err(from_fjall)?;
        let open_keyspace = |name: &str| db.keyspace(name, || options.keyspace()).map_err(from_fjall);
        let keyspaces = Keyspaces::new(open_keyspace(DATA_KEYSPACE)?, open_keyspace(LOG_KEYSPACE)?);
        for keyspace in keyspaces.both() {
            edges::plant(keyspace)?;
        }
        keyspaces.look();
        if is_new {
            sync_folders(&database_dir).map_err(from_io)?;
        }
        let views = Arc::new(Views::default());
        Ok(FjallStore {
            reclaimer: Reclaimer::new(db.clone(), keyspaces.clone(), views.clone()),
            keyspaces,
            views,
            db,
            dir: dir.to_path_buf(),
            memtable_bytes: options.memtable_bytes,
            report,
            closed: AtomicBool::new(false),
            unsynced: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// What the start found and repaired.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Whether space is being given back at the moment.
    pub fn is_reclaiming(&self) -> bool {
        self.reclaimer.is_running()
    }

    /// Whether fjall refuses writes after a failed write, sync, flush or compaction. Only a new start clears that.
    fn check_poison(&self) -> Result<(), StoreError> {
        // Also writes the journal's buffer to the system, which every commit has done already.
        self.db.persist(PersistMode::Buffer).map_err(from_fjall)
    }

    fn memtable_over_limit(&self) -> bool {
        self.keyspaces.both().into_iter().any(|keyspace| memtables::active_bytes(keyspace) > self.memtable_bytes)
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
            log::warn!("revoked a snapshot: too much was written since it was opened");
        }
    }

    /// Flushes all memtables; `false` if that took too long.
    fn flush(&self) -> Result<bool, StoreError> {
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
        // fdatasync is enough also when the journal grows: it writes the file's size along, as POSIX asks.
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), changes.len()).durability(Some(mode));
        for (space, key, value) in changes {
            match value {
                Some(value) => batch.insert(self.keyspaces.of(space), key, value),
                None => batch.remove(self.keyspaces.of(space), key),
            }
        }
        batch.commit().map_err(from_fjall)?;
        self.unsynced.store(!sync, Ordering::Release);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.db.persist(PersistMode::SyncData).map_err(from_fjall)?;
        self.unsynced.store(false, Ordering::Release);
        Ok(())
    }

    fn maintain(&self) -> Result<(), StoreError> {
        self.free_memory()?;
        if self.memtable_over_limit() {
            // The wait has no bound, and the promise of when a relaxed write is on the card has one.
            if self.unsynced.load(Ordering::Acquire) {
                self.sync()?;
            }
            self.wait_for_room()?;
            self.keyspaces.rotate().map_err(from_fjall)?;
        }
        self.reclaimer.start_if_worthwhile();
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
        // IMPORTANT: the marker comes last, when everything it promises is on the card.
        recovery::write_marker(&self.dir, flushed).map_err(from_io)
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
        }
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

/// Makes the folder, for this user alone, and the name it goes by durable.
fn make_dir(dir: &Path) -> Result<(), StoreError> {
    if !dir.is_dir() {
        make_private(dir).map_err(from_io)?;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        recovery::sync_dir(parent).map_err(from_io)?;
    }
    Ok(())
}

/// Makes the names of new files and folders durable. fjall syncs what it writes, but not every folder it makes: a power
/// cut soon after the first start could take a keyspace away, on file systems that promise no more than they must.
fn sync_folders(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    recovery::sync_dir(dir)
}

fn repair(dir: &Path, database_dir: &Path, last_stop: LastStop) -> Result<RecoveryReport, StoreError> {
    match last_stop {
        LastStop::Unclean => recovery::inspect(database_dir, dir),
        LastStop::Clean => Ok(RecoveryReport { clean_stop: true, ..RecoveryReport::default() }),
        LastStop::Flushed => recovery::empty_journals(database_dir)
            .map(|()| RecoveryReport { clean_stop: true, ..RecoveryReport::default() }),
    }
    .map_err(from_io)
}

fn open_database(database_dir: &Path, options: &FjallOptions) -> ::fjall::Result<Database> {
    let expire_before_ms = options.expire_before_ms.clone();
    options
        .database(database_dir)
        .with_compaction_filter_factories(Arc::new(move |keyspace| {
            let filter = TtlFilterFactory { expire_before_ms: expire_before_ms.clone() };
            (keyspace == DATA_KEYSPACE).then(|| Arc::new(filter) as Arc<dyn Factory>)
        }))
        .open()
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
            store.unsynced.load(Ordering::Acquire)
        };
        assert!(commit(10), "a small write waits for its turn");
        assert!(!commit(128 * 1024), "a full memtable may have to wait for the card");
    }
}
