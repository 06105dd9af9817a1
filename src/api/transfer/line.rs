//! One line of an import: a record, or the end line.

use std::io::{self, BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::http::{Problem, json, media};
use crate::limits::KIB;

use super::super::{item, names};

/// Room in a line for everything beside its value.
const BESIDE_BYTES: u64 = 8 * KIB as u64;

/// Bytes of one line: the largest value in base64, with room for everything beside it.
pub fn line_bytes_max(value_bytes_max: u64) -> usize {
    let base64_bytes = value_bytes_max.div_ceil(3).saturating_mul(4);
    usize::try_from(base64_bytes.saturating_add(BESIDE_BYTES)).unwrap_or(usize::MAX)
}

/// A record as a line tells it.
#[derive(Debug)]
pub struct ImportRecord {
    /// The namespace.
    pub namespace: String,
    /// The collection.
    pub collection: String,
    /// The key.
    pub key: String,
    /// The content type.
    pub content_type: Bytes,
    /// The value.
    pub value: Bytes,
    /// When it expires, ms since 1970; `None` if never.
    pub expires_ms: Option<u64>,
    /// The version it had in the store it comes from; 0 if the line does not tell.
    pub version: u64,
}

/// The last line of an export.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndLine {
    /// Always true.
    pub end: bool,
    /// How many records stand before it.
    pub items: u64,
    /// The version of the snapshot; of the first, if the export went through several.
    #[serde(default)]
    pub version: Option<u64>,
    /// How many moments of its store the file shows, if more than one.
    #[serde(default, rename = "views")]
    pub _views: Option<IgnoredAny>,
    /// What the exporting store could not read, and so is not in the file.
    #[serde(default, rename = "damaged")]
    pub _damaged: Option<IgnoredAny>,
    /// How much, if it is not all listed.
    #[serde(default, rename = "damaged_total")]
    pub _damaged_total: Option<u64>,
}

impl EndLine {
    /// Reads an end line; `None` if the line is something else.
    pub fn parse(line: &[u8]) -> Option<EndLine> {
        json::sent::<EndLine>(line).ok().filter(|end| end.end)
    }
}

