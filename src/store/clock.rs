//! Time for a board that may have no clock: wall time for `modified`, and one expiry clock that never goes back.
//! It knows no records' order: that is what versions are for.
//!
//! Until the system clock is synchronised the expiry clock is the last known time plus uptime (or the system clock, if
//! that is plausible and ahead: a board with a battery clock). Hiding what expired needs no more than that; deleting it
//! needs a synchronised clock, and 24 h of grace after a forward step of more than an hour. Records that got an expiry
//! before the clock was right are moved along with it by the committer, once.
//!
//! Invariant: `expiry_now_ms` never returns less than it has returned before in this process.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::Record;
use crate::board;

/// 2024-01-01T00:00:00Z in ms: a clock before it was never set.
pub const PLAUSIBLE_MS: u64 = 1_704_067_200_000;
/// A forward step larger than this makes deletions wait.
const STEP_MS: u64 = 3_600_000;
/// How long they wait.
const GRACE_MS: u64 = 24 * 3_600_000;

/// Where time comes from.
pub trait TimeSource: Send + Sync + 'static {
    /// The system clock, ms since 1970.
    fn wall_ms(&self) -> u64;
    /// Time since some moment of this process, ms; never goes back.
    fn uptime_ms(&self) -> u64;
    /// Whether something outside keeps the system clock right. Asked every few seconds, until it is so for the first time.
    fn synchronised(&self) -> bool;
}

/// systemd-timesyncd leaves this file once the clock is right.
const TIMESYNCD_MARK: &str = "/run/systemd/timesync/synchronized";

/// The clocks of the machine. They are right as soon as one of these says so: the operator, systemd-timesyncd's mark,
/// or the kernel, which hears it from any other NTP client and may not let itself be asked.
pub struct SystemTimeSource {
    started: Instant,
    trusted: bool,
    mark: PathBuf,
    kernel: fn() -> Option<bool>,
}

impl SystemTimeSource {
    /// `trusted`: the operator vouches for the system clock (a container, whose host keeps it).
    pub fn new(trusted: bool) -> SystemTimeSource {
        SystemTimeSource {
            started: Instant::now(),
            trusted,
            mark: TIMESYNCD_MARK.into(),
            kernel: board::clock::is_synchronised,
        }
    }

    /// With another file as the mark, and another kernel (tests).
    pub fn asking(self, mark: PathBuf, kernel: fn() -> Option<bool>) -> SystemTimeSource {
        SystemTimeSource { mark, kernel, ..self }
    }
}

impl TimeSource for SystemTimeSource {
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn synchronised(&self) -> bool {
        // The kernel comes last: a filter of system calls may take offence, and mostly the file is there.
        self.trusted || self.mark.exists() || (self.kernel)() == Some(true)
    }
}

/// A clock that a test sets by hand.
#[derive(Default)]
pub struct ManualTime {
    wall_ms: AtomicU64,
    uptime_ms: AtomicU64,
    synchronised: AtomicBool,
}

impl ManualTime {
    /// A clock at this wall time.
    pub fn new(wall_ms: u64, synchronised: bool) -> Arc<ManualTime> {
        let time = ManualTime::default();
        time.set_wall(wall_ms);
        time.set_synchronised(synchronised);
        Arc::new(time)
    }

    /// Lets time pass.
    pub fn advance(&self, ms: u64) {
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
        self.uptime_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Steps the system clock without time passing.
    pub fn set_wall(&self, ms: u64) {
        self.wall_ms.store(ms, Ordering::SeqCst);
    }

    /// Says whether something keeps it right.
    pub fn set_synchronised(&self, synchronised: bool) {
        self.synchronised.store(synchronised, Ordering::SeqCst);
    }
}

impl TimeSource for ManualTime {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }
    fn uptime_ms(&self) -> u64 {
        self.uptime_ms.load(Ordering::SeqCst)
    }
    fn synchronised(&self) -> bool {
        self.synchronised.load(Ordering::SeqCst)
    }
}

/// The store's clock. Shared; every method may be called from any thread.
pub struct Clock {
    source: Arc<dyn TimeSource>,
    /// Expiry time at uptime 0 while the system clock is not synchronised, ms.
    base_ms: u64,
    /// The latest expiry time given out.
    floor_ms: AtomicU64,
    /// Whether the system clock was synchronised and plausible at the last tick.
    synchronised: AtomicBool,
    steps: Mutex<Steps>,
}

/// What the last tick saw, and until when deletions wait.
struct Steps {
    uptime_ms: u64,
    expiry_ms: u64,
    grace_until_uptime_ms: u64,
}

