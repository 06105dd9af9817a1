//! The answer that streams records as lines: what a list in NDJSON and an export have in common.
//!
//! What the lines are stands in [`super::listing`]; this joins them with a view, a place among the open streams and a
//! coding. Invariant: the view is held no longer than `limits.snapshot_age`.

use std::sync::Arc;
use std::time::Instant;

use crate::http::encoding::{self, Coding};
use crate::http::{Body, HeaderName, Problem, Request, Response, Trace};
use crate::store::Database;
use crate::store::bounds::KeyRange;

use super::Api;
use super::access::Scope;
use super::damage::Damage;
use super::listing::{LineOptions, Lines, Walk};

/// The content type of a stream, and the one that asks for it.
pub const NDJSON: &str = "application/x-ndjson";

/// Memory that a walk through the store keeps: the blocks at which it stands, one a table.
const WALK_KEEPS_BYTES: usize = 64 * 1024;

/// What of the store is streamed.
pub struct Asked {
    /// The stored keys; `None`: none.
    pub range: Option<KeyRange>,
    /// Backwards.
    pub reverse: bool,
    /// Lines name namespace and collection.
    pub paths: bool,
    /// Lines show values.
    pub values: bool,
    /// Only records of later versions.
    pub since: u64,
}

/// A 200 whose body is made as it is sent. The caller adds `Vary`. 406, or 503 if too many streams are open.
pub fn stream(
    api: &Api,
    db: &Arc<Database>,
    request: &Request,
    trace: &mut Trace,
    asked: Asked,
) -> Result<Response, Problem> {
    trace.timed = false;
    let may_compress = !request.head.has(HeaderName::XNoCompression);
    let coding = encoding::accept_encoding(&request.head).choose(may_compress)?;
    let limits = api.limits.get();
    let grant = api.access.authorize_each(&request.head, request.peer, request.method)?;
    let permit = api.streams.enter(limits.streams_max, trace.client(), grant.allows(Scope::Admin))?;
    // IMPORTANT: the version is asked before the view: the end line promises every change up to it.
    let version = db.last_version();
    let view = db.view();
    let Asked { range, reverse, paths, values, since } = asked;
    let pairs = Walk::new(view.snapshot, range, reverse);
    let deadline = Instant::now() + limits.snapshot_age;
    let options = LineOptions { paths, values, since, version, deadline };
    let damage = Damage::new(api.figures.damage_met.clone(), paths);
    let clock = db.clone();
    let mut lines = Lines::new(pairs, Box::new(move || clock.clock().expiry_now_ms()), options, damage);
    let pull = Box::new(move |out: &mut Vec<u8>| {
        let _open = &permit;
        lines.pull(out)
    });
    let mut response = Response::new(200).field("Content-Type", NDJSON).field("Cache-Control", "no-store");
    response.body = match coding {
        Coding::Identity => Body::Pull { length: None, keeps: WALK_KEEPS_BYTES, pull },
        Coding::Gzip => {
            response.push_field("Content-Encoding", b"gzip");
            let keeps = WALK_KEEPS_BYTES + encoding::GZIP_KEEPS_BYTES;
            Body::Pull { length: None, keeps, pull: encoding::gzip_puller(pull) }
        }
    };
    Ok(response)
}
