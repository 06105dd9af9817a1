//! The card as the kernel sees it, and the thread that does its syncs, one after the other.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use rustix::fs::SeekFrom;

use super::disk::Disk;
use super::seeded::Seeded;
use super::trigger::{Kept, Op, Then, Triggers};
use super::{CardStats, Fault};

/// How long the kernel may trust what it was told: nobody but it changes the folder.
const TRUST: Duration = Duration::from_secs(60);
/// The kernel asks for no less of a folder at once.
const FOLDER_BYTES: usize = 4096;
const SEEK_DATA: u32 = 3;
const SEEK_HOLE: u32 = 4;
/// The head of an answer to the kernel: its length, an error, and the number of the request.
const ANSWER_HEAD_BYTES: usize = 16;

/// What the card's owner, its file system and its syncing thread share.
pub struct Control {
    disk: Mutex<Disk>,
    /// What is to happen; never locked together with `disk`.
    wanted: Mutex<Wanted>,
    changed: Condvar,
    dead: AtomicBool,
    cut_at: Mutex<Option<Instant>>,
    cut: Condvar,
    /// Where answers to the kernel go that fuser cannot give; only with entries without types.
    device: OnceLock<File>,
    bytes_written: AtomicU64,
    bytes_synced: AtomicU64,
    syncs: AtomicU64,
    syncs_in_progress: AtomicU64,
}

struct Wanted {
    sync_delay: Duration,
    fault: Fault,
    held: bool,
    reads_held: bool,
    triggers: Triggers,
    /// A file and a place in it whose next read fails as well: the system reads once more what it could not read ahead.
    unreadable: Option<(u64, u64, Errno)>,
}

impl Control {
    pub fn new(disk: Disk, sync_delay: Duration) -> Control {
        let wanted = Wanted {
            sync_delay,
            fault: Fault::None,
            held: false,
            reads_held: false,
            triggers: Triggers::default(),
            unreadable: None,
        };
        Control {
            disk: Mutex::new(disk),
            wanted: Mutex::new(wanted),
            changed: Condvar::new(),
            dead: AtomicBool::new(false),
            cut_at: Mutex::new(None),
            cut: Condvar::new(),
            device: OnceLock::new(),
            bytes_written: AtomicU64::new(0),
            bytes_synced: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            syncs_in_progress: AtomicU64::new(0),
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("nobody panics with the disk")
    }

    /// The disk, while there is power.
    fn live(&self) -> Result<MutexGuard<'_, Disk>, Errno> {
        let disk = self.disk();
        if self.dead.load(Ordering::SeqCst) { Err(Errno::EIO) } else { Ok(disk) }
    }

