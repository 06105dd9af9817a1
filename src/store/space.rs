//! Free space of the card, and what may still be written at it. The reserve leaves fjall room to compact and the board
//! room to log in and clean up.
//!
//! Invariant: writes that grow the store stop at the reserve and deletes at half of it; both resume with a tenth more.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The least reserve that is chosen without a setting.
const RESERVE_BYTES_MIN: u64 = 256 * 1024 * 1024;

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

/// Tells free and total bytes; `None` if it cannot.
pub type SpaceProbe = Box<dyn Fn() -> Option<(u64, u64)> + Send + Sync>;

/// Watches the free space of one folder's card.
pub struct SpaceWatch {
    probe: Option<SpaceProbe>,
    reserve_bytes: Option<u64>,
    /// The latest look; locked for a copy, never over the system call.
    figures: Mutex<SpaceFigures>,
    written_bytes: AtomicU64,
}

impl SpaceWatch {
    /// Watches the card of a folder; without one (a store in memory) there is always space.
    pub fn new(data_dir: Option<PathBuf>, reserve_bytes: Option<u64>) -> SpaceWatch {
        match data_dir {
            Some(dir) => SpaceWatch::with_probe(Box::new(move || free_and_total(&dir)), reserve_bytes),
            None => {
                SpaceWatch { probe: None, reserve_bytes, figures: Mutex::default(), written_bytes: AtomicU64::new(0) }
            }
        }
    }

    /// Watches what a function tells: free and total bytes.
    pub fn with_probe(probe: SpaceProbe, reserve_bytes: Option<u64>) -> SpaceWatch {
        let watch = SpaceWatch {
            probe: Some(probe),
            reserve_bytes,
            figures: Mutex::default(),
            written_bytes: AtomicU64::new(0),
        };
        watch.look();
        watch
    }

    /// The latest figures.
    pub fn figures(&self) -> SpaceFigures {
        *self.figures.lock()
    }

    /// What is allowed.
    pub fn allowed(&self) -> Allowed {
        self.figures().allowed
    }

    /// Asks the card. If it does not answer, the last verdict stands.
    pub fn look(&self) {
        let Some((free_bytes, total_bytes)) = self.probe.as_ref().and_then(|probe| probe()) else { return };
        self.written_bytes.store(0, Ordering::Relaxed);
        let reserve_bytes = self.reserve_bytes.unwrap_or_else(|| RESERVE_BYTES_MIN.max(total_bytes / 100 * 3));
        let mut figures = self.figures.lock();
        let before = figures.allowed;
        let allowed = judge(before, free_bytes, reserve_bytes);
        *figures = SpaceFigures { free_bytes, total_bytes, reserve_bytes, allowed };
        drop(figures);
        match allowed {
            _ if allowed == before => {}
            Allowed::Writes => log::warn!("space is free again ({free_bytes} bytes): writes resume"),
            Allowed::Deletes => log::error!("only {free_bytes} bytes are free: writes stop, deletes go on"),
            Allowed::Nothing => log::error!("only {free_bytes} bytes are free: writes and deletes stop"),
        }
    }

    /// Looks again if so much was written since the last look that the verdict may have changed.
    pub fn wrote(&self, bytes: u64) {
        let written_bytes = self.written_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.probe.is_some() && written_bytes > self.figures().reserve_bytes / 16 {
            self.look();
        }
    }
}

/// The verdict for so much free space, given the one before.
fn judge(before: Allowed, free_bytes: u64, reserve_bytes: u64) -> Allowed {
    // To leave a state it takes a tenth more than what led into it.
    let bar = |bytes: u64, inside: bool| if inside { bytes + bytes / 10 } else { bytes };
    if free_bytes < bar(reserve_bytes / 2, before == Allowed::Nothing) {
        Allowed::Nothing
    } else if free_bytes < bar(reserve_bytes, before != Allowed::Writes) {
        Allowed::Deletes
    } else {
        Allowed::Writes
    }
}

fn free_and_total(dir: &std::path::Path) -> Option<(u64, u64)> {
    match rustix::fs::statvfs(dir) {
        Ok(figures) => Some((figures.f_bavail * figures.f_frsize, figures.f_blocks * figures.f_frsize)),
        Err(error) => {
            log::warn!("the free space of the data folder cannot be read: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stop_at_the_reserve_and_resume_a_tenth_above_it() {
        assert_eq!(judge(Allowed::Writes, 1000, 1000), Allowed::Writes);
        assert_eq!(judge(Allowed::Writes, 999, 1000), Allowed::Deletes);
        assert_eq!(judge(Allowed::Deletes, 1099, 1000), Allowed::Deletes);
        assert_eq!(judge(Allowed::Deletes, 1100, 1000), Allowed::Writes);
    }

    #[test]
    fn deletes_stop_at_half_of_the_reserve_and_resume_a_tenth_above_that() {
        assert_eq!(judge(Allowed::Deletes, 500, 1000), Allowed::Deletes);
        assert_eq!(judge(Allowed::Deletes, 499, 1000), Allowed::Nothing);
        assert_eq!(judge(Allowed::Nothing, 549, 1000), Allowed::Nothing);
        assert_eq!(judge(Allowed::Nothing, 550, 1000), Allowed::Deletes);
        assert_eq!(judge(Allowed::Nothing, 1100, 1000), Allowed::Writes);
    }

    #[test]
    fn much_written_makes_it_look_before_the_next_round() {
        let free = std::sync::Arc::new(AtomicU64::new(10_000));
        let asked = free.clone();
        let watch = SpaceWatch::with_probe(Box::new(move || Some((asked.load(Ordering::SeqCst), 20_000))), Some(1600));
        free.store(1000, Ordering::SeqCst);
        watch.wrote(100);
        assert_eq!(watch.allowed(), Allowed::Writes);
        watch.wrote(1);
        assert_eq!(watch.allowed(), Allowed::Deletes);
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
