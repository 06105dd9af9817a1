//! Whole numbers in JSON, however they are spelled: `3`, `3.0` and `3e0` are one number (RFC 8259, JSON Schema), and
//! some languages write every number with a fraction.
//!
//! Invariant: nothing is rounded. A number that is not whole, or does not fit, is refused.

use serde::Deserializer;
use serde::de::Error;

use crate::http::json;

/// The digits of the largest 64-bit number.
const DIGITS_MAX: usize = 20;

/// Reads a whole number that fits the type.
pub fn required<'de, D: Deserializer<'de>, N: TryFrom<i128>>(deserializer: D) -> Result<N, D::Error> {
    fits(json::number(deserializer)?)
}

/// The same for a member that may be left out or null.
pub fn optional<'de, D: Deserializer<'de>, N: TryFrom<i128>>(deserializer: D) -> Result<Option<N>, D::Error> {
    json::optional_number(deserializer)?.map(fits).transpose()
}

fn fits<N: TryFrom<i128>, E: Error>(number: &str) -> Result<N, E> {
    let whole = value(number).and_then(|whole| N::try_from(whole).ok());
    whole.ok_or_else(|| E::custom(format_args!("{number} is no whole number within the limits here")))
}

/// The value of a JSON number, if it is whole and has at most 20 digits.
fn value(text: &str) -> Option<i128> {
    let (unsigned, negative) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let (digits, zeros) = (digits.trim_end_matches('0'), digits.len() - digits.trim_end_matches('0').len());
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let places = exponent.parse::<i64>().ok()?.checked_add(zeros as i64)?.checked_sub(fraction.len() as i64)?;
    let places = usize::try_from(places).ok()?;
    if digits.len().checked_add(places)? > DIGITS_MAX {
        return None;
    }
    let value: i128 = format!("{digits}{}", "0".repeat(places)).parse().ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_number_may_be_spelled_with_a_fraction_or_an_exponent() {
        for (text, expected) in [
            ("3", 3),
            ("3.0", 3),
            ("-3.00", -3),
            ("3e0", 3),
            ("1.5e1", 15),
            ("120e-1", 12),
            ("0.0", 0),
            ("-0", 0),
            ("0e99999999999999999999", 0),
            ("9223372036854775807.0", i64::MAX.into()),
            ("18446744073709551615", u64::MAX.into()),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for text in ["3.5", "1e-1", "15e-2", "1e21", "123456789012345678901", "1e99999999999999999999", "1e-9999999999"]
        {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_its_type_is_refused() {
        #[derive(Debug, serde::Deserialize)]
        struct Sample {
            #[serde(deserialize_with = "required")]
            by: i64,
            #[serde(default, deserialize_with = "optional")]
            version: Option<u64>,
        }
        let read = |text: &str| serde_json::from_str::<Sample>(text);
        let sample = read(r#"{"by":-2.0,"version":7e0}"#).unwrap();
        assert_eq!((sample.by, sample.version), (-2, Some(7)));
        assert_eq!(read(r#"{"by":1,"version":null}"#).unwrap().version, None);
        for bad in [r#"{"by":9223372036854775808}"#, r#"{"by":"1"}"#, r#"{"by":1,"version":-1}"#, r#"{"by":0.5}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_integer_reads_as_itself(number: i64, zeros in 0usize..5) {
            prop_assert_eq!(value(&number.to_string()), Some(number.into()));
            prop_assert_eq!(value(&format!("{number}.{}", "0".repeat(zeros + 1))), Some(number.into()));
        }
    }
}
