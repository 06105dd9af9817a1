//! GET /api/v1/export: every record, a line each, with the end line behind them.
//!
//! It reads one view of the store for as long as that is there. One that keeps too much in memory under writes is revoked,
//! and the export goes on in the present view behind its last key: then the end line tells how many views there were, and
//! its version is the first one's, so that whatever was written from then on belongs to an export since that version.
//! Deletions are not told: an export with `since` holds what was written after that version and still stands. After an
//! import an earlier `since` may be another store's, of whose exports the records that were here are no part: then the
//! export holds everything, and says so.

use std::ops::Bound;
use std::sync::Arc;

use crate::http::query::Query;
use crate::http::{Problem, Request, Response, Trace};
use crate::store::bounds::KeyRange;
use crate::store::versions::VERSION_END;
use crate::store::{Database, TYPE_RECORD};

use super::super::listing;
use super::super::ndjson::{self, Asked};
use super::super::{Api, names};

/// Answers an export.
pub fn export(api: &Api, db: &Arc<Database>, request: &Request, trace: &mut Trace) -> Response {
    stream(api, db, request, trace).map_or_else(Response::from, |response| response.field("Vary", "Accept-Encoding"))
}

fn stream(api: &Api, db: &Arc<Database>, request: &Request, trace: &mut Trace) -> Result<Response, Problem> {
    let query = Query::parse(request.head.query(), &["namespace", "collection", "since"])?;
    let namespace = query.get("namespace").map(names::namespace).transpose()?;
    let collection = query.get("collection").map(names::collection).transpose()?;
    if collection.is_some() && namespace.is_none() {
        return Err(Problem::new(400, "INVALID_QUERY", "collection needs namespace beside it"));
    }
    let asked = query.u64("since", 0..=VERSION_END - 1)?;
    let last = db.last_version();
    if asked.is_some_and(|since| since > last) {
        let message =
            format!("since is beyond the last version of this store, which is {last}; leave it out for everything");
        return Err(Problem::new(400, "INVALID_QUERY", message));
    }
    let since = asked.filter(|since| *since >= db.imported()).unwrap_or(0);
    let range = Some(records_of(namespace, collection));
    let what = Asked { range, reverse: false, paths: true, values: true, since, through_all: true };
    let response = ndjson::stream(api, db, request, trace, what)?;
    Ok(if asked.is_some() { response.field("Larder-Since", &since.to_string()) } else { response })
}

/// The stored keys of all records, of a namespace's, or of a collection's.
fn records_of(namespace: Option<&str>, collection: Option<&str>) -> KeyRange {
    let mut low = vec![TYPE_RECORD];
    for name in [namespace, collection].into_iter().flatten() {
        low.extend_from_slice(name.as_bytes());
        low.push(0);
    }
    let high = listing::successor(&low);
    (Bound::Included(low.into()), Bound::Excluded(high))
}
