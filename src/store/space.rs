//! Free space of the card, and what may still be written at it. The reserve leaves fjall room to compact and the board
//! room to log in and clean up.
//!
//! Invariant: writes that grow the store stop at the reserve, or before if the next merge of tables may take more than
//! that, and resume with a tenth more. Deletes go on for as long as a flush of what is in memory finds room, with the
//! ballast given up if need be: a flush that finds none would stop all writes until a restart.

use std::fmt;
use std::io;
use std::panic::RefUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::ballast::Ballast;
use crate::limits::MIB;

/// The least reserve that is chosen without a setting.
const RESERVE_BYTES_MIN: u64 = 256 * MIB as u64;
/// Besides what it flushes and merges, a store writes journals and lists of its tables.
const MARGIN_BYTES: u64 = 2 * MIB as u64;
/// The most that a group of writes adds to the journal and to what is to be flushed, before that is known.
const GROUP_BYTES: u64 = 8 * MIB as u64;
/// The least ballast, where the reserve is large enough.
const BALLAST_BYTES_MIN: u64 = 16 * MIB as u64;
/// A merge of tables looks for room each time it has passed so many bytes.
const TOLL_BYTES: u64 = MIB as u64;
const WAIT_STEP: Duration = Duration::from_millis(50);

/// What the free space allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowed {
    /// Everything.
    #[default]
    Writes,
    /// Deletes only.
    Deletes,
    /// Nothing.
    Nothing,
}

/// Free and total bytes of the card, and what they allow.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceFigures {
    /// Bytes that may still be written to the card.
    pub free_bytes: u64,
    /// Bytes of the card.
    pub total_bytes: u64,
    /// Below this only deletes are taken.
    pub reserve_bytes: u64,
    /// The verdict.
    pub allowed: Allowed,
}

/// What a store needs of the card for what it does by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The most that a flush of what is in memory may take.
    pub flush_bytes: u64,
    /// The most that a merge of the youngest tables may take, which flushes set going now and then.
    pub merge_bytes: u64,
    /// Whether nothing more can be flushed before tables were merged.
    pub is_stuck: bool,
}

impl Needs {
    /// What must be free for a flush. A store that is not on a card says 0.
    fn for_flush(self) -> u64 {
        if self.flush_bytes > 0 { self.flush_bytes + MARGIN_BYTES } else { 0 }
    }

    /// What must be free for deletes to be taken.
    fn for_deletes(self) -> u64 {
        if self.is_stuck { u64::MAX / 4 } else { self.for_flush() }
    }

    /// What must be free for writes to be taken.
    fn for_writes(self, reserve_bytes: u64) -> u64 {
        match self.for_flush() {
            0 => reserve_bytes,
            flush_bytes => reserve_bytes.max(flush_bytes + self.merge_bytes + GROUP_BYTES),
        }
    }
}

/// Tells free and total bytes; `None` if it cannot.
pub type SpaceProbe = Box<dyn Fn() -> Option<(u64, u64)> + Send + Sync>;

/// Watches the free space of one folder's card.
#[derive(Default)]
pub struct SpaceWatch {
    probe: Option<SpaceProbe>,
    reserve_bytes: Option<u64>,
    ballast: Option<Ballast>,
    needs: Mutex<Needs>,
    /// The latest look; locked for a copy, never over the system call.
    figures: Mutex<SpaceFigures>,
    /// Whether nobody may wait for room any more.
    closed: AtomicBool,
}

impl SpaceWatch {
    /// Watches the card of a folder; without one (a store in memory) there is always space.
    pub fn new(data_dir: Option<PathBuf>, reserve_bytes: Option<u64>) -> SpaceWatch {
        match data_dir {
            Some(dir) => SpaceWatch::with_probe(Box::new(move || free_and_total(&dir)), reserve_bytes),
            None => SpaceWatch::default(),
        }
    }

    /// Watches what a function tells: free and total bytes.
    pub fn with_probe(probe: SpaceProbe, reserve_bytes: Option<u64>) -> SpaceWatch {
        let watch = SpaceWatch { probe: Some(probe), reserve_bytes, ..SpaceWatch::default() };
        watch.look();
        watch
    }

    /// Has the keeper hold back space in this folder, fit for memtables of so many bytes.
    pub fn with_ballast(mut self, dir: &Path, memtable_bytes: u64) -> SpaceWatch {
        let most = self.figures().reserve_bytes / 3 * 2;
        let bytes = BALLAST_BYTES_MIN.max(4 * memtable_bytes).min(most);
        self.ballast = Some(Ballast::new(dir, bytes));
        self
    }

    /// The latest figures.
    pub fn figures(&self) -> SpaceFigures {
        *self.figures.lock()
    }

    /// What is allowed.
    pub fn allowed(&self) -> Allowed {
        self.figures().allowed
    }

