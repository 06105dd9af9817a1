//! What is fuzzed: one function a parser. Each takes any bytes and panics where the parser breaks a promise, not only
//! where it panics itself.

use std::io::BufReader;
use std::path::Path;

use bytes::Bytes;
use larder::api::access::token;
use larder::api::merge_patch::Patch;
use larder::api::target::ValueTarget;
use larder::api::transfer::line::{self, EndLine, NextLine};
use larder::api::{batch, cursor, names};
use larder::config::settings::SETTINGS;
use larder::config::{Config, file, units};
use larder::http::cache_control::{ResponseRule, asks_past_the_cache};
use larder::http::conditional::{self, Conditions, Current};
use larder::http::epoll::chunked::{ChunkError, Chunked};
use larder::http::epoll::parse::{self, BodyFraming, HeadScan};
use larder::http::message::is_field_value;
use larder::http::query::{Query, percent_decode, percent_encode};
use larder::http::range::{self, RangeTarget, RangeVerdict};
use larder::http::{Head, HeaderName, encoding, media};
use larder::limits::Limits;
use larder::store::record;
use serde_json::Value;

/// A target's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets; the corpus of each is the folder of its name.
pub const TARGETS: [Target; 10] = [
    ("head", head),
    ("chunked", chunked),
    ("path", path),
    ("gzip", gzip),
    ("batch", batch_document),
    ("import", import),
    ("merge_patch", merge_patch),
    ("fields", fields),
    ("config", config),
    ("record", stored_record),
];

