//! Byte ranges: reading `Range` and `If-Range` against a representation of known length (RFC 9110 §14).
//!
//! One range is served; a list of several is answered with the whole, which RFC 9110 §14.2 allows and which keeps an
//! answer from growing past what it is made of. What cannot be understood is ignored, as the RFC demands.
//!
//! Invariant: a range that is returned lies within the length.

use super::conditional::parse_date;
use super::etag::parse_tag;
use super::headers::{Head, HeaderName};
use super::problem::Problem;

/// What part of a representation to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeVerdict {
    /// All of it (200).
    Whole,
    /// These bytes (206), both ends included.
    One {
        /// The first byte.
        start: u64,
        /// The last byte.
        end_inclusive: u64,
    },
    /// Nothing of what was asked for is there (416).
    Unsatisfiable,
}

/// The state that `If-Range` is compared with.
#[derive(Clone, Copy, Debug)]
pub struct RangeTarget<'a> {
    /// The strong tag of the identity form, with its quotes.
    pub etag: &'a str,
    /// When it was modified, seconds since 1970, if that is known.
    pub modified_s: Option<u64>,
    /// Its length in bytes.
    pub length: u64,
}

/// Judges a GET. For other methods `Range` means nothing: do not ask. Preconditions come first.
pub fn evaluate(head: &Head, target: RangeTarget<'_>) -> RangeVerdict {
    if !head.has(HeaderName::Range) || head.count(HeaderName::Range) != 1 || !if_range_holds(head, target) {
        return RangeVerdict::Whole;
    }
    head.get(HeaderName::Range).map_or(RangeVerdict::Whole, |value| parse(value, target.length))
}

fn if_range_holds(head: &Head, target: RangeTarget<'_>) -> bool {
    if !head.has(HeaderName::IfRange) {
        return true;
    }
    let Some(value) = head.get(HeaderName::IfRange).filter(|_| head.count(HeaderName::IfRange) == 1) else {
        return false;
    };
    if value.contains('"') {
        // Strong comparison: a weak tag never holds.
        return matches!(parse_tag(value), Ok((tag, "")) if !tag.weak) && value == target.etag;
    }
    // A date is a strong validator only once its second is over (RFC 9110 §8.8.2.2).
    let now_s = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    target.modified_s.is_some_and(|modified_s| parse_date(value) == Some(modified_s) && modified_s < now_s)
}

/// Reads the value of a `Range` field for a representation of `length` bytes.
pub fn parse(value: &str, length: u64) -> RangeVerdict {
    let Some((unit, set)) = value.split_once('=') else { return RangeVerdict::Whole };
    if !unit.eq_ignore_ascii_case("bytes") {
        return RangeVerdict::Whole;
    }
    let mut specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    match (specs.next(), specs.next()) {
        (Some(spec), None) => parse_spec(spec, length).unwrap_or(RangeVerdict::Whole),
        _ => RangeVerdict::Whole,
    }
}

/// `None` if the spec is malformed.
fn parse_spec(spec: &str, length: u64) -> Option<RangeVerdict> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let suffix = position(last)?;
        return Some(match (suffix, length) {
            (0, _) => RangeVerdict::Unsatisfiable,
            // All of nothing: a 206 could not even name it.
            (_, 0) => RangeVerdict::Whole,
            _ => RangeVerdict::One { start: length.saturating_sub(suffix), end_inclusive: length - 1 },
        });
    }
    let start = position(first)?;
    let end = if last.is_empty() { u64::MAX } else { position(last)? };
    if end < start {
        return None;
    }
    if start >= length {
        return Some(RangeVerdict::Unsatisfiable);
    }
    Some(RangeVerdict::One { start, end_inclusive: end.min(length - 1) })
}