    /// The disk, for an operation of a kind, unless something else is to happen at it.
    fn disk_for(&self, op: Op) -> Result<MutexGuard<'_, Disk>, Errno> {
        self.meet(op)?;
        let needs_room = matches!(op, Op::Write | Op::Create | Op::Mkdir);
        if needs_room && matches!(self.fault(), Fault::WriteFindsNoSpace | Fault::Full) {
            return Err(Errno::ENOSPC);
        }
        self.live()
    }

    fn disk_to_read(&self, inode: u64, offset: u64) -> Result<MutexGuard<'_, Disk>, Errno> {
        let again = self.wanted().unreadable.take();
        match (self.disk_for(Op::Read), again) {
            (Ok(_), Some((unreadable, from, error))) if unreadable == inode && offset >= from => Err(error),
            (Err(error), _) => {
                self.wanted().unreadable = Some((inode, offset, error));
                Err(error)
            }
            (disk, _) => disk,
        }
    }

    /// Has happen what is to happen at this operation.
    fn meet(&self, op: Op) -> Result<(), Errno> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(Errno::EIO);
        }
        let then = self.wanted().triggers.at(op);
        match then {
            None => Ok(()),
            Some(Then::Fail { failure, .. }) => Err(failure.errno()),
            Some(Then::Cut(kept)) => {
                self.cut_power(kept);
                Err(Errno::EIO)
            }
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().expect("nobody panics with the wishes")
    }

    fn fault(&self) -> Fault {
        self.wanted().fault
    }

    pub fn stats(&self) -> CardStats {
        CardStats {
            bytes_written: self.bytes_written.load(Ordering::SeqCst),
            bytes_to_card: self.bytes_synced.load(Ordering::SeqCst) + self.disk().dirty_bytes(),
            syncs: self.syncs.load(Ordering::SeqCst),
        }
    }

    pub fn set_sync_delay(&self, delay: Duration) {
        self.wanted().sync_delay = delay;
    }

    pub fn set_fault(&self, fault: Fault) {
        self.wanted().fault = fault;
    }

    pub fn hold_syncs(&self, held: bool) {
        self.wanted().held = held;
        self.changed.notify_all();
    }

    pub fn hold_reads(&self, held: bool) {
        self.wanted().reads_held = held;
        self.changed.notify_all();
    }

    /// Returns once reads are not held.
    fn wait_to_read(&self) {
        let wanted = self.wanted();
        drop(self.changed.wait_while(wanted, |wanted| wanted.reads_held).expect("nobody panics with the wishes"));
    }

    pub fn syncs_in_progress(&self) -> u64 {
        self.syncs_in_progress.load(Ordering::SeqCst)
    }

    /// Asks about or changes what is to happen at later operations.
    pub fn triggers<T>(&self, ask: impl FnOnce(&mut Triggers) -> T) -> T {
        ask(&mut self.wanted().triggers)
    }

    /// Forgets what was to happen at later operations.
    pub fn disarm(&self) {
        let mut wanted = self.wanted();
        wanted.triggers.disarm();
        wanted.unreadable = None;
    }

    /// When the power was cut.
    pub fn cut_at(&self) -> Option<Instant> {
        *self.cut_at.lock().expect("nobody panics with the time")
    }

    /// Returns when the power has been cut; `false`: it took too long.
    pub fn wait_for_cut(&self, at_most: Duration) -> bool {
        let cut_at = self.cut_at.lock().expect("nobody panics with the time");
        let waited = self.cut.wait_timeout_while(cut_at, at_most, |cut_at| cut_at.is_none());
        waited.expect("nobody panics with the time").0.is_some()
    }

    pub fn cut_power(&self, kept: Kept) {
        let mut disk = self.disk();
        if self.dead.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut drawn = match kept {
            Kept::Nothing => None,
            Kept::Drawn(seed) => Some(Seeded::new(seed)),
        };
        disk.cut_power(drawn.as_mut()).expect("the folder behind the card takes its old bytes back");
        *self.cut_at.lock().expect("nobody panics with the time") = Some(Instant::now());
        self.cut.notify_all();
    }

    /// Answers the kernel through this device where fuser cannot.
    pub fn answer_through(&self, device: File) {
        let _ = self.device.set(device);
    }

    /// One sync, from its mark to its end.
    fn sync(&self, inode: u64) -> Result<(), Errno> {
        let met = self.meet(Op::Sync);
        let mark = self.live()?.begin_sync(inode)?;
        let wanted = self.wanted();
        let delay = wanted.sync_delay;
        drop(self.changed.wait_while(wanted, |wanted| wanted.held).expect("nobody panics with the wishes"));
        std::thread::sleep(delay);
        self.bytes_synced.fetch_add(mark.bytes(), Ordering::SeqCst);
        self.syncs.fetch_add(1, Ordering::SeqCst);
        let ended = if self.fault() == Fault::SyncFails { Err(Errno::EIO) } else { met };
        let mut disk = self.live()?;
        match ended {
            Ok(()) if self.fault() != Fault::SyncsLie => disk.end_sync(&mark),
            _ => disk.fail_sync(&mark),
        }
        ended
    }
}

/// The file system.
pub struct Card {
    control: Arc<Control>,
    syncs: Sender<(u64, ReplyEmpty)>,
}

impl Card {
    /// With its syncing thread, which ends with the file system.
    pub fn start(control: Arc<Control>) -> io::Result<Card> {
        let (syncs, waiting) = channel();
        let syncer = control.clone();
        std::thread::Builder::new().name("card-sync".to_owned()).spawn(move || serve_syncs(&syncer, &waiting))?;
        Ok(Card { control, syncs })
    }

