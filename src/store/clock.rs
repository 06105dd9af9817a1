//! Time for a board that may have no clock: a boot time that only passes, and what date that is as far as it is known.
//! By which of its beliefs a record's expiry is to be read, [`super::epochs`] knows.
//!
//! Durations rest on the boot time alone: no step of the wall clock stops or hurries them, and a restart within the same
//! boot goes on exactly where it was. The date is what the wall clock said at the start, or the last known time if that is
//! later. It is corrected once the clock is synchronised, and when the wall clock is seen twice, a minute apart, to have
//! been stepped; what flies up and back in between is not heeded. Hiding what expired needs no more than that; deleting it
//! needs a synchronised clock, and 24 h of grace if that moved dates forward by more than an hour.
//!
//! Invariant: a version's epoch is in force before anything of that version can be read, and is saved in the batch of the
//! first record of it. While deletion is allowed nothing that has not expired can have its expiry moved closer.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::epochs::{BootId, Epochs, Saved, TOLERANCE_MS};
use super::record::Life;
use super::{Record, StoreError, Ttl};
use crate::board;

/// 2024-01-01T00:00:00Z in ms: a clock before it was never set.
pub const PLAUSIBLE_MS: u64 = 1_704_067_200_000;
/// Deletions wait if dates were moved forward by more than this.
const STEP_MS: i64 = 3_600_000;
/// How long they wait.
const GRACE_MS: u64 = 24 * 3_600_000;
/// A step of the wall clock counts when it is still there after so long.
pub const CONFIRM_AFTER: Duration = Duration::from_secs(60);

/// Where time comes from.
pub trait TimeSource: Send + Sync + 'static {
    /// The system clock, ms since 1970.
    fn wall_ms(&self) -> u64;
    /// Time since the boot, sleep included, ms; never goes back.
    fn boot_ms(&self) -> u64;
    /// Which boot that is.
    fn boot(&self) -> BootId;
    /// Whether something outside keeps the system clock right. Asked every few seconds, until it is so for the first time.
    fn synchronised(&self) -> bool;
}

/// systemd-timesyncd leaves this file once the clock is right.
const TIMESYNCD_MARK: &str = "/run/systemd/timesync/synchronized";

/// The clocks of the machine. They are right as soon as one of these says so: the operator, systemd-timesyncd's mark,
/// or the kernel, which hears it from any other NTP client and may not let itself be asked.
pub struct SystemTimeSource {
    boot: BootId,
    trusted: bool,
    mark: PathBuf,
    kernel: fn() -> Option<bool>,
}

