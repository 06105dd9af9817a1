//! The names that a client may give: namespaces, collections and keys.
//!
//! Invariant: a name that passed holds no NUL, so that the three of them joined by NUL read back as the same three.

use std::borrow::Cow;

use crate::http::Problem;
use crate::http::query::percent_decode;
use crate::limits::{KEY_BYTES_MAX, NAME_BYTES_MAX};

/// Checks a namespace, of a path or decoded: its characters need no escape, so what is still escaped there is none. 400
/// `INVALID_NAMESPACE`.
pub fn namespace(name: &str) -> Result<&str, Problem> {
    if is_name(name) { Ok(name) } else { Err(bad_name("INVALID_NAMESPACE", "a namespace")) }
}

/// Checks a collection, of a path or decoded. 400 `INVALID_COLLECTION`.
pub fn collection(name: &str) -> Result<&str, Problem> {
    if is_name(name) { Ok(name) } else { Err(bad_name("INVALID_COLLECTION", "a collection")) }
}

/// Decodes and checks a key as it stands in a path. 400 `INVALID_KEY`.
pub fn key(segment: &str) -> Result<Cow<'_, str>, Problem> {
    let key = percent_decode(segment).map_err(|error| bad_key(error.to_string()))?;
    decoded_key(&key)?;
    Ok(key)
}

/// Checks a key that is decoded already (from a body). 400 `INVALID_KEY`.
pub fn decoded_key(key: &str) -> Result<&str, Problem> {
    match key {
        "" => Err(bad_key("it is empty".to_owned())),
        "." | ".." => Err(bad_key("it must not be . or ..".to_owned())),
        _ if key.len() > KEY_BYTES_MAX => Err(bad_key(format!("this one has {}", key.len()))),
        _ if key.contains('\0') => Err(bad_key("it must not hold a NUL".to_owned())),
        _ => Ok(key),
    }
}

fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=NAME_BYTES_MAX).contains(&bytes.len())
        && !matches!(bytes[0], b'.' | b'_')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cold]
fn bad_name(code: &'static str, what: &str) -> Problem {
    let message = format!("{what} has 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - and begins neither with . nor with _");
    Problem::new(400, code, message)
}

#[cold]
fn bad_key(reason: String) -> Problem {
    let message =
        format!("a key has 1 to {KEY_BYTES_MAX} bytes of percent-encoded UTF-8 in one path segment: {reason}");
    Problem::new(400, "INVALID_KEY", message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_have_the_characters_and_length_of_the_contract() {
        let long = "a".repeat(64);
        for name in ["a", "Z9", "a.b_c-d", "-a", "0", "a.", long.as_str()] {
            assert_eq!(namespace(name).unwrap(), name);
            assert_eq!(collection(name).unwrap(), name);
        }
        let too_long = "a".repeat(65);
        for name in ["", ".a", "_a", "a b", "a/b", "ä", "a%2Db", "a\0", "a~b", too_long.as_str()] {
            assert_eq!(namespace(name).unwrap_err().code, "INVALID_NAMESPACE", "{name}");
            assert_eq!(collection(name).unwrap_err().code, "INVALID_COLLECTION", "{name}");
        }
    }

    #[test]
    fn keys_are_any_text_but_a_few() {
        let long = "é".repeat(256);
        for sent in ["a", "a%2Fb", "...", "%2e%2e%2e", "+", "%20", "%01", "a%0Ab", long.as_str()] {
            assert!(key(sent).is_ok(), "{sent}");
        }
        assert_eq!(key("a%2Fb%C3%A9").unwrap(), "a/bé");
        let too_long = "a".repeat(513);
        for sent in ["", ".", "..", "%2E", "%2e.", "%00", "a%00b", "%", "%f", "%FF", "%ED%A0%80", too_long.as_str()] {
            let problem = key(sent).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "INVALID_KEY"), "{sent}");
        }
        assert_eq!(key(&"%61".repeat(512)).unwrap().len(), 512, "the limit is for the decoded key");
    }

    proptest! {
        #[test]
        fn valid_names_joined_by_nul_come_apart_again(n in "[a-z][a-z._-]{0,9}", c in "[A-Z0-9-]{1,9}", k in "\\PC{1,20}|[\\x01-\\x7f]{1,9}") {
            prop_assume!(decoded_key(&k).is_ok());
            let full = crate::store::FullKey::new(namespace(&n).unwrap(), collection(&c).unwrap(), &k);
            prop_assert_eq!(full.parts(), (n.as_str(), c.as_str(), k.as_str()));
        }
    }
}
