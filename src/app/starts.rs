//! Whether the last starts came to nothing, and how long the next one waits for that.
//!
//! The service manager starts larder again a second after it has ended, whatever ended it. Where that happens at once, again
//! and again (a port that another program has, a crash), each start wears the card and fills the journal. So the third in a
//! row is the last without a wait; then they wait longer each time, up to a minute. Who is told to stop forgets all of it.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::board::clock::boot_time;
use crate::board::notify;
use crate::http::DrainSignal;

/// In the folder that lasts as long as the service is tried: how many starts have ended at once, and the boot time of the
/// last one, ms.
const FILE: &str = "larder.starts";
/// A process that lasted for so long has not ended at once; the pause of the service manager is in it.
const FAST: Duration = Duration::from_secs(15);
/// So many may end at once without a wait.
const FREE: u32 = 3;
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The starts of this service.
pub struct Starts {
    file: Option<PathBuf>,
}

impl Starts {
    /// Those of which the service manager lets a note last from one to the next; else there is none, and no wait.
    pub fn of_this_service() -> Starts {
        let folders = std::env::var("RUNTIME_DIRECTORY").ok().filter(|_| notify::is_supervised());
        let first = folders.as_deref().and_then(|folders| folders.split(':').next()).filter(|first| !first.is_empty());
        Starts { file: first.map(|first| PathBuf::from(first).join(FILE)) }
    }

    /// Waits if the last starts have ended at once; not for longer than until larder is to stop.
    pub fn hold_back(&self, drain: &DrainSignal) {
        let Some(file) = &self.file else { return };
        let noted = std::fs::read_to_string(file).unwrap_or_default();
        let ended = ended_at_once(&noted, boot_time());
        let wait = wait_after(ended);
        if !wait.is_zero() {
            let text = format!("the last {ended} starts ended at once: the next one is in {} s", wait.as_secs());
            log::warn!("{text}");
            notify::status(&text);
        }
        let until = boot_time() + wait;
        while boot_time() < until && !drain.is_set() {
            thread::sleep(LOOK_EVERY);
        }
        // Without the note the next start does not wait, which is how it was.
        let _ = std::fs::write(file, format!("{ended} {}\n", boot_time().as_millis()));
    }

    /// Larder ends because it was told to.
    pub fn forget(&self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// How many starts in a row have ended at once, by the note of the last one.
fn ended_at_once(noted: &str, now: Duration) -> u32 {
    let mut numbers = noted.split_whitespace().map(|number| number.parse::<u64>().ok());
    let (Some(Some(ended)), Some(Some(at_ms))) = (numbers.next(), numbers.next()) else { return 0 };
    let since = now.checked_sub(Duration::from_millis(at_ms));
    since.filter(|since| *since < FAST).map_or(0, |_| u32::try_from(ended).unwrap_or(u32::MAX).saturating_add(1))
}

fn wait_after(ended: u32) -> Duration {
    let Some(more) = ended.checked_sub(FREE) else { return Duration::ZERO };
    2u32.checked_pow(more + 1).map_or(WAIT_MAX, |seconds| Duration::from_secs(seconds.into()).min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_starts_are_free_and_then_the_waits_grow_to_a_minute() {
        let waits: Vec<u64> = (0..11).map(|ended| wait_after(ended).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(wait_after(u32::MAX), WAIT_MAX);
    }

    #[test]
    fn what_lasted_or_is_of_another_boot_does_not_count() {
        let now = Duration::from_secs(100);
        for (noted, ended) in [
            ("0 99000", 1),
            ("2 99000\n", 3),
            ("7 85001", 8),
            ("7 85000", 0),
            ("7 100001", 0),
            ("", 0),
            ("7", 0),
            ("x 99000", 0),
            ("-1 99000", 0),
            ("99999999999 99000", u32::MAX),
        ] {
            assert_eq!(ended_at_once(noted, now), ended, "{noted}");
        }
    }
}
