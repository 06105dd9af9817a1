//! The figures of our own process and of the disk under the data, under the names Prometheus gives them everywhere.
//! Sampled when the page is asked for; a figure the machine does not tell is NaN.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::disk;
use crate::metrics::{Registry, Sampler};

/// The commit that this was built from: empty in a debug build and outside of a checkout, see the build script.
pub const COMMIT: &str = env!("LARDER_COMMIT");

/// Registers the figures of the process, and the room on the file system of `data_dir`.
pub fn register(registry: &Registry, data_dir: &Path) {
    let gauges: [(&'static str, &'static str, Sampler); 6] = [
        ("process_resident_memory_bytes", "Resident memory size in bytes.", sampler(resident_bytes)),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", sampler(|| stat(23))),
        ("process_open_fds", "Open file descriptors.", sampler(open_descriptors)),
        ("process_max_fds", "File descriptors that may be open at once.", sampler(descriptors_max)),
        ("process_threads", "Threads of the process.", sampler(|| stat(20))),
        ("process_start_time_seconds", "Start of the process, in seconds since 1970.", sampler(start_time_seconds)),
    ];
    for (name, help, sampler) in gauges {
        registry.sampled_gauge(name, help, &[], sampler);
    }
    registry.sampled_counter(
        "process_cpu_seconds_total",
        "Processor time used, in user and system mode.",
        &[],
        sampler(cpu_seconds),
    );
    registry.sampled_counter(
        "larder_device_write_bytes_total",
        "Bytes this process caused to be written to storage, as the kernel counts them: what wears the card.",
        &[],
        sampler(device_write_bytes),
    );
    let started = Instant::now();
    registry.sampled_gauge(
        "larder_uptime_seconds",
        "Time since larder started, by a clock that is never set.",
        &[],
        sampler(move || Some(started.elapsed().as_secs_f64())),
    );
    register_disk(registry, data_dir.to_path_buf());
}

/// Registers `larder_build_info`: version, commit (where the build was told one), target and the engine in use.
pub fn register_build(registry: &Registry, engine: &'static str) {
    let labels = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("commit", COMMIT.to_owned()),
        ("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)),
        ("engine", engine.to_owned()),
    ];
    registry.gauge_with("larder_build_info", "What is running; the value is always 1.", labels).set(1);
}

fn register_disk(registry: &Registry, data_dir: PathBuf) {
    let dir = data_dir.clone();
    registry.sampled_gauge(
        "larder_disk_free_bytes",
        "Bytes that may still be written to the file system of the data.",
        &[],
        sampler(move || Some(disk::free(&dir).ok()?.free_bytes as f64)),
    );
    registry.sampled_gauge(
        "larder_disk_size_bytes",
        "Bytes of the file system of the data.",
        &[],
        sampler(move || Some(disk::free(&data_dir).ok()?.total_bytes as f64)),
    );
}

fn sampler(ask: impl Fn() -> Option<f64> + Send + Sync + 'static) -> Sampler {
    Box::new(move || ask().unwrap_or(f64::NAN))
}

/// A field of `/proc/self/stat`, by its number in proc(5).
fn stat(field: usize) -> Option<f64> {
    stat_field(&fs::read_to_string("/proc/self/stat").ok()?, field)
}

/// The second field is the program's name in parentheses, which may itself hold spaces and parentheses.
fn stat_field(text: &str, field: usize) -> Option<f64> {
    const FIRST_AFTER_NAME: usize = 3;
    let after_name = text.get(text.rfind(')')? + 1..)?;
    after_name.split_ascii_whitespace().nth(field.checked_sub(FIRST_AFTER_NAME)?)?.parse().ok()
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

fn cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    Some((stat_field(&text, 14)? + stat_field(&text, 15)?) / ticks_per_second())
}

fn resident_bytes() -> Option<f64> {
    Some(stat(24)? * rustix::param::page_size() as f64)
}

fn start_time_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Some(boot + stat(22)? / ticks_per_second())
}

/// The folder itself is open while it is listed.
fn open_descriptors() -> Option<f64> {
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

/// The stack of a thread: tiny_http starts one for every connection, through the standard library, which would take 2 MiB.
pub const STACK_BYTES: usize = if cfg!(debug_assertions) { 1 << 20 } else { 256 << 10 };
/// Where the standard library looks for it, once, at the first thread.
pub const STACK_VARIABLE: &str = "RUST_MIN_STACK";

/// Gives the threads that are started from now on stacks of this size, unless the environment has another.
///
/// Must be called before there is any other thread.
pub fn set_stack_bytes() {
    if std::env::var_os(STACK_VARIABLE).is_none() {
        #[allow(unsafe_code)]
        // SAFETY: nobody else can read the environment meanwhile, since this is the only thread.
        unsafe {
            std::env::set_var(STACK_VARIABLE, STACK_BYTES.to_string());
        }
    }
}

/// Raises the number of files that may be open at once as far as this process may, and returns it; `None` if it has no
/// end. A login shell gives 1024 and lets them be raised: a program that waits with `select` could not bear more, and
/// larder does not.
pub fn raise_descriptors_max() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

fn descriptors_max() -> Option<f64> {
    let limit = getrlimit(Resource::Nofile).current;
    Some(limit.map_or(f64::INFINITY, |limit| limit as f64))
}

fn device_write_bytes() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_parentheses_shifts_no_field() {
        assert_eq!(stat_field("42 (a) b (c) S 1 2", 4), Some(1.0));
        assert_eq!(stat_field("42 (a) S 1", 9), None);
        assert_eq!(stat_field("", 4), None);
    }

    #[test]
    fn every_figure_of_this_process_is_known_and_likely() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::default();
        register(&registry, folder.path());
        register_build(&registry, "tiny_http");
        let page = registry.expose();
        let value = |name: &str| -> f64 {
            let line = page.lines().find(|line| line.split([' ', '{']).next() == Some(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(f64::NAN)
        };
        for name in ["process_resident_memory_bytes", "process_virtual_memory_bytes", "larder_disk_size_bytes"] {
            assert!(value(name) > 100_000.0, "{name} in {page}");
        }
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") < value("process_max_fds"));
        assert!(value("process_threads") >= 1.0);
        assert!(value("process_start_time_seconds") > 1.7e9);
        assert!(value("process_cpu_seconds_total") >= 0.0 && value("larder_device_write_bytes_total") >= 0.0);
        assert!(value("larder_uptime_seconds") >= 0.0 && value("larder_disk_free_bytes") > 0.0);
        assert_eq!(value("larder_build_info"), 1.0);
        assert!(page.contains("engine=\"tiny_http\""), "{page}");
        assert!(page.contains(&format!("commit=\"{COMMIT}\"")), "{page}");
    }

    #[test]
    fn a_data_folder_that_is_gone_makes_its_figures_unknown_and_nothing_else() {
        let registry = Registry::default();
        register(&registry, Path::new("/nowhere/at/all"));
        let page = registry.expose();
        assert!(page.contains("larder_disk_free_bytes NaN\n") && !page.contains("process_threads NaN\n"), "{page}");
    }
}
