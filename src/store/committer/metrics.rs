//! The figures of the committer.

use crate::metrics::{Counter, Distribution, Gauge, Registry};

pub(super) struct CommitMetrics {
    pub(super) group_requests: Distribution,
    pub(super) group_operations: Distribution,
    pub(super) sync_seconds: Distribution,
    pub(super) gather_seconds: Distribution,
    pub(super) depth: Gauge,
    pub(super) groups: Counter,
    pub(super) operations: Counter,
    pub(super) rereads: Counter,
    pub(super) versions: Counter,
    pub(super) bytes: Counter,
    pub(super) failures: Counter,
    pub(super) late: Counter,
    pub(super) panics: Counter,
}

impl CommitMetrics {
    pub(super) fn new(registry: &Registry) -> CommitMetrics {
        CommitMetrics {
            group_requests: registry.distribution("larder_commit_group_requests", "Write requests per group.", &[]),
            group_operations: registry.distribution("larder_commit_group_operations", "Operations per group.", &[]),
            sync_seconds: registry.distribution(
                "larder_commit_sync_seconds",
                "Time of a commit or sync that waited for the card.",
                &[],
            ),
            gather_seconds: registry.distribution(
                "larder_commit_gather_seconds",
                "Time the committer waited for company before a group.",
                &[],
            ),
            depth: registry.gauge("larder_commit_queue_depth", "Write requests that wait for the committer.", &[]),
            groups: registry.counter("larder_commit_groups_total", "Groups committed.", &[]),
            operations: registry.counter("larder_commit_operations_total", "Operations computed.", &[]),
            rereads: registry.counter(
                "larder_commit_rereads_total",
                "Pre-reads that a write had overtaken, so that the committer read again.",
                &[],
            ),
            versions: registry.counter("larder_commit_versions_total", "Changes applied.", &[]),
            bytes: registry.counter("larder_commit_bytes_total", "Bytes of keys and values asked to be written.", &[]),
            failures: registry.counter("larder_commit_failures_total", "Commits or syncs that failed.", &[]),
            late: registry.counter(
                "larder_commit_late_total",
                "Write requests whose deadline passed before they were begun.",
                &[],
            ),
            panics: registry.counter("larder_commit_panics_total", "Panics on the committer's thread.", &[]),
        }
    }
}
