//! Opening the store at the start, or later if the card does not let us now; and closing it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::api::Api;
use crate::api::observer::CacheKeeper;
use crate::board::folder::user;
use crate::config::descriptors::cached_files;
use crate::config::{Config, StoreKind};
use crate::store::database::Droppable;
use crate::store::fjall::{FjallOptions, FjallStore};
use crate::store::memory::MemoryStore;
use crate::store::recovery::RecoveryReport;
use crate::store::space::{Needs, SpaceWatch};
use crate::store::versions::IMPORT_END;
use crate::store::{Database, DatabaseOptions, Store, StoreError};

use super::{EXIT_CONFIG, Refusal, preflight, warm};

/// How often an unopenable store is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// How often the retry looks whether larder is stopping.
const DRAIN_POLL: Duration = Duration::from_millis(250);

/// The open store below the database, kept so that it can be closed.
pub type Opened = Arc<Mutex<Option<Arc<dyn Store>>>>;

/// Opens the store and attaches it. If the card does not let us, larder serves `/health` with the reason and tries
/// again; only a folder that another process uses, or that can be no data folder for this user, is an error.
pub fn open(api: &Arc<Api>) -> Result<Opened, Refusal> {
    let opened = Opened::default();
    match attach(api, &opened) {
        Ok(()) => Ok(opened),
        Err(StoreError::Locked) => Err(Refusal::from(format!(
            "{} is in use by another larder; stop that one or choose another --data",
            api.config.data_dir.display()
        ))),
        Err(error) => {
            if let Some(reason) = preflight::refusal(&api.config) {
                return Err(Refusal { code: EXIT_CONFIG, reason });
            }
            let next = RETRY_INTERVAL.as_secs();
            log::error!("{} could not be opened, next try in {next} s: {error}", store_of(api));
            api.note_store_trouble(trouble(&api.config, &error));
            let (api, later) = (api.clone(), opened.clone());
            thread::Builder::new()
                .name("larder-opening".into())
                .spawn(move || retry(&api, &later))
                .map_err(|error| format!("a thread could not be started: {error}"))?;
            Ok(opened)
        }
    }
}

/// The store as the log names it: where it is, and for whom it is to be opened.
fn store_of(api: &Api) -> String {
    format!("the store in {} (as {})", api.config.data_dir.display(), user())
}

fn retry(api: &Arc<Api>, opened: &Opened) {
    let mut waited = Duration::ZERO;
    while !api.drain.is_set() {
        thread::sleep(DRAIN_POLL);
        waited += DRAIN_POLL;
        if waited < RETRY_INTERVAL {
            continue;
        }
        waited = Duration::ZERO;
        match attach(api, opened) {
            Ok(()) => return log::info!("the store is open now"),
            Err(error) => {
                log::error!("{} still cannot be opened: {error}", store_of(api));
                api.note_store_trouble(trouble(&api.config, &error));
            }
        }
    }
}

/// The reason as `/health` may show it: without paths.
fn trouble(config: &Config, error: &StoreError) -> String {
    let reason = preflight::public_reason(config).unwrap_or_else(|| {
        match error {
            StoreError::Io(_) | StoreError::Revoked => "its files cannot be read or written; the log says more",
            StoreError::NoSpace => "the card is full",
            StoreError::Corrupt(_) | StoreError::Unreadable(_) => "its files are damaged; the log says more",
            StoreError::Locked => "another process uses it",
        }
        .to_owned()
    });
    format!("the store could not be opened: {reason}")
}

fn attach(api: &Arc<Api>, opened: &Opened) -> Result<(), StoreError> {
    let config = &api.config;
    let droppable = Droppable::default();
    let mut space = None;
    let store: Arc<dyn Store> = match config.store {
        StoreKind::Memory => MemoryStore::new(),
        StoreKind::Fjall => {
            let options = FjallOptions {
                memtable_bytes: config.memtable_bytes,
                block_cache_bytes: config.block_cache_bytes,
                cached_files: cached_files(config),
                droppable: droppable.clone(),
                space: watch(config),
            };
            space = Some(options.space.clone());
            Arc::new(FjallStore::open_telling(&config.data_dir, options, &mut |found| note_recovery(api, found))?)
        }
    };
    let observer = Arc::new(CacheKeeper { cache: api.cache.clone(), rules: api.value_rules.clone() });
    let options = database_options(api, droppable, space);
    let db = Database::start(store.clone(), observer, &api.registry, options)?;
    if config.store == StoreKind::Memory {
        db.follow(any_version(), Box::new(|_| {}));
    }
    // IMPORTANT: not before this point. A store that could not be put to use must be let go of, or its lock would make
    // every further try fail.
    *opened.lock() = Some(store);
    api.access.note_time(Some(&db));
    api.attach_store(db);
    warm::start(api);
    Ok(())
}

