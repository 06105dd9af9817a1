//! A note beside the store that relaxed writes are under way, so that the next start can tell what a power cut does to
//! them from damage.
//!
//! Each relaxed write stands in the journal before it is synced, several of them may wait for one sync, and of their pages
//! a power cut keeps whichever it likes. So whole batches may stand behind a torn one, though nothing that was promised is
//! lost. Without such writes that cannot be: then it is damage.
//! The note says up to which batch everything was synced when it was written. A bad spot before that batch is damage in
//! any case. It is renewed only now and then, so a card that loses what it has synced can hide that for
//! [`RENEW_AFTER`].
//! Invariant: no relaxed write reaches the journal before the note is on the card.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::recovery::{sync_dir, write_synced};

/// The note.
pub const RELAXED_FILE: &str = "larder.relaxed";
/// While relaxed writes go on the note is written anew no more often than this.
const RENEW_AFTER: Duration = Duration::from_secs(10);
/// It is removed when none has come for this long.
const REMOVE_AFTER: Duration = Duration::from_secs(60);

/// When the note was written, and when it is to go.
pub(super) struct RelaxedNote {
    dir: PathBuf,
    written: Option<Written>,
}

struct Written {
    at: Instant,
    synced: Option<u64>,
    last_write: Instant,
}

impl RelaxedNote {
    /// There is none, see [`take`].
    pub(super) fn new(dir: &Path) -> RelaxedNote {
        RelaxedNote { dir: dir.to_path_buf(), written: None }
    }

    /// To be called before each relaxed write. `synced`: every batch up to this number is on the card.
    pub(super) fn before_write(&mut self, synced: Option<u64>, now: Instant) -> io::Result<()> {
        let holds = |written: &Written| {
            // What was not known when it was written is worth more than its age.
            now.duration_since(written.at) < RENEW_AFTER && (written.synced.is_some() || synced.is_none())
        };
        match self.written.as_mut().filter(|written| holds(written)) {
            Some(written) => written.last_write = now,
            None => {
                let number = synced.unwrap_or(0);
                write_synced(&self.dir, RELAXED_FILE, format!("{number} {number}\n"))?;
                self.written = Some(Written { at: now, synced, last_write: now });
            }
        }
        Ok(())
    }

    /// Removes the note some time after the last relaxed write, which must have been synced. Tells whether there is one.
    pub(super) fn after_sync(&mut self, now: Instant) -> io::Result<bool> {
        let is_over = |written: &Written| now.duration_since(written.last_write) >= REMOVE_AFTER;
        if self.written.as_ref().is_some_and(is_over) {
            self.remove()?;
        }
        Ok(self.written.is_some())
    }

    /// Removes it, everything having been synced.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        if self.written.take().is_some() {
            remove(&self.dir)?;
        }
        Ok(())
    }
}

/// What the last run's note says, if it left one: every batch up to this number had been synced.
pub(super) fn read(dir: &Path) -> io::Result<Option<u64>> {
    let text = match fs::read(dir.join(RELAXED_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let number =
        text.trim_end().split_once(' ').filter(|(one, other)| one == other).and_then(|(one, _)| one.parse().ok());
    if number.is_none() {
        log::error!("{RELAXED_FILE} is damaged and was not heeded");
    }
    Ok(number)
}

/// Removes what the last run left, once the journals are repaired.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(RELAXED_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_dir(dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_written_before_the_first_write_renewed_at_times_and_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut note = RelaxedNote::new(dir.path());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(read(dir.path()).unwrap(), None);
        note.before_write(Some(7), at(0)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(7));
        note.before_write(Some(8), at(9)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(7), "not with every write");
        note.before_write(Some(9), at(10)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(9));
        assert!(note.after_sync(at(69)).unwrap());
        assert_eq!(read(dir.path()).unwrap(), Some(9));
        assert!(!note.after_sync(at(70)).unwrap());
        assert_eq!(read(dir.path()).unwrap(), None);
        note.before_write(None, at(71)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(0), "nothing is known yet");
        note.before_write(Some(12), at(72)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(12), "now it is");
        note.remove().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_damaged_note_is_not_heeded() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "7", "7 8\n", "seven seven\n", "\u{1}"] {
            fs::write(dir.path().join(RELAXED_FILE), text).unwrap();
            assert_eq!(read(dir.path()).unwrap(), None, "{text:?}");
        }
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
    }
}
