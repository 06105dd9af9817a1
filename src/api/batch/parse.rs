//! The batch document. Every operation is checked before any is run: a wrong one refuses the whole batch.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::http::{Problem, json, media};
use crate::limits::Limits;

use super::super::kv::write::parse_ttl;
use super::super::{names, whole};

/// A batch, checked.
#[derive(Debug)]
pub struct Batch {
    /// All or nothing.
    pub atomic: bool,
    /// The operations in order.
    pub operations: Vec<Operation>,
}

/// One operation, checked.
#[derive(Debug)]
pub struct Operation {
    /// The namespace.
    pub namespace: String,
    /// The collection.
    pub collection: String,
    /// The key, decoded.
    pub key: String,
    /// What to do.
    pub verb: Verb,
    /// The version the key must have; 0 means that it must be absent.
    pub if_version: Option<u64>,
}

/// What an operation does.
#[derive(Debug)]
pub enum Verb {
    /// Read.
    Get,
    /// Store.
    Set {
        /// The content type.
        content_type: Bytes,
        /// The bytes.
        value: Bytes,
        /// Its life; none clears an earlier one.
        ttl: Option<Duration>,
    },
    /// Remove.
    Delete,
    /// Count.
    Incr {
        /// By so many.
        by: i64,
        /// Its life; none keeps an earlier one.
        ttl: Option<Duration>,
    },
}

impl Verb {
    /// Whether it may change the store.
    pub fn is_write(&self) -> bool {
        !matches!(self, Verb::Get)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBatch<'a> {
    atomic: Option<bool>,
    namespace: Option<String>,
    collection: Option<String>,
    #[serde(borrow)]
    operations: Operations<'a>,
}

/// The operations as texts, each for itself.
struct Operations<'a> {
    kept: Vec<&'a RawValue>,
    count: usize,
}

/// More than may be set in the configuration: what comes behind them is counted, not kept.
const KEPT_MAX: usize = 100_001;

impl<'de: 'a, 'a> Deserialize<'de> for Operations<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Operations<'a>, D::Error> {
        struct Keep;
        impl<'de> Visitor<'de> for Keep {
            type Value = Operations<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of operations")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Operations<'de>, A::Error> {
                let mut found = Operations { kept: Vec::new(), count: 0 };
                while let Some(operation) = list.next_element::<&RawValue>()? {
                    found.count += 1;
                    if found.kept.len() < KEPT_MAX {
                        found.kept.push(operation);
                    }
                }
                Ok(found)
            }
        }
        deserializer.deserialize_seq(Keep)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOperation<'a> {
    op: String,
    key: String,
    namespace: Option<String>,
    collection: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    value_base64: Option<String>,
    content_type: Option<String>,
    #[serde(borrow, default, deserialize_with = "json::optional_number")]
    ttl: Option<&'a str>,
    #[serde(default, deserialize_with = "whole::optional")]
    if_version: Option<u64>,
    #[serde(default, deserialize_with = "whole::optional")]
    by: Option<i64>,
}

