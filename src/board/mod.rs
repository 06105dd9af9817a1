//! What larder knows of the machine it runs on: memory, disk, its own process, and the service manager.
//!
//! Knows nothing of HTTP, keys or values. Everything is read from `/proc`, `/sys` and the environment when it is asked
//! for; what a machine does not tell is `None` or a documented default, never a guess.

mod cgroup;
pub mod clock;
pub mod descriptor;
pub mod disk;
pub mod folder;
pub mod memory;
pub mod notify;
pub mod overlap;
pub mod process;
pub mod watchdog;

/// Processor cores this process may use at once: the affinity mask and the cgroup's CPU quota are respected. At least 1.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
