//! Whether one folder lies in another, however they are named: through links, `..`, another mount of the same folder,
//! letters of another case, and also while one of them is not there yet.
//!
//! Like all that is asked of folders beforehand, the answer is that of this moment.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many links as the kernel follows on one way.
const LINKS_MAX: usize = 40;

/// What the kernel knows a file or folder by: device and inode.
pub type Identity = (u64, u64);

/// The identity of what a path leads to, if it leads to anything.
pub fn identity(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// The identities of a folder that is there and of all folders above it. `None`: one of them cannot be looked at.
pub fn lineage(path: &Path) -> Option<Vec<Identity>> {
    path.ancestors().map(identity).collect()
}

/// Whether `inner` is `outer`, or lies somewhere in it.
pub fn lies_in(inner: &Path, outer: &Path) -> bool {
    let (inner, outer) = (resolved(inner), resolved(outer));
    let above: Vec<Identity> = inner.ancestors().filter_map(identity).collect();
    // A folder above the inner one may be mounted once more within the outer one.
    let within = mount_points().into_iter().filter(|point| point.starts_with(&outer));
    inner.starts_with(&outer)
        || within.chain([outer.clone()]).filter_map(|path| identity(&path)).any(|one| above.contains(&one))
}

/// The path without links and `..`, absolute. What is not there is taken as it is written.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (mut steps, mut links) = (VecDeque::new(), 0);
    push_steps(&mut steps, &absolute);
    let mut at = PathBuf::from("/");
    while let Some(step) = steps.pop_front() {
        if step == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&step);
        match fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                push_steps(&mut steps, &target);
            }
            _ => at = next,
        }
    }
    at
}

/// Puts the steps of a path before those that are left.
fn push_steps(steps: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => steps.push_front(name.to_owned()),
            Component::ParentDir => steps.push_front("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
}

fn mount_points() -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    table.split(|&byte| byte == b'\n').filter_map(mount_point).collect()
}

/// The fifth field of a line; blanks in it are written as `\040`.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|&byte| byte == b' ').nth(4)?;
    let (mut bytes, mut at) = (Vec::new(), 0);
    while let Some(&byte) = field.get(at) {
        let digits =
            field.get(at + 1..at + 4).filter(|_| byte == b'\\').and_then(|code| std::str::from_utf8(code).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => (bytes.push(escaped), at += 4).0,
            None => (bytes.push(byte), at += 1).0,
        }
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_is_found_in_another_under_any_name_and_before_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("www/sub")).unwrap();
        fs::create_dir_all(path("www2/deep")).unwrap();
        for (target, link) in [
            ("www", "link"),
            ("link/later", "dangling"),
            ("../www2", "www/out"),
            ("loop", "loop"),
            ("../www", "www2/in"),
        ] {
            symlink(target, path(link)).unwrap();
        }
        symlink(path("www/sub"), path("absolute")).unwrap();
        for (inner, outer, lies) in [
            ("www", "www", true),
            ("www/sub", "www", true),
            ("www/none/deeper", "www", true),
            ("link", "www", true),
            ("www", "link", true),
            ("link/none", "www", true),
            ("www/none", "link", true),
            ("dangling", "www", true),
            ("dangling/x", "www", true),
            ("absolute/x", "link", true),
            ("www2/in/none", "www", true),
            ("www2/deep/../../www/x", "www", true),
            ("www/out/../www/x", "www", true),
            ("www2/../www/sub/../x", "www", true),
            ("none/../www", "www", true),
            ("www", "www/sub", false),
            ("www2", "www", false),
            ("www/../www2", "www", false),
            ("www/out", "www", false),
            ("www/out/deep/none", "www", false),
            ("none", "www", false),
            ("loop/x", "www", false),
        ] {
            assert_eq!(lies_in(&path(inner), &path(outer)), lies, "{inner} in {outer}");
        }
        assert!(lies_in(Path::new("none"), Path::new(".")) && !lies_in(Path::new("."), Path::new("none")));
        assert!(lies_in(&path("none"), Path::new("/")));
    }

    #[test]
    fn a_lineage_goes_up_to_the_root_and_needs_all_of_its_members() {
        let folder = tempfile::tempdir().unwrap();
        let lineage = lineage(folder.path()).unwrap();
        assert_eq!(lineage.first().copied(), identity(folder.path()));
        assert_eq!(lineage.last().copied(), identity(Path::new("/")));
        assert_eq!(super::lineage(&folder.path().join("none")), None);
    }

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402/a\\134b rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some("/mnt 2/a\\b".into()));
        assert_eq!(mount_point(b""), None);
        assert!(mount_points().contains(&"/".into()) || !Path::new("/proc/self/mountinfo").exists());
    }
}
