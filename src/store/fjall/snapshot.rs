//! A view of both keyspaces at one moment, readable from any thread.
//!
//! It does not say which moment: that is for whoever opens it.
//! SECURITY: none of these may be opened but by the committer between two commits. fjall raises the visible sequence
//! number also from flushes and compactions, so a snapshot taken while a commit runs can show half of it.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Keyspace, Readable};

use super::edges;
use super::error::from_fjall;
use super::gaps::{self, Gap};
use super::options::BLOCK_BYTES;
use super::views::{Entries, OpenView};
use super::{Keyspaces, Space};
use crate::store::bounds::{self, KeyRange};
use crate::store::{Pair, Snapshot, StoreError};

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
        let stored = self.view.with(|view| view.get(&self.keyspaces, space, key))??;
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
        let keyspace = self.keyspaces.of(space);
        match Entries::open(self.view.clone(), keyspace, range, reverse) {
            Ok(entries) => Box::new(Walk {
                view: self.view.clone(),
                keyspace: keyspace.clone(),
                reverse,
                entries: Some(entries),
                range: bounds::owned(range),
                ahead: VecDeque::new(),
            }),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }
}

/// A walk that goes on behind damaged blocks.
struct Walk {
    view: Arc<OpenView>,
    keyspace: Keyspace,
    reverse: bool,
    entries: Option<Entries>,
    /// What is left of the range that `entries` walk.
    range: KeyRange,
    /// What comes behind them, if damage was met.
    ahead: VecDeque<Ahead>,
}

/// A piece of the way around a gap.
enum Ahead {
    Key(Bytes),
    /// Here it lies; the text says what is wrong.
    Gap(String),
    Range(KeyRange),
}

impl Walk {
    /// Plans the way around the first damaged block; false if that cannot be found.
    fn go_around(&mut self, what: String) -> bool {
        let Some(Gap { below, last_below, above }) = gaps::first(&self.keyspace, &self.range, self.reverse) else {
            return false;
        };
        self.ahead.push_back(Ahead::Range(below));
        self.ahead.extend(last_below.map(Ahead::Key));
        self.ahead.push_back(Ahead::Gap(what));
        self.ahead.push_back(Ahead::Range(above));
        if self.reverse {
            self.ahead.make_contiguous().reverse();
        }
        true
    }

    /// Takes the next piece of the way: something to give, or `None` where there are entries to walk first.
    fn advance(&mut self, ahead: Ahead) -> Option<Result<Pair, StoreError>> {
        match ahead {
            Ahead::Gap(what) => Some(Err(StoreError::Unreadable(what))),
            Ahead::Key(key) => match self.view.with(|view| view.snapshot.get(&self.keyspace, &key)) {
                Ok(Ok(value)) => value.map(|value| Ok((key, value.into()))),
                // It lies beside the gap, which is told of.
                Ok(Err(error)) => Some(Err(from_fjall(error))).filter(|error| !is_damage(error)),
                Err(revoked) => Some(Err(revoked)),
            },
            Ahead::Range(range) => {
                let borrowed = bounds::borrowed(&range);
                if !bounds::is_empty(borrowed) {
                    match Entries::open(self.view.clone(), &self.keyspace, borrowed, self.reverse) {
                        Ok(entries) => self.entries = Some(entries),
                        Err(revoked) => return Some(Err(revoked)),
                    }
                }
                self.range = range;
                None
            }
        }
    }
}

fn is_damage(step: &Result<Pair, StoreError>) -> bool {
    matches!(step, Err(StoreError::Corrupt(_)))
}

impl Iterator for Walk {
    type Item = Result<Pair, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.entries.as_mut().and_then(|entries| entries.next().map(pair)) {
                Some(Ok((key, value))) => {
                    let done = if self.reverse { &mut self.range.1 } else { &mut self.range.0 };
                    *done = Bound::Excluded(key.clone());
                    return Some(Ok((key, value)));
                }
                Some(Err(StoreError::Corrupt(what))) => {
                    self.entries = None;
                    // With a gap ahead, it begins even earlier than it seemed.
                    if self.ahead.is_empty() && !self.go_around(what.clone()) {
                        return Some(Err(StoreError::Corrupt(what)));
                    }
                }
                Some(Err(error)) => return Some(Err(error)),
                None => self.entries = None,
            }
            if self.entries.is_none() {
                let ahead = self.ahead.pop_front()?;
                if let Some(step) = self.advance(ahead) {
                    return Some(step);
                }
            }
        }
    }
}

/// The key is copied: walks note where they are by it, and it would keep the whole block that it came in.
fn pair(entry: Result<fjall::Guard, StoreError>) -> Result<Pair, StoreError> {
    let (key, value) = entry?.into_inner().map_err(from_fjall)?;
    Ok((Bytes::copy_from_slice(&key), value.into()))
}

/// Copies a value that is small against the block it came in, which it would else keep in memory as a whole for as long
/// as it sits in a cache. Larger ones mostly have a block of their own and are shared.
fn own_small(value: Bytes) -> Bytes {
    if value.len() < BLOCK_BYTES as usize { Bytes::copy_from_slice(&value) } else { value }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use crate::store::fjall::{FjallOptions, FjallStore};
    use crate::store::{Space, Store};

    /// A key that is kept must keep nothing else: neither the block that it was read from nor the memtable's copy.
    #[test]
    fn keys_of_a_walk_are_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::open(dir.path(), FjallOptions::default()).unwrap();
        let sizes = [0, 10, 5000, 20_000, 1 << 20];
        let change = |(n, size): (usize, &usize)| {
            (Space::Data, vec![1, b'a' + n as u8].into(), Some(vec![n as u8; *size].into()))
        };
        store.commit(sizes.iter().enumerate().map(change).collect(), true).unwrap();
        for place in ["the memtable", "a table"] {
            for reverse in [false, true] {
                let snapshot = store.snapshot().unwrap();
                let data = (Bound::Included(&[1][..]), Bound::Excluded(&[2][..]));
                let pairs: Vec<_> = snapshot.range(Space::Data, data, reverse).map(Result::unwrap).collect();
                assert_eq!(pairs.len(), sizes.len());
                for (key, value) in &pairs {
                    assert!(key.is_unique(), "beside {} bytes in {place}", value.len());
                }
            }
            assert!(store.flush().unwrap());
        }
    }
}
