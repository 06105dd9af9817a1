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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor};
use lsm_tree::compaction::Verdict;

use super::record::peek_expiry;
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
    /// Records that expire before this time (ms by the expiry clock) may go; 0: none may.
    pub(super) expire_before_ms: Arc<AtomicU64>,
    pub(super) space: Arc<SpaceWatch>,
    /// The thread whose merges may fail. That of any other would stop all writes.
    pub(super) reclaim_thread: &'static str,
}

impl Factory for TtlFilterFactory {
    fn name(&self) -> &str {
        "larder-ttl"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        let is_ours = thread::current().name() == Some(self.reclaim_thread);
        Box::new(TtlFilter {
            expire_before_ms: self.expire_before_ms.load(Ordering::Relaxed),
            toll: Toll::new(self.space.clone(), !is_ours),
            is_ours,
        })
    }
}

struct TtlFilter {
    expire_before_ms: u64,
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
        if self.expire_before_ms != 0 && key.first() == Some(&TYPE_RECORD) && has_expired(&value, self.expire_before_ms)
        {
            return Ok(Verdict::Remove);
        }
        self.toll.pay(key.len() + value.len())?;
        Ok(Verdict::Keep)
    }
}

fn has_expired(form: &[u8], expire_before_ms: u64) -> bool {
    peek_expiry(form).is_ok_and(|expires_ms| expires_ms != 0 && expires_ms < expire_before_ms)
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
    fn only_what_surely_expired_before_the_limit_goes() {
        assert!(has_expired(&form(99), 100));
        assert!(!has_expired(&form(100), 100));
        assert!(!has_expired(&form(0), 100));
        assert!(!has_expired(b"", 100));
        let mut unknown = form(1);
        unknown[0] = 77;
        assert!(!has_expired(&unknown, 100));
    }
}