/// Where a store in memory begins: it has forgotten what it gave out in an earlier run, and clients have not.
fn any_version() -> u64 {
    let mut bytes = [0; 8];
    if let Err(error) = getrandom::fill(&mut bytes) {
        log::error!("the system gives no random bytes, so that versions of an earlier run may come again: {error}");
    }
    u64::from_le_bytes(bytes) % (IMPORT_END / 2)
}

/// Keeps what the start found where `/health` and `/metrics` show it, of several tries to open the store together: a later
/// one finds repaired what an earlier one has repaired.
fn note_recovery(api: &Api, report: &RecoveryReport) {
    let report = &match api.recovery() {
        Some(earlier) => report.clone().after(earlier),
        None => report.clone(),
    };
    api.note_recovery(report);
    let gauge = |name, help, value: u64| {
        api.registry.gauge(name, help, &[]).set(value);
    };
    let help = "Groups of writes found behind damage in the journal at this start, and cut: at most so many were lost.";
    gauge("larder_recovery_batches_lost", help, report.batches_lost);
    let help = "Bytes of an unsynced tail of the journal cut at this start; no durable write was among them.";
    gauge("larder_recovery_tail_bytes_cut", help, report.tail_bytes_cut);
    let help = "Whole groups of relaxed writes in that tail, behind a torn one.";
    gauge("larder_recovery_relaxed_batches_cut", help, report.relaxed_batches_cut);
    let help = "Damaged journals found at this start.";
    gauge("larder_recovery_damaged_journals", help, report.damaged.len() as u64);
    let help =
        "1 if this start made the database anew from its parts, because one was lost or numbers were used twice.";
    gauge("larder_recovery_rebuilt", help, report.rebuilt.into());
    let help = "Changes that this start took from the journals because the folder of the records was gone.";
    gauge("larder_recovery_changes_rescued", help, report.changes_rescued);
}

/// Watches the card of the data folder. What the journals bring back may have to be flushed at once.
fn watch(config: &Config) -> Arc<SpaceWatch> {
    let watch = SpaceWatch::new(Some(config.data_dir.clone()), config.reserve_bytes);
    let watch = watch.with_ballast(&config.data_dir, config.memtable_bytes);
    watch.set_needs(Needs { flush_bytes: 2 * config.memtable_bytes, ..Needs::default() });
    Arc::new(watch)
}

fn database_options(api: &Api, droppable: Droppable, space: Option<Arc<SpaceWatch>>) -> DatabaseOptions {
    let config = &api.config;
    DatabaseOptions {
        durability_default: config.durability,
        sync_interval: config.sync_interval,
        queued_writes_max: config.limits.queued_writes_max,
        value_bytes_max: config.limits.value_bytes_max,
        data_dir: (config.store == StoreKind::Fjall).then(|| config.data_dir.clone()),
        space,
        reserve_bytes: config.reserve_bytes,
        expiry_scan_rate: config.expiry_scan_rate,
        droppable,
        watchdog: api.watchdog.clone(),
        ..DatabaseOptions::default()
    }
}