/// A `null` that is there is a value, not an absence.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads and checks a batch.
pub fn parse(body: &[u8], limits: &Limits) -> Result<Batch, Problem> {
    let raw: RawBatch<'_> = json::sent(body)
        .map_err(|error| Problem::new(400, "INVALID_JSON", format!("the body is no batch document: {error}")))?;
    let (count, most) = (raw.operations.count, limits.batch_operations_max);
    if count > most {
        let message = format!("a batch holds at most {most} operations, this one has {count}");
        return Err(Problem::new(400, "BATCH_SIZE_EXCEEDED", message));
    }
    if count == 0 {
        return Err(Problem::new(400, "INVALID_OPERATION", "a batch holds at least one operation"));
    }
    let common = (raw.namespace.as_deref(), raw.collection.as_deref());
    let operations = raw
        .operations
        .kept
        .iter()
        .enumerate()
        .map(|(index, operation)| {
            parse_operation(operation.get(), common, limits).map_err(|problem| at(index, problem))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Batch { atomic: raw.atomic.unwrap_or(true), operations })
}

/// Says which operation is meant.
fn at(index: usize, mut problem: Problem) -> Problem {
    problem.message = format!("operation {index}: {}", problem.message).into();
    problem.with("failed", index.into())
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(400, "INVALID_OPERATION", message)
}

fn parse_operation(text: &str, common: (Option<&str>, Option<&str>), limits: &Limits) -> Result<Operation, Problem> {
    let raw: RawOperation<'_> = json::object(text.as_bytes()).map_err(invalid)?;
    let namespace = raw.namespace.as_deref().or(common.0).ok_or_else(|| invalid("no namespace is given"))?;
    let collection = raw.collection.as_deref().or(common.1).ok_or_else(|| invalid("no collection is given"))?;
    let (namespace, collection) = (names::namespace(namespace)?.to_owned(), names::collection(collection)?.to_owned());
    names::decoded_key(&raw.key)?;
    let verb = verb(&raw, limits)?;
    if raw.if_version.is_some() && !verb.is_write() {
        return Err(invalid("get takes no if_version"));
    }
    Ok(Operation { namespace, collection, key: raw.key, verb, if_version: raw.if_version })
}

fn verb(raw: &RawOperation<'_>, limits: &Limits) -> Result<Verb, Problem> {
    let has_value = raw.value.is_some() || raw.value_base64.is_some() || raw.content_type.is_some();
    let ttl = raw.ttl.map(parse_ttl).transpose()?;
    match raw.op.as_str() {
        "set" if raw.by.is_some() => Err(invalid("set takes no by")),
        "set" => {
            let (content_type, value) = value(raw, limits)?;
            Ok(Verb::Set { content_type, value, ttl })
        }
        "incr" if has_value => Err(invalid("incr takes by, no value")),
        "incr" => Ok(Verb::Incr { by: raw.by.unwrap_or(1), ttl }),
        "get" | "delete" if has_value || raw.by.is_some() || ttl.is_some() => {
            Err(invalid(format!("{} takes a key, no value, by or ttl", raw.op)))
        }
        "get" => Ok(Verb::Get),
        "delete" => Ok(Verb::Delete),
        _ => Err(invalid("op is one of get, set, delete, incr")),
    }
}

fn value(raw: &RawOperation<'_>, limits: &Limits) -> Result<(Bytes, Bytes), Problem> {
    let (default_type, value) = match (raw.value, &raw.value_base64) {
        (Some(json), None) => ("application/json", Bytes::copy_from_slice(json.get().as_bytes())),
        (None, Some(text)) => {
            let bytes =
                STANDARD.decode(text).map_err(|_| invalid("value_base64 is no standard base64 with padding"))?;
            ("application/octet-stream", bytes.into())
        }
        _ => return Err(invalid("set takes either value or value_base64")),
    };
    let content_type = raw.content_type.as_deref().unwrap_or(default_type);
    media::validate(content_type)?;
    if value.len() as u64 > limits.value_bytes_max {
        let message = format!("a value holds at most {} bytes", limits.value_bytes_max);
        return Err(Problem::new(413, "VALUE_TOO_LARGE", message));
    }
    Ok((Bytes::copy_from_slice(content_type.as_bytes()), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> &'static str {
        parse(body.as_bytes(), &Limits::default()).map_or_else(|problem| problem.code, |_| "ok")
    }

    #[test]
    fn wrong_documents_are_told_apart() {
        let op = |inner: &str| format!(r#"{{"namespace":"a","collection":"b","operations":[{inner}]}}"#);
        assert_eq!(code("{"), "INVALID_JSON");
        assert_eq!(code(r#"{"operations":[],"x":1}"#), "INVALID_JSON");
        assert_eq!(code(&op("")), "INVALID_OPERATION");
        assert_eq!(code(&op(r#"{"op":"set","key":"k","value":null}"#)), "ok");
        assert_eq!(code(&op(r#"{"op":"set","key":"k"}"#)), "INVALID_OPERATION");
        assert_eq!(code(&op(r#"{"op":"set","key":"k","value":1,"value_base64":""}"#)), "INVALID_OPERATION");
        assert_eq!(code(&op(r#"{"op":"set","key":"k","value_base64":"*"}"#)), "INVALID_OPERATION");
        assert_eq!(code(&op(r#"{"op":"set","key":"k","value":1,"ttl":0}"#)), "INVALID_TTL");
        assert_eq!(code(&op(r#"{"op":"set","key":"k","value":1,"ttl":1.5}"#)), "ok");
        assert_eq!(code(&op(r#"{"op":"set","key":"","value":1}"#)), "INVALID_KEY");
        assert_eq!(code(&op(r#"{"op":"get","key":"k","namespace":"_"}"#)), "INVALID_NAMESPACE");
        assert_eq!(code(&op(r#"{"op":"get","key":"k","if_version":1}"#)), "INVALID_OPERATION");
        assert_eq!(code(&op(r#"{"op":"incr","key":"k","by":9223372036854775808}"#)), "INVALID_OPERATION");
        assert_eq!(code(&op(r#"{"op":"jump","key":"k"}"#)), "INVALID_OPERATION");
        assert_eq!(code(r#"{"operations":[{"op":"get","key":"k"}]}"#), "INVALID_OPERATION");
    }

    #[test]
    fn one_over_the_limit_is_one_too_many() {
        let batch = |count: usize| {
            let operations = vec![r#"{"op":"get","key":"k"}"#; count].join(",");
            format!(r#"{{"namespace":"a","collection":"b","operations":[{operations}]}}"#)
        };
        assert_eq!(code(&batch(1000)), "ok");
        assert_eq!(code(&batch(1001)), "BATCH_SIZE_EXCEEDED");
    }

    #[test]
    fn json_values_are_kept_to_the_letter() {
        let body = r#"{"namespace":"a","collection":"b","operations":[{"op":"set","key":"k","value":{ "x" : 1.50 }}]}"#;
        let batch = parse(body.as_bytes(), &Limits::default()).unwrap();
        let Verb::Set { value, content_type, .. } = &batch.operations[0].verb else { panic!("a set") };
        assert_eq!((&value[..], &content_type[..]), (&br#"{ "x" : 1.50 }"#[..], &b"application/json"[..]));
    }
}
