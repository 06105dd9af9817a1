//! Opening the store at the start, or later if the card does not let us now; and closing it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use crate::api::Api;
use crate::api::observer::CacheKeeper;
use crate::config::{Config, StoreKind};
use crate::store::fjall::{FjallOptions, FjallStore};
use crate::store::memory::MemoryStore;
use crate::store::{Database, DatabaseOptions, Store, StoreError};

use super::warm;

/// How often an unopenable store is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// How often the retry looks whether larder is stopping.
const DRAIN_POLL: Duration = Duration::from_millis(250);

/// The open store below the database, kept so that it can be closed.
pub type Opened = Arc<Mutex<Option<Arc<dyn Store>>>>;

/// Opens the store and attaches it. If the card does not let us, larder serves `/health` with the reason and tries
/// again; only a folder that another process uses is an error.
pub fn open(api: &Arc<Api>) -> Result<Opened, String> {
    let opened = Opened::default();
    match attach(api, &opened) {
        Ok(()) => Ok(opened),
        Err(StoreError::Locked) => Err(format!(
            "{} is in use by another larder; stop that one or choose another --data",
            api.config.data_dir.display()
        )),
        Err(error) => {
            log::error!("the store could not be opened, next try in {} s: {error}", RETRY_INTERVAL.as_secs());
            api.note_store_trouble(trouble(&error));
            let (api, later) = (api.clone(), opened.clone());
            thread::Builder::new()
                .name("larder-opening".into())
                .spawn(move || retry(&api, &later))
                .map_err(|error| format!("a thread could not be started: {error}"))?;
            Ok(opened)
        }
    }
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
                log::error!("the store still cannot be opened: {error}");
                api.note_store_trouble(trouble(&error));
            }
        }
    }
}

/// The reason as `/health` may show it: without paths.
fn trouble(error: &StoreError) -> String {
    match error {
        StoreError::Io(_) => "the store could not be opened: the card does not answer; the log says more",
        StoreError::NoSpace => "the store could not be opened: the card is full",
        StoreError::Corrupt(_) => "the store could not be opened: its files are damaged; the log says more",
        StoreError::Locked => "the store could not be opened: another process uses it",
    }
    .to_owned()
}

fn attach(api: &Arc<Api>, opened: &Opened) -> Result<(), StoreError> {
    let config = &api.config;
    let expired_before: Arc<AtomicU64> = Arc::default();
    let store: Arc<dyn Store> = match config.store {
        StoreKind::Memory => MemoryStore::new(),
        StoreKind::Fjall => {
            let options = FjallOptions {
                memtable_bytes: config.memtable_bytes,
                block_cache_bytes: config.block_cache_bytes,
                expire_before_ms: expired_before.clone(),
            };
            let store = FjallStore::open(&config.data_dir, options)?;
            api.note_recovery(store.recovery());
            Arc::new(store)
        }
    };
    *opened.lock() = Some(store.clone());
    let observer = Arc::new(CacheKeeper { cache: api.cache.clone(), rules: api.cache_rules.clone() });
    let db = Database::start(store, observer, &api.registry, database_options(config, expired_before))?;
    api.attach_store(db);
    warm::start(api);
    Ok(())
}

fn database_options(config: &Config, expired_before: Arc<AtomicU64>) -> DatabaseOptions {
    DatabaseOptions {
        durability_default: config.durability,
        sync_interval: config.sync_interval,
        queued_writes_max: config.limits.queued_writes_max,
        value_bytes_max: config.limits.value_bytes_max,
        data_dir: (config.store == StoreKind::Fjall).then(|| config.data_dir.clone()),
        reserve_bytes: config.reserve_bytes,
        expiry_scan_rate: config.expiry_scan_rate,
        expired_before,
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