/// A head is found and judged the same however its bytes arrive, and says in one way where its message ends.
fn head(data: &[u8]) {
    let limits = Limits { head_bytes_max: 2048, target_bytes_max: 512, ..Limits::default() };
    let whole = HeadScan::default().find(data, &limits);
    let mut scan = HeadScan::default();
    let step = 1 + data.len() / 16;
    let ends = (0..data.len()).step_by(step).chain([data.len()]);
    let pieces = ends.map(|end| scan.find(&data[..end], &limits)).find(|found| !matches!(found, Ok(None)));
    assert_eq!(whole.ok().flatten(), pieces.and_then(Result::ok).flatten(), "the cut changes what is found");
    let _ = parse::method_of(data);

    let Ok(Some((start, end))) = whole else { return };
    let Ok(parsed) = parse::parse(&data[start..end], &limits) else { return };
    for (at, byte) in data[start..end].iter().enumerate() {
        let is_line_feed_expected = at > 0 && data[start + at - 1] == b'\r';
        assert_eq!(*byte == b'\n', is_line_feed_expected, "a bare CR or LF is accepted");
        assert_ne!(*byte, 0, "NUL is accepted");
    }
    let head = &parsed.head;
    assert!(head.target().starts_with('/') || head.target() == "*");
    assert!(head.target().bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
    assert!(head.count(HeaderName::Host) <= 1 && head.count(HeaderName::ContentLength) <= 1);
    assert!(parsed.http_1_0 || head.has(HeaderName::Host));
    let coded = head.has(HeaderName::TransferEncoding);
    assert!(!(coded && head.has(HeaderName::ContentLength)), "two framings");
    assert_eq!(parsed.framing == BodyFraming::Chunked, coded);
    if let BodyFraming::Length(length) = parsed.framing {
        assert_eq!(head.get(HeaderName::ContentLength).and_then(|text| text.parse().ok()), Some(length));
    }
}

/// A body is decoded the same however its bytes arrive, never beyond its limit nor its end.
fn chunked(data: &[u8]) {
    const LIMIT: u64 = 300;
    let run = |piece: usize| -> Result<(Vec<u8>, usize, bool), ChunkError> {
        let (mut decoder, mut out, mut used) = (Chunked::new(LIMIT), Vec::new(), 0);
        for input in data.chunks(piece.max(1)) {
            let taken = decoder.decode(input, &mut out)?;
            used += taken;
            assert!(taken == input.len() || decoder.is_done(), "input is left before the end");
        }
        assert!(out.len() as u64 <= LIMIT);
        Ok((out, used, decoder.is_done()))
    };
    let whole = run(data.len());
    assert_eq!(whole, run(1));
    assert_eq!(whole, run(7));

    let mut coded: Vec<u8> = Vec::new();
    let body = &data[..data.len().min(LIMIT as usize)];
    for chunk in body.chunks(13) {
        coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(b"0\r\n\r\nmore");
    let (mut decoder, mut out) = (Chunked::new(LIMIT), Vec::new());
    assert_eq!(decoder.decode(&coded, &mut out), Ok(coded.len() - 4));
    assert!(decoder.is_done() && out == body);
}

/// What is encoded decodes to the same; a target's full key holds the names it was made from.
fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let encoded = percent_encode(&text).to_string();
    assert_eq!(percent_decode(&encoded).as_deref(), Ok(&*text));
    assert_eq!(names::key(&encoded).is_ok(), names::decoded_key(&text).is_ok());
    let known = ["prefix", "limit", "cursor", "values"];
    if let Ok(query) = Query::parse(&text, &known) {
        let _ = (query.bool("values"), query.u64("limit", 1..=1000), query.get("cursor"));
    }
    let mut segments = text.splitn(3, '/');
    let mut next = || segments.next().unwrap_or("");
    let sent = [next(), next(), next()];
    if let Ok(target) = ValueTarget::parse(sent) {
        let full = target.full_key();
        let key = percent_decode(sent[2]).expect("a target's key decodes");
        assert_eq!(full.parts(), (sent[0], sent[1], &*key));
    }
    let _ = (cursor::decode(7, &text), token::split(&text));
    assert_eq!(cursor::decode(7, &cursor::encode(7, &text)).is_ok(), text.len() <= 642);
}

/// No body is decoded beyond its limit, and what was compressed comes back.
fn gzip(data: &[u8]) {
    let mut head = Head::new("/");
    head.push_known(HeaderName::ContentEncoding, b"gzip");
    let (limit, rest) = data.split_first().map_or((0, data), |(first, rest)| (u64::from(*first) * 8, rest));
    if let Ok(decoded) = encoding::decode_body(&head, Bytes::copy_from_slice(rest), limit) {
        assert!(decoded.len() as u64 <= limit);
    }
    if rest.len() <= 512 {
        let coded = Bytes::from(encoding::gzip(rest));
        let decoded = encoding::decode_body(&head, coded.clone(), rest.len() as u64).map_err(|problem| problem.code);
        assert_eq!(decoded, Ok(Bytes::copy_from_slice(rest)));
        if let Some(too_few) = (rest.len() as u64).checked_sub(1) {
            assert_eq!(encoding::decode_body(&head, coded, too_few).map_err(|problem| problem.status), Err(413));
        }
    }
}

/// An accepted batch holds only valid names, and values within their limit.
fn batch_document(data: &[u8]) {
    let limits = Limits { value_bytes_max: 64, batch_operations_max: 8, ..Limits::default() };
    let Ok(batch) = batch::parse::parse(data, &limits) else { return };
    assert!((1..=8).contains(&batch.operations.len()));
    for operation in &batch.operations {
        assert_names(&operation.namespace, &operation.collection, &operation.key);
        if let batch::parse::Verb::Set { content_type, value, .. } = &operation.verb {
            assert!(value.len() <= 64 && is_field_value(content_type));
        }
        assert!(operation.verb.is_write() || operation.if_version.is_none());
    }
}

fn assert_names(namespace: &str, collection: &str, key: &str) {
    assert!(names::namespace(namespace).is_ok() && names::collection(collection).is_ok());
    assert!(names::decoded_key(key).is_ok());
}

/// Lines come out as they went in, and an accepted record is valid.
fn import(data: &[u8]) {
    let mut reader = BufReader::with_capacity(7, data);
    let (mut buffer, mut seen) = (Vec::new(), Vec::new());
    loop {
        match line::next_line(&mut reader, &mut buffer, line::line_bytes_max(1 << 20)) {
            Ok(NextLine::Line) => {
                seen.extend_from_slice(&buffer);
                seen.push(b'\n');
            }
            Ok(NextLine::End) => break,
            Ok(NextLine::TooLong) | Err(_) => panic!("so few bytes are no long line"),
        }
        let _ = EndLine::parse(&buffer);
        if let Ok(record) = line::parse(&buffer, 64) {
            assert_names(&record.namespace, &record.collection, &record.key);
            assert!(record.value.len() <= 64 && is_field_value(&record.content_type));
        }
    }
    if data.last() != Some(&b'\n') && !data.is_empty() {
        seen.pop();
    }
    assert_eq!(seen, data);
}

/// A patch makes what RFC 7396's own few lines make, and always JSON.
fn merge_patch(data: &[u8]) {
    let cut = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (patch_text, present) = (&data[..cut], data.get(cut + 1..));
    let Ok(patch) = Patch::parse(patch_text) else { return };
    let Ok(made) = patch.apply(present) else { return };
    assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&made).is_ok(), "the result is no JSON");
    // A tree of values nests less deep, and knows one name of its own that is not to be trusted.
    if String::from_utf8_lossy(data).contains("$serde_json") {
        return;
    }
    let tree = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    let (Some(patch), Some(made)) = (tree(patch_text), tree(&made)) else { return };
    let present = match present.map(tree) {
        Some(None) => return,
        Some(Some(present)) => present,
        None => Value::Object(serde_json::Map::new()),
    };
    assert_eq!(made, merged(present, &patch));
}

