//! JSON documents as clients and files hold them, read into what they should be.
//!
//! What is derived from a type takes more than an object for it: a list of the members' values passes too, and its
//! complaints name types of this program. So every document goes through [`object`]. Invariant: a document is taken only
//! if it is an object, and no message says how larder is made inside.
//!
//! Types that are read here hold no others of their kind: where documents nest, the inner ones are taken as texts and come
//! here by themselves.

use serde::de::{self, Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

/// What some editors and shells put before a text. It says nothing (RFC 8259 §8.1: it may be ignored).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A text without the mark that may stand before it.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Whether there is nothing in a text or a line of one.
pub fn is_blank(bytes: &[u8]) -> bool {
    without_mark(bytes).trim_ascii().is_empty()
}

/// Reads a document that a client sent, or a line of one, which may have a mark before it. As [`object`] else.
pub fn sent<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    object(without_mark(bytes))
}

/// Reads a document that is an object. The error says what is wrong with it, in words for whoever wrote it.
pub fn object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    match text.trim_ascii_start().first() {
        Some(b'{') | None => {}
        Some(b'[') => return Err("an object is wanted, {…}, not a list".to_owned()),
        Some(b'"') => return Err("an object is wanted, {…}, not a text".to_owned()),
        Some(b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => return Err("an object is wanted, {…}".to_owned()),
        Some(_) if matches!(text, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [_, 0, ..] | [0, ..]) => {
            return Err("JSON is UTF-8, and this is UTF-16".to_owned());
        }
        Some(_) => {}
    }
    serde_json::from_slice(text).map_err(|error| plain(&error))
}

/// Reads a member that is a number, as it is spelled. What stands for a number inside `serde_json` is none.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de str, D::Error> {
    spelled(<&RawValue>::deserialize(deserializer)?.get())
}

/// The same for a member that may be left out or null.
pub fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de str>, D::Error> {
    match <&RawValue>::deserialize(deserializer)?.get() {
        "null" => Ok(None),
        text => spelled(text).map(Some),
    }
}

fn spelled<E: de::Error>(text: &str) -> Result<&str, E> {
    let kind = match text.as_bytes() {
        [b'-' | b'0'..=b'9', ..] => return Ok(text),
        [b'"', ..] => "a text",
        [b'{', ..] => "an object",
        [b'[', ..] => "a list",
        _ => text,
    };
    Err(E::custom(format_args!("{kind} stands where a number is wanted")))
}

/// An error of the parser, in words that mean something outside of this program.
fn plain(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let full = error.to_string();
    let text = full.strip_suffix(&place).unwrap_or(&full);
    let said = if error.classify() == Category::Data { said(text) } else { text.to_owned() };
    if error.line() == 0 { said } else { said + &place }
}

fn said(text: &str) -> String {
    let kinds = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "));
    if let Some((found, wanted)) = kinds.and_then(|kinds| kinds.rsplit_once(", expected ")) {
        return format!("{} stands where {} is wanted", kind_found(found), kind_wanted(wanted));
    }
    if let Some(name) = text.strip_prefix("missing field ") {
        return format!("{name} is missing");
    }
    if let Some(name) = text.strip_prefix("duplicate field ") {
        return format!("{name} stands twice");
    }
    let unknown = text.strip_prefix("unknown field ").or_else(|| text.strip_prefix("unknown variant "));
    match unknown.and_then(|unknown| unknown.rsplit_once(", expected ")) {
        Some((name, known)) => format!("{name} is unknown here; known: {}", known.trim_start_matches("one of ")),
        None => text.to_owned(),
    }
}

fn kind_found(found: &str) -> &'static str {
    match found.split([' ', '`']).next().unwrap_or_default() {
        "sequence" => "a list",
        "map" => "an object",
        "null" | "unit" | "Option" => "null",
        "boolean" => "true or false",
        "integer" | "floating" | "number" => "a number",
        "string" | "character" => "a text",
        _ => "something else",
    }
}

