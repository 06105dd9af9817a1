//! The JSON form of a record, as lists, streams and exports show it:
//! `{"key","version","size","content_type","modified","expires","value"|"value_base64"}`.
//!
//! Times are RFC 3339 in UTC with milliseconds; `expires` is `null` for what does not expire. `value` is the stored JSON
//! verbatim where the type says JSON, the bytes are, and they nest at most [`SHOWN_DEPTH_MAX`] deep; else the bytes stand
//! in `value_base64` (standard alphabet, padded). Every answer that shows a value within its own JSON takes it from here.
//!
//! Invariant: what [`write_item`] appends is one JSON object; in the form of a line it holds no line break, and its bytes
//! read back exactly.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::http::media;
use crate::http::wire::push_decimal;
use crate::limits::SHOWN_DEPTH_MAX;
use crate::store::Record;

/// Where an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemForm {
    /// In a page: a value keeps its line breaks.
    Page,
    /// On a line of its own: a value with line breaks, or with blanks around it, stands in base64, so that its bytes
    /// survive.
    Line,
}

/// What of a record is shown.
#[derive(Clone, Copy, Debug)]
pub struct ItemOptions {
    /// Where it stands.
    pub form: ItemForm,
    /// With its value.
    pub values: bool,
}

/// Appends a record's JSON form. `path` names the members before `key`, for exports (namespace and collection).
pub fn write_item(out: &mut Vec<u8>, path: Option<(&str, &str)>, key: &str, record: &Record, options: ItemOptions) {
    out.push(b'{');
    if let Some((namespace, collection)) = path {
        out.extend_from_slice(b"\"namespace\":");
        push_text(out, namespace);
        out.extend_from_slice(b",\"collection\":");
        push_text(out, collection);
        out.push(b',');
    }
    out.extend_from_slice(b"\"key\":");
    push_text(out, key);
    out.extend_from_slice(b",\"version\":");
    push_decimal(out, record.version);
    out.extend_from_slice(b",\"size\":");
    push_decimal(out, record.value.len() as u64);
    out.extend_from_slice(b",\"content_type\":");
    push_text(out, &String::from_utf8_lossy(&record.content_type));
    out.extend_from_slice(b",\"modified\":");
    push_time(out, record.modified_ms);
    out.extend_from_slice(b",\"expires\":");
    match record.expires_ms {
        0 => out.extend_from_slice(b"null"),
        expires_ms => push_time(out, expires_ms),
    }
    if options.values {
        out.push(b',');
        push_value(out, record, options.form);
    }
    out.push(b'}');
}

/// Appends `"value":…` or `"value_base64":"…"`.
pub fn push_value(out: &mut Vec<u8>, record: &Record, form: ItemForm) {
    match embeddable(record, form) {
        Some(json) => {
            out.extend_from_slice(b"\"value\":");
            out.extend_from_slice(json.as_bytes());
        }
        None => {
            out.extend_from_slice(b"\"value_base64\":\"");
            push_base64(out, &record.value);
            out.push(b'"');
        }
    }
}

fn embeddable(record: &Record, form: ItemForm) -> Option<&str> {
    if !media::is_json(&record.content_type) {
        return None;
    }
    let json = serde_json::from_slice::<&RawValue>(&record.value).ok()?.get();
    let survives = json.len() == record.value.len() && !json.contains(['\n', '\r']);
    ((form == ItemForm::Page || survives) && nests_at_most(json.as_bytes(), SHOWN_DEPTH_MAX)).then_some(json)
}

/// Whether at most so many objects and lists of a JSON text stand within one another.
fn nests_at_most(json: &[u8], depth_max: usize) -> bool {
    // Few brackets cannot nest deep, wherever they stand.
    if memchr::memchr2_iter(b'{', b'[', json).nth(depth_max).is_none() {
        return true;
    }
    let (mut depth, mut bytes) = (0, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => skip_text(&mut bytes),
            _ => {}
        }
        if depth > depth_max {
            return false;
        }
    }
    true
}

/// Goes behind the quote that ends a JSON string.
fn skip_text(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    let before = out.len();
    out.resize(before + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[before..]);
    debug_assert_eq!(written.ok(), Some(out.len() - before));
}

/// Appends a text as a JSON string.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to a vector does not fail");
}

