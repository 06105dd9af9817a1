//! GET and HEAD of a value.
//!
//! The way of a read: cache → (on a miss) loading ticket → snapshot → fill → answer. The ticket is taken before the
//! snapshot is loaded: taken after, it would let a value of the moment before a write into the cache.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::cache::Load;
use crate::http::cache_control::asks_past_the_cache;
use crate::http::conditional::{self, Conditions, Current, Verdict};
use crate::http::encoding::{self, Coding};
use crate::http::etag::write_etag;
use crate::http::range::{self, RangeTarget, RangeVerdict};
use crate::http::{Body, HeaderName, Method, Problem, Request, Response, Trace};
use crate::store::{Database, Record, StoreError};

use super::super::cached::{Cached, SANDBOX};
use super::super::target::ValueTarget;
use super::super::{Api, error};

/// Answers from the cache, if the value is there in the form that is asked for.
pub fn quick(api: &Api, request: &Request, target: &ValueTarget<'_>) -> Option<Response> {
    if asks_past_the_cache(&request.head) {
        return None;
    }
    let cached = api.cache.get(target.bytes())?;
    respond(api, request, target, &cached, Work::Refuse)
}

/// Answers from the store, filling the cache on the way.
pub fn full(api: &Api, db: &Database, request: &Request, trace: &mut Trace, target: &ValueTarget<'_>) -> Response {
    let found = if asks_past_the_cache(&request.head) {
        read_store(api, db, trace, target)
    } else {
        read_through(api, db, trace, target)
    };
    match found {
        Ok(Some(cached)) => {
            respond(api, request, target, &cached, Work::Allow).unwrap_or_else(|| error::not_found().into())
        }
        // Conditions do not count here: without them the answer would be no 2xx (RFC 9110 §13.2.1).
        Ok(None) => error::not_found().into(),
        Err(failure) => error::read_error(&failure),
    }
}

fn read_through(
    api: &Api,
    db: &Database,
    trace: &mut Trace,
    target: &ValueTarget<'_>,
) -> Result<Option<Arc<Cached>>, StoreError> {
    let deadline = trace.ready_at + api.limits.get().request_timeout;
    match api.cache.load(target.bytes(), deadline) {
        Load::Hit(cached) => Ok(Some(cached)),
        Load::Bypass => read_store(api, db, trace, target),
        Load::Ticket(ticket) => {
            let found = read_store(api, db, trace, target)?;
            if let Some(cached) = &found {
                ticket.fill(cached.clone(), cached.cost_bytes());
            }
            Ok(found)
        }
    }
}

fn read_store(
    api: &Api,
    db: &Database,
    trace: &mut Trace,
    target: &ValueTarget<'_>,
) -> Result<Option<Arc<Cached>>, StoreError> {
    let started = Instant::now();
    let found = db.view().read(&target.full_key());
    trace.store = started.elapsed();
    api.figures.store_read.record_duration(trace.store);
    if matches!(found, Err(StoreError::Corrupt(_))) {
        api.figures.damage_met.inc();
    }
    Ok(found?.filter(|record| !db.clock().is_expired(record)).map(|record| prepare(api, target, record)))
}

/// Makes a record ready for the cache.
pub fn prepare(api: &Api, target: &ValueTarget<'_>, record: Record) -> Arc<Cached> {
    api.value_rules.prepare(target.namespace, target.collection, record)
}

/// Whether an answer may take the time to compress.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    Refuse,
    Allow,
}

/// The answer with this value; `None` if it has expired, or if making it is more than `work` allows.
fn respond(
    api: &Api,
    request: &Request,
    target: &ValueTarget<'_>,
    cached: &Arc<Cached>,
    work: Work,
) -> Option<Response> {
    let record = &cached.record;
    let ttl_ms = api.left_ms(record);
    if ttl_ms == Some(0) {
        return None;
    }
    let form = match choose_form(api, request, record) {
        Ok(form) => form,
        Err(problem) => return Some(problem.into()),
    };
    let mut response = match answer_to_conditions(request, cached, form) {
        Some(Ok(response)) => response,
        Some(Err(problem)) => return Some(problem.into()),
        None if form == Coding::Gzip && request.method == Method::Head && cached.gzip_made().is_none() => {
            let mut response = Response::new(200).without_length();
            response.prepared = Some(cached.gzip_head());
            response
        }
        None if form == Coding::Gzip => {
            if work == Work::Refuse && cached.gzip_made().is_none() {
                return None;
            }
            let gzip = cached.gzip(|bytes| api.cache.grow(target.bytes(), cached, bytes));
            with_prepared(cached.gzip_head(), gzip.body)
        }
        None => identity(request, cached),
    };
    decorate(api, target, record, ttl_ms, &mut response);
    Some(response)
}

