//! A folder that is to be written to: what stands in the way, told before anyone has tried; and making one.
//!
//! Nothing here writes but [`make_private`]. The answers are those of this moment: who acts on them must still be ready
//! for an error.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

/// Why a folder cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Something else has this name, or that of a folder above.
    NotAFolder(PathBuf),
    /// A folder where a file belongs.
    NotAFile(PathBuf),
    /// A link that leads to nothing.
    Dangling(PathBuf),
    /// The user of this process may not read and write it.
    Denied(PathBuf),
    /// The file system is mounted read-only, as the kernel does by itself after a fault of the card.
    ReadOnly(PathBuf),
    /// The system does not tell: the path and its error.
    Unknown(PathBuf, String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NotAFolder(path) => write!(f, "{} is not a folder", path.display()),
            Obstacle::NotAFile(path) => write!(f, "{} is not a file", path.display()),
            Obstacle::Dangling(path) => write!(f, "{} is a link that leads to nothing", path.display()),
            Obstacle::Denied(path) => {
                write!(f, "{}: permission denied, {} must be able to read and write it", path.display(), user())
            }
            Obstacle::ReadOnly(path) => {
                write!(f, "{} is on a file system that is read-only for this process", path.display())
            }
            Obstacle::Unknown(path, error) => write!(f, "{} cannot be looked at: {error}", path.display()),
        }
    }
}

/// A folder that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usable {
    /// The folder, or where it is not there yet, the one above it in which it can be made.
    pub nearest: PathBuf,
    /// The permission bits of the folder; `None` if it is not there yet.
    pub mode: Option<u32>,
}

/// Looks whether this process can use a folder, or make it where there is none.
pub fn look(dir: &Path) -> Result<Usable, Obstacle> {
    for path in dir.ancestors() {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match fs::metadata(path) {
            Ok(meta) if !meta.is_dir() => return Err(Obstacle::NotAFolder(path.to_owned())),
            Ok(meta) => {
                check_writable(path)?;
                let mode = (path == dir).then(|| meta.mode() & 0o777);
                return Ok(Usable { nearest: path.to_owned(), mode });
            }
            Err(_) if leads_nowhere(path) => return Err(Obstacle::Dangling(path.to_owned())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(obstacle(path, error)),
        }
    }
    Err(Obstacle::Unknown(dir.to_owned(), "no folder above it is there".to_owned()))
}

/// What is to be done with something that may be in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A folder, in which names come and go.
    Folder,
    /// A file that is written.
    Written,
    /// A file that is only read.
    Read,
}

/// Looks whether this process can use what is there in that way; what is not there stands in nobody's way.
pub fn check(path: &Path, wanted: Use) -> Result<(), Obstacle> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() && wanted != Use::Folder => Err(Obstacle::NotAFile(path.to_owned())),
        Ok(meta) if !meta.is_dir() && wanted == Use::Folder => Err(Obstacle::NotAFolder(path.to_owned())),
        Ok(_) if wanted == Use::Read => access(path, Access::READ_OK),
        Ok(_) => check_writable(path),
        Err(_) if leads_nowhere(path) => Err(Obstacle::Dangling(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(obstacle(path, error)),
    }
}

/// Looks whether this process can read and write a file, or a folder with what is in it.
pub fn check_writable(path: &Path) -> Result<(), Obstacle> {
    let enter = if path.is_dir() { Access::EXEC_OK } else { Access::empty() };
    access(path, Access::READ_OK | Access::WRITE_OK | enter)
}

fn access(path: &Path, wanted: Access) -> Result<(), Obstacle> {
    match rustix::fs::access(path, wanted) {
        Err(Errno::NOENT) => Ok(()),
        result => result.map_err(|errno| obstacle(path, errno.into())),
    }
}

/// Whether this is a link to something that is not there, or to itself.
fn leads_nowhere(path: &Path) -> bool {
    let is_link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    is_link && matches!(rustix::fs::stat(path), Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn obstacle(path: &Path, error: io::Error) -> Obstacle {
    let path = path.to_owned();
    match Errno::from_io_error(&error) {
        Some(Errno::ACCESS | Errno::PERM) => Obstacle::Denied(path),
        Some(Errno::ROFS) => Obstacle::ReadOnly(path),
        _ => Obstacle::Unknown(path, error.to_string()),
    }
}

/// Makes a folder, and those above it, for the user of this process alone. One that is there stays as it is.
pub fn make_private(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        // What is there cannot be looked at, or is no folder: that it is there tells nobody anything.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(fs::metadata(dir).err().unwrap_or_else(|| Errno::NOTDIR.into()))
        }
        result => result,
    }
}

/// The user of this process: `uid 1000 (pi)`, without the name where `/etc/passwd` has none.
pub fn user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    match name_of(&users, uid) {
        Some(name) => format!("uid {uid} ({name})"),
        None => format!("uid {uid}"),
    }
}

fn name_of(users: &str, uid: u32) -> Option<&str> {
    let line = users.lines().find(|line| line.split(':').nth(2).and_then(|field| field.parse().ok()) == Some(uid))?;
    line.split(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let there = Usable { nearest: folder.path().to_owned(), mode: Some(0o700) };
        assert_eq!(look(folder.path()), Ok(there.clone()));
        assert_eq!(look(&folder.path().join("a/b")), Ok(Usable { mode: None, ..there }));
        let here = look(Path::new("not-there")).unwrap();
        assert_eq!((here.nearest.as_path(), here.mode), (Path::new("."), None));
    }

    #[test]
    fn a_file_is_no_folder_nor_is_anything_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("data"), file.join("deep/data")] {
            assert_eq!(look(&path), Err(Obstacle::NotAFolder(file.clone())), "{path:?}");
        }
    }

    #[test]
    fn what_the_system_says_becomes_an_obstacle_with_its_path() {
        let of = |errno: Errno| obstacle(Path::new("/d"), errno.into());
        assert_eq!(of(Errno::ACCESS), Obstacle::Denied("/d".into()));
        assert_eq!(of(Errno::ROFS), Obstacle::ReadOnly("/d".into()));
        assert!(of(Errno::ACCESS).to_string().starts_with("/d: permission denied, uid "));
        assert!(of(Errno::IO).to_string().starts_with("/d cannot be looked at: "));
    }

    #[test]
    fn a_private_folder_is_for_one_user_and_an_old_one_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("a/b");
        make_private(&new).unwrap();
        assert_eq!(look(&new).unwrap().mode, Some(0o700));
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        make_private(&new).unwrap();
        assert_eq!(look(&new).unwrap().mode, Some(0o755));
    }

    #[test]
    fn the_name_of_a_user_is_looked_up_by_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbad line\npi:x:1000:1000::/home/pi:/bin/sh\n";
        assert_eq!((name_of(users, 1000), name_of(users, 100)), (Some("pi"), None));
        assert!(user().starts_with("uid "));
    }
}
