//! Counters: what `incr` makes of a stored value. Pure; it runs on the committer's thread.
//!
//! A counter is a decimal integer as JSON writes it, so that GET, a batch and `incr` agree on what it is.

use bytes::Bytes;
use serde::Deserialize;

use crate::http::{Problem, json};
use crate::store::{NewValue, Record, Update, UpdateRefused};

use super::whole;

/// The content type of a counter.
pub const CONTENT_TYPE: &str = "application/json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default = "one", deserialize_with = "whole::required")]
    by: i64,
}

fn one() -> i64 {
    1
}

/// Reads the body of `incr`: `{"by": -3}`; `{}` or nothing for 1. 400 `INVALID_JSON` for anything else.
pub fn parse_body(body: &[u8]) -> Result<i64, Problem> {
    if json::is_blank(body) {
        return Ok(1);
    }
    let invalid = |_: String| {
        let message = "the body of incr is empty, {} or {\"by\": n} with a whole number n that fits 64 bits";
        Problem::new(400, "INVALID_JSON", message)
    };
    json::sent::<Body>(body).map(|body| body.by).map_err(invalid)
}

/// The integer that a stored value is: an optional minus, then digits without superfluous zeros, nothing around them.
pub fn parse_stored(value: &[u8]) -> Option<i64> {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let plain = digits.iter().all(u8::is_ascii_digit) && (digits == b"0" || !digits.starts_with(b"0"));
    if !plain {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Adds to the present value; absent counts as 0.
pub fn add(present: Option<&[u8]>, by: i64) -> Result<i64, UpdateRefused> {
    let before = match present {
        None => 0,
        Some(value) => parse_stored(value).ok_or(UpdateRefused::NotAnInteger)?,
    };
    before.checked_add(by).ok_or(UpdateRefused::IntegerOverflow)
}

/// The update that the committer applies.
pub fn update(by: i64) -> Update {
    Box::new(move |present: Option<&Record>| {
        let sum = add(present.map(|record| &record.value[..]), by)?;
        let content_type = Bytes::from_static(CONTENT_TYPE.as_bytes());
        Ok(NewValue { content_type, value: sum.to_string().into() })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_body_is_empty_or_names_by_how_much() {
        assert_eq!(parse_body(b"").unwrap(), 1);
        assert_eq!(parse_body(b" \r\n").unwrap(), 1);
        assert_eq!(parse_body(b"{\"by\": -3}").unwrap(), -3);
        assert_eq!(parse_body(b"{\"by\":-3.0}").unwrap(), -3);
        assert_eq!(parse_body(b"{\"by\":-9223372036854775808}").unwrap(), i64::MIN);
        assert_eq!(parse_body(b"{}").unwrap(), 1);
        assert_eq!(parse_body(b" { } ").unwrap(), 1);
        for body in [
            "{\"by\":null}",
            "3",
            "{\"by\":1.5}",
            "{\"by\":1e-2}",
            "{\"by\":\"1\"}",
            "{\"by\":9223372036854775808}",
            "{\"by\":1,\"x\":2}",
            "{",
            "null",
        ] {
            let problem = parse_body(body.as_bytes()).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "INVALID_JSON"), "{body}");
        }
    }

    #[test]
    fn only_plain_decimal_integers_are_counters() {
        for value in
            ["", "-", "+1", "01", "-01", " 1", "1 ", "1\n", "1.0", "1e3", "0x1", "true", "9223372036854775808", "١"]
        {
            assert_eq!(add(Some(value.as_bytes()), 1), Err(UpdateRefused::NotAnInteger), "{value}");
        }
        assert_eq!(add(Some(b"0"), 1), Ok(1));
        assert_eq!(add(Some(b"-0"), 1), Ok(1));
        assert_eq!(add(None, -3), Ok(-3));
    }

    #[test]
    fn a_sum_beyond_64_bits_is_refused() {
        assert_eq!(add(Some(b"9223372036854775807"), 1), Err(UpdateRefused::IntegerOverflow));
        assert_eq!(add(Some(b"-9223372036854775808"), -1), Err(UpdateRefused::IntegerOverflow));
        assert_eq!(add(Some(b"-9223372036854775808"), i64::MAX), Ok(-1));
    }

    #[test]
    fn the_update_stores_ascii_json() {
        let new = update(5)(None).unwrap_or_else(|_| panic!());
        assert_eq!((&new.value[..], &new.content_type[..]), (&b"5"[..], CONTENT_TYPE.as_bytes()));
    }

    proptest! {
        #[test]
        fn adding_works_on_every_stored_integer(stored: i64, by: i64) {
            let expected = stored.checked_add(by).ok_or(UpdateRefused::IntegerOverflow);
            prop_assert_eq!(add(Some(stored.to_string().as_bytes()), by), expected);
        }
    }
}
