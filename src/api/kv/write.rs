//! PUT and DELETE of a value, and what all writes of one key share: query, conditions, pre-read, hand-over, reply.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::http::conditional::{self, Conditions, VersionMatch};
use crate::http::etag;
use crate::http::query::Query;
use crate::http::responder::unanswered;
use crate::http::{Method, Problem, Request, Responder, Response, Written, encoding, media};
use crate::store::{
    Action, Database, Durability, FullKey, OpOutcome, Precondition, Preread, Promise, Record, Ttl, Update,
    UpdateRefused, VersionSet, WriteError, WriteOp, WriteOutcome, WriteRequest,
};

use super::super::target::ValueTarget;
use super::super::{Api, error};

/// The content type of a value whose writer named none.
pub const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";
/// The longest life an entry can be given: a hundred years.
const TTL_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// More digits than a double has say nothing more.
const TTL_CHARACTERS_MAX: usize = 32;

/// Stores the body.
pub fn put(api: &Api, db: &Database, request: &Request, responder: Responder, target: &ValueTarget<'_>) {
    let action = stored_type(request).and_then(|content_type| {
        let value = value_of(api, request)?;
        let ttl = write_query(request, &[])?.ttl.map_or(Ttl::Clear, Ttl::After);
        Ok(Action::Put { content_type, value, ttl })
    });
    submit_or_refuse(api, db, request, responder, target, action, no_update);
}

/// Removes the key.
pub fn delete(api: &Api, db: &Database, request: &Request, responder: Responder, target: &ValueTarget<'_>) {
    let action = write_query(request, &[]).and_then(|query| match query.ttl {
        Some(_) => Err(Problem::new(400, "INVALID_QUERY", "a delete takes no ttl")),
        None => Ok(Action::Delete),
    });
    submit_or_refuse(api, db, request, responder, target, action, no_update);
}

fn no_update(_: &Record) -> Response {
    unanswered(Method::Put)
}

/// Hands one operation over, or answers why not. `updated` makes the answer to an update.
pub fn submit_or_refuse(
    api: &Api,
    db: &Database,
    request: &Request,
    responder: Responder,
    target: &ValueTarget<'_>,
    action: Result<Action, Problem>,
    updated: fn(&Record) -> Response,
) {
    match action.and_then(|action| single(api, db, request, target, action)) {
        Err(problem) => responder.send(problem.into()),
        Ok((op, durability)) => {
            let location = request.head.path().to_owned();
            let value_bytes_max = api.limits.get().value_bytes_max;
            let weak = conditional::weak_if_match(&request.head);
            let answer = move |outcome: WriteOutcome| match outcome.results[..] {
                [OpOutcome::PreconditionFailed] => error::precondition_failed(weak.as_deref()).into(),
                _ => single_answer(outcome, &location, value_bytes_max, updated),
            };
            submit(api, db, responder, vec![op], true, durability, answer);
        }
    }
}

/// The `Content-Type` to store.
pub fn stored_type(request: &Request) -> Result<Bytes, Problem> {
    let value = media::stored_type(&request.head, DEFAULT_CONTENT_TYPE)?;
    Ok(Bytes::copy_from_slice(value.as_bytes()))
}

/// The body as the value to store: content coding removed, within the limit.
pub fn value_of(api: &Api, request: &Request) -> Result<Bytes, Problem> {
    let value_bytes_max = api.limits.get().value_bytes_max;
    let body = request.body.shared();
    encoding::decode_value(&request.head, body, value_bytes_max)
}

/// What the query of a write says.
pub struct WriteQuery {
    /// `ttl`.
    pub ttl: Option<Duration>,
    /// `durability`.
    pub durability: Option<Durability>,
}

