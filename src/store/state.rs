//! Whether the store takes writes, and if not, why: what `/health` shows and `submit` asks first.
//!
//! Invariant: a store that stopped taking writes after a failure never takes one again in this process.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// What the store is ready for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Reads and writes.
    Ok,
    /// Reads and, while a flush finds room on the card, deletes.
    NoSpace(String),
    /// Reads only, until a restart.
    ReadOnly(String),
    /// Nothing new; what waits is being finished.
    Draining,
    /// Nothing: the store could not be opened.
    Unavailable(String),
}

impl StoreState {
    /// A stable word for machines.
    pub fn name(&self) -> &'static str {
        match self {
            StoreState::Ok => "ok",
            StoreState::NoSpace(_) => "no_space",
            StoreState::ReadOnly(_) => "read_only",
            StoreState::Draining => "draining",
            StoreState::Unavailable(_) => "unavailable",
        }
    }

    /// The reason in words; empty if all is well.
    pub fn reason(&self) -> &str {
        match self {
            StoreState::Ok => "",
            StoreState::Draining => "larder is stopping",
            StoreState::NoSpace(reason) | StoreState::ReadOnly(reason) | StoreState::Unavailable(reason) => reason,
        }
    }
}

/// The flags behind the state; read on each write without a lock.
#[derive(Default)]
pub(super) struct Switches {
    draining: AtomicBool,
    failed: AtomicBool,
    /// Why writes stopped: the first failure, later ones follow from it.
    reason: Mutex<Option<String>>,
}

impl Switches {
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub(super) fn stop_writes(&self, reason: &str) {
        self.reason.lock().get_or_insert_with(|| reason.to_owned());
        self.failed.store(true, Ordering::SeqCst);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().clone()
    }
}
