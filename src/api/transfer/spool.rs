//! Where an import waits until its end line has come: in memory while it is small, else in a file without a name, which
//! is gone with the process whatever happens.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::limits::MIB;

/// Imports up to this size never touch the card before they are known to be whole.
const MEMORY_BYTES_MAX: usize = MIB;

/// Bytes written once, then read once.
pub struct Spool {
    folder: PathBuf,
    memory: Vec<u8>,
    file: Option<File>,
}

impl Spool {
    /// An empty one; its file, if it needs one, is made in this folder.
    pub fn new(folder: &Path) -> Spool {
        Spool { folder: folder.to_owned(), memory: Vec::new(), file: None }
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            return file.write_all(bytes);
        }
        if self.memory.len() + bytes.len() <= MEMORY_BYTES_MAX {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        let mut file = nameless(&self.folder)?;
        file.write_all(&std::mem::take(&mut self.memory))?;
        file.write_all(bytes)?;
        self.file = Some(file);
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
            let mut spool = Spool::new(folder.path());
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
}
