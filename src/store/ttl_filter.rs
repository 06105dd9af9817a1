//! The compaction filter: drops what expired while fjall rewrites tables anyway.
//!
//! It is a bonus that saves some of the sweeper's writes, never the expiry itself: fjall runs it only on what it
//! happens to merge, and moves disjoint tables without it. Records it drops give no event in the change log.
//! Invariant: what is not surely an expired record stays. Metadata, unknown formats and damaged bytes are kept, and
//! a tombstone takes the record's place, so that no older version comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor};
use lsm_tree::compaction::Verdict;

use super::record::peek_expiry;
use super::types::TYPE_RECORD;

/// Makes a filter for each compaction.
pub(super) struct TtlFilterFactory {
    /// Records that expire before this time (ms by the expiry clock) may go; 0: none may.
    pub(super) expire_before_ms: Arc<AtomicU64>,
}

impl Factory for TtlFilterFactory {
    fn name(&self) -> &str {
        "larder-ttl"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(TtlFilter { expire_before_ms: self.expire_before_ms.load(Ordering::Relaxed) })
    }
}

struct TtlFilter {
    expire_before_ms: u64,
}

impl CompactionFilter for TtlFilter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        if self.expire_before_ms == 0 || item.key().first() != Some(&TYPE_RECORD) {
            return Ok(Verdict::Keep);
        }
        Ok(if has_expired(&item.value()?, self.expire_before_ms) { Verdict::Remove } else { Verdict::Keep })
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
