//! Percent-decoding of path segments, and query strings read against the parameters that a route knows.
//!
//! Strict on purpose: a client that misspells a parameter or an escape is told so, instead of getting an answer to a
//! question it did not ask. In a query `+` is a blank, as every form encoder writes it (URLSearchParams, Python's
//! urlencode); a plus sign travels as `%2B`. In a path `+` is itself.
//!
//! Invariant: no parameter is ever ignored, and none counts twice.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::problem::Problem;

/// Why a text could not be percent-decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// A `%` without two hexadecimal digits behind it.
    BadEscape,
    /// The decoded bytes are not UTF-8.
    NotUtf8,
}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DecodeError::BadEscape => "a % must be followed by two hexadecimal digits (a percent sign itself is %25)",
            DecodeError::NotUtf8 => "the percent-decoded bytes are not UTF-8",
        })
    }
}

impl std::error::Error for DecodeError {}

/// Decodes one path segment. Borrows where nothing is escaped.
pub fn percent_decode(segment: &str) -> Result<Cow<'_, str>, DecodeError> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'%' {
            decoded.push(byte);
            rest = tail;
            continue;
        }
        let (high, low) = match tail {
            [high, low, ..] => (hex(*high), hex(*low)),
            _ => (None, None),
        };
        let (Some(high), Some(low)) = (high, low) else { return Err(DecodeError::BadEscape) };
        decoded.push(high << 4 | low);
        rest = &tail[2..];
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| DecodeError::NotUtf8)
}

/// Appends a path in its usual spelling: with the unreserved characters that it spells as escapes as themselves (RFC 3986
/// §6.2.2.2). What else is escaped stays so, for it means something else (`%2F` is no slash, `%25` begins no escape).
///
/// SECURITY: a path with an escape that is none stays as it is, for its readers to refuse: what was decoded beside a stray
/// `%` could make an escape that nobody sent.
pub fn push_usual(out: &mut String, path: &str) {
    let start = out.len();
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let Some(byte) = rest.get(at + 1..at + 3).and_then(escaped) else {
            out.truncate(start);
            return out.push_str(path);
        };
        let is_unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        out.push_str(&rest[..at]);
        if is_unreserved {
            out.push(char::from(byte));
        } else {
            out.push_str(&rest[at..at + 3]);
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
}

fn escaped(digits: &str) -> Option<u8> {
    let digits = digits.as_bytes();
    Some(hex(digits[0])? << 4 | hex(digits[1])?)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// The characters of a path segment that need no escape (RFC 3986 §3.3), less those that some clients treat specially.
const SEGMENT: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b'@')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b'!');

/// Encodes a text as one path segment, for `Location`.
pub fn percent_encode(segment: &str) -> impl std::fmt::Display + '_ {
    percent_encoding::utf8_percent_encode(segment, SEGMENT)
}

fn decode_form(text: &str) -> Result<Cow<'_, str>, DecodeError> {
    if !text.contains('+') {
        return percent_decode(text);
    }
    percent_decode(&text.replace('+', " ")).map(|decoded| Cow::Owned(decoded.into_owned()))
}