/// A byte position; one too large for 64 bits counts as the largest, since it lies behind every end.
fn position(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// The `Content-Range` of a 206.
pub fn content_range(start: u64, end_inclusive: u64, length: u64) -> String {
    format!("bytes {start}-{end_inclusive}/{length}")
}

/// The `Content-Range` of a 416.
pub fn content_range_unsatisfied(length: u64) -> String {
    format!("bytes */{length}")
}

/// The 416 for a representation of `length` bytes. Its answer also carries [`content_range_unsatisfied`].
pub fn not_satisfiable(length: u64) -> Problem {
    let message = format!("the range lies outside the {length} bytes that are there");
    Problem::new(416, "RANGE_NOT_SATISFIABLE", message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::RangeVerdict::*;
    use super::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const TARGET: RangeTarget<'_> = RangeTarget { etag: "\"41\"", modified_s: Some(784_111_777), length: 1000 };

    fn one(start: u64, end_inclusive: u64) -> RangeVerdict {
        One { start, end_inclusive }
    }

    fn ask(fields: &[(&str, &str)]) -> RangeVerdict {
        let mut head = Head::new("/");
        for (name, value) in fields {
            head.push(name.as_bytes(), value.as_bytes());
        }
        evaluate(&head, TARGET)
    }

    #[test]
    fn the_three_forms_of_one_range() {
        assert_eq!(parse("bytes=0-0", 1000), one(0, 0));
        assert_eq!(parse("bytes=500-", 1000), one(500, 999));
        assert_eq!(parse("bytes=-5", 1000), one(995, 999));
        assert_eq!(parse("Bytes= 3-4 ,", 1000), one(3, 4));
    }

    #[test]
    fn ends_beyond_the_length_are_cut() {
        assert_eq!(parse("bytes=990-5000", 1000), one(990, 999));
        assert_eq!(parse("bytes=-5000", 1000), one(0, 999));
        assert_eq!(parse("bytes=1-99999999999999999999999", 1000), one(1, 999));
        assert_eq!(parse("bytes=-99999999999999999999999", 1000), one(0, 999));
    }

    #[test]
    fn nothing_there_is_unsatisfiable() {
        for value in ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(parse(value, 1000), Unsatisfiable, "{value}");
        }
        assert_eq!(parse("bytes=0-", 0), Unsatisfiable);
        assert_eq!(parse("bytes=-5", 0), Whole);
    }

    #[test]
    fn what_is_malformed_or_several_is_answered_whole() {
        let values =
            ["", "bytes", "bytes=", "bytes=-", "bytes=5-4", "bytes=a-b", "bytes=+1-2", "bytes=1-2-3", "bytes=1--2"];
        for value in values.iter().chain(&["items=0-1", "bytes=0-1,5-6", "bytes=0x1-2", "bytes =0-1", "bytes=0 -1"]) {
            assert_eq!(parse(value, 1000), Whole, "{value}");
        }
        assert_eq!(ask(&[("Range", "bytes=0-1"), ("Range", "bytes=2-3")]), Whole);
    }

    #[test]
    fn if_range_wants_the_same_strong_tag() {
        assert_eq!(ask(&[("Range", "bytes=0-1"), ("If-Range", "\"41\"")]), one(0, 1));
        for tag in ["\"40\"", "W/\"41\"", "\"41-gzip\"", "\"41\", \"42\"", "41", ""] {
            assert_eq!(ask(&[("Range", "bytes=0-1"), ("If-Range", tag)]), Whole, "{tag}");
        }
    }

    #[test]
    fn if_range_wants_the_exact_date() {
        assert_eq!(ask(&[("Range", "bytes=0-1"), ("If-Range", MODIFIED)]), one(0, 1));
        assert_eq!(ask(&[("Range", "bytes=0-1"), ("If-Range", "Sun, 06 Nov 1994 08:49:38 GMT")]), Whole);
        assert_eq!(ask(&[("If-Range", MODIFIED)]), Whole);
    }

    proptest! {
        #[test]
        fn a_range_is_never_empty_and_lies_within(value in "bytes=[0-9]{0,3}-[0-9]{0,3}|\\PC{0,20}", length in 0u64..300) {
            if let One { start, end_inclusive } = parse(&value, length) {
                prop_assert!(start <= end_inclusive && end_inclusive < length);
            }
        }

        #[test]
        fn a_range_selects_the_bytes_it_names(a in 0u64..300, b in 0u64..300, length in 1u64..300) {
            let expected = if b < a { Whole } else if a >= length { Unsatisfiable } else { one(a, b.min(length - 1)) };
            prop_assert_eq!(parse(&format!("bytes={a}-{b}"), length), expected);
        }
    }
}
