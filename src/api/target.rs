//! What a path names: the full key of a value, built on the stack so that a cache hit allocates nothing for it.

use bytes::Bytes;

use crate::http::Problem;
use crate::limits::{KEY_BYTES_MAX, NAME_BYTES_MAX};
use crate::store::{FullKey, TYPE_RECORD};

use super::names;

const KEY_BUFFER_BYTES: usize = 1 + NAME_BYTES_MAX + 1 + NAME_BYTES_MAX + 1 + KEY_BYTES_MAX;

/// A value's namespace, collection and full key.
pub struct ValueTarget<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The collection.
    pub collection: &'a str,
    buffer: [u8; KEY_BUFFER_BYTES],
    len: usize,
}

impl<'a> ValueTarget<'a> {
    /// Reads the three parameters of a value's path, as sent.
    pub fn parse([namespace, collection, key]: [&'a str; 3]) -> Result<ValueTarget<'a>, Problem> {
        let namespace = names::namespace(namespace)?;
        let collection = names::collection(collection)?;
        let key = names::key(key)?;
        let mut target = ValueTarget { namespace, collection, buffer: [0; KEY_BUFFER_BYTES], len: 0 };
        let parts: [&[u8]; 6] =
            [&[TYPE_RECORD], namespace.as_bytes(), &[0], collection.as_bytes(), &[0], key.as_bytes()];
        for part in parts {
            target.buffer[target.len..target.len + part.len()].copy_from_slice(part);
            target.len += part.len();
        }
        Ok(target)
    }

    /// The full key's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// The full key on the heap, to keep.
    pub fn full_key(&self) -> FullKey {
        FullKey::from_stored(Bytes::copy_from_slice(self.bytes()))
            .expect("a target is built in the form of a record's key")
    }
}
