//! The folder behind a card: its inodes, what of it is not synced, and how to take that back.
//!
//! Invariant: with power cuts, undoing the data changes of every node and then the name changes, newest first, gives
//! the folder as of the last syncs.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The inode of the card's root.
pub const ROOT: u64 = 1;
/// What a card writes at once.
pub const PAGE_BYTES: u64 = 4096;
/// Where removed files wait until their folder is synced; hidden from programs.
const TRASH: &str = ".card-trash";

/// A file or folder that was seen.
struct Node {
    parent: u64,
    name: OsString,
    directory: bool,
    /// Open while somebody has it open or something of it is not synced.
    file: Option<Arc<File>>,
    opens: u64,
    undo: Vec<DataUndo>,
    dirty: HashSet<u64>,
    /// Where it lies since its name was removed.
    trash: Option<PathBuf>,
    removed: bool,
}

/// How to take back one write or one change of length.
struct DataUndo {
    offset: u64,
    old: Vec<u8>,
    old_length: u64,
}

/// How to take back one change of names.
enum NameUndo {
    Created { node: u64 },
    Removed { node: u64 },
    Renamed { from: (u64, OsString), node: u64, replaced: Option<u64> },
}

/// The folder behind the card.
pub struct Disk {
    root: PathBuf,
    nodes: HashMap<u64, Node>,
    names: HashMap<(u64, OsString), u64>,
    next_inode: u64,
    next_trash: u64,
    name_undo: Vec<NameUndo>,
    power_cuts: bool,
    dirty_pages: u64,
}

/// What a sync in progress will have made durable when it ends.
pub struct SyncMark {
    node: u64,
    data: usize,
    names: usize,
    /// Bytes that go to the card.
    pub bytes: u64,
}

impl Disk {
    /// A folder as it stands.
    pub fn open(root: &Path, power_cuts: bool) -> io::Result<Disk> {
        let trash = root.join(TRASH);
        if trash.exists() {
            fs::remove_dir_all(&trash)?;
        }
        if power_cuts {
            fs::create_dir(&trash)?;
        }
        let mut disk = Disk {
            root: root.to_owned(),
            nodes: HashMap::new(),
            names: HashMap::new(),
            next_inode: ROOT + 1,
            next_trash: 0,
            name_undo: Vec::new(),
            power_cuts,
            dirty_pages: 0,
        };
        disk.nodes.insert(ROOT, Node::new(ROOT, OsString::new(), true));
        Ok(disk)
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes of pages that no sync has taken yet.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_pages * PAGE_BYTES
    }

    fn node(&self, inode: u64) -> io::Result<&Node> {
        self.nodes.get(&inode).ok_or_else(not_found)
    }

