//! `/api/v1/stats`: the figures of `/metrics` as JSON, with what the status page needs beside them.

use serde_json::{Map, Value, json};

use crate::http::{Problem, Request, Response};
use crate::store::Database;

use super::Api;
use super::collection::read::json_answer;
use super::health::{engine_name, store_reason};

/// Answers with all figures.
pub fn stats(api: &Api, request: &Request) -> Result<Response, Problem> {
    let cache = api.cache.stats();
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "engine": engine_name(api.config.engine),
        "uptime_seconds": api.started_at.elapsed().as_secs(),
        "store": store(api),
        "cache": {
            "entries": cache.entries,
            "bytes": cache.bytes,
            "bytes_max": cache.budget_bytes,
            "hits": cache.hits,
            "misses": cache.misses,
            "evictions": cache.evictions,
        },
        "streams": api.streams.open(),
        "metrics": api.registry.to_json(),
    });
    let response = json_answer(api, request, document.to_string().into_bytes())?;
    Ok(response.field("Vary", "Accept-Encoding"))
}

fn store(api: &Api) -> Value {
    let reason = store_reason(api);
    let Some(db) = api.store() else { return json!({ "state": "unavailable", "reason": reason }) };
    let state = db.state();
    let mut members = Map::new();
    members.insert("state".into(), state.name().into());
    members.insert("reason".into(), reason.into());
    members.extend(figures(db));
    Value::Object(members)
}

fn figures(db: &Database) -> impl Iterator<Item = (String, Value)> {
    let (figures, space) = (db.figures(), db.space());
    let all = [
        ("last_version", db.last_version()),
        ("keys_estimate", figures.keys_estimate),
        ("disk_bytes", figures.disk_bytes),
        ("journal_bytes", figures.journal_bytes),
        ("memtable_bytes", figures.memtable_bytes),
        ("tables", figures.tables),
        ("compactions", figures.compactions),
        ("views_revoked", figures.views_revoked),
        ("free_bytes", space.free_bytes),
        ("total_bytes", space.total_bytes),
        ("reserve_bytes", space.reserve_bytes),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value.into()))
}
