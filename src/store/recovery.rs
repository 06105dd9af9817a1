//! "Always boots": what happens to fjall's journals between an unclean stop and the next start.
//!
//! fjall refuses to open over some torn tails, and over other damage it opens and drops what follows without a word,
//! truncating the journal in place. So larder looks first: a bad spot with nothing valid behind it is an unsynced tail
//! and is cut; a valid batch behind a bad spot is damage: the journal is copied aside, cut, and the loss reported.
//! It does not read what the batches say, and it never tries to save what stands behind a bad spot.
//! Invariant: after [`inspect`] every journal is a row of verified batches, and nothing was cut that is neither torn
//! nor copied aside or reported.
//!
//! NOTE: relaxed writes of the last second are not synced, so a power cut may leave a hole among several of them.
//! That looks like damage and is reported as such, though nothing was lost that had been promised.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::journal::{self, Rest};

/// Written at a clean stop, removed at the start: while larder runs, and after it was killed, it is absent.
pub const CLEAN_MARKER: &str = "larder.clean";
/// Copies of damaged journals that are kept; further damage is still reported, but not copied.
const DAMAGED_COPIES_MAX: u32 = 8;
const JOURNAL_SUFFIX: &str = ".jnl";
const COPY_BYTES: usize = 64 * 1024;

/// What the start found, for `/health`, `/status`, log and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The last stop was clean (or there was none: a new folder).
    pub clean_stop: bool,
    /// Journals inspected; 0 after a clean stop.
    pub journals_checked: u32,
    /// Bytes of unsynced tails that were cut. No acknowledged durable write was in them.
    pub tail_bytes_cut: u64,
    /// Journals with valid batches behind a bad spot.
    pub damaged: Vec<DamagedJournal>,
    /// At most so many batches (groups of writes) were lost: those found behind the bad spots. Some of them may have
    /// reached the tables before.
    pub batches_lost: u64,
}

impl RecoveryReport {
    /// Whether something was lost that may have been promised.
    pub fn found_damage(&self) -> bool {
        !self.damaged.is_empty()
    }
}

/// A journal that was cut although valid batches stood behind the bad spot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedJournal {
    /// The journal.
    pub journal: PathBuf,
    /// Its copy as it was found; `None` if it could not be copied (the card is full, or enough copies exist).
    pub copy: Option<PathBuf>,
    /// Where it was cut.
    pub cut_at_bytes: u64,
    /// Whole batches behind that place.
    pub batches_lost: u64,
}

/// How the last process stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastStop {
    /// No marker: killed, crashed, or the power failed.
    Unclean,
    /// Journals are whole and synced.
    Clean,
    /// Journals are whole and hold nothing that is not in the tables as well.
    Flushed,
}

const MARKER_CLEAN: &str = "larder 1 clean\n";
const MARKER_FLUSHED: &str = "larder 1 flushed\n";

/// Reads the marker and removes it, durably, so that it can never speak of a later state.
pub(super) fn take_marker(dir: &Path) -> io::Result<LastStop> {
    let path = dir.join(CLEAN_MARKER);
    let last_stop = match fs::read(&path) {
        Ok(text) if text == MARKER_CLEAN.as_bytes() => LastStop::Clean,
        Ok(text) if text == MARKER_FLUSHED.as_bytes() => LastStop::Flushed,
        Ok(_) => LastStop::Unclean,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LastStop::Unclean),
        Err(error) => return Err(error),
    };
    fs::remove_file(&path)?;
    sync_dir(dir)?;
    Ok(last_stop)
}

/// Writes the marker, durably. Everything must have been synced before.
pub(super) fn write_marker(dir: &Path, flushed: bool) -> io::Result<()> {
    write_synced(dir, CLEAN_MARKER, if flushed { MARKER_FLUSHED } else { MARKER_CLEAN })
}

/// Writes a small file so that after a power cut it is there as it was before or as it is now, and durably so once this
/// has returned.
pub(super) fn write_synced(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let new_path = dir.join(format!("{name}.new"));
    let mut file = File::create(&new_path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new_path, dir.join(name))?;
    sync_dir(dir)
}

/// Syncs a folder, so that names made or removed in it stay so.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Inspects and repairs the journals in `journal_dir`. Copies of damaged ones go to `copy_dir`.
pub(super) fn inspect(journal_dir: &Path, copy_dir: &Path) -> io::Result<RecoveryReport> {
    let mut report = RecoveryReport::default();
    let journals = journals(journal_dir)?;
    for (index, path) in journals.iter().enumerate() {
        let is_active = index + 1 == journals.len();
        inspect_one(path, is_active, copy_dir, &mut report)?;
        report.journals_checked += 1;
    }
    Ok(report)
}

