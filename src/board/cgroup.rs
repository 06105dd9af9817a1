//! The memory limit and use of the control group we are in, version 2 or 1. Reads files only; sets nothing.
//!
//! A limit further up binds as well, so the whole path from our group to the root is looked at.

use std::fs;
use std::path::{Path, PathBuf};

use super::memory::Usage;

/// Where the kernel shows things; another folder in tests.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    pub proc: PathBuf,
    pub cgroup: PathBuf,
}

impl Default for Roots {
    fn default() -> Roots {
        Roots { proc: PathBuf::from("/proc"), cgroup: PathBuf::from("/sys/fs/cgroup") }
    }
}

/// The files of one version.
struct Files {
    /// Version 2 throttles at `memory.high`, which is as bad for a server as the limit itself.
    limits: &'static [&'static str],
    used: &'static str,
    /// The line of `memory.stat` with what the kernel drops first when memory is short.
    reclaimable: &'static [&'static str],
}

const V2: Files = Files {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    reclaimable: &["inactive_file", "active_file"],
};
const V1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    reclaimable: &["total_inactive_file", "total_active_file"],
};

/// The group with the least room below its limit, of ours and those around it. `None` where none has a limit.
pub(super) fn tightest(roots: &Roots) -> Option<Usage> {
    let groups = fs::read_to_string(roots.proc.join("self/cgroup")).ok()?;
    groups.lines().filter_map(|line| tightest_on_line(line, roots)).max_by(|a, b| a.share().total_cmp(&b.share()))
}

/// The smallest limit of our group and those around it, in bytes.
pub(super) fn limit_bytes(roots: &Roots) -> Option<u64> {
    let groups = fs::read_to_string(roots.proc.join("self/cgroup")).ok()?;
    let folders = groups
        .lines()
        .filter_map(|line| folders_on_line(line, roots))
        .flat_map(|(files, folders)| folders.into_iter().filter_map(move |folder| limit_of(&folder, files)));
    folders.min()
}

fn tightest_on_line(line: &str, roots: &Roots) -> Option<Usage> {
    let (files, folders) = folders_on_line(line, roots)?;
    let usages = folders.iter().filter_map(|folder| usage_of(folder, files));
    usages.max_by(|a, b| a.share().total_cmp(&b.share()))
}

/// The folders from our group up to the root, for a line of `/proc/self/cgroup` that is about memory.
///
/// In a container the path may be one of the host that is not mounted here: the root of what is mounted is ours then.
fn folders_on_line(line: &str, roots: &Roots) -> Option<(&'static Files, Vec<PathBuf>)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (files, root) = match controllers {
        "" => (&V2, roots.cgroup.clone()),
        named if named.split(',').any(|controller| controller == "memory") => (&V1, roots.cgroup.join("memory")),
        _ => return None,
    };
    let ours = root.join(path.trim_start_matches('/'));
    Some((files, ours.ancestors().take_while(|folder| folder.starts_with(&root)).map(Path::to_path_buf).collect()))
}

fn limit_of(folder: &Path, files: &Files) -> Option<u64> {
    files.limits.iter().filter_map(|name| read_number(&folder.join(name))).min()
}

fn usage_of(folder: &Path, files: &Files) -> Option<Usage> {
    let budget_bytes = limit_of(folder, files)?;
    let charged = read_number(&folder.join(files.used))?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let reclaimable: u64 = files.reclaimable.iter().filter_map(|name| field(&stat, name)).sum();
    Some(Usage { used_bytes: charged.saturating_sub(reclaimable), budget_bytes })
}

/// A file with one number. `max`, and the number version 1 shows where there is no limit, are none.
fn read_number(path: &Path) -> Option<u64> {
    const UNLIMITED: u64 = 1 << 62;
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|number| *number < UNLIMITED)
}

/// The number behind a name in lines of `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A machine made of files.
    pub fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let roots = Roots { proc: folder.path().join("proc"), cgroup: folder.path().join("cgroup") };
        (folder, roots)
    }

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_binds() {
        let (_folder, roots) = machine(&[
            ("proc/self/cgroup", "0::/system.slice/larder.service\n"),
            ("cgroup/system.slice/larder.service/memory.max", "max\n"),
            ("cgroup/system.slice/larder.service/memory.high", "300\n"),
            ("cgroup/system.slice/memory.max", "200\n"),
        ]);
        assert_eq!(limit_bytes(&roots), Some(200));
    }

    #[test]
    fn version_1_is_read_where_its_controller_is_named() {
        let (_folder, roots) = machine(&[
            ("proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n"),
            ("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cgroup/memory/docker/abc/memory.limit_in_bytes", "1000\n"),
            ("cgroup/memory/docker/abc/memory.usage_in_bytes", "900\n"),
            (
                "cgroup/memory/docker/abc/memory.stat",
                "total_cache 400\ntotal_inactive_file 300\ntotal_active_file 100\n",
            ),
        ]);
        assert_eq!(limit_bytes(&roots), Some(1000));
        assert_eq!(tightest(&roots), Some(Usage { used_bytes: 500, budget_bytes: 1000 }));
    }

    #[test]
    fn a_path_of_the_host_that_is_not_mounted_means_the_root_is_ours() {
        let (_folder, roots) = machine(&[
            ("proc/self/cgroup", "0::/kubepods/pod1/abc\n"),
            ("cgroup/memory.max", "512\n"),
            ("cgroup/memory.current", "100\n"),
        ]);
        assert_eq!(tightest(&roots), Some(Usage { used_bytes: 100, budget_bytes: 512 }));
    }

    #[test]
    fn no_cgroup_and_no_limit_are_none() {
        let (_folder, roots) = machine(&[]);
        assert_eq!((limit_bytes(&roots), tightest(&roots)), (None, None));
        let (_folder, roots) = machine(&[("proc/self/cgroup", "0::/a\n"), ("cgroup/a/memory.max", "max\n")]);
        assert_eq!((limit_bytes(&roots), tightest(&roots)), (None, None));
    }
}
