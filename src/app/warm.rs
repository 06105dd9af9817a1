//! The hottest keys over a restart: written down at the stop, loaded in the background at the next start.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;

use crate::api::Api;
use crate::cache::{self, Load};
use crate::config::StoreKind;
use crate::store::FullKey;

const FILE_NAME: &str = "warm.keys";
/// Enough to fill a large cache with small values.
const KEYS_MAX: usize = 10_000;

/// Writes the hottest keys beside the data. A failure costs nothing but a cold start.
pub fn save(api: &Api) {
    if api.config.store != StoreKind::Fjall {
        return;
    }
    let keys = api.cache.hottest(KEYS_MAX);
    if let Err(error) = cache::write_warm_keys(&api.config.data_dir.join(FILE_NAME), &keys) {
        log::warn!("{FILE_NAME} could not be written, the next start is a cold one: {error}");
    }
}

/// Loads them on a thread of its own, which ends early when larder stops.
pub fn start(api: &Arc<Api>) {
    let path = api.config.data_dir.join(FILE_NAME);
    if api.config.store != StoreKind::Fjall || !path.exists() {
        return;
    }
    let api = api.clone();
    let spawned = thread::Builder::new().name("larder-warm".into()).spawn(move || match cache::read_warm_keys(&path) {
        Ok(keys) => load(&api, keys),
        Err(error) => log::warn!("{FILE_NAME} is ignored: {error}"),
    });
    if let Err(error) = spawned {
        log::warn!("{FILE_NAME} is ignored: no thread: {error}");
    }
}

fn load(api: &Api, keys: Vec<Bytes>) {
    let Some(db) = api.store() else { return };
    let mut loaded = 0;
    for key in keys.into_iter().filter_map(FullKey::from_stored) {
        if api.drain.is_set() {
            return;
        }
        // The reader's protocol: the ticket first, then the view.
        let Load::Ticket(ticket) = api.cache.load(key.as_bytes(), Instant::now()) else { continue };
        match db.view().read(&key) {
            Ok(Some(record)) if !db.clock().is_expired(&record) => {
                let (namespace, collection, _) = key.parts();
                let cached = api.value_rules.prepare(namespace, collection, record);
                let cost_bytes = cached.cost_bytes();
                loaded += usize::from(ticket.fill(cached, cost_bytes));
            }
            Ok(_) => {}
            Err(error) => return log::warn!("warming up stopped: {error}"),
        }
    }
    if loaded > 0 {
        log::info!("{loaded} values of the last run are near at hand again");
    }
}
