//! A folder of our own for the time of a run, with all that is in it.

use std::path::{Path, PathBuf};

use crate::cli::exit::Failure;

/// A folder that is removed when this goes.
pub struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Makes a new folder below another, which must exist.
    pub fn make(below: &Path) -> Result<TemporaryFolder, Failure> {
        let nanoseconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.subsec_nanos());
        let path = below.join(format!(".larder-bench-{}-{nanoseconds}", std::process::id()));
        std::fs::create_dir(&path)
            .map_err(|error| Failure::plain(format!("cannot make the folder {}: {error}", path.display())))?;
        Ok(TemporaryFolder(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            crate::cli::complain(&format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_all_that_is_in_it() {
        let outer = tempfile::tempdir().unwrap();
        let folder = TemporaryFolder::make(outer.path()).unwrap();
        std::fs::write(folder.path().join("x"), "y").unwrap();
        drop(folder);
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 0);
        assert!(TemporaryFolder::make(&outer.path().join("none")).is_err());
    }
}