/// Reads `ttl` and `durability`, and refuses parameters that are neither these nor in `more`.
pub fn write_query(request: &Request, more: &[&str]) -> Result<WriteQuery, Problem> {
    let raw = request.head.query();
    if raw.is_empty() && more.is_empty() {
        return Ok(WriteQuery { ttl: None, durability: None });
    }
    let known: Vec<&str> = ["ttl", "durability"].iter().chain(more).copied().collect();
    let query = Query::parse(raw, &known)?;
    let ttl = query.get("ttl").map(parse_ttl).transpose()?;
    let durability = match query.get("durability") {
        None => None,
        Some("sync") => Some(Durability::Sync),
        Some("relaxed") => Some(Durability::Relaxed),
        Some(_) => return Err(Problem::new(400, "INVALID_QUERY", "durability is sync or relaxed")),
    };
    Ok(WriteQuery { ttl, durability })
}

/// Seconds as JSON writes a number (`60`, `0.5`, `1e-3`), above 0 and at most a hundred years; kept to the millisecond,
/// and never rounded to 0.
pub fn parse_ttl(text: &str) -> Result<Duration, Problem> {
    let invalid = || {
        Problem::new(
            400,
            "INVALID_TTL",
            "ttl is a number of seconds above 0, for example 60 or 0.5, up to a hundred years",
        )
    };
    let number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+');
    let plain =
        text.len() <= TTL_CHARACTERS_MAX && text.starts_with(|c: char| c.is_ascii_digit()) && text.bytes().all(number);
    let seconds: f64 = plain.then(|| text.parse().ok()).flatten().ok_or_else(invalid)?;
    if !(seconds > 0.0 && seconds <= TTL_MAX.as_secs_f64()) {
        return Err(invalid());
    }
    Ok(Duration::from_millis((seconds * 1000.0).ceil() as u64))
}

/// The conditions of a request on one key, in the store's terms.
pub fn precondition(request: &Request) -> Result<Precondition, Problem> {
    let conditions = Conditions::parse(&request.head)?;
    if conditions.is_empty() {
        return Ok(Precondition::default());
    }
    let set = |versions| match versions {
        VersionMatch::Any => VersionSet::Any,
        VersionMatch::List(list) => VersionSet::List(list),
    };
    Ok(Precondition {
        version_in: conditions.if_match.as_ref().map(|tags| set(conditional::versions_strong(tags))),
        version_not_in: conditions.if_none_match.as_ref().map(|tags| set(conditional::versions_weak(tags))),
        // If-Match takes the place of the date (RFC 9110 §13.2.2).
        also_if_absent: false,
        unmodified_since_ms: match conditions.if_match {
            Some(_) => None,
            None => conditions.if_unmodified_since_s.map(|seconds| seconds * 1000),
        },
    })
}

/// Computes an update here, for the committer, which holds up everybody while it works. It does so once more only if
/// another version stands by then.
fn run_ahead(db: &Database, update: &mut Update, bytes: &mut usize, preread: Preread) -> Preread {
    let present = preread.record.as_ref().filter(|record| !db.clock().is_expired(record));
    let (base, made) = (present.map(|record| record.version), update(present));
    *bytes += made.as_ref().map_or(0, |made| made.value.len());
    let anew = std::mem::replace(update, Box::new(|_| Err(UpdateRefused::NotJson)));
    *update = Box::new(move |now| if now.map(|record| record.version) == base { made.clone() } else { anew(now) });
    // A version never names other bytes, so those that it was made from are not looked at again.
    if base.is_some() { preread.cut(0) } else { preread }
}

fn single(
    api: &Api,
    db: &Database,
    request: &Request,
    target: &ValueTarget<'_>,
    mut action: Action,
) -> Result<(WriteOp, Durability), Problem> {
    let durability = write_query(request, &[])?.durability.unwrap_or(api.config.durability);
    let precondition = precondition(request)?;
    let key = target.full_key();
    let preread = preread(api, db, &key).map(|preread| match &mut action {
        Action::Put { .. } | Action::Delete => preread.cut(0),
        Action::Update { update, bytes, .. } if *bytes > 0 => run_ahead(db, update, bytes, preread),
        Action::Get | Action::Update { .. } | Action::Expire { .. } => preread,
    });
    Ok((WriteOp { key, action, precondition, preread }, durability))
}

