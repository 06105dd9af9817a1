//! The card as the kernel sees it, and the thread that does its syncs, one after the other.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::disk::Disk;
use super::{CardStats, Fault};

/// How long the kernel may trust what it was told: nobody but it changes the folder.
const TRUST: Duration = Duration::from_secs(60);

/// What the card's owner, its file system and its syncing thread share.
pub struct Control {
    disk: Mutex<Disk>,
    /// What is to happen; never locked together with `disk`.
    wanted: Mutex<Wanted>,
    changed: Condvar,
    dead: AtomicBool,
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
}

impl Control {
    pub fn new(disk: Disk, sync_delay: Duration) -> Control {
        Control {
            disk: Mutex::new(disk),
            wanted: Mutex::new(Wanted { sync_delay, fault: Fault::None, held: false, reads_held: false }),
            changed: Condvar::new(),
            dead: AtomicBool::new(false),
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

    /// The disk, for what needs room on it.
    fn roomy(&self) -> Result<MutexGuard<'_, Disk>, Errno> {
        if matches!(self.fault(), Fault::WriteFindsNoSpace | Fault::Full) {
            return Err(Errno::ENOSPC);
        }
        self.live()
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

    pub fn cut_power(&self) {
        let mut disk = self.disk();
        if !self.dead.swap(true, Ordering::SeqCst) {
            disk.undo_unsynced().expect("the folder behind the card takes its old bytes back");
        }
    }

    /// One sync, from its mark to its end.
    fn sync(&self, inode: u64) -> Result<(), Errno> {
        let mark = self.live()?.begin_sync(inode)?;
        let wanted = self.wanted();
        let delay = wanted.sync_delay;
        drop(self.changed.wait_while(wanted, |wanted| wanted.held).expect("nobody panics with the wishes"));
        std::thread::sleep(delay);
        self.bytes_synced.fetch_add(mark.bytes, Ordering::SeqCst);
        self.syncs.fetch_add(1, Ordering::SeqCst);
        let fails = self.fault() == Fault::SyncFails;
        let mut disk = self.live()?;
        if fails {
            return Err(Errno::EIO);
        }
        disk.end_sync(&mark);
        Ok(())
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
        let changed = self.control.live().and_then(|mut disk| {
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
        let made = self.control.roomy().and_then(|mut disk| Ok(disk.create_folder(parent.0, name, mode & !umask)?));
        entry(made, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.control.live().and_then(|mut disk| Ok(disk.remove(parent.0, name)?)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.control.live().and_then(|mut disk| Ok(disk.remove(parent.0, name)?)), reply);
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
        let moved = self.control.live().and_then(|mut disk| Ok(disk.rename((parent.0, name), (newparent.0, newname))?));
        answer(moved, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.control.live().and_then(|mut disk| Ok(disk.open_file(ino.0)?)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
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
        let made =
            self.control.roomy().and_then(|mut disk| Ok(disk.create_file(parent.0, name, mode & !umask, only_new)?));
        match made {
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
        let read = self.control.live().and_then(|mut disk| Ok(disk.file(ino.0)?)).and_then(|file| {
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
        match self.control.roomy().and_then(|mut disk| Ok(disk.write(ino.0, offset, data)?)) {
            Ok(()) => {
                self.control.bytes_written.fetch_add(data.len() as u64, Ordering::SeqCst);
                reply.written(data.len() as u32);
            }
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

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        match self.control.live().and_then(|mut disk| Ok(disk.entries(ino.0)?)) {
            Ok(entries) => {
                for (place, (inode, directory, name)) in entries.into_iter().enumerate().skip(offset as usize) {
                    let kind = if directory { FileType::Directory } else { FileType::RegularFile };
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
