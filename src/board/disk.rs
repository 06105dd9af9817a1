//! The room on the file system that a folder is on.

use std::io;
use std::path::Path;

/// The room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still write; what is kept for root is not in it.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
}

/// Asks for the room where `dir` is. The error is that of `statvfs`.
pub fn free(dir: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(dir)?;
    let unit = stat.f_frsize;
    Ok(Space { free_bytes: stat.f_bavail.saturating_mul(unit), total_bytes: stat.f_blocks.saturating_mul(unit) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_room_within_its_file_system() {
        let folder = tempfile::tempdir().unwrap();
        let space = free(folder.path()).unwrap();
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes, "{space:?}");
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(free(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
