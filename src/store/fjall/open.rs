//! Opening a data folder, whatever state it was left in.
//!
//! The order is the whole of it: the lock; what is there; the journals; a new database from the old one's parts, where
//! fjall must not open what is there; fjall; the names of the folders; and only then what was set aside may go.

use std::fs::{self, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use fjall::Database;
use fjall::compaction::filter::Factory;

use super::error::{from_fjall, from_io};
use super::layout::{self, DATABASE_DIR};
use super::parts::{LOCK_FILE, Parts, VERSION_FILE, sync_folders};
use super::rebuild::{self, Rebuild};
use super::reclaim::RECLAIM_THREAD;
use super::{DATA_KEYSPACE, FjallOptions, FjallStore, Keyspaces, LOG_KEYSPACE, Space, edges};
use crate::board::folder::make_private;
use crate::store::recovery::{self, Inspection, LastStop, RecoveryReport, sync_dir};
use crate::store::ttl_filter::TtlFilterFactory;
use crate::store::versions::CEILING_FILE;
use crate::store::{StoreError, relaxed};

/// What was found before fjall was let near it.
struct Found {
    report: RecoveryReport,
    /// The highest sequence number in the journals, as far as they were read.
    last_seqno: Option<u64>,
    must_rebuild: bool,
    /// Whether the last run had made the names of all folders durable.
    names_synced: bool,
}

impl FjallStore {
    /// Opens the folder, making it if there is none, and repairing it after an unclean stop: torn or damaged journals and
    /// lost keyspaces never make this fail, see [`FjallStore::recovery`].
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
        // What is held back for deletions may be given up with that: not before the folder is ours.
        options.space.look();
        let mut found = look(dir)?;
        tell(&found.report);
        let database_dir = dir.join(DATABASE_DIR);
        let mut rebuild = found.must_rebuild.then(|| Rebuild::begin(dir, &options)).transpose()?;
        make_dir(&database_dir)?;
        let mut opened = open_all(&database_dir, &options);
        if rebuild.is_none() && !found.fits(&opened) {
            drop(opened);
            // The marker promised whole journals and the card did not keep it, or fjall counts anew.
            found.take(inspect(&database_dir, dir)?);
            tell(&found.report);
            if found.must_rebuild {
                rebuild = Some(Rebuild::begin(dir, &options)?);
            }
            opened = open_all(&database_dir, &options);
        }
        let opened = opened?;
        if !found.names_synced {
            sync_folders(&database_dir).map_err(from_io)?;
            sync_above(dir);
        }
        let last_seqno = found.last_seqno.filter(|_| rebuild.is_none());
        let mut store = FjallStore::new(dir, opened, &options, last_seqno, lock);
        if let Some(rebuild) = rebuild {
            finish(rebuild, &store, &mut found.report)?;
            tell(&found.report);
        }
        relaxed::remove(dir).map_err(from_io)?;
        store.report = found.report;
        Ok(store)
    }
}

impl Found {
    /// Whether what fjall has opened can go on where the journals end. If not, it may be for another reason than damage.
    fn fits(&mut self, opened: &Result<(Database, Keyspaces), StoreError>) -> bool {
        match opened {
            Ok((db, _)) if self.last_seqno.is_some_and(|last| db.seqno() <= last) => {
                log::error!("sequence numbers would go on at {}, those of the journals end higher", db.seqno());
                self.must_rebuild = true;
                false
            }
            Err(StoreError::Corrupt(what)) => {
                log::error!("the database cannot be opened as it is: {what}");
                false
            }
            _ => true,
        }
    }

    fn take(&mut self, inspection: Inspection) {
        self.must_rebuild |= !inspection.ordered;
        self.last_seqno = inspection.last_seqno;
        self.report = inspection.report.after(std::mem::take(&mut self.report));
    }
}