/// Appends a time as a JSON string: RFC 3339, UTC, milliseconds. Times after the year 9999 are shown as its end.
pub fn push_time(out: &mut Vec<u8>, ms: u64) {
    const LAST_MS: u64 = 253_402_300_799_999;
    let ms = ms.min(LAST_MS);
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date_of(days);
    let second_of_day = ms_of_day / 1000;
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let milli = ms_of_day % 1000;
    // Writing to a vector does not fail.
    let _ = write!(out, "\"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z\"");
}

/// Reads a time as [`push_time`] writes it (the fraction may have 0 to 9 digits; only `Z`). Times before 1970 are none.
pub fn parse_time(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str, digits: usize| {
        (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse::<u64>().ok())?
    };
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':');
    let (hour, minute, second) = (number(time.next()?, 2)?, number(time.next()?, 2)?, number(time.next()?, 2)?);
    if fraction.len() > 9 || hour > 23 || minute > 59 || second > 59 || year < 1970 {
        return None;
    }
    let milli = number(&format!("{fraction:0<9}"), 9)? / 1_000_000;
    let days = days_to(year, month, day);
    // A day that its month does not have is none.
    (date_of(days) == (year, month, day)).then_some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + milli)
}

/// Days since 1970 of a date; the reverse of [`date_of`].
fn days_to(year: u64, month: u64, day: u64) -> u64 {
    let (year, months_since_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * (months_since_march % 12) + 2) / 5 + day.max(1) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

/// Year, month and day of a day since 1970, by counting in eras of 400 years that begin in March.
fn date_of(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_ERA: u64 = 146_097;
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_since_march + 2) / 5 + 1;
    let month = if months_since_march < 10 { months_since_march + 3 } else { months_since_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_time_reads_back_and_a_day_that_is_none_does_not() {
        for ms in [0, 1, 951_782_400_123, 1_709_164_800_000, 1_783_000_000_999, 4_102_444_800_000] {
            let mut out = Vec::new();
            push_time(&mut out, ms);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(parse_time(text.trim_matches('"')), Some(ms), "{text}");
        }
        assert_eq!(parse_time("2030-01-31T12:00:00Z"), Some(1_896_091_200_000));
        for bad in [
            "",
            "2030-02-30T00:00:00Z",
            "2030-13-01T00:00:00Z",
            "2030-01-00T00:00:00Z",
            "2030-1-1T0:0:0Z",
            "2030-01-01 00:00:00Z",
            "2030-01-01T24:00:00Z",
            "2030-01-01T00:00:00+01:00",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }

    fn record(content_type: &str, value: &[u8]) -> Record {
        Record {
            version: 41,
            modified_ms: 784_111_777_089,
            expires_ms: 0,
            content_type: Bytes::copy_from_slice(content_type.as_bytes()),
            value: Bytes::copy_from_slice(value),
        }
    }

    fn written(record: &Record, form: ItemForm) -> String {
        let mut out = Vec::new();
        write_item(&mut out, None, "k\"", record, ItemOptions { form, values: true });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_json_value_stands_verbatim_and_anything_else_in_base64() {
        let json = written(&record("application/json", b"{\"n\": 1.0}"), ItemForm::Page);
        assert_eq!(
            json,
            r#"{"key":"k\"","version":41,"size":10,"content_type":"application/json","modified":"1994-11-06T08:49:37.089Z","expires":null,"value":{"n": 1.0}}"#
        );
        assert!(
            written(&record("application/json", b"{broken"), ItemForm::Page)
                .ends_with(r#""value_base64":"e2Jyb2tlbg=="}"#)
        );
        assert!(written(&record("text/plain", b"1"), ItemForm::Page).ends_with(r#""value_base64":"MQ=="}"#));
        assert!(written(&record("application/json", b""), ItemForm::Page).ends_with(r#""value_base64":""}"#));
        assert!(written(&record("a/b+json", b"\"\xff\""), ItemForm::Page).ends_with(r#""value_base64":"Iv8i"}"#));
    }

    #[test]
    fn a_value_that_nests_too_deep_stands_in_base64() {
        let lists = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let objects = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        let mixed = |depth: usize| "[{\"a\":".repeat(depth / 2) + "1" + &"}]".repeat(depth / 2);
        for (json, stands) in [
            (lists(64), true),
            (lists(65), false),
            (objects(64), true),
            (objects(65), false),
            (mixed(64), true),
            (mixed(66), false),
            (lists(500_000), false),
            // Beside one another they do not nest, and in a text they are none.
            (format!("[{}[]]", "[],".repeat(500)), true),
            (format!("[{}, {}]", lists(63), lists(63)), true),
            (format!("[{}, {}]", lists(3), lists(64)), false),
            (format!("[\"{}\", {}]", "]".repeat(5), lists(64)), false),
            (format!("[\"{}\\\"{}\"]", "[".repeat(99), "{".repeat(99)), true),
            (format!("{{\"{}\\\\\":{}}}", "[".repeat(99), lists(63)), true),
            (format!("{{\"{}\\\\\":{}}}", "]".repeat(99), lists(64)), false),
        ] {
            let record = record("application/json", json.as_bytes());
            for form in [ItemForm::Page, ItemForm::Line] {
                let item = written(&record, form);
                let shown = &item[item.find("\"value").unwrap()..];
                assert_eq!(shown.starts_with("\"value\":"), stands, "{}", &json[..json.len().min(200)]);
                assert_eq!(shown.contains("base64"), !stands);
            }
        }
    }

    #[test]
    fn a_line_has_no_line_breaks() {
        let pretty = record("application/json", b"{\n  \"a\": 1\r\n}");
        assert!(written(&pretty, ItemForm::Page).contains("\"value\":{\n"));
        let line = written(&pretty, ItemForm::Line);
        assert!(line.contains("value_base64") && !line.contains(['\n', '\r']), "{line}");
        assert!(written(&record("application/json", b" 1"), ItemForm::Line).contains("value_base64"));
    }

    #[test]
    fn without_values_and_with_a_path() {
        let mut record = record("text/plain", b"x");
        record.expires_ms = 1000;
        let mut out = Vec::new();
        let options = ItemOptions { form: ItemForm::Line, values: false };
        write_item(&mut out, Some(("home", "sensors")), "k", &record, options);
        let item: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&item["namespace"], &item["collection"]), (&"home".into(), &"sensors".into()));
        assert_eq!(item["expires"], "1970-01-01T00:00:01.000Z");
        assert!(item.get("value").is_none() && item.get("value_base64").is_none());
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let time = |ms| {
            let mut out = Vec::new();
            push_time(&mut out, ms);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(time(0), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(time(951_782_399_999), "\"2000-02-28T23:59:59.999Z\"");
        assert_eq!(time(951_782_400_000), "\"2000-02-29T00:00:00.000Z\"");
        assert_eq!(time(4_107_542_400_000), "\"2100-03-01T00:00:00.000Z\"");
        assert_eq!(time(u64::MAX), "\"9999-12-31T23:59:59.999Z\"");
    }

    fn any_value() -> impl Strategy<Value = Vec<u8>> {
        let json = r#"[ \n]?[0-9]{1,3}[ \n]?|\[ ?"[a-z]*",\n?1\]"#;
        prop_oneof![proptest::collection::vec(any::<u8>(), 0..60), json.prop_map(String::into_bytes)]
    }

    proptest! {
        #[test]
        fn times_agree_with_the_dates_of_http(seconds in 0u64..253_402_300_800) {
            let mut out = Vec::new();
            push_time(&mut out, seconds * 1000);
            let text = String::from_utf8(out).unwrap();
            let date = crate::http::conditional::write_date(seconds);
            // "Sun, 06 Nov 1994 08:49:37 GMT"
            let (day, year, time) = (&date[5..7], &date[12..16], &date[17..25]);
            prop_assert_eq!(&text[1..5], year);
            prop_assert_eq!(&text[9..11], day);
            prop_assert_eq!(&text[12..20], time);
            let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            prop_assert_eq!(months[text[6..8].parse::<usize>().unwrap() - 1], &date[8..11]);
        }

        #[test]
        fn the_bytes_of_a_line_read_back_exactly(value in any_value(), json: bool) {
            let record = record(if json { "application/json" } else { "image/png" }, &value);
            let line = written(&record, ItemForm::Line);
            prop_assert!(!line.contains(['\n', '\r']));
            #[derive(serde::Deserialize)]
            struct Item<'a> {
                #[serde(borrow)]
                value: Option<&'a RawValue>,
                value_base64: Option<String>,
            }
            let item: Item<'_> = serde_json::from_str(&line).unwrap();
            let back = match (item.value, item.value_base64) {
                (Some(json), None) => json.get().as_bytes().to_vec(),
                (None, Some(text)) => STANDARD.decode(text).unwrap(),
                _ => panic!("{line}"),
            };
            prop_assert_eq!(back, value);
        }
    }
}
