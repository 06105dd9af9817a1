//! GET of a collection, of a namespace, and of all namespaces. Reads the disk; never waits for a write.

use std::sync::Arc;

use crate::http::encoding::{self, Coding};
use crate::http::{HeaderName, Method, Problem, Request, Response, Trace, media};
use crate::store::Database;

use super::super::access::Grant;
use super::super::catalog::{self, NamesQuery};
use super::super::damage::Damage;
use super::super::listing::{self, ListQuery, PageBudget};
use super::super::ndjson::{self, Asked, NDJSON};
use super::super::{Api, error, names};

/// One page of a collection, or with `Accept: application/x-ndjson` all of it.
pub fn list(api: &Api, db: &Arc<Database>, request: &Request, trace: &mut Trace, parameters: [&str; 3]) -> Response {
    let answer = super::place(parameters).and_then(|place| {
        if media::accepts_explicitly(&request.head, NDJSON) {
            stream(api, db, request, trace, place)
        } else {
            page(api, db, request, place)
        }
    });
    // What a collection holds depends on who asks for which form.
    answer.map_or_else(Response::from, |response| response.field("Vary", "Accept, Accept-Encoding"))
}

fn page(api: &Api, db: &Database, request: &Request, place: (&str, &str)) -> Result<Response, Problem> {
    let query = ListQuery::parse(request.head.query(), place.0, place.1)?;
    let view = db.view();
    let moment = db.clock().moment();
    let damage = Damage::new(api.figures.damage_met.clone(), false);
    match listing::page(&*view.snapshot, place, &query, &moment, PageBudget::default(), damage) {
        Ok(json) => json_answer(api, request, json),
        Err(failure) => Ok(error::read_error(&failure)),
    }
}

fn stream(
    api: &Api,
    db: &Arc<Database>,
    request: &Request,
    trace: &mut Trace,
    place: (&str, &str),
) -> Result<Response, Problem> {
    let query = ListQuery::parse_stream(request.head.query(), place.0, place.1)?;
    let range = query.bounds(place.0, place.1);
    let (reverse, values) = (query.reverse, query.values);
    let asked = Asked { range, reverse, paths: false, values, since: 0, through_all: false };
    ndjson::stream(api, db, request, trace, asked)
}

/// The namespaces, or the collections of one: those that the grant reaches.
pub fn names(api: &Api, db: &Database, request: &Request, grant: &Grant, namespace: Option<&str>) -> Response {
    let answer = || {
        let namespace = namespace.map(names::namespace).transpose()?;
        let query = NamesQuery::parse(request.head.query(), namespace)?;
        let view = db.view();
        // Collections of a namespace are seen by whoever reaches it, which the guard has checked.
        let visible = grant.namespaces().filter(|_| namespace.is_none());
        let moment = db.clock().moment();
        match catalog::page(&*view.snapshot, &query, visible, &moment, PageBudget::default()) {
            Ok(json) => json_answer(api, request, json),
            Err(failure) => Ok(error::read_error(&failure)),
        }
    };
    answer().map_or_else(Response::from, |response| response.field("Vary", "Accept-Encoding"))
}

fn may_compress(request: &Request) -> bool {
    !request.head.has(HeaderName::XNoCompression)
}

/// A 200 with JSON made for this request, in the form that the client takes. The caller adds `Vary`.
pub fn json_answer(api: &Api, request: &Request, json: Vec<u8>) -> Result<Response, Problem> {
    let mut json = json;
    json.shrink_to_fit();
    let worth_it = json.len() >= api.config.compress_threshold_bytes && may_compress(request);
    let response = match encoding::accept_encoding(&request.head).choose(worth_it)? {
        Coding::Identity => Response::with_body(200, "application/json", json),
        Coding::Gzip if request.method == Method::Head => {
            let response = Response::new(200).field("Content-Type", "application/json");
            response.field("Content-Encoding", "gzip").without_length()
        }
        Coding::Gzip => {
            Response::with_body(200, "application/json", encoding::gzip(&json)).field("Content-Encoding", "gzip")
        }
    };
    Ok(response.field("Cache-Control", "no-cache"))
}
