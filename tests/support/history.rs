//! What several clients saw of a few keys, and whether one order of it all explains it.
//!
//! The versions name the order: larder's answers carry them, and they only grow. So there is nothing to search: an
//! operation that began after another had ended must not show or make an older version.
//! It knows nothing of deleted keys, whose absence carries no version.

use std::collections::HashMap;
use std::time::Instant;

/// One answer about one key.
#[derive(Clone, Debug)]
pub struct Seen {
    pub key: String,
    /// What was asked, for the message.
    pub by: &'static str,
    /// Before the request was sent.
    pub began: Instant,
    /// After its answer was read.
    pub ended: Instant,
    /// The version that was read or made; 0: the key was not there.
    pub version: u64,
    /// The value that was read or written, if it was told.
    pub value: Option<String>,
    /// Whether this made the version.
    pub wrote: bool,
}

/// The first contradiction; `Ok` with the number of answers judged.
pub fn check(history: &[Seen]) -> Result<usize, String> {
    let mut by_key: HashMap<&str, Vec<&Seen>> = HashMap::new();
    for seen in history {
        by_key.entry(&seen.key).or_default().push(seen);
    }
    for seen in by_key.values_mut() {
        values_agree(seen)?;
        order_agrees(seen)?;
    }
    Ok(history.len())
}

/// A version has one value, and one maker.
fn values_agree(seen: &[&Seen]) -> Result<(), String> {
    let mut values: HashMap<u64, &Seen> = HashMap::new();
    let mut makers: HashMap<u64, &Seen> = HashMap::new();
    for one in seen {
        if one.value.is_some()
            && let Some(other) = values.insert(one.version, one)
            && other.value != one.value
        {
            return Err(format!("one version, two values: {other:?} and {one:?}"));
        }
        if one.wrote
            && let Some(other) = makers.insert(one.version, one)
        {
            return Err(format!("one version, made twice: {other:?} and {one:?}"));
        }
    }
    Ok(())
}

/// Whoever began after another had ended sees what that one saw, or something newer.
fn order_agrees(seen: &mut [&Seen]) -> Result<(), String> {
    seen.sort_by_key(|one| one.began);
    let mut by_end = seen.to_vec();
    by_end.sort_by_key(|one| one.ended);
    let mut ended = by_end.into_iter().peekable();
    let mut newest: Option<&Seen> = None;
    for one in seen {
        while let Some(before) = ended.next_if(|before| before.ended < one.began) {
            if newest.is_none_or(|newest| newest.version < before.version) {
                newest = Some(before);
            }
        }
        match newest {
            Some(before) if one.version < before.version || (one.wrote && one.version == before.version) => {
                return Err(format!("older than what was known before it began:\n{one:?}\nafter\n{before:?}"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seen(start: Instant, began: u64, ended: u64, version: u64, wrote: bool) -> Seen {
        let at = |ms| start + Duration::from_millis(ms);
        let value = Some(version.to_string());
        Seen { key: "k".into(), by: "test", began: at(began), ended: at(ended), version, value, wrote }
    }

    #[test]
    fn an_older_version_after_a_newer_one_is_found() {
        let start = Instant::now();
        let of = |list: &[(u64, u64, u64, bool)]| {
            check(&list.iter().map(|(b, e, v, w)| seen(start, *b, *e, *v, *w)).collect::<Vec<_>>())
        };
        assert!(of(&[(0, 10, 1, true), (11, 20, 1, false), (12, 30, 2, true), (13, 14, 2, false)]).is_ok());
        assert!(of(&[(0, 10, 5, true), (5, 9, 4, false)]).is_ok(), "they overlap");
        assert!(of(&[(0, 10, 5, true), (11, 12, 4, false)]).is_err(), "a stale read");
        assert!(of(&[(0, 10, 5, false), (11, 12, 4, false)]).is_err(), "two reads, the second older");
        assert!(of(&[(0, 10, 5, true), (11, 12, 0, false)]).is_err(), "an acknowledged write that is not there");
        assert!(of(&[(0, 10, 5, true), (11, 12, 5, true)]).is_err(), "a version made twice");
        assert!(of(&[(0, 10, 5, true), (11, 12, 4, true)]).is_err(), "a write below an acknowledged one");
    }

    #[test]
    fn a_version_with_two_values_is_found() {
        let start = Instant::now();
        let mut other = seen(start, 5, 6, 1, false);
        other.value = Some("another".into());
        assert!(check(&[seen(start, 0, 10, 1, true), other]).is_err());
    }
}
