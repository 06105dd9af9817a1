//! Ranges of stored keys: what of them the standard library leaves open.
//!
//! It knows nothing of what a key means.

use std::ops::Bound::{self, Excluded, Included, Unbounded};

use bytes::Bytes;

/// A range of stored keys that owns its ends.
pub type KeyRange = (Bound<Bytes>, Bound<Bytes>);

/// The key that a bound names; an open end, which ours never have below, is the empty key.
pub fn key_of(bound: &Bound<Bytes>) -> &[u8] {
    match bound {
        Included(key) | Excluded(key) => key,
        Unbounded => &[],
    }
}

/// A range as the stores take it.
pub fn borrowed(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (range.0.as_ref().map(|key| &key[..]), range.1.as_ref().map(|key| &key[..]))
}

/// A range that outlives the keys it was made of.
pub fn owned(range: (Bound<&[u8]>, Bound<&[u8]>)) -> KeyRange {
    (range.0.map(Bytes::copy_from_slice), range.1.map(Bytes::copy_from_slice))
}

/// Whether no key can lie in a range. Neither fjall nor `BTreeMap::range`, which panics, is asked for one of these.
pub fn is_empty(range: (Bound<&[u8]>, Bound<&[u8]>)) -> bool {
    match range {
        (Unbounded, _) | (_, Unbounded) => false,
        (Included(low), Included(high)) => low > high,
        (Included(low) | Excluded(low), Included(high) | Excluded(high)) => low >= high,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_ranges_are_recognised() {
        assert!(is_empty((Included(b"b"), Included(b"a"))));
        assert!(is_empty((Included(b"a"), Excluded(b"a"))));
        assert!(is_empty((Excluded(b"a"), Included(b"a"))));
        assert!(is_empty((Excluded(b"a"), Excluded(b"a"))));
        assert!(!is_empty((Included(b"a"), Included(b"a"))));
        assert!(!is_empty((Excluded(b"a"), Excluded(b"b"))));
        assert!(!is_empty((Unbounded, Excluded(b"a"))));
        assert!(!is_empty((Included(b"a"), Unbounded)));
    }

    #[test]
    fn a_range_survives_being_owned_and_names_its_keys() {
        for range in [(Included(&b"a"[..]), Excluded(&b"b"[..])), (Unbounded, Included(b"z"))] {
            assert_eq!(borrowed(&owned(range)), range);
        }
        assert_eq!(key_of(&Excluded(Bytes::from_static(b"a"))), b"a");
        assert_eq!(key_of(&Unbounded), b"");
    }
}