    fn queue_sync(&self, inode: INodeNo, reply: ReplyEmpty) {
        self.control.syncs_in_progress.fetch_add(1, Ordering::SeqCst);
        // The thread lives as long as this sender.
        let _ = self.syncs.send((inode.0, reply));
    }
}

fn serve_syncs(control: &Control, waiting: &Receiver<(u64, ReplyEmpty)>) {
    for (inode, reply) in waiting {
        let ended = control.sync(inode);
        control.syncs_in_progress.fetch_sub(1, Ordering::SeqCst);
        answer(ended, reply);
    }
}

fn answer(outcome: Result<(), Errno>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn attributes(inode: u64, metadata: &Metadata) -> FileAttr {
    let changed = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino: INodeNo(inode),
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: changed,
        mtime: changed,
        ctime: changed,
        crtime: changed,
        kind: FileType::from_std(metadata.file_type()).unwrap_or(FileType::RegularFile),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: metadata.nlink() as u32,
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn entry(found: Result<(u64, Metadata), Errno>, reply: ReplyEntry) {
    match found {
        Ok((inode, metadata)) => reply.entry(&TRUST, &attributes(inode, &metadata), Generation(0)),
        Err(error) => reply.error(error),
    }
}

/// The answer to a request for the entries of a folder, each with DT_UNKNOWN for its type, which fuser has no word for.
fn untyped(request: u64, entries: &[(u64, fs::FileType, OsString)], offset: u64) -> Vec<u8> {
    let mut answer = vec![0; ANSWER_HEAD_BYTES];
    for (place, (inode, _, name)) in entries.iter().enumerate().skip(offset as usize) {
        let (head_bytes, name) = (24, name.as_bytes());
        let padded = (head_bytes + name.len()).next_multiple_of(8);
        if answer.len() + padded > FOLDER_BYTES {
            break;
        }
        let end = answer.len() + padded;
        answer.extend_from_slice(&inode.to_ne_bytes());
        answer.extend_from_slice(&(place as u64 + 1).to_ne_bytes());
        answer.extend_from_slice(&(name.len() as u32).to_ne_bytes());
        answer.extend_from_slice(&0u32.to_ne_bytes());
        answer.extend_from_slice(name);
        answer.resize(end, 0);
    }
    let bytes = answer.len() as u32;
    answer[..4].copy_from_slice(&bytes.to_ne_bytes());
    answer[8..ANSWER_HEAD_BYTES].copy_from_slice(&request.to_ne_bytes());
    answer
}

impl Filesystem for Card {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.control.live().and_then(|mut disk| Ok(disk.lookup(parent.0, name)?)), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.control.live().and_then(|disk| Ok(disk.metadata(ino.0)?)) {
            Ok(metadata) => reply.attr(&TRUST, &attributes(ino.0, &metadata)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let disk = if size.is_some() { self.control.disk_for(Op::Truncate) } else { self.control.live() };
        let changed = disk.and_then(|mut disk| {
            if let Some(size) = size {
                disk.set_length(ino.0, size)?;
            }
            if let Some(mode) = mode {
                disk.set_mode(ino.0, mode)?;
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => disk.set_modified(ino.0, time)?,
                Some(TimeOrNow::Now) => disk.set_modified(ino.0, SystemTime::now())?,
                None => {}
            }
            Ok(disk.metadata(ino.0)?)
        });
        match changed {
            Ok(metadata) => reply.attr(&TRUST, &attributes(ino.0, &metadata)),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let disk = self.control.disk_for(Op::Mkdir);
        entry(disk.and_then(|mut disk| Ok(disk.create_folder(parent.0, name, mode & !umask)?)), reply);
    }

    fn symlink(&self, _: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let disk = self.control.disk_for(Op::Create);
        entry(disk.and_then(|mut disk| Ok(disk.create_symlink(parent.0, name, target)?)), reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.control.live().and_then(|disk| Ok(disk.read_link(ino.0)?)) {
            Ok(target) => reply.data(target.as_os_str().as_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = self.control.disk_for(Op::Create);
        entry(disk.and_then(|mut disk| Ok(disk.link(ino.0, parent.0, name)?)), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.control.disk_for(Op::Unlink).and_then(|mut disk| Ok(disk.remove(parent.0, name)?)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.control.disk_for(Op::Unlink).and_then(|mut disk| Ok(disk.remove(parent.0, name)?)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let disk = self.control.disk_for(Op::Rename);
        answer(disk.and_then(|mut disk| Ok(disk.rename((parent.0, name), (newparent.0, newname))?)), reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.control.disk_for(Op::Open).and_then(|mut disk| Ok(disk.open_file(ino.0)?)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.control.disk_for(Op::Open) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let only_new = flags & rustix::fs::OFlags::EXCL.bits() as i32 != 0;
        let disk = self.control.disk_for(Op::Create);
        match disk.and_then(|mut disk| Ok(disk.create_file(parent.0, name, mode & !umask, only_new)?)) {
            Ok((inode, metadata)) => {
                let attributes = attributes(inode, &metadata);
                reply.created(&TRUST, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.control.wait_to_read();
        let file = self.control.disk_to_read(ino.0, offset).and_then(|mut disk| Ok(disk.file(ino.0)?));
        let read = file.and_then(|file| {
            let mut bytes = vec![0; size as usize];
            let mut filled = 0;
            while filled < bytes.len() {
                match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                    0 => break,
                    n => filled += n,
                }
            }
            bytes.truncate(filled);
            Ok(bytes)
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.control.disk_for(Op::Write).and_then(|mut disk| Ok(disk.write(ino.0, offset, data)?)) {
            Ok(()) => {
                self.control.bytes_written.fetch_add(data.len() as u64, Ordering::SeqCst);
                reply.written(data.len() as u32);
            }
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let flags = rustix::fs::FallocateFlags::from_bits_retain(mode as u32);
        let disk = self.control.disk_for(Op::Write);
        answer(disk.and_then(|mut disk| Ok(disk.allocate(ino.0, flags, offset, length)?)), reply);
    }

    /// Where data and holes are: who asks for these would otherwise read all of a sparse file.
    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let place = match whence as u32 {
            SEEK_DATA => SeekFrom::Data(offset as u64),
            SEEK_HOLE => SeekFrom::Hole(offset as u64),
            _ => return reply.error(Errno::EINVAL),
        };
        let file = self.control.live().and_then(|mut disk| Ok(disk.file(ino.0)?));
        match file.and_then(|file| rustix::fs::seek(&*file, place).map_err(|e| Errno::from_i32(e.raw_os_error()))) {
            Ok(found) => reply.offset(found as i64),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.control.disk().close_file(ino.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.queue_sync(ino, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.queue_sync(ino, reply);
    }

    fn readdir(&self, request: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.control.live().and_then(|mut disk| Ok(disk.entries(ino.0)?)) {
            Ok(entries) => {
                if let Some(device) = self.control.device.get() {
                    // The kernel has its answer then, and does not take the second one.
                    let _ = (&mut &*device).write_all(&untyped(request.unique().0, &entries, offset));
                    return reply.ok();
                }
                for (place, (inode, kind, name)) in entries.into_iter().enumerate().skip(offset as usize) {
                    let kind = FileType::from_std(kind).unwrap_or(FileType::RegularFile);
                    if reply.add(INodeNo(inode), place as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let root = self.control.disk().root().to_owned();
        match rustix::fs::statvfs(&root) {
            Ok(s) => {
                let full = self.control.fault() == Fault::Full;
                let (free, available) = if full { (0, 0) } else { (s.f_bfree, s.f_bavail) };
                let (files, files_free) = (s.f_files, s.f_ffree);
                reply.statfs(s.f_blocks, free, available, files, files_free, s.f_bsize as u32, 255, s.f_frsize as u32);
            }
            Err(error) => reply.error(Errno::from_i32(error.raw_os_error())),
        }
    }
}
