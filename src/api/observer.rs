//! Between the committer and the cache: what the one announces, the other forgets.

use std::sync::Arc;

use crate::cache::Cache;
use crate::store::{CommitObserver, FullKey, Record};

use super::cached::Cached;
use super::value_rules::ValueRules;

/// Keeps the cache in step with the store.
pub struct CacheKeeper {
    /// The cache.
    pub cache: Arc<Cache<Cached>>,
    /// The rules that prepared heads follow.
    pub rules: ValueRules,
}

impl CommitObserver for CacheKeeper {
    fn announce(&self, key: &FullKey) {
        self.cache.announce(key.as_bytes());
    }

    fn publish(&self, key: &FullKey, record: Option<&Arc<Record>>) {
        // Most writes of most boards are of keys that nobody reads in between: those cost the committer no preparation.
        let value = record.filter(|_| self.cache.wants(key.as_bytes())).map(|record| {
            let (namespace, collection, _) = key.parts();
            let cached = self.rules.prepare(namespace, collection, Record::clone(record));
            let cost_bytes = cached.cost_bytes();
            (cached, cost_bytes)
        });
        self.cache.publish(key.as_bytes(), value);
    }

    fn abort(&self, key: &FullKey) {
        self.cache.abort(key.as_bytes());
    }
}
