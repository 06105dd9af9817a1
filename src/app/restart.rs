//! Whether to leave for a restart once the store takes no more writes.
//!
//! A failed write, a card that turned out to be full included, ends all writes of this process: nobody knows what reached
//! the card, and the store below refuses to go on. A new process reads what is there and takes writes again; on a card
//! that is still full it answers 507 until there is room. But on a card that is broken restarts mend nothing and take
//! the reads away each time, so there is one in ten minutes at most, and none where nobody would start larder again.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::board::clock::boot_time;

/// Its time of modification says when larder last left for a restart: [`NEVER`] plus the boot time. The wall clock may be
/// wrong, and be set back; in another boot the time means nothing, and what lies ahead of the boot time is of another.
const RESTARTED_FILE: &str = "larder.restarted";
/// 2000-01-01: no file system is too young for it.
const NEVER: Duration = Duration::from_secs(946_684_800);
/// Between two restarts.
const INTERVAL: Duration = Duration::from_secs(600);
/// Between two looks at the file.
const LOOK_EVERY: u32 = 30;

/// The decision, asked for about every second while the store is read-only.
pub struct Restart {
    file: PathBuf,
    is_supervised: bool,
    asked: u32,
}

impl Restart {
    /// `is_supervised`: somebody starts larder again when it ends.
    pub fn new(data_dir: &Path, is_supervised: bool) -> Restart {
        let restart = Restart { file: data_dir.join(RESTARTED_FILE), is_supervised, asked: 0 };
        // Made while there is room: on a full card there is none for a name, but a time can still be set.
        if is_supervised && !restart.file.exists() {
            let _ = restart.note(Duration::ZERO);
        }
        restart
    }

    fn note(&self, boot_time: Duration) -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.file)?;
        file.set_modified(UNIX_EPOCH + NEVER + boot_time)
    }

    /// How long ago the last restart was, if it was in this boot.
    fn since_last(&self, now: Duration) -> Option<Duration> {
        let modified = self.file.metadata().and_then(|metadata| metadata.modified()).ok()?;
        let last = modified.duration_since(UNIX_EPOCH + NEVER).ok().filter(|last| !last.is_zero())?;
        now.checked_sub(last)
    }

    /// Whether to leave now; if so, that is noted for the processes that follow.
    pub fn is_due(&mut self) -> bool {
        let is_first = self.asked == 0;
        let looks = self.asked.is_multiple_of(LOOK_EVERY);
        self.asked = self.asked.wrapping_add(1);
        if !self.is_supervised {
            if is_first {
                log::error!("read-only until larder is restarted: no service manager would do it, so larder stays up");
            }
            return false;
        }
        looks && self.may_leave(is_first)
    }

    fn may_leave(&self, is_first: bool) -> bool {
        let now = boot_time();
        if self.since_last(now).is_some_and(|since| since < INTERVAL) {
            if is_first {
                log::error!("read-only: the last restart is less than {} minutes ago", INTERVAL.as_secs() / 60);
            }
            return false;
        }
        // Without the note there would be a restart every few seconds.
        let noted = self.note(now);
        if let Err(error) = &noted
            && is_first
        {
            log::error!("read-only and no restart, which cannot be noted: {error}");
        }
        noted.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn first_answer(dir: &Path, is_supervised: bool) -> bool {
        Restart::new(dir, is_supervised).is_due()
    }

    fn note(dir: &Path, modified: SystemTime) {
        std::fs::File::create(dir.join(RESTARTED_FILE)).unwrap().set_modified(modified).unwrap();
    }

    /// A restart so long ago.
    fn restarted(dir: &Path, ago: Duration) {
        note(dir, UNIX_EPOCH + NEVER + boot_time() - ago);
    }

    #[test]
    fn there_is_one_restart_in_ten_minutes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(first_answer(dir.path(), true));
        assert!(!first_answer(dir.path(), true));
        restarted(dir.path(), INTERVAL);
        assert!(first_answer(dir.path(), true));
        assert!(!first_answer(dir.path(), true));
    }

    #[test]
    fn a_process_that_stays_up_leaves_when_the_time_has_come() {
        let dir = tempfile::tempdir().unwrap();
        restarted(dir.path(), Duration::ZERO);
        let mut restart = Restart::new(dir.path(), true);
        assert!((0..2 * LOOK_EVERY).all(|_| !restart.is_due()));
        restarted(dir.path(), INTERVAL);
        assert_eq!((0..LOOK_EVERY).filter(|_| restart.is_due()).count(), 1);
    }

    #[test]
    fn nobody_leaves_whom_nobody_would_start_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!first_answer(dir.path(), false));
        assert!(!dir.path().join(RESTARTED_FILE).exists());
    }

    #[test]
    fn a_restart_that_cannot_be_noted_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!first_answer(&dir.path().join("absent"), true));
    }

    #[test]
    fn one_in_another_boot_or_by_a_wall_clock_holds_none_back() {
        let ahead = UNIX_EPOCH + NEVER + boot_time() + INTERVAL;
        for modified in [ahead, SystemTime::now(), SystemTime::now() + INTERVAL, UNIX_EPOCH, UNIX_EPOCH + NEVER] {
            let dir = tempfile::tempdir().unwrap();
            note(dir.path(), modified);
            assert!(first_answer(dir.path(), true), "{modified:?}");
            assert!(!first_answer(dir.path(), true), "{modified:?}");
        }
    }
}