impl SystemTimeSource {
    /// `trusted`: the operator vouches for the system clock (a container, whose host keeps it).
    pub fn new(trusted: bool) -> SystemTimeSource {
        SystemTimeSource {
            boot: board::clock::boot(),
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

    fn boot_ms(&self) -> u64 {
        board::clock::boot_time().as_millis() as u64
    }

    fn boot(&self) -> BootId {
        self.boot
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
    boot_ms: AtomicU64,
    boot: u8,
    synchronised: AtomicBool,
}

impl ManualTime {
    /// A clock at this wall time, in a boot of its own.
    pub fn new(wall_ms: u64, synchronised: bool) -> Arc<ManualTime> {
        ManualTime::in_boot(0, wall_ms, synchronised)
    }

    /// A clock in this boot; those of boot 0 have nothing in common.
    pub fn in_boot(boot: u8, wall_ms: u64, synchronised: bool) -> Arc<ManualTime> {
        let time = ManualTime { boot, ..ManualTime::default() };
        time.set_wall(wall_ms);
        time.set_synchronised(synchronised);
        Arc::new(time)
    }

    /// Lets time pass.
    pub fn advance(&self, ms: u64) {
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
        self.boot_ms.fetch_add(ms, Ordering::SeqCst);
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
    fn boot_ms(&self) -> u64 {
        self.boot_ms.load(Ordering::SeqCst)
    }
    fn boot(&self) -> BootId {
        (self.boot > 0).then_some([self.boot; 16])
    }
    fn synchronised(&self) -> bool {
        self.synchronised.load(Ordering::SeqCst)
    }
}

/// A moment of the clock, by which any number of records can be judged. Take it after the view that they are read from.
#[derive(Clone)]
pub struct Moment {
    boot_ms: u64,
    epochs: Arc<Epochs>,
}

impl Moment {
    /// The moment of a store whose clock was never corrected (tests).
    pub fn at(now_ms: u64) -> Moment {
        Moment { boot_ms: now_ms, epochs: Arc::new(Epochs::new(0, true)) }
    }

    /// The date that is believed, ms.
    pub fn now_ms(&self) -> u64 {
        self.boot_ms.saturating_add_signed(self.epochs.belief_ms())
    }

    /// Whether a record with this life counts as absent.
    pub fn has_expired(&self, life: &Life) -> bool {
        life.expires_ms != 0 && self.left(life) == 0
    }

    /// Whether a record counts as absent.
    pub fn is_expired(&self, record: &Record) -> bool {
        self.has_expired(&record.life())
    }

    /// Time left to a record, ms: `None` if it does not expire, 0 if it has.
    pub fn left_ms(&self, record: &Record) -> Option<u64> {
        (record.expires_ms != 0).then(|| self.left(&record.life()))
    }

    /// The date at which a record expires, as far as dates are known now; 0 if it does not.
    pub fn shown_ms(&self, record: &Record) -> u64 {
        if record.expires_ms == 0 { 0 } else { self.epochs.shown_ms(&record.life()) }
    }

    /// The expiry to store with a record that is written now in place of `present`, and its `modified`.
    pub(super) fn stamp(&self, ttl: Ttl, present: Option<&Record>, modified_ms: u64) -> (u64, u64) {
        self.epochs.stamp(self.boot_ms, ttl, present.map(Record::life), modified_ms)
    }

    /// The first version of the epoch that this version is of.
    pub(super) fn epoch_of(&self, version: u64) -> u64 {
        self.epochs.first_of(version)
    }

    /// Whether that is another than the last epoch.
    pub(super) fn is_old(&self, version: u64) -> bool {
        self.epochs.first_of(version) != self.epochs.first_of(u64::MAX)
    }

    /// The first versions of all epochs but the last.
    pub(super) fn old_epochs(&self) -> Vec<u64> {
        let mut firsts = self.epochs.firsts();
        firsts.pop();
        firsts
    }

    fn left(&self, life: &Life) -> u64 {
        let now_ms = self.boot_ms.saturating_add_signed(self.epochs.offset_ms(life));
        life.expires_ms.saturating_sub(now_ms)
    }
}

/// What an earlier run has left in the store.
#[derive(Default)]
pub struct Known {
    /// The last known time, ms.
    pub last_ms: Option<u64>,
    /// The epochs.
    pub epochs: Option<Bytes>,
}

/// The store's clock. Shared; every method may be called from any thread, but for [`Clock::correct`].
pub struct Clock {
    source: Arc<dyn TimeSource>,
    epochs: RwLock<Arc<Epochs>>,
    /// Whether the system clock was found synchronised and plausible, and all has been corrected by it.
    synchronised: AtomicBool,
    /// Whether the epochs are others than those that were saved last.
    unsaved: AtomicBool,
    confirm_after_ms: u64,
    steps: Mutex<Steps>,
}

/// What the ticks have seen.
#[derive(Default)]
struct Steps {
    /// A step of the wall clock: when it was first seen, and to what offset from the boot time.
    seen: Option<(u64, i64)>,
    wanted: Option<Correction>,
    grace_until_boot_ms: u64,
}

/// What is to be done by the one who gives out versions.
#[derive(Clone, Copy)]
struct Correction {
    offset_ms: i64,
    sure: bool,
}

impl Clock {
    /// A clock that goes on from what an earlier run knew. `next` is the first version of this run.
    pub fn new(
        source: Arc<dyn TimeSource>,
        known: &Known,
        next: u64,
        confirm_after: Duration,
    ) -> Result<Clock, StoreError> {
        let (wall_ms, boot_ms) = (source.wall_ms(), source.boot_ms());
        let is_plausible = wall_ms >= PLAUSIBLE_MS;
        let hint_ms = if is_plausible { wall_ms } else { 0 };
        let synchronised = is_plausible && source.synchronised();
        let saved = known.epochs.as_ref().map(|form| Saved::decode(form)).transpose()?;
        let mut epochs = match (saved, known.last_ms) {
            (Some(saved), Some(last_ms)) if saved.clock_ms == last_ms => {
                let mut epochs = saved.epochs;
                let differs = saved.boot.zip(source.boot()).map(|(before, now)| before != now);
                if differs != Some(false) || boot_ms < saved.boot_ms {
                    // Where boots cannot be told apart, it may be the same one; and a machine may be put back in time.
                    let begun_ms = if differs == Some(true) { 0 } else { boot_ms };
                    epochs.reboot(next, offset(saved.boot_ms, begun_ms), boot_ms, hint_ms);
                }
                epochs
            }
            // Written by a release that reads every expiry as a date.
            (_, Some(last_ms)) => {
                let mut epochs = Epochs::new(offset(last_ms, boot_ms), true);
                epochs.reboot(next, 0, boot_ms, hint_ms);
                epochs
            }
            _ => Epochs::new(offset(wall_ms, boot_ms), synchronised),
        };
        // Within the same boot it was already; if the wall clock was stepped since, the ticks will see.
        if synchronised && !epochs.is_settled() {
            epochs.correct(next, offset(wall_ms, boot_ms), true);
        }
        Ok(Clock {
            epochs: RwLock::new(Arc::new(epochs)),
            synchronised: AtomicBool::new(synchronised),
            unsaved: AtomicBool::new(true),
            confirm_after_ms: u64::try_from(confirm_after.as_millis()).unwrap_or(u64::MAX),
            steps: Mutex::default(),
            source,
        })
    }

    /// The present moment. Cheap: one look at the boot time, and a lock that is held for a moment.
    pub fn moment(&self) -> Moment {
        let epochs = self.epochs.read().clone();
        Moment { boot_ms: self.source.boot_ms(), epochs }
    }

    /// Wall time, ms since 1970; the best guess while the system clock is not synchronised.
    pub fn wall_ms(&self) -> u64 {
        if self.is_synchronised() { self.source.wall_ms() } else { self.moment().now_ms() }
    }

    /// Whether the wall time is fit for `Date` and `Last-Modified`, and for judging dates of others.
    pub fn is_set(&self) -> bool {
        self.is_synchronised() || self.source.wall_ms() >= PLAUSIBLE_MS
    }

    /// Whether the system clock was found synchronised, and what rested on a guess has been corrected.
    pub fn is_synchronised(&self) -> bool {
        self.synchronised.load(Ordering::Acquire)
    }

    /// Whether a record counts as absent.
    pub fn is_expired(&self, record: &Record) -> bool {
        record.expires_ms != 0 && self.moment().is_expired(record)
    }

    /// Time left to a record, ms: `None` if it does not expire, 0 if it has.
    pub fn left_ms(&self, record: &Record) -> Option<u64> {
        if record.expires_ms == 0 { None } else { self.moment().left_ms(record) }
    }

    /// Whether expired records may be deleted now, not only hidden.
    pub fn may_delete(&self) -> bool {
        self.is_synchronised() && self.source.boot_ms() >= self.steps.lock().grace_until_boot_ms
    }

    /// The `modified` of a write that follows one modified at `previous_ms`: never below it, unless the clock is
    /// synchronised, when the clock is right and the previous one was wrong.
    pub fn modified_ms(&self, previous_ms: u64) -> u64 {
        let wall_ms = self.wall_ms();
        if self.is_synchronised() { wall_ms } else { wall_ms.max(previous_ms) }
    }

    /// Looks at the system clock. Called every few seconds by one thread. True: [`Clock::correct`] is due.
    pub fn tick(&self) -> bool {
        let (wall_ms, boot_ms) = (self.source.wall_ms(), self.source.boot_ms());
        let offset_ms = offset(wall_ms, boot_ms);
        let mut steps = self.steps.lock();
        steps.wanted = None;
        // What is not plausible is no news: it was never set.
        if wall_ms < PLAUSIBLE_MS {
            steps.seen = None;
        } else if !self.is_synchronised() && self.source.synchronised() {
            steps.wanted = Some(Correction { offset_ms, sure: true });
        } else if offset_ms.abs_diff(self.epochs.read().belief_ms()) < TOLERANCE_MS {
            steps.seen = None;
        } else {
            match steps.seen {
                Some((at_ms, seen_ms)) if seen_ms.abs_diff(offset_ms) < TOLERANCE_MS => {
                    if boot_ms.saturating_sub(at_ms) >= self.confirm_after_ms {
                        steps.wanted = Some(Correction { offset_ms, sure: self.is_synchronised() });
                    }
                }
                _ => steps.seen = Some((boot_ms, offset_ms)),
            }
        }
        steps.wanted.is_some()
    }

    /// Does what [`Clock::tick`] found to be due: versions from `next` on are dated anew. Only for the one who gives out
    /// versions, while none from `next` on has been given out.
    pub(super) fn correct(&self, next: u64) {
        let mut steps = self.steps.lock();
        let Some(Correction { offset_ms, sure }) = steps.wanted.take() else { return };
        steps.seen = None;
        let mut epochs = Epochs::clone(&self.epochs.read());
        let before_ms = epochs.belief_ms();
        let moved_ms = epochs.correct(next, offset_ms, sure);
        *self.epochs.write() = Arc::new(epochs);
        self.unsaved.store(true, Ordering::Release);
        if sure {
            if moved_ms > STEP_MS {
                steps.grace_until_boot_ms = self.source.boot_ms().saturating_add(GRACE_MS);
                log::warn!(
                    "by the clock {} s more have passed than were known; what expired then is kept for 24 h",
                    moved_ms / 1000
                );
            }
            self.synchronised.store(true, Ordering::Release);
        }
        log::info!("the clock was wrong by {} ms; no duration is changed by that", offset_ms.saturating_sub(before_ms));
    }

    /// Forgets epochs, given by their first versions, of which no record is left that expires; none if the epochs are no
    /// longer those of `then`, when that was found out.
    pub(super) fn forget(&self, then: &Moment, firsts: &[u64]) {
        let mut shared = self.epochs.write();
        if !firsts.is_empty() && Arc::ptr_eq(&shared, &then.epochs) {
            let mut epochs = Epochs::clone(&shared);
            epochs.forget(firsts);
            *shared = Arc::new(epochs);
            self.unsaved.store(true, Ordering::Release);
        }
    }

    /// Whether the epochs are others than those that were saved last.
    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Acquire)
    }

    /// What the next start needs to know: the last known time, and the epochs.
    pub(super) fn save(&self) -> (u64, Bytes) {
        self.unsaved.store(false, Ordering::Release);
        let moment = self.moment();
        let clock_ms = moment.now_ms();
        let (epochs, boot, boot_ms) = (Epochs::clone(&moment.epochs), self.source.boot(), moment.boot_ms);
        (clock_ms, Saved { epochs, boot, boot_ms, clock_ms }.encode().into())
    }
}

/// What has to be added to the one to get the other, ms.
fn offset(to_ms: u64, from_ms: u64) -> i64 {
    i64::try_from(i128::from(to_ms) - i128::from(from_ms)).unwrap_or(if to_ms > from_ms { i64::MAX } else { i64::MIN })
}
