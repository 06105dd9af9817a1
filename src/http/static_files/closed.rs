//! What is never served, whatever folder it lies in and whatever name leads there.
//!
//! SECURITY: things are told by device and inode when they are opened, so that no link, mount or move, and no change of
//! the configuration's paths, makes them another thing. What cannot be told counts as closed.

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::Stat;

use crate::board::overlap::{Identity, identity, lineage};

/// Folders of which nothing is served, and files that are not served. Those that are not there close nothing.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// The folders.
    pub folders: Vec<PathBuf>,
    /// The files.
    pub files: Vec<PathBuf>,
}

impl Closed {
    /// Whether an open file is one of these, under whatever name it was found.
    pub fn holds(&self, file: &impl AsRawFd, stat: &Stat) -> bool {
        let of = |paths: &[PathBuf]| -> Vec<Identity> { paths.iter().filter_map(|path| identity(path)).collect() };
        if of(&self.files).contains(&(stat.st_dev, stat.st_ino)) {
            return true;
        }
        let folders = of(&self.folders);
        !folders.is_empty() && !is_outside(file, &folders)
    }
}

/// Whether the folder that a file lies in, and all above it, are none of these.
fn is_outside(file: &impl AsRawFd, folders: &[Identity]) -> bool {
    let handle = format!("/proc/self/fd/{}", file.as_raw_fd());
    let Ok(path) = std::fs::read_link(handle) else { return false };
    let parent = path.parent().filter(|parent| parent.has_root());
    parent.and_then(lineage).is_some_and(|above| !above.iter().any(|one| folders.contains(one)))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_lies_in_a_closed_folder_or_is_a_closed_file_is_told_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("www/data/fjall")).unwrap();
        for name in ["www/data/fjall/0.jnl", "www/data/key", "www/tokens", "www/page", "other"] {
            fs::write(path(name), name).unwrap();
        }
        fs::hard_link(path("www/tokens"), path("www/copy")).unwrap();
        symlink("data/key", path("www/link")).unwrap();
        symlink("www/data", path("data")).unwrap();
        let closed =
            Closed { folders: vec![path("data"), path("none")], files: vec![path("www/tokens"), path("nothing")] };
        let holds = |closed: &Closed, name: &str| {
            let file = File::open(path(name)).unwrap();
            closed.holds(&file, &rustix::fs::fstat(&file).unwrap())
        };
        for (name, expected) in [
            ("www/data/fjall/0.jnl", true),
            ("www/data/key", true),
            ("data/key", true),
            ("www/link", true),
            ("www/tokens", true),
            ("www/copy", true),
            ("www/page", false),
            ("other", false),
        ] {
            assert_eq!(holds(&closed, name), expected, "{name}");
            assert!(!holds(&Closed::default(), name), "{name}");
        }
        fs::rename(path("www/data"), path("www/moved")).unwrap();
        fs::remove_file(path("data")).unwrap();
        symlink("www/moved", path("data")).unwrap();
        assert!(holds(&closed, "www/moved/key"));
        let gone = File::open(path("other")).unwrap();
        fs::remove_file(path("other")).unwrap();
        assert!(!closed.holds(&gone, &rustix::fs::fstat(&gone).unwrap()), "its folder is known");
    }
}
