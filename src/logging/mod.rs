//! The log: lines on standard error, for a terminal or for the journal. Not an access log: what every request does is in
//! the metrics, and one line for each would wear the card.
//!
//! Invariant: one record is one line. Control characters are shown escaped, so that nothing a client sends can begin a
//! line of its own or move a terminal's cursor.

mod limit;
mod line;
mod slow;

use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

pub use limit::RateLimit;
pub use line::Form;
pub use slow::{SlowRequest, log_slow};

/// The logger of the process.
struct StderrLogger {
    form: Form,
}

impl Log for StderrLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= level_for(metadata.target(), log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line::format(self.form, record.level(), record.target(), record.args(), SystemTime::now());
            // One write for one line: lines of several threads do not mix. A closed standard error is no reason to fail.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Sends the log of the whole process to standard error, in the form that suits it. Later calls only set the level.
pub fn init(level: LevelFilter) {
    static LOGGER: OnceLock<StderrLogger> = OnceLock::new();
    let logger = LOGGER.get_or_init(|| StderrLogger { form: Form::of_stderr() });
    // It fails only where a logger is set already: ours, or that of a program that embeds the library.
    let _ = log::set_logger(logger);
    set_level(level);
}

/// Sets the level from now on.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Libraries speak at `info` of what matters to their authors: below `debug` only their warnings are shown. tiny_http calls
/// it an error when its accept loop ends, also where we end it to stop; the engine says in its own words what matters.
fn level_for(target: &str, level: LevelFilter) -> LevelFilter {
    if target == "tiny_http" && level < LevelFilter::Debug {
        return LevelFilter::Off;
    }
    let ours = target.strip_prefix("larder").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    if ours || level >= LevelFilter::Debug { level } else { level.min(LevelFilter::Warn) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quieter_than_we_are_until_debug() {
        assert_eq!(level_for("larder::store", LevelFilter::Info), LevelFilter::Info);
        assert_eq!(level_for("larder", LevelFilter::Info), LevelFilter::Info);
        assert_eq!(level_for("larderette", LevelFilter::Info), LevelFilter::Warn);
        assert_eq!(level_for("fjall::db", LevelFilter::Info), LevelFilter::Warn);
        assert_eq!(level_for("fjall::db", LevelFilter::Debug), LevelFilter::Debug);
        assert_eq!(level_for("fjall::db", LevelFilter::Error), LevelFilter::Error);
        assert_eq!(level_for("tiny_http", LevelFilter::Info), LevelFilter::Off);
        assert_eq!(level_for("tiny_http", LevelFilter::Debug), LevelFilter::Debug);
    }

    #[test]
    fn the_level_can_be_set_again() {
        init(LevelFilter::Error);
        assert!(!log::log_enabled!(target: "larder", log::Level::Warn));
        init(LevelFilter::Warn);
        assert!(log::log_enabled!(target: "larder", log::Level::Warn));
        set_level(LevelFilter::Off);
        assert!(!log::log_enabled!(target: "larder", log::Level::Error));
    }
}