/// Syncs and closes. After an `Ok` everything that was ever acknowledged is on the card.
pub fn close(api: &Api, opened: Opened) -> Result<(), String> {
    let Some(db) = api.store() else { return Ok(()) };
    db.stop().map_err(|error| format!("the store could not be synced at the end: {error}"))?;
    warm::save(api);
    if let Some(store) = opened.lock().take() {
        store.close().map_err(|error| format!("the store could not be closed cleanly: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Parts;
    use crate::api::access::Access;
    use crate::api::health::{report, store_reason};
    use crate::cache::Cache;
    use crate::limits::LiveLimits;
    use crate::metrics::Registry;
    use crate::store::recovery::DamagedJournal;
    use crate::store::{Space, TYPE_META};

    fn api(data_dir: &std::path::Path) -> Arc<Api> {
        let config = Arc::new(Config {
            data_dir: data_dir.to_owned(),
            reserve_bytes: Some(0),
            ..Config::defaults(512 << 20, 1)
        });
        let registry = Registry::default();
        Arc::new(Api::new(Parts {
            config: config.clone(),
            limits: Arc::new(LiveLimits::new(config.limits.clone())),
            cache: Arc::new(Cache::new(config.cache_bytes, 1, &registry)),
            access: Arc::new(Access::open(&config, &registry).unwrap()),
            registry,
            files: None,
            drain: Default::default(),
        }))
    }

    #[test]
    fn a_folder_that_can_be_none_is_a_matter_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let (data, wrong) = (folder.path().join("data"), folder.path().join("data/fjall"));
        let api = api(&data);
        std::fs::write(&data, "").unwrap();
        let refusal = open(&api).err().unwrap();
        assert_eq!(
            (refusal.code, refusal.reason),
            (EXIT_CONFIG, format!("store.dir: {} is not a folder", data.display()))
        );
        std::fs::remove_file(&data).unwrap();
        std::fs::create_dir(&data).unwrap();
        std::fs::write(&wrong, "").unwrap();
        let reason = format!("store.dir: {} is not a folder", wrong.display());
        assert_eq!(open(&api).err().map(|refusal| (refusal.code, refusal.reason)), Some((EXIT_CONFIG, reason)));
        // What cannot be read as a database may be damage, which a later try can find mended.
        std::fs::remove_file(&wrong).unwrap();
        drop(FjallStore::open(&data, FjallOptions::default()).unwrap());
        std::fs::write(wrong.join("version"), "no version").unwrap();
        assert!(open(&api).is_ok());
        let reason = api.store_trouble().unwrap();
        assert!(reason.starts_with("the store could not be opened: its files "), "{reason}");
        api.drain.start();
    }

    #[test]
    fn a_store_that_cannot_be_put_to_use_is_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::open(dir.path(), FjallOptions::default()).unwrap();
        let ceiling = [&[TYPE_META][..], b"versions"].concat();
        store.commit(vec![(Space::Data, ceiling.into(), Some(vec![0xff; 8].into()))], true).unwrap();
        drop(store);
        let (api, opened) = (api(dir.path()), Opened::default());
        for _ in 0..2 {
            let error = attach(&api, &opened).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
        }
        assert!(opened.lock().is_none());
        FjallStore::open(dir.path(), FjallOptions::default()).unwrap();
    }

    #[test]
    fn damage_repaired_by_a_try_that_fails_then_is_told_until_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::open(dir.path(), FjallOptions::default()).unwrap();
        for n in 0..3u8 {
            store
                .commit(vec![(Space::Data, vec![1, n].into(), Some(b"a value to damage".to_vec().into()))], true)
                .unwrap();
        }
        drop(store);
        let database = dir.path().join("fjall");
        let is_journal = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "jnl");
        let entries = std::fs::read_dir(&database).unwrap().map(|entry| entry.unwrap().path());
        let journal = entries.filter(is_journal).max().unwrap();
        let mut bytes = std::fs::read(&journal).unwrap();
        let at = bytes.windows(7).position(|window| window == b"a value").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&journal, bytes).unwrap();
        let version = std::fs::read(database.join("version")).unwrap();
        std::fs::write(database.join("version"), b"no version").unwrap();

        let (api, opened) = (api(dir.path()), Opened::default());
        assert!(attach(&api, &opened).is_err());
        api.note_store_trouble("the store could not be opened".into());
        let reason = store_reason(&api).unwrap();
        assert!(reason.contains("could not be opened") && reason.contains("2 groups"), "{reason}");
        std::fs::write(database.join("version"), version).unwrap();
        attach(&api, &opened).unwrap();
        let reason = store_reason(&api).unwrap();
        assert!(!reason.contains("could not be opened") && reason.contains("2 groups"), "{reason}");
        assert_eq!(report(&api, true).status, 503);
        close(&api, opened).unwrap();
    }

    #[test]
    fn damage_found_by_one_try_is_not_forgotten_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let api = api(dir.path());
        let journal = DamagedJournal { journal: "0.jnl".into(), copy: None, cut_at_bytes: 1, batches_lost: 7 };
        let damage = RecoveryReport { damaged: vec![journal], batches_lost: 7, ..RecoveryReport::default() };
        note_recovery(&api, &RecoveryReport::default());
        note_recovery(&api, &damage);
        note_recovery(&api, &RecoveryReport::default());
        assert_eq!(api.recovery(), Some(damage));
        assert!(api.registry.expose().contains("\nlarder_recovery_batches_lost 7\n"));
        let opened = Opened::default();
        attach(&api, &opened).unwrap();
        assert_eq!(report(&api, true).status, 503);
        close(&api, opened).unwrap();
    }
}
