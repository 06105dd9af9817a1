//! A view of both keyspaces at one moment, readable from any thread.
//!
//! It does not say which moment: that is for whoever opens it.
//! SECURITY: none of these may be opened but by the committer between two commits. fjall raises the visible sequence
//! number also from flushes and compactions, so a snapshot taken while a commit runs can show half of it.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use fjall::Readable;

use super::edges;
use super::error::from_fjall;
use super::options::BLOCK_BYTES;
use super::views::{Entries, OpenView};
use super::{Keyspaces, Space};
use crate::store::{Pair, Snapshot, StoreError, bounds};

pub(super) struct FjallSnapshot {
    view: Arc<OpenView>,
    keyspaces: Keyspaces,
}

impl FjallSnapshot {
    pub(super) fn new(view: Arc<OpenView>, keyspaces: Keyspaces) -> FjallSnapshot {
        FjallSnapshot { view, keyspaces }
    }
}

impl Snapshot for FjallSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if !edges::spans(key) {
            return Ok(None);
        }
        let stored = self.view.with(|view| view.get(self.keyspaces.of(space), key))?.map_err(from_fjall)?;
        Ok(stored.map(Bytes::from).map(own_small))
    }

    fn range(
        &self,
        space: Space,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<Pair, StoreError>> + Send> {
        let range = edges::within(range);
        if bounds::is_empty(range) {
            return Box::new(std::iter::empty());
        }
        match Entries::open(self.view.clone(), self.keyspaces.of(space), range, reverse) {
            Ok(entries) => Box::new(entries.map(pair)),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }
}

fn pair(entry: Result<fjall::Guard, StoreError>) -> Result<Pair, StoreError> {
    let (key, value) = entry?.into_inner().map_err(from_fjall)?;
    Ok((key.into(), value.into()))
}

/// Copies a value that is small against the block it came in, which it would else keep in memory as a whole for as long
/// as it sits in a cache. Larger ones mostly have a block of their own and are shared.
fn own_small(value: Bytes) -> Bytes {
    if value.len() < BLOCK_BYTES as usize { Bytes::copy_from_slice(&value) } else { value }
}
