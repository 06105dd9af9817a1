//! Computes what the operations of a group do, without doing it: each sees what earlier ones made of its key.
//!
//! Invariant: a request either leaves all its changes in the overlay and its outcome in the list, or none of both.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::metrics::CommitMetrics;
use super::overlay::{Overlay, Standing};
use super::queue::Pending;
use super::recent::RecentWrites;
use crate::store::clock::{Clock, Moment};
use crate::store::versions::Versions;
use crate::store::view::View;
use crate::store::{Action, FullKey, OpOutcome, Precondition, Record, StoreError, Ttl, Update, UpdateRefused, WriteOp};

/// Why a request could not be computed. Nothing of it was changed.
pub(super) enum CheckError {
    /// What its operations need could not be read.
    Unreadable(StoreError),
    /// An update function panicked.
    Panicked,
}

/// The outcomes of one request, and the operation that made it fail if it was atomic.
pub(super) type Checked = (Vec<OpOutcome>, Option<usize>);

/// What the operations are checked against, and the changes so far.
pub(super) struct Check<'a> {
    pub(super) view: &'a View,
    pub(super) recent: &'a RecentWrites,
    pub(super) versions: &'a mut Versions,
    pub(super) clock: &'a Clock,
    pub(super) metrics: &'a CommitMetrics,
    pub(super) value_bytes_max: u64,
    /// The `modified` of the latest write; grows with the group.
    pub(super) modified_ms: &'a mut u64,
    /// The clock, read once: all operations of a group live at one moment.
    pub(super) moment: Moment,
    pub(super) overlay: Overlay,
    /// What the committer itself read for this group.
    pub(super) reread: HashMap<FullKey, Standing, RandomState>,
}

impl Check<'_> {
    /// Computes a request.
    pub(super) fn request(&mut self, request: &mut Pending) -> Result<Checked, CheckError> {
        let version_before = self.versions.last();
        let mut results = Vec::with_capacity(request.ops.len());
        for index in 0..request.ops.len() {
            match self.operation(&mut request.ops[index]) {
                Ok(outcome) => {
                    let failed = request.atomic && outcome.is_failure();
                    results.push(outcome);
                    if failed {
                        self.undo(request, version_before, &mut results, index);
                        return Ok((results, Some(index)));
                    }
                }
                Err(error) => {
                    self.roll_back(version_before);
                    return Err(error);
                }
            }
        }
        self.overlay.keep();
        Ok((results, None))
    }

    /// Takes an atomic request back. What its operations saw or did of keys it had changed never happened.
    fn undo(&mut self, request: &Pending, version_before: u64, results: &mut Vec<OpOutcome>, failed: usize) {
        let undone = self.roll_back(version_before);
        for (op, result) in request.ops[..failed].iter().zip(results.iter_mut()) {
            if undone.contains(&op.key) {
                *result = OpOutcome::Aborted;
            }
        }
        results.resize(request.ops.len(), OpOutcome::Aborted);
    }

    fn roll_back(&mut self, version_before: u64) -> Vec<FullKey> {
        self.versions.rewind(version_before);
        self.overlay.roll_back()
    }

    fn operation(&mut self, op: &mut WriteOp) -> Result<OpOutcome, CheckError> {
        let standing = match self.standing(op) {
            Err(StoreError::Corrupt(_)) if replaces_blindly(op) => damaged(),
            result => result.map_err(CheckError::Unreadable)?,
        };
        let present = standing.as_deref().filter(|record| !self.moment.is_expired(record));
        let WriteOp { key, action, precondition, .. } = op;
        Ok(match action {
            Action::Get => match present {
                Some(record) if !holds(precondition, Some(record)) => OpOutcome::PreconditionFailed,
                found => OpOutcome::Got(found.cloned()),
            },
            Action::Put { content_type, value, ttl } => {
                if !holds(precondition, present) {
                    return Ok(OpOutcome::PreconditionFailed);
                }
                let (content_type, value) = (std::mem::take(content_type), std::mem::take(value));
                let record = self.store(key, present, content_type, value, *ttl);
                OpOutcome::Stored { version: record.version, created: present.is_none() }
            }
            Action::Update { update, ttl, .. } => {
                let new = match call(update, present)? {
                    Ok(new) if new.value.len() as u64 > self.value_bytes_max => Err(UpdateRefused::TooLarge),
                    result => result,
                };
                match new {
                    Err(refused) => OpOutcome::Refused(refused),
                    Ok(_) if !holds(precondition, present) => OpOutcome::PreconditionFailed,
                    Ok(new) => {
                        let record = self.store(key, present, new.content_type, new.value, *ttl);
                        OpOutcome::Updated { record: (*record).clone(), created: present.is_none() }
                    }
                }
            }
            Action::Delete => match present {
                None if precondition.also_if_absent && !holds(precondition, None) => OpOutcome::PreconditionFailed,
                None => OpOutcome::NotFound,
                Some(record) if !holds(precondition, Some(record)) => OpOutcome::PreconditionFailed,
                Some(_) => self.remove(key),
            },
            Action::Expire { version } => match &standing {
                Some(record)
                    if record.version == *version && self.moment.is_expired(record) && self.clock.may_delete() =>
                {
                    self.remove(key)
                }
                _ => OpOutcome::NotFound,
            },
        })
    }

    /// What stands under the operation's key now: what the group made of it, else the pre-read if nothing overtook it,
    /// else what the committer reads. Expired records included.
    fn standing(&mut self, op: &mut WriteOp) -> Result<Standing, StoreError> {
        if let Some(standing) = self.overlay.get(&op.key).or_else(|| self.reread.get(&op.key)) {
            return Ok(standing.clone());
        }
        if let Some(preread) = op.preread.take() {
            if self.recent.still_stands(&op.key, preread.instant) {
                return Ok(preread.record.map(Arc::new));
            }
            self.metrics.rereads.inc();
        }
        let standing = self.view.read(&op.key)?.map(Arc::new);
        self.reread.insert(op.key.clone(), standing.clone());
        Ok(standing)
    }

    fn store(
        &mut self,
        key: &FullKey,
        present: Option<&Record>,
        content_type: Bytes,
        value: Bytes,
        ttl: Ttl,
    ) -> Arc<Record> {
        let previous_ms = present.map_or(0, |record| record.modified_ms).max(*self.modified_ms);
        *self.modified_ms = self.clock.modified_ms(previous_ms);
        let (expires_ms, modified_ms) = self.moment.stamp(ttl, present, *self.modified_ms);
        let version = self.versions.take();
        let record = Arc::new(Record { version, modified_ms, expires_ms, content_type, value });
        self.overlay.set(key, Some(record.clone()));
        record
    }

    fn remove(&mut self, key: &FullKey) -> OpOutcome {
        self.overlay.set(key, None);
        OpOutcome::Deleted { version: self.versions.take() }
    }
}

