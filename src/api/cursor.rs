//! The cursor of a list: where the next page begins, in a form that clients hand back untouched.
//!
//! Form 1, in base64url without padding: the byte `0x01`, eight bytes of a hash of what the list was asked for, the key
//! after which to go on, and four bytes of CRC-32 over all that. It is no secret and no permission: whoever forges one can
//! only begin elsewhere within the range that the request itself names.
//!
//! Invariant: a cursor continues only the list that gave it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::Xxh3;

use crate::http::Problem;
use crate::limits::{KEY_BYTES_MAX, NAME_BYTES_MAX};

const FORM: u8 = 1;
const HASH_BYTES: usize = 8;
const CRC_BYTES: usize = 4;
/// The longest place to go on from is a full key.
const AFTER_BYTES_MAX: usize = 2 * (NAME_BYTES_MAX + 1) + KEY_BYTES_MAX;
const CURSOR_BYTES_MAX: usize = 1 + HASH_BYTES + AFTER_BYTES_MAX + CRC_BYTES;

/// What a list was asked for, as a number; each part counts with its length, so that no two requests look alike.
pub fn question(parts: &[&str], reverse: bool) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&[u8::from(reverse)]);
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.digest()
}

/// The cursor that continues after a key.
pub fn encode(question: u64, after: &str) -> String {
    let mut bytes = Vec::with_capacity(CURSOR_BYTES_MAX);
    bytes.push(FORM);
    bytes.extend_from_slice(&question.to_le_bytes());
    bytes.extend_from_slice(after.as_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The key after which a cursor continues. 400 `INVALID_CURSOR` if it is damaged or belongs to another list.
pub fn decode(question: u64, cursor: &str) -> Result<String, Problem> {
    if cursor.len() > CURSOR_BYTES_MAX * 4 / 3 + 1 {
        return Err(damaged());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| damaged())?;
    let (content, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or_else(damaged)?;
    if crc32fast::hash(content) != u32::from_le_bytes(*crc) || content.first() != Some(&FORM) {
        return Err(damaged());
    }
    let (asked, after) = content[1..].split_first_chunk::<HASH_BYTES>().ok_or_else(damaged)?;
    if u64::from_le_bytes(*asked) != question {
        let message = "the cursor belongs to another list: repeat the parameters that gave it, or leave it out";
        return Err(Problem::new(400, "INVALID_CURSOR", message));
    }
    String::from_utf8(after.to_vec()).map_err(|_| damaged())
}

#[cold]
fn damaged() -> Problem {
    Problem::new(400, "INVALID_CURSOR", "the cursor is not one that larder gave; leave it out to begin anew")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_is_refused_by_any_other_list() {
        let parts = ["home", "sensors", "pre", "", ""];
        let cursor = encode(question(&parts, false), "key");
        assert_eq!(decode(question(&parts, false), &cursor).unwrap(), "key");
        for (other, reverse) in
            [(parts, true), (["hom", "esensors", "pre", "", ""], false), (["home", "sensors", "", "pre", ""], false)]
        {
            let problem = decode(question(&other, reverse), &cursor).unwrap_err();
            assert_eq!((problem.status, problem.code), (400, "INVALID_CURSOR"));
            assert!(problem.message.contains("another list"));
        }
    }

    #[test]
    fn what_was_never_a_cursor_is_refused() {
        for cursor in ["", "a", "AAAA", "not base64!", "AQ==", "é", &"A".repeat(100_000)] {
            assert_eq!(decode(7, cursor).unwrap_err().code, "INVALID_CURSOR");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_continues_after_its_key(question: u64, after in "\\PC{0,128}") {
            let cursor = encode(question, &after);
            prop_assert!(cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
            prop_assert_eq!(decode(question, &cursor).unwrap(), after);
        }

        #[test]
        fn a_cursor_with_any_character_changed_is_refused(after in "[a-z]{0,20}", at: prop::sample::Index, by in "[A-Za-z0-9_-]") {
            let cursor = encode(5, &after);
            let at = at.index(cursor.len());
            prop_assume!(cursor[at..=at] != by);
            let changed = format!("{}{by}{}", &cursor[..at], &cursor[at + 1..]);
            prop_assert!(decode(5, &changed).is_err());
            prop_assert!(decode(5, &cursor[..at]).is_err());
        }
    }
}