/// Looks at what is there, and repairs the journals after an unclean stop.
fn look(dir: &Path) -> Result<Found, StoreError> {
    let database_dir = dir.join(DATABASE_DIR);
    let under_way = rebuild::is_under_way(dir).map_err(from_io)?;
    // The version ceiling is on the card before the first record is written.
    let has_stored = dir.join(CEILING_FILE).exists();
    if !database_dir.exists() && !under_way {
        let report = RecoveryReport { clean_stop: !has_stored, records_lost: has_stored, ..RecoveryReport::default() };
        return Ok(Found { report, last_seqno: None, must_rebuild: false, names_synced: false });
    }
    let (last_stop, names_synced) = recovery::take_marker(dir).map_err(from_io)?;
    let old_dir = rebuild::old_dir(dir);
    let parts = Parts::look(&old_dir, last_stop != LastStop::Unclean).map_err(from_io)?;
    let clean = RecoveryReport { clean_stop: true, ..RecoveryReport::default() };
    let mut found =
        Found { report: clean, last_seqno: None, must_rebuild: under_way || !parts.is_whole(), names_synced };
    match last_stop {
        LastStop::Unclean => found.take(inspect(&old_dir, dir)?),
        LastStop::Clean => {}
        LastStop::Flushed => recovery::empty_journals(&old_dir).map_err(from_io)?,
    }
    if !parts.has_journal {
        if !has_stored {
            found.report.journals_missing = 0;
        }
        recovery::make_journal(&old_dir).map_err(from_io)?;
    }
    if found.must_rebuild {
        found.names_synced = false;
        found.report.records_lost = has_stored && parts.number(Space::Data).is_none();
        log::warn!("the database in {} is made anew from what is left of it: {parts:?}", old_dir.display());
    }
    Ok(found)
}

fn inspect(journal_dir: &Path, dir: &Path) -> Result<Inspection, StoreError> {
    relaxed::read(dir).and_then(|synced| recovery::inspect(journal_dir, dir, synced)).map_err(from_io)
}

/// Puts what the old journals hold into the new store, and lets go of the old one.
fn finish(rebuild: Rebuild, store: &FjallStore, report: &mut RecoveryReport) -> Result<(), StoreError> {
    let changes = rebuild.replay(store)?;
    report.rebuilt = true;
    if rebuild.is_lost(Space::Data) {
        report.changes_rescued = changes;
        // Without a version ceiling nothing was ever stored, unless the journals know better.
        report.records_lost |= changes > 0;
    }
    log::warn!("the database was made anew; {changes} changes were taken from its journals");
    rebuild.finish().map_err(from_io)
}

/// Opens fjall and both keyspaces.
fn open_all(database_dir: &Path, options: &FjallOptions) -> Result<(Database, Keyspaces), StoreError> {
    let db = open_database(database_dir, options)?;
    let open_keyspace = |name: &str| db.keyspace(name, || options.keyspace()).map_err(from_fjall);
    let keyspaces = Keyspaces::new(open_keyspace(DATA_KEYSPACE)?, open_keyspace(LOG_KEYSPACE)?);
    for keyspace in keyspaces.both() {
        edges::plant(&db, keyspace)?;
    }
    keyspaces.look();
    Ok((db, keyspaces))
}

/// Opens fjall's part alone.
pub(super) fn open_database(database_dir: &Path, options: &FjallOptions) -> Result<Database, StoreError> {
    let (droppable, space) = (options.droppable.clone(), options.space.clone());
    let builder = options.database(database_dir).with_compaction_filter_factories(Arc::new(move |keyspace| {
        let (droppable, space) = (droppable.clone(), space.clone());
        let filter = TtlFilterFactory { droppable, space, reclaim_thread: RECLAIM_THREAD };
        (keyspace == DATA_KEYSPACE).then(|| Arc::new(filter) as Arc<dyn Factory>)
    }));
    // fjall makes its lock file once; ours is held.
    if database_dir.join(VERSION_FILE).exists() {
        let mut lock = OpenOptions::new();
        lock.create(true).append(true).open(database_dir.join(LOCK_FILE)).map_err(from_io)?;
    }
    // It panics over files whose names it does not expect.
    match catch_unwind(AssertUnwindSafe(|| builder.open())) {
        Ok(opened) => opened.map_err(from_fjall),
        Err(_) => Err(StoreError::Corrupt("fjall panicked while it opened the database".into())),
    }
}

/// Makes the folder, for this user alone, and the name it goes by durable.
pub(super) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    if !dir.is_dir() {
        make_private(dir).map_err(from_io)?;
        sync_dir(parent(dir)).map_err(from_io)?;
    }
    Ok(())
}

fn parent(dir: &Path) -> &Path {
    dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the data folder's own name durable: an earlier run may have made it, and others above it, and been killed before
/// it came to this. Those above may be none of our business, and unreadable.
fn sync_above(dir: &Path) {
    let Ok(dir) = fs::canonicalize(dir) else { return };
    for above in dir.ancestors() {
        if let Err(error) = sync_dir(above) {
            log::debug!("{} could not be synced: {error}", above.display());
        }
    }
}