/// Whether an operation needs nothing of the present record but that there is one.
fn replaces_blindly(op: &WriteOp) -> bool {
    let replaces = match op.action {
        Action::Put { ttl, .. } => ttl != Ttl::Keep,
        Action::Delete => true,
        Action::Get | Action::Update { .. } | Action::Expire { .. } => false,
    };
    replaces && op.precondition.is_empty()
}

/// What stands where a record cannot be read, so that it can be replaced.
fn damaged() -> Standing {
    let (content_type, value) = (Bytes::new(), Bytes::new());
    Some(Arc::new(Record { version: 0, modified_ms: 0, expires_ms: 0, content_type, value }))
}

/// Runs an update function. It is foreign code on the committer's thread: its panic is its own request's end only.
fn call(
    update: &Update,
    present: Option<&Record>,
) -> Result<Result<crate::store::NewValue, UpdateRefused>, CheckError> {
    catch_unwind(AssertUnwindSafe(|| update(present))).map_err(|_| CheckError::Panicked)
}

/// The preconditions in the order of RFC 9110 §13.2.2. A date says nothing where nothing is, or beside `If-Match`.
fn holds(precondition: &Precondition, present: Option<&Record>) -> bool {
    let version = present.map(|record| record.version);
    let matched = match (&precondition.version_in, precondition.unmodified_since_ms, present) {
        (Some(set), _, _) => set.holds(version),
        (None, Some(since_ms), Some(record)) => record.modified_ms / 1000 <= since_ms / 1000,
        (None, _, _) => true,
    };
    matched && !precondition.version_not_in.as_ref().is_some_and(|set| set.holds(version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::VersionSet;

    fn record(version: u64, modified_ms: u64) -> Record {
        Record { version, modified_ms, expires_ms: 0, content_type: Bytes::new(), value: Bytes::new() }
    }

    #[test]
    fn if_match_needs_a_present_record_of_a_named_version() {
        let with = |set| Precondition { version_in: Some(set), ..Precondition::default() };
        let present = record(5, 0);
        assert!(holds(&with(VersionSet::Any), Some(&present)));
        assert!(!holds(&with(VersionSet::Any), None));
        assert!(holds(&with(VersionSet::List(vec![4, 5])), Some(&present)));
        assert!(!holds(&with(VersionSet::List(vec![4])), Some(&present)));
    }

    #[test]
    fn if_none_match_needs_an_absent_record_or_another_version() {
        let with = |set| Precondition { version_not_in: Some(set), ..Precondition::default() };
        let present = record(5, 0);
        assert!(!holds(&with(VersionSet::Any), Some(&present)));
        assert!(holds(&with(VersionSet::Any), None));
        assert!(!holds(&with(VersionSet::List(vec![5])), Some(&present)));
        assert!(holds(&with(VersionSet::List(vec![4])), Some(&present)));
    }

    #[test]
    fn if_unmodified_since_compares_whole_seconds_and_yields_to_if_match() {
        let mut precondition = Precondition { unmodified_since_ms: Some(7_000), ..Precondition::default() };
        assert!(holds(&precondition, Some(&record(5, 7_999))));
        assert!(!holds(&precondition, Some(&record(5, 8_000))));
        assert!(holds(&precondition, None));
        precondition.version_in = Some(VersionSet::Any);
        assert!(holds(&precondition, Some(&record(5, 8_000))));
    }
}
