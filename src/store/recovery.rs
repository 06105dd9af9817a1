//! "Always boots": what happens to fjall's journals between an unclean stop and the next start.
//!
//! fjall refuses to open over some torn tails, and over other damage it opens and drops what follows without a word,
//! truncating the journal in place. So larder looks first. A bad spot with nothing valid behind it is an unsynced tail
//! and is cut. A valid batch behind a bad spot is damage, unless relaxed writes were under way (see
//! [`super::relaxed`]): several of those may wait for one sync, and a power cut keeps some of their pages and not others.
//! What is damaged is copied aside, cut, and the loss reported.
//! It does not read what the batches say, and it never tries to save what stands behind a bad spot.
//! Invariant: after [`inspect`] every journal is a row of verified batches, and nothing was cut that is neither torn
//! nor copied aside or reported.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::journal::{self, Rest, Scan};

/// Written at a clean stop, removed at the start: while larder runs, and after it was killed, it is absent.
pub const CLEAN_MARKER: &str = "larder.clean";
/// Copies of damaged journals that are kept: the newest.
const DAMAGED_COPIES_MAX: usize = 8;
const COPY_PREFIX: &str = "damaged-";
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
    /// Whole groups of relaxed writes in those tails: they stood behind one that was torn.
    pub relaxed_batches_cut: u64,
    /// Journals with valid batches behind a bad spot.
    pub damaged: Vec<DamagedJournal>,
    /// At most so many batches (groups of writes) were lost: those found behind the bad spots. Some of them may have
    /// reached the tables before.
    pub batches_lost: u64,
    /// Journals that should be there and are not.
    pub journals_missing: u32,
    /// Whether the folder of the records was gone, though something had been stored in it.
    pub records_lost: bool,
    /// Whether the database was made anew from its parts, with what the journals held.
    pub rebuilt: bool,
    /// Changes of records that were taken from the journals because their folder was gone.
    pub changes_rescued: u64,
}

impl RecoveryReport {
    /// Whether something was lost that may have been promised.
    pub fn found_damage(&self) -> bool {
        !self.damaged.is_empty() || self.journals_missing > 0 || self.records_lost
    }