    /// Says what the store needs from now on.
    pub fn set_needs(&self, needs: Needs) {
        *self.needs.lock() = needs;
    }

    /// What the store has said that it needs.
    pub fn needs(&self) -> Needs {
        *self.needs.lock()
    }

    /// Asks the card, and gives up the ballast if deletes need it. If the card does not answer, the last verdict stands.
    pub fn look(&self) {
        let needs = self.needs();
        let Some((free_bytes, total_bytes)) = self.ask_for(needs.for_flush()) else { return };
        let reserve_bytes = self.reserve_bytes.unwrap_or_else(|| RESERVE_BYTES_MIN.max(total_bytes / 100 * 3));
        let bar = needs.for_writes(reserve_bytes);
        let held_bytes = self.ballast.as_ref().map_or(0, Ballast::held_bytes);
        // What was given up is to be had again before anything else.
        let missing_bytes = self.ballast.as_ref().map_or(0, Ballast::bytes).saturating_sub(held_bytes);
        let mut figures = self.figures.lock();
        let before = figures.allowed;
        let allowed = judge(
            before,
            (free_bytes + held_bytes, needs.for_deletes()),
            (free_bytes.saturating_sub(missing_bytes), bar),
        );
        *figures = SpaceFigures { free_bytes, total_bytes, reserve_bytes: bar, allowed };
        drop(figures);
        match allowed {
            _ if allowed == before => {}
            Allowed::Writes => log::warn!("space is free again ({free_bytes} bytes): writes resume"),
            Allowed::Deletes => log::error!("only {free_bytes} bytes are free: writes stop, deletes go on"),
            Allowed::Nothing => log::error!("only {free_bytes} bytes are free: writes and deletes stop"),
        }
    }

    /// Whether one request of so many bytes finds room in the journal and when it is flushed, though it be larger than what
    /// every verdict allows for.
    pub fn fits(&self, request_bytes: u64) -> bool {
        let (needs, bytes) = (self.needs(), request_bytes.saturating_mul(2));
        let is_planned_for = bytes <= GROUP_BYTES || needs.flush_bytes == 0 || self.probe.is_none();
        is_planned_for || self.figures().free_bytes >= (needs.for_flush() + needs.merge_bytes).saturating_add(bytes)
    }

    /// Whether so many bytes can be written now, with the ballast given up if need be.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.ask_for(bytes).is_none_or(|(free_bytes, _)| free_bytes >= bytes)
    }

    /// Whether what is in memory can be flushed now.
    pub fn has_room_for_flush(&self) -> bool {
        self.has_room(self.needs().for_flush())
    }

    /// Holds space back again if it was given up, and half of it or what deletes need is free besides. What is left of
    /// other settings goes.
    pub fn restore_ballast(&self) {
        let Some(ballast) = self.ballast.as_ref().filter(|ballast| !ballast.is_whole()) else { return };
        ballast.give_up();
        let besides = self.needs().for_flush().max(ballast.bytes() / 2);
        let fits = |(free_bytes, _)| free_bytes >= ballast.bytes() + besides;
        if ballast.bytes() > 0 && self.ask().is_some_and(fits) {
            ballast.make();
        }
    }

    /// Ends all waits for room.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Asks the card, and once more without the ballast if fewer bytes than these are free.
    fn ask_for(&self, bytes: u64) -> Option<(u64, u64)> {
        let asked = self.ask()?;
        if asked.0 >= bytes {
            return Some(asked);
        }
        if let Some(ballast) = &self.ballast {
            ballast.give_up();
        }
        self.ask()
    }

    fn ask(&self) -> Option<(u64, u64)> {
        self.probe.as_ref().and_then(|probe| probe())
    }
}

/// No lock is held over anything that could panic.
impl RefUnwindSafe for SpaceWatch {}

impl fmt::Debug for SpaceWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpaceWatch").field("figures", &self.figures()).field("needs", &self.needs()).finish()
    }
}

/// Looks after one merge of tables, so that it never takes the room that a flush needs.
pub(super) struct Toll {
    space: Arc<SpaceWatch>,
    may_wait: bool,
    due_bytes: u64,
}

impl Toll {
    /// `may_wait`: whether the merge is to wait for room, because its failure would stop all writes; else it is to fail.
    pub(super) fn new(space: Arc<SpaceWatch>, may_wait: bool) -> Toll {
        Toll { space, may_wait, due_bytes: TOLL_BYTES }
    }

    /// The merge is about to write at most so many bytes.
    pub(super) fn pay(&mut self, bytes: usize) -> io::Result<()> {
        self.due_bytes += bytes as u64;
        if self.due_bytes < TOLL_BYTES {
            return Ok(());
        }
        let wanted = self.due_bytes + TOLL_BYTES;
        self.due_bytes = 0;
        while !self.space.has_room(self.space.needs().for_flush() + wanted) {
            if !self.may_wait || self.space.closed.load(Ordering::Acquire) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            thread::sleep(WAIT_STEP);
        }
        Ok(())
    }
}