impl Clock {
    /// A clock that continues from the time an earlier run last knew, if any.
    pub fn new(source: Arc<dyn TimeSource>, last_known_ms: Option<u64>) -> Clock {
        let (wall_ms, uptime_ms) = (source.wall_ms(), source.uptime_ms());
        let plausible_ms = if wall_ms >= PLAUSIBLE_MS { wall_ms } else { 0 };
        let known_ms = last_known_ms.unwrap_or(0).max(plausible_ms);
        let started_ms = if known_ms == 0 { wall_ms } else { known_ms };
        let clock = Clock {
            base_ms: started_ms.saturating_sub(uptime_ms),
            floor_ms: AtomicU64::new(0),
            synchronised: AtomicBool::new(source.synchronised() && plausible_ms > 0),
            steps: Mutex::new(Steps { uptime_ms, expiry_ms: 0, grace_until_uptime_ms: 0 }),
            source,
        };
        clock.steps.lock().expiry_ms = clock.expiry_now_ms();
        clock
    }

    /// Wall time, ms since 1970; the best guess while the system clock is not synchronised.
    pub fn wall_ms(&self) -> u64 {
        let wall_ms = self.source.wall_ms();
        if self.is_synchronised() { wall_ms } else { wall_ms.max(self.expiry_now_ms()) }
    }

    /// Whether the wall time is fit for `Date` and `Last-Modified`, and for judging dates of others.
    pub fn is_set(&self) -> bool {
        self.is_synchronised() || self.source.wall_ms() >= PLAUSIBLE_MS
    }

    /// Whether the system clock was synchronised at the last tick.
    pub fn is_synchronised(&self) -> bool {
        self.synchronised.load(Ordering::Relaxed)
    }

    /// The expiry clock, ms. Cheap: one look at the system clock, no lock.
    pub fn expiry_now_ms(&self) -> u64 {
        let now_ms = if self.is_synchronised() { self.source.wall_ms() } else { self.guess_ms() };
        let floor_ms = self.floor_ms.load(Ordering::Relaxed);
        if now_ms <= floor_ms { floor_ms } else { now_ms.max(self.floor_ms.fetch_max(now_ms, Ordering::Relaxed)) }
    }

    /// What the expiry clock shows, or showed, while the system clock is not synchronised, ms.
    pub(super) fn guess_ms(&self) -> u64 {
        self.base_ms.saturating_add(self.source.uptime_ms())
    }

    /// Whether a record counts as absent.
    pub fn is_expired(&self, record: &Record) -> bool {
        record.expires_ms != 0 && record.expires_ms <= self.expiry_now_ms()
    }

    /// Time left to a record, ms: `None` if it does not expire, 0 if it has.
    pub fn left_ms(&self, record: &Record) -> Option<u64> {
        (record.expires_ms != 0).then(|| record.expires_ms.saturating_sub(self.expiry_now_ms()))
    }

    /// Whether expired records may be deleted now, not only hidden.
    pub fn may_delete(&self) -> bool {
        self.is_synchronised() && self.source.uptime_ms() >= self.steps.lock().grace_until_uptime_ms
    }

    /// The `modified` of a write that follows one modified at `previous_ms`: never below it, unless the clock is
    /// synchronised, when the clock is right and the previous one was wrong.
    pub fn modified_ms(&self, previous_ms: u64) -> u64 {
        let wall_ms = self.wall_ms();
        if self.is_synchronised() { wall_ms } else { wall_ms.max(previous_ms) }
    }

    /// Looks at the system clock's synchronisation and for steps. Called every few seconds by one thread.
    pub fn tick(&self) {
        let synchronised =
            self.is_synchronised() || (self.source.synchronised() && self.source.wall_ms() >= PLAUSIBLE_MS);
        let mut steps = self.steps.lock();
        self.synchronised.store(synchronised, Ordering::Relaxed);
        let (uptime_ms, expiry_ms) = (self.source.uptime_ms(), self.expiry_now_ms());
        let expected_ms = steps.expiry_ms + (uptime_ms - steps.uptime_ms);
        if expiry_ms > expected_ms + STEP_MS {
            steps.grace_until_uptime_ms = uptime_ms + GRACE_MS;
            log::warn!(
                "the clock stepped forward by {} s; expired records are kept for 24 h",
                (expiry_ms - expected_ms) / 1000
            );
        }
        (steps.uptime_ms, steps.expiry_ms) = (uptime_ms, expiry_ms);
    }
}
