//! Files and folders that must not stay behind: they go with what made them, and also if a signal ends the program.
//!
//! Not here: what a file is for. What SIGKILL or a power cut leaves behind stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Once;

use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

const FOLDER_TRIES: usize = 100;

static NAMES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file, or a folder, under a name that lasts no longer than this.
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Has a file removed at the end, which `make` makes; if it fails, there is none.
    pub fn make<T>(path: PathBuf, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<(T, Unfinished)> {
        static WATCH: Once = Once::new();
        WATCH.call_once(watch_signals);
        // Under the lock: no signal falls between the file and its being known.
        let mut names = NAMES.lock();
        let made = make(&path)?;
        names.push(path.clone());
        Ok((made, Unfinished(path)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Unfinished {
    /// Where it got its final name, nothing is left under this one.
    fn drop(&mut self) {
        let mut names = NAMES.lock();
        remove(&self.0);
        names.retain(|name| *name != self.0);
    }
}

/// A folder may be written into meanwhile.
fn remove(path: &Path) {
    let gone = fs::remove_file(path).is_ok() || !path.exists();
    let _ = gone || (0..FOLDER_TRIES).any(|_| fs::remove_dir_all(path).is_ok());
}

/// What cannot be watched leaves files behind at worst.
fn watch_signals() {
    let heeded = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !is_ignored(*signal));
    let Ok(mut signals) = signal_hook::iterator::Signals::new(heeded) else { return };
    let watch = move || {
        for signal in signals.forever() {
            // Held to the end: no other file is begun.
            let names = NAMES.lock();
            for name in names.iter() {
                remove(name);
            }
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    if std::thread::Builder::new().name("signals".to_owned()).spawn(watch).is_ok() {
        block_here();
    }
}

/// Leaves the signals to the thread that watches for them: elsewhere they would break off a read, whose failure would
/// then be told before the program ends.
fn block_here() {
    #[allow(unsafe_code)]
    // SAFETY: the set is made by sigemptyset before it is used, and nothing is kept of it.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        if libc::sigemptyset(set.as_mut_ptr()) == 0 {
            for signal in [SIGINT, SIGTERM, SIGHUP] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        }
    }
}

/// Whether whoever started us wants a signal to be ignored, as `nohup` does.
pub fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}
