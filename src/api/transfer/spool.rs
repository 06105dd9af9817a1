//! Where an import waits until its end line has come: in memory while it is small, else in a file without a name, which
//! is gone with the process whatever happens.
//!
//! Invariant: the file never takes more than its step from the card's reserve, which others need to recover.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::limits::MIB;

/// Imports up to this size never touch the card before they are known to be whole.
const MEMORY_BYTES_MAX: usize = MIB;

/// The file grows by so many bytes between two looks at the room on the card.
const GROWTH_BYTES: u64 = MIB as u64;

/// Tells whether the card has room for so many bytes more.
pub type Room = Box<dyn Fn(u64) -> bool + Send>;

/// Bytes written once, then read once.
pub struct Spool {
    folder: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
    room: Room,
    /// What may be written to the file before the next look.
    granted_bytes: u64,
}

impl Spool {
    /// An empty one; its file, if it needs one, is made in this folder.
    pub fn new(folder: &Path, room: Room) -> Spool {
        Spool { folder: folder.to_owned(), memory: Vec::new(), file: None, room, granted_bytes: 0 }
    }

    /// Appends bytes. `StorageFull` if the card has no room for them.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_some() {
            self.grow(bytes.len())?;
        }
        if let Some(file) = &mut self.file {
            return file.write_all(bytes);
        }
        if self.memory.len() + bytes.len() <= MEMORY_BYTES_MAX {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        self.grow(self.memory.len() + bytes.len())?;
        let mut file = nameless(&self.folder)?;
        file.write_all(&std::mem::take(&mut self.memory))?;
        file.write_all(bytes)?;
        self.file = Some(file);
        Ok(())
    }

    fn grow(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        if bytes > self.granted_bytes {
            let wanted = bytes.max(GROWTH_BYTES);
            if !(self.room)(wanted) {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "the card has no room beside its reserve"));
            }
            self.granted_bytes = wanted;
        }
        self.granted_bytes -= bytes;
        Ok(())
    }

    /// Reads everything back from the beginning.
    pub fn into_reader(self) -> io::Result<Box<dyn Read + Send>> {
        match self.file {
            None => Ok(Box::new(Cursor::new(self.memory))),
            Some(mut file) => {
                file.seek(SeekFrom::Start(0))?;
                Ok(Box::new(BufReader::with_capacity(64 * 1024, file)))
            }
        }
    }
}

/// A file that no folder lists: made under a name of its own, which is taken away at once.
fn nameless(folder: &Path) -> io::Result<File> {
    let mut chance = [0; 8];
    getrandom::fill(&mut chance).map_err(io::Error::other)?;
    let path = folder.join(format!("import-{:016x}.tmp", u64::from_le_bytes(chance)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_come_back_whole_and_leave_nothing() {
        for size in [0, 10, MEMORY_BYTES_MAX + 10] {
            let folder = tempfile::tempdir().unwrap();
            let mut spool = Spool::new(folder.path(), Box::new(|_| true));
            let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
            for piece in bytes.chunks(70_000) {
                spool.write(piece).unwrap();
            }
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            let mut back = Vec::new();
            spool.into_reader().unwrap().read_to_end(&mut back).unwrap();
            assert!(back == bytes);
        }
    }

    #[test]
    fn a_card_without_room_ends_the_growth_but_not_what_memory_holds() {
        let folder = tempfile::tempdir().unwrap();
        let left_bytes = std::sync::atomic::AtomicU64::new(5 * GROWTH_BYTES);
        let room = move |bytes| {
            let take = |left: u64| left.checked_sub(bytes);
            left_bytes
                .fetch_update(std::sync::atomic::Ordering::Relaxed, std::sync::atomic::Ordering::Relaxed, take)
                .is_ok()
        };
        let mut spool = Spool::new(folder.path(), Box::new(room));
        let piece = vec![b'x'; 100_000];
        let mut written = 0;
        let failure = loop {
            match spool.write(&piece) {
                Ok(()) => written += piece.len() as u64,
                Err(failure) => break failure,
            }
        };
        assert_eq!(failure.kind(), io::ErrorKind::StorageFull);
        assert!((3 * GROWTH_BYTES..=5 * GROWTH_BYTES).contains(&written), "{written}");
        let mut small = Spool::new(folder.path(), Box::new(|_| false));
        small.write(&piece).unwrap();
        assert_eq!(small.write(&vec![b'x'; MEMORY_BYTES_MAX]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