/// The version that a line tells, whatever else it is; 0 if it tells none.
pub fn version_of(line: &[u8]) -> u64 {
    #[derive(Deserialize)]
    struct Glance {
        version: Option<u64>,
    }
    json::sent::<Glance>(line).ok().and_then(|glance| glance.version).unwrap_or(0)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine<'a> {
    namespace: String,
    collection: String,
    key: String,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    value_base64: Option<String>,
    content_type: Option<String>,
    expires: Option<String>,
    version: Option<u64>,
    // What an export tells besides; a store gives its own.
    #[serde(rename = "size")]
    _size: Option<u64>,
    #[serde(rename = "modified")]
    _modified: Option<String>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads and checks a record's line.
pub fn parse(line: &[u8], value_bytes_max: u64) -> Result<ImportRecord, Problem> {
    let invalid = |message: String| Problem::new(400, "INVALID_JSON", message);
    let raw: RawLine<'_> = json::sent(line).map_err(|error| invalid(format!("no record: {error}")))?;
    names::namespace(&raw.namespace)?;
    names::collection(&raw.collection)?;
    names::decoded_key(&raw.key)?;
    let (default_type, value) = match (raw.value, raw.value_base64) {
        (Some(json), None) => ("application/json", Bytes::copy_from_slice(json.get().as_bytes())),
        (None, Some(text)) => {
            let bytes = STANDARD.decode(&text).map_err(|_| invalid("value_base64 is no padded base64".to_owned()))?;
            ("application/octet-stream", bytes.into())
        }
        _ => return Err(invalid("a record has either value or value_base64".to_owned())),
    };
    if value.len() as u64 > value_bytes_max {
        let message = format!("a value holds at most {value_bytes_max} bytes");
        return Err(Problem::new(413, "VALUE_TOO_LARGE", message));
    }
    let content_type = raw.content_type.as_deref().unwrap_or(default_type);
    media::validate(content_type)?;
    let expires_ms = match &raw.expires {
        None => None,
        Some(text) => Some(item::parse_time(text).ok_or_else(|| {
            invalid("expires is null or an RFC 3339 time in UTC, for example 2030-01-31T12:00:00.000Z".to_owned())
        })?),
    };
    Ok(ImportRecord {
        content_type: Bytes::copy_from_slice(content_type.as_bytes()),
        namespace: raw.namespace,
        collection: raw.collection,
        key: raw.key,
        value,
        expires_ms,
        version: raw.version.unwrap_or(0),
    })
}

/// What reading a line found.
pub enum NextLine {
    /// A line, without its end, in the buffer.
    Line,
    /// A line longer than the limit; it was read past.
    TooLong,
    /// Nothing more.
    End,
}

/// Reads the next line into `buffer` (cleared first), never holding more than the limit.
pub fn next_line(reader: &mut impl BufRead, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<NextLine> {
    buffer.clear();
    let limit = bytes_max as u64 + 1;
    if reader.by_ref().take(limit).read_until(b'\n', buffer)? == 0 {
        return Ok(NextLine::End);
    }
    if buffer.last() == Some(&b'\n') {
        buffer.pop();
        return Ok(NextLine::Line);
    }
    if buffer.len() <= bytes_max {
        return Ok(NextLine::Line);
    }
    buffer.clear();
    skip_line(reader)?;
    Ok(NextLine::TooLong)
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let available = reader.fill_buf()?;
        let (used, found) = match available.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (available.len(), available.is_empty()),
        };
        reader.consume(used);
        if found {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart_and_long_ones_passed_over() {
        let bytes_max = 5000;
        let long = vec![b'x'; bytes_max + 5];
        let text = [b"one\n".as_slice(), &long, b"\n\nlast"].concat();
        let mut reader = std::io::BufReader::with_capacity(100, &text[..]);
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        loop {
            match next_line(&mut reader, &mut buffer, bytes_max).unwrap() {
                NextLine::Line => seen.push(String::from_utf8(buffer.clone()).unwrap()),
                NextLine::TooLong => seen.push("(long)".to_owned()),
                NextLine::End => break,
            }
        }
        assert_eq!(seen, ["one", "(long)", "", "last"]);
    }

    #[test]
    fn the_largest_value_fits_a_line_with_the_longest_names() {
        let value = STANDARD.encode(vec![0xFF; 10_000]);
        let (name, key) = ("n".repeat(64), "\\u0001".repeat(512));
        let content_type = "a/".to_owned() + &"b".repeat(253);
        let time = "2026-01-01T00:00:00.000Z";
        let line = format!(
            r#"{{"namespace":"{name}","collection":"{name}","key":"{key}","version":{},"size":10000,"content_type":"{content_type}","modified":"{time}","expires":"{time}","value_base64":"{value}"}}"#,
            u64::MAX
        );
        assert_eq!(parse(line.as_bytes(), 10_000).unwrap().value.len(), 10_000);
        assert!(line.len() <= line_bytes_max(10_000), "{}", line.len());
    }

    #[test]
    fn a_record_and_an_end_line_are_what_they_say() {
        let line = br#"{"namespace":"a","collection":"b","key":"k","version":7,"size":1,"content_type":"application/json","modified":"2026-01-01T00:00:00.000Z","expires":null,"value":1}"#;
        let record = parse(line, 10).unwrap();
        assert_eq!((&*record.key, &record.value[..], record.expires_ms), ("k", &b"1"[..], None));
        assert_eq!((record.version, version_of(line)), (7, 7));
        assert_eq!(version_of(br#"{"end":true,"items":3,"version":9}"#), 9);
        for none in
            [&b"{}"[..], b"7", b"{\"version\":-1}", b"{\"version\":1,\"version\":2}", b"{\"version\":null}", b"\xff"]
        {
            assert_eq!(version_of(none), 0);
        }
        assert_eq!(parse(line, 0).unwrap_err().code, "VALUE_TOO_LARGE");
        assert_eq!(parse(b"{", 10).unwrap_err().code, "INVALID_JSON");
        assert!(EndLine::parse(line).is_none());
        assert_eq!(EndLine::parse(br#"{"end":true,"items":3,"version":9}"#).unwrap().items, 3);
        assert!(EndLine::parse(br#"{"end":false,"items":3}"#).is_none());
    }
}