    /// What two tries of one start have found together: the second one found the journals repaired by the first.
    pub fn after(self, earlier: RecoveryReport) -> RecoveryReport {
        RecoveryReport {
            clean_stop: self.clean_stop && earlier.clean_stop,
            journals_checked: self.journals_checked.max(earlier.journals_checked),
            tail_bytes_cut: self.tail_bytes_cut.max(earlier.tail_bytes_cut),
            relaxed_batches_cut: self.relaxed_batches_cut.max(earlier.relaxed_batches_cut),
            batches_lost: self.batches_lost.max(earlier.batches_lost),
            damaged: if self.damaged.is_empty() { earlier.damaged } else { self.damaged },
            journals_missing: self.journals_missing.max(earlier.journals_missing),
            records_lost: self.records_lost || earlier.records_lost,
            rebuilt: self.rebuilt || earlier.rebuilt,
            changes_rescued: self.changes_rescued.max(earlier.changes_rescued),
        }
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

/// Written by releases that synced the names of folders only once, at the end of a first start. What they say of the
/// journals holds.
const OLD_MARKERS: [(&str, LastStop); 2] =
    [("larder 1 clean\n", LastStop::Clean), ("larder 1 flushed\n", LastStop::Flushed)];
const MARKERS: [(&str, LastStop); 2] =
    [("larder 2 clean\n", LastStop::Clean), ("larder 2 flushed\n", LastStop::Flushed)];

/// Reads the marker and removes it, durably, so that it can never speak of a later state. Also tells whether the run that
/// wrote it had made the names of all folders durable.
pub(super) fn take_marker(dir: &Path) -> io::Result<(LastStop, bool)> {
    let path = dir.join(CLEAN_MARKER);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((LastStop::Unclean, false)),
        Err(error) => return Err(error),
    };
    fs::remove_file(&path)?;
    sync_dir(dir)?;
    let says = |markers: &[(&str, LastStop)]| {
        markers.iter().find(|(marker, _)| marker.as_bytes() == text).map(|(_, last_stop)| *last_stop)
    };
    let (new, old) = (says(&MARKERS), says(&OLD_MARKERS));
    Ok((new.or(old).unwrap_or(LastStop::Unclean), new.is_some()))
}

/// Writes the marker, durably. Everything must have been synced before.
pub(super) fn write_marker(dir: &Path, flushed: bool) -> io::Result<()> {
    write_synced(dir, CLEAN_MARKER, MARKERS[usize::from(flushed)].0)
}

/// Writes a small file so that after a power cut it is there as it was before or as it is now, and durably so once this
/// has returned.
pub(super) fn write_synced(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> io::Result<()> {
    let new_path = dir.join(format!("{name}.new"));
    let mut file = File::create(&new_path)?;
    file.write_all(text.as_ref())?;
    file.sync_all()?;
    fs::rename(&new_path, dir.join(name))?;
    sync_dir(dir)
}

/// Syncs a folder, so that names made or removed in it stay so.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// What an inspection came to.
pub(super) struct Inspection {
    pub(super) report: RecoveryReport,
    /// The highest sequence number in all journals.
    pub(super) last_seqno: Option<u64>,
    /// Whether fjall can read the journals as they were meant. It passes over a batch whose number does not grow.
    pub(super) ordered: bool,
}

/// Inspects and repairs the journals in `journal_dir`. Copies of damaged ones go to `copy_dir`. `relaxed_after`: relaxed
/// writes were under way, and every batch up to this number was synced before.
pub(super) fn inspect(journal_dir: &Path, copy_dir: &Path, relaxed_after: Option<u64>) -> io::Result<Inspection> {
    let mut found = Inspection { report: RecoveryReport::default(), last_seqno: None, ordered: true };
    let journals = journals(journal_dir)?;
    found.report.journals_missing = missing(&journals);
    for (index, (_, path)) in journals.iter().enumerate() {
        let is_active = index + 1 == journals.len();
        let scan = inspect_one(path, relaxed_after.filter(|_| is_active), is_active, copy_dir, &mut found.report)?;
        // Numbers go on from journal to journal.
        found.ordered &= scan.ordered && (scan.first_seqno.is_none() || scan.first_seqno > found.last_seqno);
        found.last_seqno = found.last_seqno.max(scan.last_seqno);
        found.report.journals_checked += 1;
    }
    Ok(found)
}

/// fjall numbers journals one by one, removes the oldest, and always has one.
fn missing(journals: &[(u64, PathBuf)]) -> u32 {
    match (journals.first(), journals.last()) {
        (Some((first, _)), Some((last, _))) => (last - first + 1).saturating_sub(journals.len() as u64) as u32,
        _ => 1,
    }
}

fn inspect_one(
    path: &Path,
    relaxed_after: Option<u64>,
    is_active: bool,
    copy_dir: &Path,
    report: &mut RecoveryReport,
) -> io::Result<Scan> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let scan = journal::scan(&file)?;
    // A journal that was followed by another had been synced to its end: nothing of it may be torn.
    let may_be_torn = match scan.rest {
        Rest::Empty => return Ok(scan),
        Rest::Torn { .. } => is_active,
        Rest::Damaged { .. } => relaxed_after.is_some_and(|synced| scan.last_seqno >= Some(synced)),
    };
    let (bytes, batches_behind) = scan.rest.extent();
    if may_be_torn {
        log::info!(
            "cut {bytes} bytes of an unsynced tail from {} at {}, with {batches_behind} whole groups of relaxed writes",
            path.display(),
            scan.good_bytes
        );
        report.tail_bytes_cut += bytes;
        report.relaxed_batches_cut += batches_behind;
    } else {
        keep_damaged(path, &file, scan.good_bytes, bytes, batches_behind, copy_dir, report);
    }
    // IMPORTANT: the cut comes last, when the copy is on the card.
    file.set_len(scan.good_bytes)?;
    file.sync_all()?;
    Ok(scan)
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
        .ok();
    log::error!(
        "the journal {} is damaged at {cut_at_bytes}: {bytes} bytes with {batches_lost} valid batches were cut",
        path.display(),
    );
    report.batches_lost += batches_lost;
    report.damaged.push(DamagedJournal { journal: path.to_path_buf(), copy, cut_at_bytes, batches_lost });
}

/// The journals with their numbers in the order they were written, the active one last.
pub(super) fn journals(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    numbered(dir, "", JOURNAL_SUFFIX)
}

/// The files of a folder whose names have a number between these two, by number.
pub(super) fn numbered(dir: &Path, prefix: &str, suffix: &str) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// Copies the first `length` bytes to a new `damaged-<n>.jnl`, leaving out pages of zeros. Of the copies the newest are
/// kept: old ones have been seen, or never will be.
fn copy_aside(mut from: &File, length: u64, dir: &Path) -> io::Result<PathBuf> {
    let mut copies = numbered(dir, COPY_PREFIX, JOURNAL_SUFFIX)?;
    let number = copies.last().map_or(1, |(last, _)| last + 1);
    let path = dir.join(format!("{COPY_PREFIX}{number}{JOURNAL_SUFFIX}"));
    copies.truncate((copies.len() + 1).saturating_sub(DAMAGED_COPIES_MAX));
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
    for (_, old) in copies {
        fs::remove_file(old)?;
    }
    Ok(path)
}

/// Makes an empty journal where there is none: without any, fjall would begin to count its sequence numbers anew.
pub(super) fn make_journal(journal_dir: &Path) -> io::Result<()> {
    File::create_new(journal_dir.join(format!("0{JOURNAL_SUFFIX}")))?.sync_all()?;
    sync_dir(journal_dir)
}

/// Empties the journals after a stop that had flushed everything: reading them again would find nothing new.
///
/// The last one stays as an empty file, because fjall recovers its sequence numbers only if there is a journal.
pub(super) fn empty_journals(journal_dir: &Path) -> io::Result<()> {
    let mut journals = journals(journal_dir)?;
    if let Some((_, active)) = journals.pop() {
        let file = OpenOptions::new().write(true).open(active)?;
        file.set_len(0)?;
        file.sync_all()?;
    }
    for (_, sealed) in journals {
        fs::remove_file(sealed)?;
    }
    sync_dir(journal_dir)
}