/// The parameters of a query, all of them known and none of them twice.
#[derive(Clone, Debug, Default)]
pub struct Query<'a> {
    pairs: Vec<(&'a str, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Reads a query (without its `?`). 400 `INVALID_QUERY` for an unknown or repeated parameter or a bad escape. An empty
    /// query allocates nothing.
    pub fn parse(raw: &'a str, known: &'a [&'a str]) -> Result<Query<'a>, Problem> {
        let mut pairs: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for piece in raw.split('&').filter(|piece| !piece.is_empty()) {
            let (raw_name, raw_value) = piece.split_once('=').unwrap_or((piece, ""));
            let name = decode_form(raw_name).map_err(|error| bad_escape(raw_name, error))?;
            let Some(name) = known.iter().copied().find(|known| *known == name) else {
                return Err(unknown(&name, known));
            };
            if pairs.iter().any(|(seen, _)| *seen == name) {
                return Err(invalid(format!("the query parameter {name} stands twice; send it once")));
            }
            pairs.push((name, decode_form(raw_value).map_err(|error| bad_escape(name, error))?));
        }
        Ok(Query { pairs })
    }

    /// A parameter's decoded value; empty if it was sent without one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(seen, _)| *seen == name).map(|(_, value)| value.as_ref())
    }

    /// A parameter that is `true` or `false`. 400 `INVALID_QUERY` for anything else.
    pub fn bool(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(invalid(format!("the query parameter {name} must be true or false"))),
        }
    }

    /// A parameter that is a whole number within a range. 400 `INVALID_QUERY` for anything else.
    pub fn u64(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && range.contains(&number) => Ok(Some(number)),
            _ => Err(invalid(format!(
                "the query parameter {name} must be a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }
}

fn invalid(message: String) -> Problem {
    Problem::new(400, "INVALID_QUERY", message)
}

fn bad_escape(name: &str, error: DecodeError) -> Problem {
    invalid(format!("the query parameter {}: {error}", shortened(name)))
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let name = shortened(name);
    invalid(match known {
        [] => format!("the query parameter {name} is unknown; none is known here"),
        _ => format!("the query parameter {name} is unknown; known here: {}", known.join(", ")),
    })
}

/// At most 64 characters of what the client sent, for a message.
fn shortened(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(64) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_are_decoded_in_either_case_and_plus_is_itself() {
        assert_eq!(percent_decode("a%2Fb%2fc+d%C3%A9").unwrap(), "a/b/c+dé");
        assert!(matches!(percent_decode("plain"), Ok(Cow::Borrowed("plain"))));
        assert_eq!(percent_decode("%00").unwrap(), "\0", "judging NUL is the caller's");
    }

    #[test]
    fn stray_percent_signs_and_bad_utf8_are_errors() {
        for text in ["%", "a%", "%2", "%zz", "%2g", "%+1", "%%20", "100%"] {
            assert_eq!(percent_decode(text), Err(DecodeError::BadEscape), "{text}");
        }
        assert_eq!(percent_decode("%FF"), Err(DecodeError::NotUtf8));
        assert_eq!(percent_decode("%C0%AF"), Err(DecodeError::NotUtf8), "an overlong slash is no slash");
    }

    #[test]
    fn the_usual_spelling_of_a_path_escapes_nothing_that_needs_no_escape() {
        for (sent, usual) in [
            ("/my%2Dhome/%6d%79%5fcol/%7E%2e%41%39", "/my-home/my_col/~.A9"),
            ("/%2e%2E/%2e", "/../."),
            ("/a%2Fb%2fc%3F%23%25%20%00%C3%A9", "/a%2Fb%2fc%3F%23%25%20%00%C3%A9"),
            ("/%252D/%2525", "/%252D/%2525"),
            ("/%25%32%44", "/%252D"),
            // Not a way to make an escape out of pieces.
            ("/%%32%44", "/%%32%44"),
            ("/%2%35/%41", "/%2%35/%41"),
            ("/%41/%", "/%41/%"),
            ("/%41/%4", "/%41/%4"),
            ("/%41/%g1", "/%41/%g1"),
            ("/%41/%+1é", "/%41/%+1é"),
            ("", ""),
        ] {
            let mut out = String::from("x");
            push_usual(&mut out, sent);
            assert_eq!(out, format!("x{usual}"), "{sent}");
        }
    }

    #[test]
    fn a_query_is_decoded_with_plus_as_blank() {
        let query = Query::parse("prefix=a+b%2B%26&&%6Cimit=5&values", &["prefix", "limit", "values"]).unwrap();
        assert_eq!(query.get("prefix"), Some("a b+&"));
        assert_eq!(query.get("limit"), Some("5"));
        assert_eq!(query.get("values"), Some(""));
        assert_eq!(query.get("cursor"), None);
    }

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        let problem = Query::parse("limits=5", &["limit", "prefix"]).unwrap_err();
        assert_eq!((problem.status, problem.code), (400, "INVALID_QUERY"));
        assert!(problem.message.contains("limits") && problem.message.contains("limit, prefix"), "{}", problem.message);
        assert!(Query::parse("limit=5&limit=5", &["limit"]).unwrap_err().message.contains("limit stands twice"));
        assert!(Query::parse("x", &[]).is_err());
        assert!(Query::parse("=1", &["limit"]).is_err());
        assert!(Query::parse("LIMIT=1", &["limit"]).is_err());
        assert!(Query::parse("", &[]).is_ok());
    }

    #[test]
    fn bad_escapes_are_refused_with_the_name() {
        assert!(Query::parse("prefix=%", &["prefix"]).unwrap_err().message.contains("prefix"));
        assert!(Query::parse("pre%fix=1", &["prefix"]).is_err());
        assert!(Query::parse("prefix=%ff", &["prefix"]).is_err());
    }

    #[test]
    fn a_long_unknown_name_is_shortened_in_the_message() {
        let name = "é".repeat(5000);
        assert!(Query::parse(&name, &["limit"]).unwrap_err().message.chars().count() < 200);
    }

    #[test]
    fn numbers_and_flags_are_strict() {
        let ask = |raw| Query::parse(raw, &["limit"]).unwrap().u64("limit", 1..=1000);
        assert_eq!(ask("").unwrap(), None);
        assert_eq!(ask("limit=1000").unwrap(), Some(1000));
        for raw in
            ["limit=0", "limit=1001", "limit=", "limit=-1", "limit=%2B5", "limit=5.0", "limit=99999999999999999999"]
        {
            assert!(ask(raw).unwrap_err().message.contains("from 1 to 1000"), "{raw}");
        }
        let flag = |raw| Query::parse(raw, &["values"]).unwrap().bool("values");
        assert_eq!(flag("values=true").unwrap(), Some(true));
        assert_eq!(flag("values=false").unwrap(), Some(false));
        assert!(flag("values=1").is_err() && flag("values").is_err());
    }

    proptest! {
        #[test]
        fn encoding_then_decoding_gives_the_text_back(text in "\\PC{0,40}|[\\x00-\\x7f]{0,40}") {
            let encoded = percent_encode(&text).to_string();
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'?' && b != b'#'));
            prop_assert_eq!(percent_decode(&encoded).unwrap(), text);
        }

        #[test]
        fn the_usual_spelling_means_the_same(path in "([a%0-9A-Fa-f/.é~-]|%[0-9a-fA-F]{2}){0,24}") {
            let (mut once, mut twice) = (String::new(), String::new());
            push_usual(&mut once, &path);
            push_usual(&mut twice, &once);
            prop_assert_eq!(percent_decode(&once), percent_decode(&path));
            prop_assert_eq!(once.matches('/').count(), path.matches('/').count());
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn any_values_survive_a_query(a in "\\PC{0,20}", b in "\\PC{0,20}") {
            let raw = format!("a={}&b={}", percent_encode(&a).to_string().replace('&', "%26").replace('+', "%2B"),
                              percent_encode(&b).to_string().replace('&', "%26").replace('+', "%2B").replace("%20", "+"));
            let query = Query::parse(&raw, &["a", "b"]).unwrap();
            prop_assert_eq!(query.get("a"), Some(a.as_str()));
            prop_assert_eq!(query.get("b"), Some(b.as_str()));
        }

        #[test]
        fn no_query_makes_the_parser_panic(raw in "[a-z%&=+0-9é]{0,40}") {
            let _ = Query::parse(&raw, &["a", "b"]);
        }
    }
}