fn merged(present: Value, patch: &Value) -> Value {
    let Value::Object(changes) = patch else { return patch.clone() };
    let mut object = if let Value::Object(object) = present { object } else { serde_json::Map::new() };
    for (name, change) in changes {
        if change.is_null() {
            object.shift_remove(name);
        } else {
            let present = object.get(name).cloned().unwrap_or(Value::Null);
            object.insert(name.clone(), merged(present, change));
        }
    }
    Value::Object(object)
}

/// Conditions, ranges and preferences are judged without a panic, and a range lies within its length.
fn fields(data: &[u8]) {
    use HeaderName::*;
    const NAMES: [HeaderName; 11] = [
        IfMatch,
        IfNoneMatch,
        IfModifiedSince,
        IfUnmodifiedSince,
        Range,
        IfRange,
        AcceptEncoding,
        Accept,
        CacheControl,
        ContentType,
        ContentEncoding,
    ];
    let mut head = Head::new("/");
    for (at, line) in data.split(|&byte| byte == b'\n').take(2 * NAMES.len()).enumerate() {
        head.push_known(NAMES[at % NAMES.len()], line);
    }
    if let Ok(conditions) = Conditions::parse(&head) {
        for (version, gzip) in [(0, false), (41, true), (u64::MAX, false)] {
            let _ = conditional::evaluate_read(&conditions, Some(Current::version(version, gzip, Some(1_700_000_000))));
        }
        for tags in conditions.if_match.iter().chain(&conditions.if_none_match) {
            let _ = (conditional::versions_strong(tags), conditional::versions_weak(tags));
        }
        for seconds in [conditions.if_modified_since_s, conditions.if_unmodified_since_s].into_iter().flatten() {
            assert_eq!(conditional::parse_date(&conditional::write_date(seconds)), Some(seconds));
        }
    }
    for length in [0, 1, 100, u64::MAX] {
        let target = RangeTarget { etag: "\"41\"", modified_s: Some(1_700_000_000), length };
        if let RangeVerdict::One { start, end_inclusive } = range::evaluate(&head, target) {
            assert!(start <= end_inclusive && end_inclusive < length);
        }
    }
    let _ = (asks_past_the_cache(&head), encoding::accept_encoding(&head), media::accepts_explicitly(&head, "a/b"));
    let _ = media::stored_type(&head, "a/b").map(|kind| assert!(is_field_value(kind.as_bytes())));
    if let Ok(rule) = ResponseRule::parse(&String::from_utf8_lossy(data)) {
        assert!(ResponseRule::parse(&rule.render(None)).is_ok(), "a rule reads what it wrote");
        let _ = rule.render(Some(5));
    }
}

/// A configuration file is read or refused, with a line for each complaint.
fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut errors = Vec::new();
    let found = file::parse(Path::new("larder.toml"), text, &mut errors);
    let mut config = Config::defaults(512 << 20, 4);
    for (index, given, _) in found.given {
        if SETTINGS[index].field.set(&mut config, &given).is_ok() {
            let _ = SETTINGS[index].field.show(&config);
        }
    }
    let lines = 1 + text.bytes().filter(|&byte| byte == b'\n').count();
    for error in &errors {
        if let Some(larder::config::Source::File(_, line)) = &error.source {
            assert!((1..=lines).contains(line), "line {line} of {lines}");
        }
        let _ = error.to_string();
    }
    if let Ok(bytes) = units::parse_size(text) {
        assert_eq!(units::parse_size(&units::show_size(bytes)), Ok(bytes));
    }
    if let Ok(duration) = units::parse_duration(text) {
        assert_eq!(units::parse_duration(&units::show_duration(duration)), Ok(duration));
    }
}

/// A stored form that is accepted is the only one of its record.
fn stored_record(data: &[u8]) {
    let (version, life) = (record::peek_version(data), record::peek_life(data));
    let Ok(found) = record::decode(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(record::encode(&found), data);
    assert_eq!((version.ok(), life.ok()), (Some(found.version), Some(found.life())));
}