/// What stands under a key now. A failed read is left to the committer, which reads again and knows what to answer.
///
/// The view is loaded before the cache is asked: a value that the cache holds then is the one of that view, or a newer
/// one whose write the committer will notice.
pub fn preread(api: &Api, db: &Database, key: &FullKey) -> Option<Preread> {
    let view = db.view();
    let record = match api.cache.peek(key.as_bytes()) {
        Some(cached) => Some(cached.record.clone()),
        None => view.read(key).ok()?,
    };
    Some(Preread { instant: view.instant, record })
}

/// Hands operations to the committer, and their answer to the client when it comes.
pub fn submit(
    api: &Api,
    db: &Database,
    mut responder: Responder,
    ops: Vec<WriteOp>,
    atomic: bool,
    durability: Durability,
    answer: impl FnOnce(WriteOutcome) -> Response + Send + 'static,
) {
    let trace = responder.trace();
    let deadline = trace.ready_at + api.limits.get().request_timeout;
    let submitted_at = Instant::now();
    let reply = Box::new(move |outcome: Result<WriteOutcome, WriteError>| {
        responder.trace().commit = submitted_at.elapsed();
        let response = match outcome {
            Err(failure) => error::write_error(&failure),
            Ok(outcome) => {
                let promise = outcome.promise;
                let mut response = answer(outcome);
                if response.status < 300 {
                    response.push_field("Larder-Durability", promised(promise).as_bytes());
                }
                response
            }
        };
        responder.send(response);
    });
    db.submit(WriteRequest { ops, atomic, durability, deadline: Some(deadline), reply });
}

/// What `Larder-Durability` says.
pub fn promised(promise: Promise) -> Cow<'static, str> {
    match promise {
        Promise::Synced => "synced".into(),
        Promise::Relaxed { max_loss } => {
            format!("relaxed; max-loss={}s", super::read::seconds(max_loss.as_millis() as u64)).into()
        }
    }
}

/// The answer to a write of one key; `updated` makes that of an update.
fn single_answer(
    mut outcome: WriteOutcome,
    location: &str,
    value_bytes_max: u64,
    updated: fn(&Record) -> Response,
) -> Response {
    match outcome.results.pop() {
        Some(OpOutcome::Stored { version, created: true }) => {
            Response::new(201).field("Location", location).field("ETag", &etag::write_etag(version))
        }
        Some(OpOutcome::Stored { version, created: false }) => {
            Response::new(204).field("ETag", &etag::write_etag(version))
        }
        Some(OpOutcome::Deleted { version }) => Response::new(204).field("Larder-Version", &version.to_string()),
        Some(OpOutcome::NotFound) => error::not_found().into(),
        Some(OpOutcome::PreconditionFailed) => error::precondition_failed(None).into(),
        Some(OpOutcome::Refused(refusal)) => error::refused(refusal, value_bytes_max).into(),
        Some(OpOutcome::Updated { record, .. }) => updated(&record),
        Some(OpOutcome::Got(_) | OpOutcome::Aborted) | None => {
            Problem::new(500, "INTERNAL", "the write ended in a way larder does not know")
                .written(Written::Unknown)
                .into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_a_positive_decimal() {
        assert_eq!(parse_ttl("60").ok(), Some(Duration::from_secs(60)));
        assert_eq!(parse_ttl("0.5").ok(), Some(Duration::from_millis(500)));
        assert_eq!(parse_ttl("0.0001").ok(), Some(Duration::from_millis(1)));
        assert_eq!(parse_ttl("6e1").ok(), Some(Duration::from_secs(60)));
        assert_eq!(parse_ttl("5E-324").ok(), Some(Duration::from_millis(1)));
        for bad in [
            "",
            "0",
            "0.0",
            "-1",
            "+1",
            "e3",
            "1e",
            "1e99",
            "0e9",
            "inf",
            "NaN",
            "1s",
            " 1",
            ".",
            "1.2.3",
            "99999999999999",
        ] {
            assert_eq!(parse_ttl(bad).unwrap_err().code, "INVALID_TTL", "{bad}");
        }
    }
}
