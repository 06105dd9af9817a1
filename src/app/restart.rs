//! Whether to leave for a restart once the store takes no more writes.
//!
//! A failed write, a card that turned out to be full included, ends all writes of this process: nobody knows what reached
//! the card, and the store below refuses to go on. A new process reads what is there and takes writes again; on a card
//! that is still full it answers 507 until there is room. But on a card that is broken restarts mend nothing and take
//! the reads away each time, so there is one in ten minutes at most, and none where nobody would start larder again.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Its time of modification says when larder last left for a restart.
const RESTARTED_FILE: &str = "larder.restarted";
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
            let _ = restart.note(SystemTime::UNIX_EPOCH);
        }
        restart
    }

    fn note(&self, time: SystemTime) -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.file)?;
        file.set_modified(time)
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
        let now = SystemTime::now();
        // A time in the future is one from before the clock was set back: it counts as just now.
        let last = self.file.metadata().and_then(|metadata| metadata.modified());
        if last.is_ok_and(|last| now.duration_since(last).unwrap_or_default() < INTERVAL) {
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
    use super::*;

    fn first_answer(dir: &Path, is_supervised: bool) -> bool {
        Restart::new(dir, is_supervised).is_due()
    }

    fn note(dir: &Path, last: SystemTime) {
        std::fs::File::create(dir.join(RESTARTED_FILE)).unwrap().set_modified(last).unwrap();
    }

    #[test]
    fn there_is_one_restart_in_ten_minutes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(first_answer(dir.path(), true));
        assert!(!first_answer(dir.path(), true));
        note(dir.path(), SystemTime::now() - INTERVAL);
        assert!(first_answer(dir.path(), true));
        assert!(!first_answer(dir.path(), true));
    }

    #[test]
    fn a_process_that_stays_up_leaves_when_the_time_has_come() {
        let dir = tempfile::tempdir().unwrap();
        note(dir.path(), SystemTime::now());
        let mut restart = Restart::new(dir.path(), true);
        assert!((0..2 * LOOK_EVERY).all(|_| !restart.is_due()));
        note(dir.path(), SystemTime::now() - INTERVAL);
        assert_eq!((0..LOOK_EVERY).filter(|_| restart.is_due()).count(), 1);
    }

    #[test]
    fn nobody_leaves_whom_nobody_would_start_again() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!first_answer(dir.path(), false));
        assert!(!dir.path().join(RESTARTED_FILE).exists());
    }

    #[test]
    fn a_restart_that_cannot_be_noted_or_lies_in_the_future_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!first_answer(&dir.path().join("absent"), true));
        note(dir.path(), SystemTime::now() + INTERVAL);
        assert!(!first_answer(dir.path(), true));
    }
}
