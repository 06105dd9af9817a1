//! The answer that streams records as lines: what a list in NDJSON and an export have in common.
//!
//! What the lines are stands in [`super::listing`]; this joins them with a view, a place among the open streams and a
//! coding. A stream that larder cuts ends with a line that says why, an error as any answer would have it, and without the
//! end of the body. What a client does not take cannot be told to it: that is counted, and logged.
//!
//! Invariant: a client that takes nothing for `limits.snapshot_age` holds no view.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::http::encoding::{self, Coding};
use crate::http::{Body, HeaderName, Problem, Puller, Request, Response, Trace};
use crate::log_limited;
use crate::logging::RateLimit;
use crate::store::Database;
use crate::store::bounds::KeyRange;

use super::Api;
use super::access::Scope;
use super::damage::Damage;
use super::endings::Ending;
use super::listing::{LineOptions, Lines, Walk};
use super::routes;

/// The content type of a stream, and the one that asks for it.
pub const NDJSON: &str = "application/x-ndjson";

/// Memory that a walk through the store keeps: the blocks at which it stands, one a table.
const WALK_KEEPS_BYTES: usize = 64 * 1024;

/// A card that fails fails for every stream.
static FAILURES: RateLimit = RateLimit::new(5, Duration::from_secs(10));

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
    /// Goes on from a later moment where its view is taken away.
    pub through_all: bool,
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
    let mut lines = lines(api, db, asked);
    let (endings, route, asker) = (api.figures.endings.clone(), routes::label(trace.route), trace.asker());
    let (drain, drain_time) = (api.drain.clone(), limits.drain_timeout / 4 * 3);
    let pull: Puller = Box::new(move |out| {
        let _open = &permit;
        let pulled = match drain.is_older_than(drain_time) {
            true => Err(Ending::Drain),
            false => lines.pull(out).map_err(|failure| {
                let ending = Ending::of_store(&failure);
                if ending != Ending::Revoked {
                    log_limited!(FAILURES, log::Level::Error, "a stream cannot go on: {failure}");
                }
                ending
            }),
        };
        pulled.map_err(|ending| {
            endings.note(ending, route, asker);
            out.extend_from_slice(&ending.problem().render(None));
            out.push(b'\n');
            io::Error::other("cut")
        })
    });
    let mut response = Response::new(200).field("Content-Type", NDJSON).field("Cache-Control", "no-store");
    let patience = limits.snapshot_age;
    response.body = match coding {
        Coding::Identity => Body::Pull { length: None, keeps: WALK_KEEPS_BYTES, patience, pull },
        Coding::Gzip => {
            response.push_field("Content-Encoding", b"gzip");
            let keeps = WALK_KEEPS_BYTES + encoding::GZIP_KEEPS_BYTES;
            Body::Pull { length: None, keeps, patience, pull: encoding::gzip_puller(pull) }
        }
    };
    Ok(response)
}

fn lines(api: &Api, db: &Arc<Database>, asked: Asked) -> Lines {
    let Asked { range, reverse, paths, values, since, through_all } = asked;
    // IMPORTANT: the version is asked before the view: the end line promises every change up to it.
    let version = db.last_version();
    let mut pairs = Walk::new(db.view().snapshot, range, reverse);
    if through_all {
        let newest = db.clone();
        pairs = pairs.through_all(Box::new(move || newest.view().snapshot));
    }
    let clock = db.clone();
    let moment = Box::new(move || clock.clock().moment());
    let damage = Damage::new(api.figures.damage_met.clone(), paths);
    Lines::new(pairs, moment, LineOptions { paths, values, since, version }, damage)
}
