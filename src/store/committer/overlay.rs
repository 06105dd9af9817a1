//! What the operations of a group have made of the keys so far, over what the store holds.
//!
//! Invariant: `order` names each changed key once, in the order of first change; a rolled back request leaves no trace.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::store::{FullKey, Record};

/// What stands under a key: a record, or `None` after a delete.
pub(super) type Standing = Option<Arc<Record>>;

/// The changes of a group, with the means to take those of its latest request back.
#[derive(Default)]
pub(super) struct Overlay {
    standing: HashMap<FullKey, Standing, RandomState>,
    order: Vec<FullKey>,
    /// What the open request replaced; `None`: the key was not in the overlay.
    undo: Vec<(FullKey, Option<Standing>)>,
}

impl Overlay {
    /// What the group has made of a key; `None` if it has not touched it.
    pub(super) fn get(&self, key: &FullKey) -> Option<&Standing> {
        self.standing.get(key)
    }

    /// Changes a key on behalf of the open request.
    pub(super) fn set(&mut self, key: &FullKey, standing: Standing) {
        let replaced = self.standing.insert(key.clone(), standing);
        if replaced.is_none() {
            self.order.push(key.clone());
        }
        self.undo.push((key.clone(), replaced));
    }

    /// Ends the open request and keeps what it did.
    pub(super) fn keep(&mut self) {
        self.undo.clear();
    }

    /// Ends the open request, takes back what it did, and tells which keys it had changed.
    pub(super) fn roll_back(&mut self) -> Vec<FullKey> {
        let mut keys = Vec::with_capacity(self.undo.len());
        while let Some((key, replaced)) = self.undo.pop() {
            match replaced {
                Some(standing) => {
                    self.standing.insert(key.clone(), standing);
                }
                None => {
                    self.standing.remove(&key);
                    self.order.pop();
                }
            }
            keys.push(key);
        }
        keys
    }

    /// Whether the group changes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The changed keys and what stands under them at the end of the group.
    pub(super) fn changes(&self) -> impl Iterator<Item = (&FullKey, Option<&Arc<Record>>)> {
        self.order.iter().map(|key| (key, self.standing.get(key).and_then(Option::as_ref)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: u64) -> Standing {
        let (content_type, value) = Default::default();
        Some(Arc::new(Record { version, modified_ms: 0, expires_ms: 0, content_type, value }))
    }

    fn seen(overlay: &Overlay) -> Vec<(String, Option<u64>)> {
        overlay.changes().map(|(key, record)| (key.parts().2.to_owned(), record.map(|record| record.version))).collect()
    }

    #[test]
    fn a_rolled_back_request_leaves_what_earlier_requests_did() {
        let (a, b) = (FullKey::new("n", "c", "a"), FullKey::new("n", "c", "b"));
        let mut overlay = Overlay::default();
        overlay.set(&a, record(1));
        overlay.keep();
        overlay.set(&b, record(2));
        overlay.set(&a, None);
        overlay.set(&b, None);
        overlay.set(&a, record(3));
        let mut undone = overlay.roll_back();
        undone.sort();
        undone.dedup();
        assert_eq!(undone, [a.clone(), b.clone()]);
        assert_eq!(seen(&overlay), [("a".to_owned(), Some(1))]);
        assert!(overlay.get(&b).is_none());
    }

    #[test]
    fn a_key_changed_twice_is_named_once_with_its_last_state() {
        let a = FullKey::new("n", "c", "a");
        let mut overlay = Overlay::default();
        overlay.set(&a, record(1));
        overlay.keep();
        overlay.set(&a, None);
        overlay.keep();
        assert_eq!(seen(&overlay), [("a".to_owned(), None)]);
        assert!(!overlay.is_empty());
    }
}