    fn node_mut(&mut self, inode: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&inode).ok_or_else(not_found)
    }

    fn path(&self, inode: u64) -> io::Result<PathBuf> {
        if inode == ROOT {
            return Ok(self.root.clone());
        }
        let node = self.node(inode)?;
        match &node.trash {
            Some(trash) => Ok(trash.clone()),
            None => Ok(self.path(node.parent)?.join(&node.name)),
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
        self.nodes.insert(inode, Node::new(parent, name.to_owned(), directory));
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
    pub fn entries(&mut self, inode: u64) -> io::Result<Vec<(u64, bool, OsString)>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.path(inode)?)? {
            let entry = entry?;
            let directory = entry.file_type()?.is_dir();
            if inode != ROOT || entry.file_name() != TRASH {
                entries.push((self.inode(inode, &entry.file_name(), directory), directory, entry.file_name()));
            }
        }
        Ok(entries)
    }

    /// Makes a folder.
    pub fn create_folder(&mut self, parent: u64, name: &OsStr, mode: u32) -> io::Result<(u64, Metadata)> {
        let path = self.path_of(parent, name)?;
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
        let found = self.lookup(parent, name)?;
        self.note(NameUndo::Created { node: found.0 });
        Ok(found)
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
        let metadata = file.metadata()?;
        let inode = self.inode(parent, name, false);
        let node = self.node_mut(inode)?;
        node.opens += 1;
        node.file.get_or_insert_with(|| Arc::new(file));
        if !existed {
            self.note(NameUndo::Created { node: inode });
        }
        Ok((inode, metadata))
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
        if node.opens > 0 || !node.undo.is_empty() {
            return;
        }
        node.file = None;
        if node.removed && node.trash.is_none() {
            let dirty = node.dirty.len() as u64;
            self.dirty_pages -= dirty;
            self.nodes.remove(&inode);
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

    /// Writes bytes.
    pub fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(inode)?;
        if self.power_cuts {
            self.remember(inode, &file, offset, bytes.len() as u64)?;
        }
        file.write_all_at(bytes, offset)?;
        if !bytes.is_empty() {
            let mut added = 0;
            let node = self.node_mut(inode)?;
            for page in offset / PAGE_BYTES..=(offset + bytes.len() as u64 - 1) / PAGE_BYTES {
                added += u64::from(node.dirty.insert(page));
            }
            self.dirty_pages += added;
        }
        Ok(())
    }

    /// Changes a file's length.
    pub fn set_length(&mut self, inode: u64, length: u64) -> io::Result<()> {
        let file = self.file(inode)?;
        if self.power_cuts {
            let now = file.metadata()?.len();
            self.remember(inode, &file, length, now.saturating_sub(length))?;
        }
        file.set_len(length)?;
        let node = self.node_mut(inode)?;
        let before = node.dirty.len();
        node.dirty.retain(|page| page * PAGE_BYTES < length);
        let gone = before - node.dirty.len();
        self.dirty_pages -= gone as u64;
        self.let_go(inode);
        Ok(())
    }

    /// Changes permissions; never undone.
    pub fn set_mode(&mut self, inode: u64, mode: u32) -> io::Result<()> {
        fs::set_permissions(self.path(inode)?, fs::Permissions::from_mode(mode & 0o7777))
    }

    /// Changes the time of modification; never undone.
    pub fn set_modified(&mut self, inode: u64, time: SystemTime) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path(inode)?)?.set_modified(time)
    }

    fn remember(&mut self, inode: u64, file: &File, offset: u64, length: u64) -> io::Result<()> {
        let old_length = file.metadata()?.len();
        let mut old = vec![0; length.min(old_length.saturating_sub(offset)) as usize];
        file.read_exact_at(&mut old, offset)?;
        self.node_mut(inode)?.undo.push(DataUndo { offset, old, old_length });
        Ok(())
    }

    /// Removes a file or an empty folder.
    pub fn remove(&mut self, parent: u64, name: &OsStr) -> io::Result<()> {
        let (inode, metadata) = self.lookup(parent, name)?;
        if metadata.is_dir() && fs::read_dir(self.path(inode)?)?.next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.take_away(inode)?;
        self.note(NameUndo::Removed { node: inode });
        Ok(())
    }

    /// Takes a name from a node; the bytes stay in the trash while they may have to come back.
    fn take_away(&mut self, inode: u64) -> io::Result<()> {
        let path = self.path(inode)?;
        let trash = self.root.join(TRASH).join(self.next_trash.to_string());
        if self.power_cuts {
            self.next_trash += 1;
            fs::rename(&path, &trash)?;
        } else if self.node(inode)?.directory {
            fs::remove_dir(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
        let keeps = self.power_cuts;
        let node = self.node_mut(inode)?;
        node.trash = keeps.then_some(trash);
        node.removed = true;
        let name = (node.parent, node.name.clone());
        self.names.remove(&name);
        self.let_go(inode);
        Ok(())
    }

    /// Renames, replacing what was there.
    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> io::Result<()> {
        let (inode, _) = self.lookup(from.0, from.1)?;
        let replaced = self.lookup(to.0, to.1).ok().map(|(replaced, _)| replaced);
        let target = self.path_of(to.0, to.1)?;
        if let Some(replaced) = replaced {
            self.take_away(replaced)?;
        }
        fs::rename(self.path(inode)?, target)?;
        self.move_node(inode, to.0, to.1)?;
        self.note(NameUndo::Renamed { from: (from.0, from.1.to_owned()), node: inode, replaced });
        Ok(())
    }

    fn move_node(&mut self, inode: u64, parent: u64, name: &OsStr) -> io::Result<()> {
        let node = self.node_mut(inode)?;
        let old = (node.parent, std::mem::replace(&mut node.name, name.to_owned()));
        node.parent = parent;
        self.names.remove(&old);
        self.names.insert((parent, name.to_owned()), inode);
        Ok(())
    }

    fn note(&mut self, undo: NameUndo) {
        if self.power_cuts {
            self.name_undo.push(undo);
        }
    }

    /// What a sync of this inode that begins now will have made durable.
    pub fn begin_sync(&mut self, inode: u64) -> io::Result<SyncMark> {
        let names = self.name_undo.len();
        let node = self.node_mut(inode)?;
        let mark = SyncMark { node: inode, data: node.undo.len(), names, bytes: node.dirty.len() as u64 * PAGE_BYTES };
        node.dirty.clear();
        self.dirty_pages -= mark.bytes / PAGE_BYTES;
        Ok(mark)
    }

    /// The sync has ended well. IMPORTANT: syncs come one after the other, or the marks would not fit.
    pub fn end_sync(&mut self, mark: &SyncMark) {
        let Ok(node) = self.node_mut(mark.node) else { return };
        node.undo.drain(..mark.data);
        for undo in self.name_undo.drain(..mark.names).collect::<Vec<_>>() {
            if let NameUndo::Removed { node } | NameUndo::Renamed { replaced: Some(node), .. } = undo {
                self.empty_trash(node);
            }
        }
        self.let_go(mark.node);
    }

    fn empty_trash(&mut self, inode: u64) {
        let Ok(node) = self.node_mut(inode) else { return };
        node.undo.clear();
        if let Some(trash) = node.trash.take() {
            let _ = if node.directory { fs::remove_dir(trash) } else { fs::remove_file(trash) };
        }
        self.let_go(inode);
    }

    /// Takes back everything that no sync covered.
    pub fn undo_unsynced(&mut self) -> io::Result<()> {
        for node in self.nodes.values_mut() {
            let undo = std::mem::take(&mut node.undo);
            let Some(file) = &node.file else { continue };
            for change in undo.into_iter().rev() {
                file.write_all_at(&change.old, change.offset)?;
                file.set_len(change.old_length)?;
            }
        }
        for undo in std::mem::take(&mut self.name_undo).into_iter().rev() {
            match undo {
                NameUndo::Created { node } => self.take_away(node)?,
                NameUndo::Removed { node } => self.put_back(node)?,
                NameUndo::Renamed { from, node, replaced } => {
                    let target = self.path_of(from.0, &from.1)?;
                    fs::rename(self.path(node)?, target)?;
                    self.move_node(node, from.0, &from.1)?;
                    if let Some(replaced) = replaced {
                        self.put_back(replaced)?;
                    }
                }
            }
        }
        if self.power_cuts {
            fs::remove_dir_all(self.root.join(TRASH))?;
        }
        Ok(())
    }

    fn put_back(&mut self, inode: u64) -> io::Result<()> {
        let node = self.node_mut(inode)?;
        node.removed = false;
        let trash = node.trash.take().ok_or_else(not_found)?;
        let name = (node.parent, node.name.clone());
        self.names.insert(name, inode);
        fs::rename(trash, self.path(inode)?)
    }
}

impl Node {
    fn new(parent: u64, name: OsString, directory: bool) -> Node {
        Node {
            parent,
            name,
            directory,
            file: None,
            opens: 0,
            undo: Vec::new(),
            dirty: HashSet::new(),
            trash: None,
            removed: false,
        }
    }
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}
