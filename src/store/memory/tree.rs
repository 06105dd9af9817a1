//! An ordered map that keeps older values as long as a snapshot can see them.
//!
//! Invariant: of each chain the newest value, and for each pinned sequence number the newest at or below it, is kept;
//! the rest goes with the batches that follow.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::store::{Pair, bounds};

/// The values a key had, oldest first, each with the batch that wrote it; `None` is a removal.
type Chain = Vec<(u64, Option<Bytes>)>;

#[derive(Default)]
pub(super) struct Tree {
    chains: BTreeMap<Bytes, Chain>,
    /// The number of the last closed batch; what is being written belongs to the next.
    sequence: u64,
    /// Snapshots by the sequence number they see.
    pinned: BTreeMap<u64, usize>,
    /// Chains that can shrink once no snapshot is older than the number beside them.
    garbage: VecDeque<(u64, Bytes)>,
    bytes: u64,
    live: usize,
}

impl Tree {
    /// Writes one pair of the open batch and gives back what it replaced.
    pub(super) fn write(&mut self, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
        let sequence = self.sequence + 1;
        let chain = self.chains.entry(key.clone()).or_default();
        let replaced = chain.last().and_then(|(_, value)| value.clone());
        self.live = self.live + usize::from(value.is_some()) - usize::from(replaced.is_some());
        self.bytes += value.as_ref().map_or(0, |value| (key.len() + value.len()) as u64);
        if value.is_none() || !chain.is_empty() {
            self.garbage.push_back((sequence, key));
        }
        chain.push((sequence, value));
        replaced
    }

    /// Makes the open batch visible to the snapshots that follow.
    pub(super) fn close_batch(&mut self) {
        self.sequence += 1;
        self.sweep();
    }

    fn sweep(&mut self) {
        let oldest = self.pinned.keys().next().copied().unwrap_or(self.sequence);
        while self.garbage.front().is_some_and(|(sequence, _)| *sequence <= oldest) {
            let Some((_, key)) = self.garbage.pop_front() else { return };
            let Some(chain) = self.chains.get_mut(&key) else { continue };
            let seen = chain.iter().rposition(|(sequence, _)| *sequence <= oldest).unwrap_or(0);
            let freed: usize =
                chain.drain(..seen).filter_map(|(_, value)| value.map(|value| key.len() + value.len())).sum();
            self.bytes -= freed as u64;
            if matches!(chain.as_slice(), [(sequence, None)] if *sequence <= oldest) {
                self.chains.remove(&key);
            }
        }
    }

    /// Registers a snapshot of all closed batches.
    pub(super) fn pin(&mut self) -> u64 {
        *self.pinned.entry(self.sequence).or_default() += 1;
        self.sequence
    }

    /// Lets a snapshot go. What only it saw is freed by a later batch.
    pub(super) fn unpin(&mut self, sequence: u64) {
        if let Some(count) = self.pinned.get_mut(&sequence) {
            *count -= 1;
            if *count == 0 {
                self.pinned.remove(&sequence);
            }
        }
    }

    pub(super) fn get(&self, key: &[u8], sequence: u64) -> Option<Bytes> {
        self.chains.get(key).and_then(|chain| visible(chain, sequence)).cloned()
    }

    /// Copies the next pairs of a range; true when the range holds no more.
    pub(super) fn chunk(
        &self,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        sequence: u64,
        pairs_max: usize,
        bytes_max: usize,
        into: &mut Vec<Pair>,
    ) -> bool {
        if bounds::is_empty(range) {
            return true;
        }
        let mut bytes = 0;
        let mut take = |(key, chain): (&Bytes, &Chain)| {
            if let Some(value) = visible(chain, sequence) {
                bytes += key.len() + value.len();
                into.push((key.clone(), value.clone()));
            }
            into.len() >= pairs_max || bytes >= bytes_max
        };
        let mut pairs = self.chains.range::<[u8], _>(range);
        let full = if reverse { pairs.by_ref().rev().any(&mut take) } else { pairs.any(&mut take) };
        !full
    }

    /// A tree of its own that holds the newest values alone.
    pub(super) fn latest(&self) -> Tree {
        let mut tree = Tree::default();
        for (key, chain) in &self.chains {
            if let Some(value) = visible(chain, self.sequence) {
                tree.write(key.clone(), Some(value.clone()));
            }
        }
        tree.close_batch();
        tree
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Values held, older ones included.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.chains.values().map(Vec::len).sum()
    }
}

fn visible(chain: &Chain, sequence: u64) -> Option<&Bytes> {
    chain.iter().rev().find(|(written, _)| *written <= sequence).and_then(|(_, value)| value.as_ref())
}