fn kind_wanted(wanted: &str) -> &str {
    match wanted {
        "a string" | "string" | "a borrowed string" | "str" => "a text",
        "a boolean" | "bool" => "true or false",
        "u8" | "u16" | "u32" | "u64" | "usize" | "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" | "a JSON number" => "a number",
        "a sequence" | "sequence" => "a list",
        "a map" | "map" => "an object",
        _ if wanted.starts_with("struct ") => "an object",
        _ if wanted.starts_with("a list of ") => wanted,
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Sample<'a> {
        name: String,
        count: Option<u64>,
        flag: Option<bool>,
        list: Option<Vec<String>>,
        #[serde(borrow, default, deserialize_with = "optional_number")]
        size: Option<&'a str>,
    }

    fn error(text: &str) -> String {
        sent::<Sample<'_>>(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_object_is_read_with_or_without_a_mark_before_it() {
        for text in [
            "{\"name\":\"x\",\"size\":1.50}",
            "\u{feff}{\"name\":\"x\",\"size\":1.50}",
            "\u{feff} \n {\"size\":1.50,\"name\":\"x\"}\r\n",
        ] {
            let sample: Sample<'_> = sent(text.as_bytes()).unwrap();
            assert_eq!((sample.name.as_str(), sample.size), ("x", Some("1.50")), "{text}");
            assert_eq!(object::<Sample<'_>>(text.as_bytes()).is_ok(), text.starts_with('{'), "{text}");
        }
        assert!(is_blank(b"\xef\xbb\xbf \r") && is_blank(b"") && !is_blank(b"\xef\xbb\xbfx") && !is_blank(b"\xef\xbb"));
    }

    #[test]
    fn nothing_else_passes_for_an_object() {
        for text in ["[\"x\"]", " [\"x\",1,true,[],2]", "\u{feff}[]", "[]", "[[]]", "\"x\"", "5", "-1", "true", "null"]
        {
            assert!(error(text).starts_with("an object is wanted"), "{text}: {}", error(text));
        }
        for bytes in [&b"\xff\xfe{\0}\0"[..], b"\xfe\xff\0{\0}", b"\0{\0}"] {
            assert_eq!(object::<Sample<'_>>(bytes).unwrap_err(), "JSON is UTF-8, and this is UTF-16");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_words_of_json() {
        for (text, expected) in [
            ("{\"name\":5}", "a number stands where a text is wanted at line 1 column 9"),
            ("{\"name\":[]}", "a list stands where a text is wanted at line 1 column 8"),
            ("{\"name\":{}}", "an object stands where a text is wanted at line 1 column 8"),
            ("{\"name\":null}", "null stands where a text is wanted at line 1 column 12"),
            ("{\"name\":\"x\",\"count\":\"5\"}", "a text stands where a whole number is wanted at line 1 column 23"),
            ("{\"name\":\"x\",\"count\":-5}", "a number stands where a whole number is wanted at line 1 column 22"),
            ("{\"name\":\"x\",\"count\":1.5}", "a number stands where a whole number is wanted at line 1 column 23"),
            ("{\"name\":\"x\",\"flag\":1}", "a number stands where true or false is wanted at line 1 column 20"),
            ("{\"name\":\"x\",\"list\":{}}", "an object stands where a list is wanted at line 1 column 19"),
            ("{\"name\":\"x\",\"size\":\"1\"}", "a text stands where a number is wanted at line 1 column 23"),
            ("{\"count\":5}", "`name` is missing at line 1 column 11"),
            ("{\"name\":\"x\",\"name\":\"y\"}", "`name` stands twice at line 1 column 18"),
            ("{}", "`name` is missing at line 1 column 2"),
            ("", "EOF while parsing a value at line 1 column 0"),
            ("{\"name\"", "EOF while parsing an object at line 1 column 7"),
            ("{\"name\":\"x\"} x", "trailing characters at line 1 column 14"),
            ("x", "expected value at line 1 column 1"),
        ] {
            assert_eq!(error(text), expected, "{text}");
        }
        let unknown = error("{\"name\":\"x\",\"nmae\":1}");
        assert!(unknown.starts_with("`nmae` is unknown here; known: `name`, `count`"), "{unknown}");
    }

    #[test]
    fn no_object_stands_for_a_number() {
        let disguised = "{\"name\":\"x\",\"size\":{\"$serde_json::private::Number\":\"5\"}}";
        assert!(error(disguised).starts_with("an object stands where a number is wanted"));
        assert_eq!(object::<Sample<'_>>(b"{\"name\":\"x\",\"size\":null}").unwrap().size, None);
        assert_eq!(object::<Sample<'_>>(b"{\"name\":\"x\"}").unwrap().size, None);
    }
}
