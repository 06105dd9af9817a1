//! Opening files beneath a folder, and nothing else.
//!
//! SECURITY: The kernel keeps the walk inside (`openat2` with `RESOLVE_BENEATH`): neither `..` nor a symbolic link, nor a
//! rename in between, leads out. Links that stay inside are followed; absolute links count as leading out. Kernels before
//! 5.6, and sandboxes that forbid the call, get a walk by hand that follows no link at all.
//!
//! Invariant: only regular files are ever opened for reading. Pipes, sockets and devices are recognised by a handle that
//! reaches nothing (`O_PATH`), since merely opening some of them has effects.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::closed::Closed;

/// How often the kernel's `EAGAIN` (a rename during the walk) is answered with another try.
const WALK_TRIES: usize = 8;

/// The folder. Its path is followed anew for each look, so that a release can be put in place by moving a link.
pub struct Folder {
    path: PathBuf,
    closed: Closed,
    /// Whether to ask the kernel; cleared once it has said that it cannot.
    kernel_walks: AtomicBool,
}

/// A regular file, open for reading.
pub struct OpenFile {
    /// The file.
    pub file: File,
    /// What the kernel says of it, asked after it was opened.
    pub stat: Stat,
}

/// What a path names.
pub enum Entry {
    /// A regular file.
    File(OpenFile),
    /// A folder.
    Folder,
    /// Nothing that may be served: absent, leading out, closed, not readable, or no regular file.
    Nothing,
}

impl Folder {
    /// Checks that the folder is there.
    pub fn open(path: &Path, closed: Closed) -> std::io::Result<Folder> {
        let folder = Folder { path: std::path::absolute(path)?, closed, kernel_walks: AtomicBool::new(true) };
        folder.root()?;
        Ok(folder)
    }

    fn root(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::open(&self.path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    }

    /// Opens what a relative path names. An error is the system's (descriptors, the card), never the path's.
    pub fn look_up(&self, path: &str) -> Result<Entry, Errno> {
        match self.try_look_up(path) {
            Err(error) if is_absence(error) => Ok(Entry::Nothing),
            result => result,
        }
    }

    fn try_look_up(&self, path: &str) -> Result<Entry, Errno> {
        let root = self.root()?;
        let handle = self.walk(&root, path, OFlags::PATH)?;
        let seen = rustix::fs::fstat(&handle)?;
        match FileType::from_raw_mode(seen.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Ok(Entry::Folder),
            _ => return Ok(Entry::Nothing),
        }
        // NOTE: Not blocking, and not a terminal's owner: should the file have become something else by now.
        let file = self.walk(&root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = rustix::fs::fstat(&file)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if !self.closed.holds(&file, &stat) => {
                Ok(Entry::File(OpenFile { file: File::from(file), stat }))
            }
            _ => Ok(Entry::Nothing),
        }
    }

    fn walk(&self, root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        while self.kernel_walks.load(Ordering::Relaxed) {
            match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
                // EPERM is also what a system call filter says; the walk by hand then gives the true answer.
                Err(Errno::NOSYS | Errno::PERM) => self.kernel_walks.store(false, Ordering::Relaxed),
                Err(Errno::AGAIN) if tries < WALK_TRIES => tries += 1,
                result => return result,
            }
        }
        walk_by_hand(root, path, flags)
    }
}

/// Opens a path step by step, refusing links.
fn walk_by_hand(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW;
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut at: Option<OwnedFd> = None;
    for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
        let parent = at.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = Some(step(parent, folder, flags)?);
    }
    step(at.as_ref().map_or(root.as_fd(), AsFd::as_fd), name, flags)
}

fn step(parent: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    if name.is_empty() || name == ".." {
        return Err(Errno::NOENT);
    }
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Whether an error means that the path names nothing that may be served.
fn is_absence(error: Errno) -> bool {
    const ABSENCES: &[Errno] = &[
        Errno::NOENT,
        Errno::NOTDIR,
        Errno::LOOP,
        Errno::XDEV,
        Errno::NAMETOOLONG,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NXIO,
        Errno::NODEV,
        Errno::INVAL,
        Errno::ILSEQ,
        // Too many renames during the walk.
        Errno::AGAIN,
    ];
    ABSENCES.contains(&error)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn fixture(kernel_walks: bool) -> (tempfile::TempDir, Folder) {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("www");
        std::fs::create_dir_all(root.join("sub/deep")).unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        std::fs::write(root.join("sub/deep/a"), "inside").unwrap();
        symlink("../../secret", root.join("sub/out")).unwrap();
        symlink(outer.path(), root.join("out_folder")).unwrap();
        symlink("../sub/deep/a", root.join("sub/in")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let folder = Folder::open(&root, Closed::default()).unwrap();
        folder.kernel_walks.store(kernel_walks, Ordering::Relaxed);
        (outer, folder)
    }

    fn read(folder: &Folder, path: &str) -> Option<String> {
        let Entry::File(mut found) = folder.look_up(path).unwrap() else { return None };
        let mut text = String::new();
        found.file.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn both_walks_find_what_is_inside_and_nothing_else() {
        for kernel_walks in [true, false] {
            let (_outer, folder) = fixture(kernel_walks);
            assert_eq!(read(&folder, "sub/deep/a").as_deref(), Some("inside"));
            assert!(matches!(folder.look_up("sub/deep").unwrap(), Entry::Folder));
            for path in [
                "../secret",
                "sub/../../secret",
                "sub/out",
                "out_folder/secret",
                "loop",
                "/etc/passwd",
                "",
                "nothing",
                "sub/deep/a/b",
            ] {
                assert!(matches!(folder.look_up(path).unwrap(), Entry::Nothing), "{path}");
            }
        }
    }

    #[test]
    fn links_that_stay_inside_are_followed_where_the_kernel_walks() {
        let (_outer, folder) = fixture(true);
        let found = read(&folder, "sub/in");
        let expected = folder.kernel_walks.load(Ordering::Relaxed).then(|| "inside".to_owned());
        assert_eq!(found, expected);
    }

    #[test]
    fn the_walk_by_hand_follows_no_link() {
        let (_outer, folder) = fixture(false);
        assert_eq!(read(&folder, "sub/in"), None);
    }

    #[test]
    fn a_folder_that_is_moved_into_place_is_seen() {
        let outer = tempfile::tempdir().unwrap();
        for release in ["1", "2"] {
            std::fs::create_dir(outer.path().join(release)).unwrap();
            std::fs::write(outer.path().join(release).join("a"), release).unwrap();
        }
        symlink("1", outer.path().join("current")).unwrap();
        let folder = Folder::open(&outer.path().join("current"), Closed::default()).unwrap();
        assert_eq!(read(&folder, "a").as_deref(), Some("1"));
        symlink("2", outer.path().join("next")).unwrap();
        std::fs::rename(outer.path().join("next"), outer.path().join("current")).unwrap();
        assert_eq!(read(&folder, "a").as_deref(), Some("2"));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_at_the_start() {
        assert!(Folder::open(Path::new("/nonexistent/folder"), Closed::default()).is_err());
        assert!(Folder::open(Path::new("/etc/passwd"), Closed::default()).is_err());
    }
}