fn inspect_one(path: &Path, is_active: bool, copy_dir: &Path, report: &mut RecoveryReport) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let scan = journal::scan(&file)?;
    match scan.rest {
        Rest::Empty => return Ok(()),
        // A journal that was followed by another had been synced to its end: nothing of it may be torn.
        Rest::Torn { bytes } if is_active => {
            log::info!("cut {bytes} bytes of an unsynced tail from {} at {}", path.display(), scan.good_bytes);
            report.tail_bytes_cut += bytes;
        }
        Rest::Torn { bytes } => keep_damaged(path, &file, scan.good_bytes, bytes, 0, copy_dir, report),
        Rest::Damaged { bytes, batches_behind } => {
            keep_damaged(path, &file, scan.good_bytes, bytes, batches_behind, copy_dir, report);
        }
    }
    // IMPORTANT: the cut comes last, when the copy is on the card.
    file.set_len(scan.good_bytes)?;
    file.sync_all()
}

/// Copies a damaged journal aside and reports it.
fn keep_damaged(
    path: &Path,
    file: &File,
    cut_at_bytes: u64,
    bytes: u64,
    batches_lost: u64,
    copy_dir: &Path,
    report: &mut RecoveryReport,
) {
    let copy = copy_aside(file, cut_at_bytes + bytes, copy_dir)
        .inspect_err(|error| log::error!("could not copy the damaged journal {} aside: {error}", path.display()))
        .ok()
        .flatten();
    log::error!(
        "the journal {} is damaged at {cut_at_bytes}: {bytes} bytes with {batches_lost} valid batches were cut",
        path.display(),
    );
    report.batches_lost += batches_lost;
    report.damaged.push(DamagedJournal { journal: path.to_path_buf(), copy, cut_at_bytes, batches_lost });
}

/// The journals in the order they were written, the active one last.
fn journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(JOURNAL_SUFFIX))
            .and_then(|stem| stem.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Copies the first `length` bytes to a new `damaged-<n>.jnl`, leaving out pages of zeros.
fn copy_aside(mut from: &File, length: u64, dir: &Path) -> io::Result<Option<PathBuf>> {
    let Some(path) =
        (1..=DAMAGED_COPIES_MAX).map(|n| dir.join(format!("damaged-{n}{JOURNAL_SUFFIX}"))).find(|path| !path.exists())
    else {
        return Ok(None);
    };
    let copied = (|| {
        let mut to = File::create_new(&path)?;
        to.set_len(length)?;
        from.seek(SeekFrom::Start(0))?;
        let mut rest = from.take(length);
        let mut page = vec![0; COPY_BYTES];
        loop {
            let count = rest.read(&mut page)?;
            if count == 0 {
                break;
            }
            if page[..count].iter().all(|byte| *byte == 0) {
                to.seek(SeekFrom::Current(count as i64))?;
            } else {
                to.write_all(&page[..count])?;
            }
        }
        to.sync_all()?;
        sync_dir(dir)
    })();
    if let Err(error) = copied {
        // A partial copy would only take the space that is missing.
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(Some(path))
}

/// Empties the journals after a stop that had flushed everything: reading them again would find nothing new.
///
/// The last one stays as an empty file, because fjall recovers its sequence numbers only if there is a journal.
pub(super) fn empty_journals(journal_dir: &Path) -> io::Result<()> {
    let mut journals = journals(journal_dir)?;
    if let Some(active) = journals.pop() {
        let file = OpenOptions::new().write(true).open(active)?;
        file.set_len(0)?;
        file.sync_all()?;
    }
    for sealed in journals {
        fs::remove_file(sealed)?;
    }
    sync_dir(journal_dir)
}

/// Removes what a first start left behind that was cut off before the store existed: fjall would trip over it for ever.
///
/// Such a folder has no whole version marker, which fjall syncs before anything can be stored.
pub(super) fn clear_unborn(journal_dir: &Path) -> io::Result<()> {
    let version_bytes = match fs::read(journal_dir.join("version")) {
        Ok(bytes) => bytes.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if version_bytes >= VERSION_BYTES || !journal_dir.exists() {
        return Ok(());
    }
    for path in journals(journal_dir)? {
        if journal::scan(&File::open(path)?)?.batches > 0 {
            return Ok(());
        }
    }
    let keyspaces = journal_dir.join("keyspaces");
    for number in 1..=2 {
        if keyspaces.join(number.to_string()).exists() {
            return Ok(());
        }
    }
    log::warn!("clearing {}: its first start was cut off before anything was stored", journal_dir.display());
    fs::remove_dir_all(journal_dir)
}

/// The length of fjall's version marker: `FJL` and the version.
const VERSION_BYTES: usize = 4;