/// What every 2xx and 304 of a value carries besides its prepared lines.
fn decorate(api: &Api, target: &ValueTarget<'_>, record: &Record, ttl_ms: Option<u64>, response: &mut Response) {
    if response.status >= 400 {
        return;
    }
    let not_modified = response.status == 304;
    if let Some(ttl_ms) = ttl_ms
        && response.status < 300
    {
        response.push_field("Larder-Ttl", seconds(ttl_ms).as_bytes());
    }
    let fixed = api.value_rules.fixed(target.namespace, target.collection, record.expires_ms != 0);
    match fixed {
        Some(value) if not_modified => response.push_field("Cache-Control", value.as_bytes()),
        Some(_) => {}
        None => {
            let value = api.value_rules.bounded(target.namespace, target.collection, ttl_ms.unwrap_or(u64::MAX) / 1000);
            response.push_field("Cache-Control", value.as_bytes());
        }
    }
    if not_modified {
        response.push_field("Vary", b"Accept-Encoding");
        // What the client holds may be from before the policy.
        if api.value_rules.sandboxes(target.namespace, target.collection, &record.content_type) {
            response.push_field(SANDBOX.0, SANDBOX.1);
        }
    }
}

/// Seconds with three decimals at most, as `Larder-Ttl` shows them.
pub fn seconds(ms: u64) -> String {
    match (ms / 1000, ms % 1000) {
        (whole, 0) => whole.to_string(),
        (whole, rest) => format!("{whole}.{rest:03}").trim_end_matches('0').to_owned(),
    }
}

fn choose_form(api: &Api, request: &Request, record: &Record) -> Result<Coding, Problem> {
    if !request.head.has(HeaderName::AcceptEncoding) {
        return Ok(Coding::Identity);
    }
    let worth_it = record.value.len() >= api.config.compress_threshold_bytes
        && !request.head.has(HeaderName::XNoCompression)
        && !request.head.has(HeaderName::Range)
        && encoding::is_compressible(&record.content_type);
    encoding::accept_encoding(&request.head).choose(worth_it)
}

fn answer_to_conditions(request: &Request, cached: &Cached, form: Coding) -> Option<Result<Response, Problem>> {
    let conditions = match Conditions::parse(&request.head) {
        Ok(conditions) => conditions,
        Err(problem) => return Some(Err(problem)),
    };
    if conditions.is_empty() {
        return None;
    }
    let current = Current::version(cached.record.version, form == Coding::Gzip, cached.modified_s());
    match conditional::evaluate_read(&conditions, Some(current)) {
        Verdict::Proceed => None,
        Verdict::NotModified { tag } => Some(Ok(Response::new(304).field("ETag", &tag))),
        Verdict::PreconditionFailed => {
            Some(Err(error::precondition_failed(conditional::weak_if_match(&request.head).as_deref())))
        }
    }
}

fn identity(request: &Request, cached: &Cached) -> Response {
    let value = &cached.record.value;
    let whole = || with_prepared(cached.identity_head(), value.clone());
    if request.method != Method::Get || !request.head.has(HeaderName::Range) {
        return whole();
    }
    let modified_s = cached.modified_s();
    let tag = write_etag(cached.record.version);
    let length = value.len() as u64;
    match range::evaluate(&request.head, RangeTarget { etag: &tag, modified_s, length }) {
        RangeVerdict::Whole => whole(),
        RangeVerdict::One { start, end_inclusive } => {
            let mut part = with_prepared(cached.identity_head(), value.slice(start as usize..=end_inclusive as usize));
            part.status = 206;
            part.field("Content-Range", &range::content_range(start, end_inclusive, length))
        }
        RangeVerdict::Unsatisfiable => {
            let field = range::content_range_unsatisfied(length);
            Response::from(range::not_satisfiable(length)).field("Content-Range", &field)
        }
    }
}

fn with_prepared(head: Bytes, body: Bytes) -> Response {
    let mut response = Response::new(200);
    response.prepared = Some(head);
    response.body = Body::Bytes(body);
    response
}
