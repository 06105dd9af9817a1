//! The compaction filter: drops what expired while fjall rewrites tables anyway.
//!
//! It is a bonus that saves some of the sweeper's writes, never the expiry itself: fjall runs it only on what it
//! happens to merge, and moves disjoint tables without it. Records it drops give no event in the change log.
//! Invariant: what is not surely an expired record stays. Metadata, unknown formats and damaged bytes are kept, and
//! a tombstone takes the record's place, so that no older version comes back.
//!
//! It also sees how much a merge writes, and holds it up or ends it before the card is full; and through it a merge of
//! ours can be begun only to keep others from its tables.

use std::cell::RefCell;
use std::io;
use std::panic::RefUnwindSafe;
use std::sync::Arc;
use std::thread;

use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor};
use lsm_tree::compaction::Verdict;

use super::clock::Moment;
use super::database::Droppable;
use super::record::peek_life;
use super::space::{SpaceWatch, Toll};
use super::types::TYPE_RECORD;

thread_local! {
    /// What this thread does in place of its next merge, once that has taken its tables.
    static INSTEAD: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Does `work` while `merge`, which fails then, keeps its tables from all other merges; or after it, if it met no record
/// or took no tables.
pub(super) fn during(merge: impl FnOnce(), work: impl FnOnce() + 'static) {
    INSTEAD.set(Some(Box::new(work)));
    merge();
    if let Some(work) = INSTEAD.take() {
        work();
    }
}

/// Makes a filter for each compaction.
pub(super) struct TtlFilterFactory {
    /// Records that had expired at this moment may go.
    pub(super) droppable: Droppable,
    pub(super) space: Arc<SpaceWatch>,
    /// The thread whose merges may fail. That of any other would stop all writes.
    pub(super) reclaim_thread: &'static str,
}

// fjall asks for it. The lock is held for a copy, which does not panic.
impl RefUnwindSafe for TtlFilterFactory {}

impl Factory for TtlFilterFactory {
    fn name(&self) -> &str {
        "larder-ttl"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let is_ours = thread::current().name() == Some(self.reclaim_thread);
        Box::new(TtlFilter {
            moment: self.droppable.lock().clone(),
            toll: Toll::new(self.space.clone(), !is_ours),
            is_ours,
        })
    }
}

struct TtlFilter {
    moment: Option<Moment>,
    toll: Toll,
    is_ours: bool,
}

impl CompactionFilter for TtlFilter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        if self.is_ours
            && let Some(work) = INSTEAD.take()
        {
            work();
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        let (key, value) = (item.key(), item.value()?);
        if key.first() == Some(&TYPE_RECORD) && self.moment.as_ref().is_some_and(|moment| has_expired(&value, moment)) {
            return Ok(Verdict::Remove);
        }
        self.toll.pay(key.len() + value.len())?;
        Ok(Verdict::Keep)
    }
}

fn has_expired(form: &[u8], moment: &Moment) -> bool {
    peek_life(form).is_ok_and(|life| moment.has_expired(&life))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::{Record, encode};

    fn form(expires_ms: u64) -> Vec<u8> {
        encode(&Record {
            version: 1,
            modified_ms: 1,
            expires_ms,
            content_type: Default::default(),
            value: Default::default(),
        })
        .to_vec()
    }

    #[test]
    fn only_what_surely_expired_by_then_goes() {
        let moment = Moment::at(100);
        assert!(has_expired(&form(100), &moment));
        assert!(!has_expired(&form(101), &moment));
        assert!(!has_expired(&form(0), &moment));
        assert!(!has_expired(b"", &moment));
        let mut unknown = form(1);
        unknown[0] = 77;
        assert!(!has_expired(&unknown, &moment));
    }
}
