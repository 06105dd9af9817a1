//! The first stage: values as they were given, before anyone knows whether they make sense.
//!
//! A file has types, the environment and the command line have only text: `Given` keeps that apart, so that
//! `workers = "4"` in a file is an error while `LARDER_SERVER_WORKERS=4` is not.

use super::units;
use std::time::Duration;

/// A value as it was given.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    /// Text from the environment or the command line, which may stand for any type.
    Words(String),
    /// A string of the file.
    Text(String),
    /// A whole number of the file.
    Integer(i64),
    /// A number with a fraction of the file.
    Float(f64),
    /// `true` or `false` in the file.
    Switch(bool),
    /// A list of strings, of the file or of a repeated flag.
    List(Vec<String>),
    /// Something of the file that no setting is.
    Other(&'static str),
}

impl Given {
    fn kind(&self) -> String {
        match self {
            Given::Words(text) => format!("`{text}`"),
            Given::Text(text) => format!("the text \"{text}\""),
            Given::Integer(number) => format!("the number {number}"),
            Given::Float(number) => format!("the number {number}"),
            Given::Switch(switch) => format!("{switch}"),
            Given::List(_) => "a list".to_owned(),
            Given::Other(what) => (*what).to_owned(),
        }
    }

    /// Text, such as the example.
    pub fn text(&self, example: &str) -> Result<&str, String> {
        match self {
            Given::Words(text) | Given::Text(text) if !text.is_empty() => Ok(text),
            Given::Words(_) | Given::Text(_) => Err("is empty".to_owned()),
            other => Err(format!("expected text in quotes, such as \"{example}\", not {}", other.kind())),
        }
    }

    /// A list of texts such as the example; from the environment, separated by commas. A single text is a list of one.
    pub fn list(&self, example: &str) -> Result<Vec<String>, String> {
        match self {
            Given::List(list) => Ok(list.clone()),
            Given::Text(text) => Ok(vec![text.clone()]),
            Given::Words(text) if text.trim_start().starts_with(['[', '"', '\'']) && !is_address(text) => Err(format!(
                "outside of the file a list has neither brackets nor quotes: {example}, or several with commas between, not `{text}`"
            )),
            Given::Words(text) => {
                Ok(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
            }
            other => Err(format!(
                "expected text in quotes, such as \"{example}\", or a list of such texts, not {}",
                other.kind()
            )),
        }
    }

    /// A whole number ≥ 0.
    pub fn count(&self) -> Result<u64, String> {
        let expected = || format!("expected a whole number, such as 8, not {}", self.kind());
        match self {
            Given::Integer(number) => u64::try_from(*number).map_err(|_| expected()),
            Given::Words(text) => text.parse().map_err(|_| expected()),
            _ => Err(expected()),
        }
    }

    /// A number > 0, with or without a fraction.
    pub fn number(&self) -> Result<f64, String> {
        let number = match self {
            Given::Integer(number) => Some(*number as f64),
            Given::Float(number) => Some(*number),
            Given::Words(text) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| number.is_finite() && *number > 0.0)
            .ok_or_else(|| format!("expected a number greater than 0, such as 2.5, not {}", self.kind()))
    }

    /// A size in bytes.
    pub fn size(&self) -> Result<u64, String> {
        match self {
            Given::Words(text) | Given::Text(text) => units::parse_size(text),
            Given::Integer(number) if *number >= 0 => Ok(*number as u64),
            other => Err(format!("expected a size such as \"32MiB\" or a number of bytes, not {}", other.kind())),
        }
    }

    /// Whether it is a number without any unit.
    pub fn is_bare_number(&self) -> bool {
        match self {
            Given::Words(text) | Given::Text(text) => text.trim().bytes().all(|byte| byte.is_ascii_digit()),
            Given::Integer(_) => true,
            Given::Float(_) | Given::Switch(_) | Given::List(_) | Given::Other(_) => false,
        }
    }

    /// A duration.
    pub fn duration(&self) -> Result<Duration, String> {
        match self {
            Given::Words(text) | Given::Text(text) => units::parse_duration(text),
            other => Err(format!("expected a duration such as \"30s\" or \"250ms\", not {}", other.kind())),
        }
    }

    /// `true` or `false`.
    pub fn switch(&self) -> Result<bool, String> {
        match self {
            Given::Switch(switch) => Ok(*switch),
            Given::Words(text) if text == "true" => Ok(true),
            Given::Words(text) if text == "false" => Ok(false),
            other => Err(format!("expected true or false, without quotes, not {}", other.kind())),
        }
    }
}

/// Whether a text begins with an IPv6 address in brackets, as `[::1]:8080` does.
fn is_address(text: &str) -> bool {
    let inner = text.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']'));
    inner.is_some_and(|(inner, _)| inner.contains(':') && !inner.contains(['"', '\'', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_types_and_the_environment_has_none() {
        assert_eq!(Given::Words("4".into()).count(), Ok(4));
        assert_eq!(Given::Integer(4).count(), Ok(4));
        assert!(Given::Text("4".into()).count().is_err());
        assert!(Given::Integer(-1).count().is_err());
        assert_eq!(Given::Words("true".into()).switch(), Ok(true));
        assert!(Given::Text("true".into()).switch().is_err());
        assert!(Given::Words("yes".into()).switch().is_err());
        assert_eq!(Given::Integer(4096).size(), Ok(4096));
        assert!(Given::Integer(30).duration().is_err());
        assert!(Given::Float(f64::NAN).number().is_err());
        assert!(Given::Integer(0).number().is_err());
    }

    #[test]
    fn lists_come_from_commas_lists_or_one_text() {
        assert_eq!(Given::Words("a, b,".into()).list("x"), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(Given::Text("a,b".into()).list("x"), Ok(vec!["a,b".into()]));
        assert!(Given::Integer(1).list("x").is_err());
        let address = "[::1]:80,[fe80::1%2]:8080";
        assert_eq!(Given::Words(address.into()).list("x").map(|list| list.len()), Ok(2));
        for brackets in ["[\"a\", \"b\"]", "['a']", "[a, b]", "[\"[::1]:80\"]", "\"a\",\"b\"", "[]", "'a'"] {
            let error = Given::Words(brackets.into()).list("x").unwrap_err();
            assert!(error.contains("neither brackets nor quotes: x, or several"), "{error}");
        }
    }
}
