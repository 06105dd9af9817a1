//! The locks of the cache, in one place, so that the model (`tests/cache_model`) can mount `shard.rs` and `sieve.rs`
//! unchanged over locks that it schedules itself. Not an abstraction: here they are `parking_lot`'s.

pub use parking_lot::{Condvar, Mutex, RwLock};

/// Whether a fill looks if its ticket still stands. Always; only the model says no, to show that it would notice.
#[inline]
pub const fn fill_checks_ticket() -> bool {
    true
}
