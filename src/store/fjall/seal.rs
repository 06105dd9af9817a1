//! Has fjall begin a new journal, so that the space of the present one comes back once what it holds is in tables.
//!
//! fjall begins a new one by itself, at a flush, but only when the position in the present one has passed 64 MB: on a
//! small card the journal would then keep what all deletes together have given back. There is no door to ask for it. So
//! the position of fjall's descriptor is moved, which it asks for at every flush, after the file was made one that is
//! only ever appended to: then nothing is written at that position, whoever writes, and the next write puts it right.
//! fjall itself appends so after every start.
//! Invariant: not a byte of the journal is changed. Only between two commits, on the committer's thread, while nobody else
//! writes to the journal.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom};

use crate::board::descriptor;
use crate::store::recovery::journals;

/// Where fjall begins a new journal.
const FULL_BYTES: u64 = 64_000_001;
/// The space of a smaller journal is not worth a new one.
const WORTHWHILE_BYTES: u64 = 1024 * 1024;

/// Makes the next flush begin a new journal, if the present one is worth it. Everything must have been written, and
/// the last write must have gone through fjall's present descriptor.
pub(super) fn seal(database_dir: &Path) -> io::Result<()> {
    let Some((_, path)) = journals(database_dir)?.pop() else { return Ok(()) };
    if fs::metadata(&path)?.blocks() * 512 < WORTHWHILE_BYTES {
        return Ok(());
    }
    let Some(journal) = open_descriptor(&path)? else {
        return Err(io::Error::new(io::ErrorKind::NotFound, "fjall's descriptor of its journal was not found"));
    };
    let flags = rustix::fs::fcntl_getfl(&journal)?;
    if !flags.contains(OFlags::APPEND) {
        rustix::fs::ftruncate(&journal, rustix::fs::seek(&journal, SeekFrom::Current(0))?)?;
        rustix::fs::fcntl_setfl(&journal, flags | OFlags::APPEND)?;
    }
    rustix::fs::seek(&journal, SeekFrom::Start(FULL_BYTES))?;
    Ok(())
}

/// A duplicate of the descriptor through which this process writes the file: it shares its position.
fn open_descriptor(path: &Path) -> io::Result<Option<OwnedFd>> {
    let wanted = fs::metadata(path)?;
    for number in descriptor::numbers()? {
        // Cheaper than to duplicate them all.
        let target = fs::read_link(format!("/proc/self/fd/{number}"));
        if !target.is_ok_and(|target| target.file_name() == path.file_name()) {
            continue;
        }
        let Ok(pinned) = descriptor::duplicate(number) else { continue };
        let found = rustix::fs::fstat(&pinned)?;
        let is_writer = rustix::fs::fcntl_getfl(&pinned)?.intersects(OFlags::WRONLY | OFlags::RDWR);
        if is_writer && (found.st_dev, found.st_ino) == (wanted.dev(), wanted.ino()) {
            return Ok(Some(pinned));
        }
    }
    Ok(None)
}
