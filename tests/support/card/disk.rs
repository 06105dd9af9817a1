//! The folder behind a card: its files and folders, and what of them is not synced.
//!
//! Invariant: with power cuts, whatever has lost its last name stays in the trash while a power cut may bring it back.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::FallocateFlags;

use super::names::{Entry, Names, UnsyncedNames};
use super::pages::{DataMark, PAGE_BYTES, Unsynced};
use super::seeded::Seeded;

/// The inode of the card's root.
pub const ROOT: u64 = 1;
/// Where removed files wait until their folder is synced; hidden from programs.
const TRASH: &str = ".card-trash";

/// A file or folder that was seen.
struct Node {
    place: Place,
    directory: bool,
    /// Open while somebody has it open or something of it is not synced.
    file: Option<Arc<File>>,
    opens: u64,
    unsynced: Unsynced,
}

/// Where the bytes of a node lie behind the card.
#[derive(Clone, PartialEq)]
enum Place {
    Root,
    /// Under this name, and perhaps under others.
    Named(u64, OsString),
    Trash(PathBuf),
    /// Nowhere, but for those who have it open.
    Gone,
}

/// How a disk keeps what it is given.
#[derive(Clone, Copy)]
pub struct DiskOptions {
    pub power_cuts: bool,
    pub names: Names,
    pub failed_syncs_forget: bool,
}

/// The folder behind the card.
pub struct Disk {
    root: PathBuf,
    options: DiskOptions,
    nodes: HashMap<u64, Node>,
    names: HashMap<(u64, OsString), u64>,
    unsynced_names: UnsyncedNames,
    next_inode: u64,
    /// Counts changes of data and begun syncs.
    moment: u64,
}

/// What a sync in progress will have made durable when it ends.
pub struct SyncMark {
    node: u64,
    names: u64,
    data: DataMark,
}

impl SyncMark {
    /// Bytes that go to the card.
    pub fn bytes(&self) -> u64 {
        self.data.bytes
    }
}

impl Disk {
    /// A folder as it stands.
    pub fn open(root: &Path, options: DiskOptions) -> io::Result<Disk> {
        let trash = root.join(TRASH);
        if trash.exists() {
            fs::remove_dir_all(&trash)?;
        }
        if options.power_cuts {
            fs::create_dir(&trash)?;
        }
        let nodes = HashMap::from([(ROOT, Node::new(Place::Root, true))]);
        Ok(Disk {
            root: root.to_owned(),
            options,
            nodes,
            names: HashMap::new(),
            unsynced_names: UnsyncedNames::new(options.names),
            next_inode: ROOT + 1,
            moment: 0,
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes of pages that no sync has taken yet.
    pub fn dirty_bytes(&self) -> u64 {
        self.nodes.values().map(|node| node.unsynced.dirty_pages() * PAGE_BYTES).sum()
    }

    fn node(&self, inode: u64) -> io::Result<&Node> {
        self.nodes.get(&inode).ok_or_else(not_found)
    }

    fn node_mut(&mut self, inode: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&inode).ok_or_else(not_found)
    }

    fn path(&self, inode: u64) -> io::Result<PathBuf> {
        match &self.node(inode)?.place {
            Place::Root => Ok(self.root.clone()),
            Place::Named(folder, name) => Ok(self.path(*folder)?.join(name)),
            Place::Trash(path) => Ok(path.clone()),
            Place::Gone => Err(not_found()),
        }
    }

    fn path_of(&self, parent: u64, name: &OsStr) -> io::Result<PathBuf> {
        if parent == ROOT && name == TRASH {
            return Err(not_found());
        }
        Ok(self.path(parent)?.join(name))
    }

    /// The inode of a name, made if it was not seen before.
    fn inode(&mut self, parent: u64, name: &OsStr, directory: bool) -> u64 {
        if let Some(&inode) = self.names.get(&(parent, name.to_owned())) {
            return inode;
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.nodes.insert(inode, Node::new(Place::Named(parent, name.to_owned()), directory));
        self.names.insert((parent, name.to_owned()), inode);
        inode
    }

    /// Finds a name.
    pub fn lookup(&mut self, parent: u64, name: &OsStr) -> io::Result<(u64, Metadata)> {
        let metadata = self.path_of(parent, name)?.symlink_metadata()?;
        Ok((self.inode(parent, name, metadata.is_dir()), metadata))
    }

    /// What is known of an inode.
    pub fn metadata(&self, inode: u64) -> io::Result<Metadata> {
        match &self.node(inode)?.file {
            Some(file) => file.metadata(),
            None => self.path(inode)?.symlink_metadata(),
        }
    }

    /// The entries of a folder.
    pub fn entries(&mut self, inode: u64) -> io::Result<Vec<(u64, fs::FileType, OsString)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path(inode)?)? {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            if inode != ROOT || name != TRASH {
                entries.push((self.inode(inode, &name, kind.is_dir()), kind, name));
            }
        }
        Ok(entries)
    }

    /// Makes a folder.
    pub fn create_folder(&mut self, parent: u64, name: &OsStr, mode: u32) -> io::Result<(u64, Metadata)> {
        let path = self.path_of(parent, name)?;
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        self.made(parent, name)
    }

    /// Makes a symbolic link.
    pub fn create_symlink(&mut self, parent: u64, name: &OsStr, target: &Path) -> io::Result<(u64, Metadata)> {
        std::os::unix::fs::symlink(target, self.path_of(parent, name)?)?;
        self.made(parent, name)
    }

    /// Where a symbolic link points to.
    pub fn read_link(&self, inode: u64) -> io::Result<PathBuf> {
        fs::read_link(self.path(inode)?)
    }

    /// Gives a file one more name.
    pub fn link(&mut self, inode: u64, parent: u64, name: &OsStr) -> io::Result<(u64, Metadata)> {
        fs::hard_link(self.path(inode)?, self.path_of(parent, name)?)?;
        self.names.insert((parent, name.to_owned()), inode);
        self.made(parent, name)
    }

    /// Makes a file and opens it.
    pub fn create_file(&mut self, parent: u64, name: &OsStr, mode: u32, only_new: bool) -> io::Result<(u64, Metadata)> {
        let path = self.path_of(parent, name)?;
        let existed = path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).create_new(only_new);
        let file = options.open(&path)?;
        if !existed {
            file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
        }
        let found = if existed { self.lookup(parent, name)? } else { self.made(parent, name)? };
        let node = self.node_mut(found.0)?;
        node.opens += 1;
        node.file.get_or_insert_with(|| Arc::new(file));
        Ok(found)
    }

