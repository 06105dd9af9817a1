//! How much memory there is for us, and how much of it is in use: the machine's and the control group's.

use std::fs;

use super::cgroup::{self, Roots};

/// Use at which the cache should give memory back.
const PRESSURE_SHARE: f64 = 0.8;
/// What is assumed where the machine does not say: the smallest board larder is made for.
const RAM_BYTES_UNKNOWN: u64 = 512 * 1024 * 1024;

/// Memory in use out of what may be used. Page cache, which the kernel drops by itself, is not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that are in use and cannot be dropped.
    pub used_bytes: u64,
    /// Bytes that may be used.
    pub budget_bytes: u64,
}

impl Usage {
    /// The used part, from 0 to about 1.
    pub fn share(&self) -> f64 {
        self.used_bytes as f64 / self.budget_bytes.max(1) as f64
    }

    /// Whether memory is short: 80 % and more is in use.
    pub fn is_pressure(&self) -> bool {
        self.share() >= PRESSURE_SHARE
    }
}

/// Bytes of memory for us: the machine's, or the limit of the control group where that is less. 512 MiB if unknown.
pub fn ram_bytes() -> u64 {
    ram_bytes_in(&Roots::default())
}

/// Bytes for which this process has addresses, as far as they may run out: what `ulimit -v` allows, and 3 GiB on a machine
/// of 32 bits, where the kernel keeps the rest.
pub fn address_bytes() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    let narrow = (usize::BITS == 32).then_some(3 << 30);
    limit.into_iter().chain(narrow).min()
}

/// How full memory is now: the machine's or our control group's, whichever is fuller. `None` if neither says.
pub fn usage() -> Option<Usage> {
    usage_in(&Roots::default())
}

/// Gives memory that was freed back to the system. The allocator keeps it otherwise, above all between pieces that are
/// still in use: on a small board that is memory the page cache lacks. Takes milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: malloc_trim takes the allocator's own locks and touches only memory that is free; it may be called from
    // any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn ram_bytes_in(roots: &Roots) -> u64 {
    let limits = [machine(roots).map(|usage| usage.budget_bytes), cgroup::limit_bytes(roots)];
    limits.into_iter().flatten().filter(|bytes| *bytes > 0).min().unwrap_or(RAM_BYTES_UNKNOWN)
}

fn usage_in(roots: &Roots) -> Option<Usage> {
    let usages = [machine(roots), cgroup::tightest(roots)];
    usages.into_iter().flatten().max_by(|a, b| a.share().total_cmp(&b.share()))
}

fn machine(roots: &Roots) -> Option<Usage> {
    let text = fs::read_to_string(roots.proc.join("meminfo")).ok()?;
    let kib = |name: &str| -> Option<u64> {
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        rest.trim().trim_end_matches(" kB").parse().ok()
    };
    let (total, available) = (kib("MemTotal")?, kib("MemAvailable")?);
    Some(Usage { used_bytes: total.saturating_sub(available) * 1024, budget_bytes: total * 1024 })
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::tests::machine as make;
    use super::*;

    const MEMINFO: &str = "MemTotal:         500 kB\nMemFree:           10 kB\nMemAvailable:     300 kB\n";

    #[test]
    fn the_machine_alone_counts_without_a_limit() {
        let (_folder, roots) = make(&[("proc/meminfo", MEMINFO)]);
        assert_eq!(ram_bytes_in(&roots), 500 * 1024);
        let usage = usage_in(&roots).unwrap();
        assert_eq!(usage, Usage { used_bytes: 200 * 1024, budget_bytes: 500 * 1024 });
        assert!(!usage.is_pressure());
    }

    #[test]
    fn a_full_group_is_pressure_on_an_idle_machine() {
        let (_folder, roots) = make(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/cgroup", "0::/a\n"),
            ("cgroup/a/memory.max", "100000\n"),
            ("cgroup/a/memory.current", "95000\n"),
            ("cgroup/a/memory.stat", "anon 1\ninactive_file 10000\nactive_file 5000\n"),
        ]);
        assert_eq!(ram_bytes_in(&roots), 100_000);
        let usage = usage_in(&roots).unwrap();
        assert_eq!(usage.used_bytes, 80_000);
        assert!(usage.is_pressure());
    }

    #[test]
    fn a_limit_above_the_machine_is_no_more_memory() {
        let (_folder, roots) =
            make(&[("proc/meminfo", MEMINFO), ("proc/self/cgroup", "0::/\n"), ("cgroup/memory.max", "99999999999\n")]);
        assert_eq!(ram_bytes_in(&roots), 500 * 1024);
    }

    #[test]
    fn a_machine_that_says_nothing_is_the_smallest_board() {
        let (_folder, roots) = make(&[]);
        assert_eq!((ram_bytes_in(&roots), usage_in(&roots)), (RAM_BYTES_UNKNOWN, None));
    }

    #[test]
    fn this_machine_has_memory_and_a_core() {
        assert!(ram_bytes() > 1024 * 1024);
        assert!(usage().unwrap().used_bytes > 0);
        assert!(super::super::cores() >= 1);
    }
}
