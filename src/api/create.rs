//! POST to a collection: the server makes the key.
//!
//! A made key is 26 characters, 10 of time (ms) and 16 of chance, in an alphabet whose byte order is its order of
//! values: keys made later by this server sort behind those made earlier, also within one millisecond.

use parking_lot::Mutex;

use crate::http::query::percent_encode;
use crate::http::{Problem, Request, Responder, Response, Written, encoding, etag};
use crate::store::{Action, Database, FullKey, OpOutcome, Precondition, Preread, Ttl, VersionSet, WriteOp};

use super::kv::write::{self, write_query};
use super::{Api, names};

/// Digits and upper-case letters without I, L, O and U, in byte order.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CHANCE_BITS: u32 = 80;

/// Stores the body under a new key.
pub fn create(api: &Api, db: &Database, request: &Request, responder: Responder, parameters: [&str; 3]) {
    let prepared = prepare(api, db, request, parameters);
    match prepared {
        Err(problem) => responder.send(problem.into()),
        Ok((op, durability, location)) => {
            write::submit(api, db, responder, vec![op], true, durability, move |mut outcome| {
                match outcome.results.pop() {
                    Some(OpOutcome::Stored { version, .. }) => {
                        Response::new(201).field("Location", &location).field("ETag", &etag::write_etag(version))
                    }
                    _ => Problem::new(500, "INTERNAL", "the new key was taken, which chance does not allow")
                        .written(Written::No)
                        .into(),
                }
            });
        }
    }
}

fn prepare(
    api: &Api,
    db: &Database,
    request: &Request,
    [namespace, collection, _]: [&str; 3],
) -> Result<(WriteOp, crate::store::Durability, String), Problem> {
    let (namespace, collection) = (names::namespace(namespace)?, names::collection(collection)?);
    let query = write_query(request, &[])?;
    let content_type = write::stored_type(request)?;
    let value = encoding::decode_value(&request.head, request.body.shared(), api.limits.get().value_bytes_max)?;
    let key = api.made_keys.make(db.clock().wall_ms())?;
    let full = FullKey::new(namespace, collection, &key);
    let action = Action::Put { content_type, value, ttl: query.ttl.map_or(Ttl::Clear, Ttl::After) };
    let precondition = Precondition { version_not_in: Some(VersionSet::Any), ..Precondition::default() };
    let view = db.view();
    let preread = view.read(&full).ok().map(|record| Preread { instant: view.instant, record });
    let location = format!("/api/v1/kv/{namespace}/{collection}/{}", percent_encode(&key));
    let durability = query.durability.unwrap_or(api.config.durability);
    Ok((WriteOp { key: full, action, precondition, preread }, durability, location))
}

/// Makes keys that no two calls share and that only grow.
#[derive(Default)]
pub struct MadeKeys {
    /// The last key made: time above, chance below.
    last: Mutex<u128>,
}

impl MadeKeys {
    /// A new key for this wall time.
    pub fn make(&self, now_ms: u64) -> Result<String, Problem> {
        let mut chance = [0; 16];
        getrandom::fill(&mut chance[6..]).map_err(|error| {
            log::error!("the system gives no random bytes: {error}");
            Problem::new(500, "INTERNAL", "no key could be made; larder's log says why").written(Written::No)
        })?;
        let fresh = (u128::from(now_ms) << CHANCE_BITS) | u128::from_be_bytes(chance);
        let mut last = self.last.lock();
        // In the same millisecond, or when the clock went back, it counts on from the last one.
        *last = fresh.max(*last + 1);
        Ok(spell(*last))
    }
}

fn spell(number: u128) -> String {
    (0..26).rev().map(|place| char::from(ALPHABET[(number >> (5 * place)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_keys_sort_by_time_and_never_repeat() {
        let keys = MadeKeys::default();
        let made: Vec<String> = [5, 5, 4, 6, 1_700_000_000_000].iter().map(|&ms| keys.make(ms).unwrap()).collect();
        assert!(made.windows(2).all(|pair| pair[0] < pair[1]), "{made:?}");
        assert!(made.iter().all(|key| key.len() == 26 && names::decoded_key(key).is_ok()));
    }
}
