//! POST …/incr and PATCH: writes whose new value depends on the present one. The committer has the last word on them, so
//! that of many at once none is lost.

use crate::http::{Problem, Request, Responder, Response, encoding, etag, json, media};
use crate::store::{Action, Database, Record, Ttl};

use crate::limits::SPARE_BODY_BYTES;

use super::super::target::ValueTarget;
use super::super::{Api, counter, merge_patch};
use super::write::{submit_or_refuse, write_query};

/// The one type a patch may have.
pub const PATCH_TYPE: &str = "application/merge-patch+json";

/// Adds to a counter.
pub fn incr(api: &Api, db: &Database, request: &Request, responder: Responder, target: &ValueTarget<'_>) {
    let is_empty = json::is_blank(request.body.bytes());
    let action = media::expect_type(&request.head, is_empty, &["application/json"]).and_then(|()| {
        let body = match request.body.shared() {
            // Nothing needs no decoding, but an unknown coding is none for nothing either.
            nothing if nothing.is_empty() => encoding::content_coding(&request.head).map(|_| nothing)?,
            body => encoding::decode_body(&request.head, body, SPARE_BODY_BYTES)?,
        };
        Ok(Action::Update { update: counter::update(counter::parse_body(&body)?), bytes: 0, ttl: ttl(request)? })
    });
    submit_or_refuse(api, db, request, responder, target, action, counted);
}

/// Merges a patch into a JSON document.
pub fn patch(api: &Api, db: &Database, request: &Request, responder: Responder, target: &ValueTarget<'_>) {
    let limits = api.limits.get();
    let action = expect_patch(request).and_then(|()| {
        let body = encoding::decode_value(&request.head, request.body.shared(), limits.value_bytes_max)?;
        merge_patch::Patch::parse(&body)?;
        let bytes = body.len();
        let update = merge_patch::update(body, limits.value_bytes_max);
        Ok(Action::Update { update, bytes, ttl: ttl(request)? })
    });
    submit_or_refuse(api, db, request, responder, target, action, patched);
}

fn expect_patch(request: &Request) -> Result<(), Problem> {
    let accept = |problem: Problem| problem.field("Accept-Patch", PATCH_TYPE);
    media::expect_type(&request.head, request.body.bytes().is_empty(), &[PATCH_TYPE]).map_err(accept)
}

fn ttl(request: &Request) -> Result<Ttl, Problem> {
    Ok(write_query(request, &[])?.ttl.map_or(Ttl::Keep, Ttl::After))
}

fn counted(record: &Record) -> Response {
    let value = std::str::from_utf8(&record.value).unwrap_or("null");
    let body = format!("{{\"value\":{value},\"version\":{}}}", record.version);
    answer(record, "application/json", body.into())
}

fn patched(record: &Record) -> Response {
    let content_type = std::str::from_utf8(&record.content_type).unwrap_or(counter::CONTENT_TYPE);
    answer(record, content_type, record.value.clone())
}

fn answer(record: &Record, content_type: &str, body: bytes::Bytes) -> Response {
    let answer =
        if encoding::is_compressible(content_type.as_bytes()) { Response::with_text } else { Response::with_body };
    answer(200, content_type, body).field("ETag", &etag::write_etag(record.version)).field("Cache-Control", "no-store")
}