/// The verdict, given the one before, and for deletes and writes each what there is and what it takes.
fn judge(before: Allowed, deletes: (u64, u64), writes: (u64, u64)) -> Allowed {
    // To leave a state it takes a tenth more than what led into it.
    let lacks = |(there, bar): (u64, u64), inside: bool| there < if inside { bar + bar / 10 } else { bar };
    if lacks(deletes, before == Allowed::Nothing) {
        Allowed::Nothing
    } else if lacks(writes, before != Allowed::Writes) {
        Allowed::Deletes
    } else {
        Allowed::Writes
    }
}

/// Of a folder that is not there yet: where it will be made.
fn free_and_total(dir: &Path) -> Option<(u64, u64)> {
    let made = dir.ancestors().map(rustix::fs::statvfs).find(|asked| asked.is_ok());
    match made.unwrap_or_else(|| rustix::fs::statvfs(".")) {
        Ok(figures) => Some((figures.f_bavail * figures.f_frsize, figures.f_blocks * figures.f_frsize)),
        Err(error) => {
            log::warn!("the free space of the data folder cannot be read: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A card of 1000 MiB whose free MiB can be set.
    fn card(free_mib: u64, reserve_mib: u64) -> (Arc<AtomicU64>, SpaceWatch) {
        let free = Arc::new(AtomicU64::new(free_mib * MIB as u64));
        let asked = free.clone();
        let probe = Box::new(move || Some((asked.load(Ordering::SeqCst), 1000 * MIB as u64)));
        (free, SpaceWatch::with_probe(probe, Some(reserve_mib * MIB as u64)))
    }

    fn seen(free: &AtomicU64, free_mib: u64, watch: &SpaceWatch) -> Allowed {
        free.store(free_mib * MIB as u64, Ordering::SeqCst);
        watch.look();
        watch.allowed()
    }

    fn needs(flush_mib: u64, merge_mib: u64) -> Needs {
        let mib = MIB as u64;
        Needs { flush_bytes: flush_mib * mib, merge_bytes: merge_mib * mib, is_stuck: false }
    }

    #[test]
    fn writes_stop_at_the_reserve_and_resume_a_tenth_above_it() {
        let (free, watch) = card(100, 100);
        assert_eq!(watch.allowed(), Allowed::Writes);
        for (free_mib, allowed) in
            [(99, Allowed::Deletes), (109, Allowed::Deletes), (110, Allowed::Writes), (100, Allowed::Writes)]
        {
            assert_eq!(seen(&free, free_mib, &watch), allowed, "{free_mib}");
        }
    }

    #[test]
    fn deletes_stop_where_a_flush_finds_no_room_and_resume_a_tenth_above_that() {
        let (free, watch) = card(100, 100);
        watch.set_needs(needs(8, 0));
        for (free_mib, allowed) in [
            (50, Allowed::Deletes),
            (10, Allowed::Deletes),
            (9, Allowed::Nothing),
            (10, Allowed::Nothing),
            (11, Allowed::Deletes),
            (0, Allowed::Nothing),
            (110, Allowed::Writes),
        ] {
            assert_eq!(seen(&free, free_mib, &watch), allowed, "{free_mib}");
        }
        watch.set_needs(Needs { is_stuck: true, ..needs(8, 0) });
        assert_eq!(seen(&free, 50, &watch), Allowed::Nothing, "nothing more can be flushed");
        assert!(watch.has_room_for_flush(), "but what is in memory can");
    }

    #[test]
    fn a_request_larger_than_what_is_planned_for_needs_room_of_its_own() {
        let (free, watch) = card(100, 30);
        watch.set_needs(needs(8, 40));
        assert_eq!(seen(&free, 60, &watch), Allowed::Writes);
        for (request_mib, fits) in [(1, true), (4, true), (5, true), (6, false), (64, false), (u64::MAX >> 20, false)] {
            assert_eq!(watch.fits(request_mib << 20), fits, "{request_mib}");
        }
        assert_eq!(
            (seen(&free, 100, &watch), watch.fits(25 << 20), watch.fits(26 << 20)),
            (Allowed::Writes, true, false)
        );
        assert!(SpaceWatch::new(None, None).fits(u64::MAX), "a store in memory");
    }

    #[test]
    fn writes_also_leave_room_for_the_next_merge_and_for_themselves() {
        let (free, watch) = card(100, 30);
        watch.set_needs(needs(8, 40));
        assert_eq!(seen(&free, 58, &watch), Allowed::Writes);
        assert_eq!(seen(&free, 57, &watch), Allowed::Deletes);
        assert_eq!(watch.figures().reserve_bytes, 58 * MIB as u64);
        watch.set_needs(needs(8, 0));
        assert_eq!(seen(&free, 57, &watch), Allowed::Writes, "merged");
        let (free, watch) = card(100, 0);
        watch.set_needs(needs(1, 0));
        assert_eq!(seen(&free, 11, &watch), Allowed::Writes, "no reserve");
        assert_eq!(seen(&free, 10, &watch), Allowed::Deletes, "but never more than there is");
    }

    #[test]
    fn the_ballast_is_given_up_for_deletes_and_had_again_before_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (free, watch) = card(100, 30);
        let watch = watch.with_ballast(dir.path(), 4 * MIB as u64);
        watch.set_needs(needs(8, 0));
        assert_eq!(seen(&free, 45, &watch), Allowed::Deletes, "there is none yet");
        assert_eq!(seen(&free, 50, &watch), Allowed::Writes);
        watch.restore_ballast();
        assert_eq!(seen(&free, 34, &watch), Allowed::Writes);
        assert_eq!(seen(&free, 10, &watch), Allowed::Deletes);
        assert!(dir.path().join("larder.ballast").exists());
        assert_eq!(seen(&free, 9, &watch), Allowed::Nothing, "the probe does not know of what was given up");
        assert!(!dir.path().join("larder.ballast").exists());
        assert_eq!(seen(&free, 25, &watch), Allowed::Deletes);
        watch.restore_ballast();
        assert!(!dir.path().join("larder.ballast").exists(), "deletes need it");
        free.store(26 * MIB as u64, Ordering::SeqCst);
        watch.restore_ballast();
        assert!(dir.path().join("larder.ballast").exists());
    }

    #[test]
    fn a_ballast_of_other_settings_is_given_up_and_replaced_or_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("larder.ballast");
        let length = || std::fs::metadata(&path).map_or(0, |found| found.len());
        let (_, watch) = card(100, 30);
        watch.with_ballast(dir.path(), 4 * MIB as u64).restore_ballast();
        assert_eq!(length(), 16 * MIB as u64);
        for (reserve_mib, memtable_mib, held_mib) in [(60, 8, 32), (15, 8, 10), (0, 4, 0)] {
            let (_, watch) = card(100, reserve_mib);
            watch.with_ballast(dir.path(), memtable_mib * MIB as u64).restore_ballast();
            assert_eq!(length(), held_mib * MIB as u64, "{reserve_mib} {memtable_mib}");
        }
        let (_, watch) = card(100, 30);
        watch.with_ballast(dir.path(), 4 * MIB as u64).restore_ballast();
        let watch = card(100, 60).1.with_ballast(dir.path(), 8 * MIB as u64);
        assert!(!watch.has_room(200 * MIB as u64));
        assert_eq!(length(), 0, "given up on a card that is full after a change of settings");
    }

    #[test]
    fn a_merge_of_ours_fails_before_it_takes_the_room_of_a_flush_and_that_of_another_waits() {
        let (free, watch) = card(100, 30);
        watch.set_needs(needs(8, 0));
        let watch = Arc::new(watch);
        let mut ours = Toll::new(watch.clone(), false);
        ours.pay(1).unwrap();
        free.store(11 * MIB as u64, Ordering::SeqCst);
        ours.pay(MIB - 1).expect("it looks once in a MiB");
        assert_eq!(ours.pay(1).unwrap_err().kind(), io::ErrorKind::StorageFull);
        let pays = |watch: &Arc<SpaceWatch>| {
            let mut other = Toll::new(watch.clone(), true);
            thread::spawn(move || other.pay(1).map_err(|error| error.kind()))
        };
        let other = pays(&watch);
        free.store(20 * MIB as u64, Ordering::SeqCst);
        assert_eq!(other.join().unwrap(), Ok(()), "there is room at last");
        free.store(11 * MIB as u64, Ordering::SeqCst);
        let other = pays(&watch);
        watch.close();
        assert_eq!(other.join().unwrap(), Err(io::ErrorKind::StorageFull), "the store goes");
    }

    #[test]
    fn without_a_setting_the_reserve_is_three_percent_or_256_mib() {
        let watch = SpaceWatch::with_probe(Box::new(|| Some((1 << 40, 1 << 40))), None);
        assert_eq!(watch.figures().reserve_bytes, (1_u64 << 40) / 100 * 3);
        let watch = SpaceWatch::with_probe(Box::new(|| Some((1 << 30, 1 << 30))), None);
        assert_eq!(watch.figures().reserve_bytes, RESERVE_BYTES_MIN);
    }

    #[test]
    fn the_card_of_a_real_folder_has_figures() {
        let watch = SpaceWatch::new(Some(std::env::temp_dir()), Some(0));
        assert!(watch.figures().total_bytes > 0);
        assert_eq!(watch.allowed(), Allowed::Writes);
    }
}
