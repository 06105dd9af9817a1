//! What lists and exports say of records that are damaged on the card: they go on past them, and tell of each.
//!
//! A page and the last line of a stream then have `"damaged":[…]`, an entry for each place: `{"key":"…"}` for a record
//! that is there and cannot be read, `{"after":"…"|null}` for a stretch of keys that cannot be read, by the last key in
//! front of it in the order of the list. Exports name namespace and collection beside the key. Where nothing is damaged
//! the member is not there.
//!
//! Invariant: at most [`LISTED_MAX`] places are listed; `damaged_total` then tells how many there were.

use std::time::Duration;

use serde_json::{Value, json};

use crate::http::wire::push_decimal;
use crate::log_limited;
use crate::logging::RateLimit;
use crate::metrics::Counter;
use crate::store::{FullKey, Pair, Record, StoreError, record};

/// Places that one answer lists; a page ends at so many.
pub const LISTED_MAX: usize = 100;

/// One damaged file can be met by every list.
static MET: RateLimit = RateLimit::new(20, Duration::from_secs(10));

/// What a walk over stored records comes by.
pub enum Found {
    /// A record.
    Record(FullKey, Record),
    /// Something that cannot be read: a record, or keys that nobody can name.
    Damaged(Option<FullKey>),
}

/// Looks at a step of a walk. `Err`: the walk has ended before its end.
pub fn look(pair: Result<Pair, StoreError>) -> Result<Found, StoreError> {
    let (key, form) = match pair {
        Ok((key, form)) => (FullKey::from_stored(key), form),
        Err(StoreError::Unreadable(what)) => {
            log_limited!(
                MET,
                log::Level::Error,
                "keys cannot be read: {what}; larder backup saves the others, do it soon"
            );
            return Ok(Found::Damaged(None));
        }
        Err(failure) => return Err(failure),
    };
    match (key, record::decode(form)) {
        (Some(key), Ok(record)) => Ok(Found::Record(key, record)),
        (key, failure) => {
            let why = failure.err().map_or("a key that larder does not write".to_owned(), |error| error.to_string());
            log_limited!(MET, log::Level::Error, "the record {key:?} cannot be read: {why}");
            Ok(Found::Damaged(key))
        }
    }
}

/// The damage that one answer has to tell of.
pub struct Damage {
    met: Counter,
    /// Whether places name namespace and collection.
    paths: bool,
    places: usize,
    listed: Vec<Value>,
    /// The key of the last step that had one.
    last: Option<FullKey>,
}

impl Damage {
    /// None yet. `met` counts what is met; with `paths` places name namespace and collection.
    pub fn new(met: Counter, paths: bool) -> Damage {
        Damage { met, paths, places: 0, listed: Vec::new(), last: None }
    }

    /// Begins behind a key: that of a cursor.
    pub fn begin_behind(&mut self, key: FullKey) {
        self.last = Some(key);
    }

    /// [`look`]s at a step. What is damaged is kept for the answer, and comes back as [`Found`] it is.
    pub fn sift(&mut self, pair: Result<Pair, StoreError>) -> Result<Found, StoreError> {
        let found = look(pair)?;
        match &found {
            Found::Record(key, _) => self.last = Some(key.clone()),
            Found::Damaged(key) => self.note(key.clone()),
        }
        Ok(found)
    }

    fn note(&mut self, key: Option<FullKey>) {
        self.met.inc();
        self.places += 1;
        if self.places <= LISTED_MAX {
            self.listed.push(match &key {
                Some(key) if self.paths => path_of(key),
                Some(key) => json!({"key": key.parts().2}),
                None if self.paths => json!({"after": self.last.as_ref().map(path_of)}),
                None => json!({"after": self.last.as_ref().map(|key| key.parts().2)}),
            });
        }
        if key.is_some() {
            self.last = key;
        }
    }

    /// How many places were met.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Appends the members, each with a comma in front of it; nothing if there is no damage.
    pub fn push_members(&self, out: &mut Vec<u8>) {
        if self.places == 0 {
            return;
        }
        out.extend_from_slice(b",\"damaged\":[");
        for (index, place) in self.listed.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(place.to_string().as_bytes());
        }
        out.push(b']');
        if self.places > LISTED_MAX {
            out.extend_from_slice(b",\"damaged_total\":");
            push_decimal(out, self.places as u64);
        }
    }
}

fn path_of(key: &FullKey) -> Value {
    let (namespace, collection, name) = key.parts();
    json!({"namespace": namespace, "collection": collection, "key": name})
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn said(damage: &Damage) -> String {
        let mut out = Vec::new();
        damage.push_members(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn bad(name: &str) -> Result<Pair, StoreError> {
        Ok((FullKey::new("n", "c", name).shared(), Bytes::from_static(&[0xff])))
    }

    #[test]
    fn each_place_is_named_by_what_is_known_of_it() {
        let met = Counter::default();
        for (paths, expected) in [
            (false, r#","damaged":[{"after":null},{"key":"a"},{"after":"a"}]"#),
            (
                true,
                r#","damaged":[{"after":null},{"namespace":"n","collection":"c","key":"a"},{"after":{"namespace":"n","collection":"c","key":"a"}}]"#,
            ),
        ] {
            let mut damage = Damage::new(met.clone(), paths);
            assert_eq!(said(&damage), "");
            for step in [Err(StoreError::Unreadable("?".into())), bad("a"), Err(StoreError::Unreadable("?".into()))] {
                assert!(matches!(damage.sift(step), Ok(Found::Damaged(_))));
            }
            assert_eq!(said(&damage), expected);
            assert!(damage.sift(Err(StoreError::Io("?".into()))).is_err());
        }
        assert_eq!(met.get(), 6);
    }

    #[test]
    fn no_more_than_a_hundred_places_are_listed_and_all_are_counted() {
        let mut damage = Damage::new(Counter::default(), false);
        for n in 0..LISTED_MAX + 5 {
            assert!(damage.sift(bad(&n.to_string())).is_ok());
        }
        let said: Value = serde_json::from_str(&format!("{{{}}}", &said(&damage)[1..])).unwrap();
        assert_eq!(said["damaged"].as_array().unwrap().len(), LISTED_MAX);
        assert_eq!(said["damaged_total"], LISTED_MAX + 5);
    }
}