    fn made(&mut self, parent: u64, name: &OsStr) -> io::Result<(u64, Metadata)> {
        let found = self.lookup(parent, name)?;
        self.note(Entry { folder: parent, name: name.to_owned(), before: None, after: Some(found.0) });
        Ok(found)
    }

    fn note(&mut self, entry: Entry) {
        if self.options.power_cuts {
            self.unsynced_names.note(entry);
        }
    }

    /// Opens a file.
    pub fn open_file(&mut self, inode: u64) -> io::Result<()> {
        self.file(inode)?;
        self.node_mut(inode)?.opens += 1;
        Ok(())
    }

    /// Ends an opening.
    pub fn close_file(&mut self, inode: u64) {
        let Ok(node) = self.node_mut(inode) else { return };
        node.opens = node.opens.saturating_sub(1);
        self.let_go(inode);
    }

    fn let_go(&mut self, inode: u64) {
        let Ok(node) = self.node_mut(inode) else { return };
        if node.opens == 0 && node.place == Place::Gone {
            self.nodes.remove(&inode);
        } else if node.opens == 0 && node.unsynced.is_empty() {
            node.file = None;
        }
    }

    /// The open file of an inode, to read from without holding the disk.
    pub fn file(&mut self, inode: u64) -> io::Result<Arc<File>> {
        if let Some(file) = &self.node(inode)?.file {
            return Ok(file.clone());
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path(inode)?)?);
        self.node_mut(inode)?.file = Some(file.clone());
        Ok(file)
    }

    /// The number of a change that may have to be taken back.
    fn moment(&mut self) -> Option<u64> {
        self.moment += 1;
        self.options.power_cuts.then_some(self.moment)
    }

    /// Writes bytes.
    pub fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, moment) = (self.file(inode)?, self.moment());
        self.node_mut(inode)?.unsynced.write(&file, offset, bytes.len() as u64, moment)?;
        file.write_all_at(bytes, offset)
    }

    /// Changes a file's length.
    pub fn set_length(&mut self, inode: u64, length: u64) -> io::Result<()> {
        let (file, moment) = (self.file(inode)?, self.moment());
        self.node_mut(inode)?.unsynced.set_length(&file, length, moment)?;
        file.set_len(length)?;
        self.let_go(inode);
        Ok(())
    }

    /// Allocates room for a range, or gives it back, as the flags say; what is allocated is not lost.
    pub fn allocate(&mut self, inode: u64, flags: FallocateFlags, offset: u64, bytes: u64) -> io::Result<()> {
        let (file, moment) = (self.file(inode)?, self.moment());
        let end = if flags.contains(FallocateFlags::KEEP_SIZE) { file.metadata()?.len() } else { u64::MAX };
        let (changes, grows) = (flags.contains(FallocateFlags::PUNCH_HOLE), end == u64::MAX);
        let length = (offset + bytes).min(end).saturating_sub(offset);
        if changes && length > 0 {
            self.node_mut(inode)?.unsynced.write(&file, offset, length, moment)?;
        } else if grows && offset + bytes > file.metadata()?.len() {
            self.node_mut(inode)?.unsynced.set_length(&file, offset + bytes, moment)?;
        }
        Ok(rustix::fs::fallocate(&file, flags, offset, bytes)?)
    }

    /// Changes permissions; never undone.
    pub fn set_mode(&mut self, inode: u64, mode: u32) -> io::Result<()> {
        fs::set_permissions(self.path(inode)?, fs::Permissions::from_mode(mode & 0o7777))
    }

    /// Changes the time of modification; never undone.
    pub fn set_modified(&mut self, inode: u64, time: SystemTime) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(inode)?)?.set_modified(time)
    }

    /// Removes a file or an empty folder.
    pub fn remove(&mut self, parent: u64, name: &OsStr) -> io::Result<()> {
        let (inode, metadata) = self.lookup(parent, name)?;
        self.check_empty(parent, name, &metadata)?;
        self.take_name(parent, name)?;
        self.note(Entry { folder: parent, name: name.to_owned(), before: Some(inode), after: None });
        Ok(())
    }

    fn check_empty(&self, parent: u64, name: &OsStr, metadata: &Metadata) -> io::Result<()> {
        if metadata.is_dir() && fs::read_dir(self.path_of(parent, name)?)?.next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        Ok(())
    }

    /// Takes a name from a node; with its last one it goes to the trash, where it may have to come back from.
    fn take_name(&mut self, parent: u64, name: &OsStr) -> io::Result<()> {
        let key = (parent, name.to_owned());
        let (path, metadata) = (self.path_of(parent, name)?, self.path_of(parent, name)?.symlink_metadata()?);
        let inode = self.inode(parent, name, metadata.is_dir());
        let is_other = |place: &(u64, OsString), node: u64| node == inode && *place != key;
        let other = match !metadata.is_dir() && metadata.nlink() > 1 {
            true => self.names.iter().find(|(place, node)| is_other(place, **node)).map(|(place, _)| place.clone()),
            false => None,
        };
        let place = match other {
            Some((parent, name)) => {
                fs::remove_file(&path)?;
                Place::Named(parent, name)
            }
            None if self.options.power_cuts => {
                let trash = self.root.join(TRASH).join(inode.to_string());
                fs::rename(&path, &trash)?;
                Place::Trash(trash)
            }
            None => {
                if metadata.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) }?;
                Place::Gone
            }
        };
        self.node_mut(inode)?.place = place;
        self.names.remove(&key);
        self.let_go(inode);
        Ok(())
    }

    /// Renames, replacing what was there.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> io::Result<()> {
        let (inode, _) = self.lookup(from.0, from.1)?;
        let replaced = self.lookup(to.0, to.1).ok();
        let before = replaced.as_ref().map(|(replaced, _)| *replaced);
        if before == Some(inode) {
            return Ok(());
        }
        if let Some((_, metadata)) = replaced {
            self.check_empty(to.0, to.1, &metadata)?;
            self.take_name(to.0, to.1)?;
        }
        fs::rename(self.path_of(from.0, from.1)?, self.path_of(to.0, to.1)?)?;
        self.names.remove(&(from.0, from.1.to_owned()));
        self.names.insert((to.0, to.1.to_owned()), inode);
        let node = self.node_mut(inode)?;
        if node.place == Place::Named(from.0, from.1.to_owned()) {
            node.place = Place::Named(to.0, to.1.to_owned());
        }
        if self.options.power_cuts {
            let old = Entry { folder: from.0, name: from.1.to_owned(), before: Some(inode), after: None };
            let new = Entry { folder: to.0, name: to.1.to_owned(), before, after: Some(inode) };
            self.unsynced_names.note_move(old, new);
        }
        Ok(())
    }

    /// What a sync of this inode that begins now will have made durable.
    pub fn begin_sync(&mut self, inode: u64) -> io::Result<SyncMark> {
        let (names, moment) = (self.unsynced_names.mark(), self.moment + 1);
        let data = self.node_mut(inode)?.unsynced.begin_sync(moment);
        Ok(SyncMark { node: inode, names, data })
    }

    /// The sync has ended well. IMPORTANT: syncs come one after the other, or the marks would not fit.
    pub fn end_sync(&mut self, mark: &SyncMark) {
        if let Ok(node) = self.node_mut(mark.node) {
            node.unsynced.end_sync(&mark.data);
        }
        for entry in self.unsynced_names.synced(mark.node, mark.names) {
            if let Some(inode) = entry.before.filter(|inode| !self.unsynced_names.mention(*inode)) {
                self.empty_trash(inode);
            }
        }
        self.let_go(mark.node);
    }

    /// The sync has failed.
    pub fn fail_sync(&mut self, mark: &SyncMark) {
        let forget = self.options.failed_syncs_forget;
        if let Ok(node) = self.node_mut(mark.node) {
            node.unsynced.fail_sync(&mark.data, forget);
        }
    }

    fn empty_trash(&mut self, inode: u64) {
        let Ok(node) = self.node_mut(inode) else { return };
        if let Place::Trash(path) = &node.place {
            let _ = if node.directory { fs::remove_dir(path) } else { fs::remove_file(path) };
            node.place = Place::Gone;
            self.let_go(inode);
        }
    }

    /// Takes back what no sync covered: all of it, or a drawn part.
    pub fn cut_power(&mut self, mut drawn: Option<&mut Seeded>) -> io::Result<()> {
        let mut inodes: Vec<u64> = self.nodes.keys().copied().collect();
        // In an order that does not change from run to run.
        inodes.sort_unstable();
        for inode in inodes {
            let node = &self.nodes[&inode];
            if let Some(file) = node.file.as_ref().filter(|_| !node.unsynced.is_empty()) {
                node.unsynced.cut_power(file, drawn.as_deref_mut())?;
            }
        }
        let mut names = self.unsynced_names.cut_power(drawn);
        names.retain(|entry| self.names.get(&(entry.folder, entry.name.clone())).copied() != entry.after);
        for entry in &names {
            self.set_aside(entry)?;
        }
        for entry in &names {
            self.put_back(entry)?;
        }
        if self.options.power_cuts {
            fs::remove_dir_all(self.root.join(TRASH))?;
        }
        Ok(())
    }

    /// Takes a name away that is to stand for something else.
    fn set_aside(&mut self, entry: &Entry) -> io::Result<()> {
        match self.names.contains_key(&(entry.folder, entry.name.clone())) {
            true => self.take_name(entry.folder, &entry.name),
            false => Ok(()),
        }
    }

    /// Gives a node a name again. What was in a folder that is gone goes with it, and a folder has one name.
    fn put_back(&mut self, entry: &Entry) -> io::Result<()> {
        let Some(inode) = entry.after else { return Ok(()) };
        let Ok(path) = self.path_of(entry.folder, &entry.name) else { return Ok(()) };
        let named = Place::Named(entry.folder, entry.name.clone());
        match (&self.node(inode)?.place, self.path(inode)?) {
            (Place::Trash(_), trash) => {
                fs::rename(trash, path)?;
                self.node_mut(inode)?.place = named;
            }
            (_, other) if !self.node(inode)?.directory => fs::hard_link(other, path)?,
            _ => return Ok(()),
        }
        self.names.insert((entry.folder, entry.name.clone()), inode);
        Ok(())
    }
}

impl Node {
    fn new(place: Place, directory: bool) -> Node {
        Node { place, directory, file: None, opens: 0, unsynced: Unsynced::default() }
    }
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}
