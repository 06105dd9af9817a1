//! The log: lines on standard error, for a terminal or for the journal. Not an access log: what every request does is in
//! the metrics, and one line for each would wear the card.
//!
//! Invariant: one record is one line. Control characters are shown escaped, so that nothing a client sends can begin a
//! line of its own or move a terminal's cursor.
//!
//! Invariant: nothing that is said, here or on standard output, keeps who says it waiting for who reads.

mod limit;
mod line;
mod outlet;
mod slow;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::thread;
use std::time::SystemTime;

use log::{Level, LevelFilter, Log, Metadata, Record};
use outlet::{Entry, Outlet};

pub use limit::RateLimit;
pub use line::Form;
pub use slow::{SlowRequest, log_slow};

/// The logger of the process.
struct StderrLogger {
    form: Form,
    outlet: Outlet,
}

impl Log for StderrLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= level_for(metadata.target(), log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line::format(self.form, record.level(), record.target(), record.args(), SystemTime::now());
            self.outlet.push(line);
        }
    }

    /// Waits for the reader of standard error, but not for one that does not read.
    fn flush(&self) {
        self.outlet.flush();
    }
}

impl StderrLogger {
    /// Writes what is queued, one write for one line: those of other processes do not mix in.
    fn run(&self) -> ! {
        let mut is_torn = false;
        self.outlet.run(|entry| match entry {
            Entry::Line(line) => outlet::write_text(io::stderr(), line, &mut is_torn),
            Entry::Gap(lines) => {
                let message = format_args!("{lines} log lines were dropped here: they could not be written in time");
                let line = line::format(self.form, Level::Warn, module_path!(), &message, SystemTime::now());
                outlet::write_text(io::stderr(), &line, &mut is_torn)
            }
        })
    }
}

static LOGGER: OnceLock<StderrLogger> = OnceLock::new();

/// Sends the log of the whole process to standard error, in the form that suits it. Later calls only set the level. Before
/// the process ends, `log::logger().flush()` waits for what is queued. An error is that of starting a thread.
pub fn init(level: LevelFilter) -> io::Result<()> {
    set_level(level);
    let mut started = Ok(());
    let logger = LOGGER.get_or_init(|| StderrLogger { form: Form::of_stderr(), outlet: Outlet::default() });
    // It fails only where a logger is set already: ours, or that of a program that embeds the library.
    if log::set_logger(logger).is_ok() {
        started = thread::Builder::new().name("larder-log".into()).spawn(|| logger.run()).map(drop);
    }
    started
}

/// Lines that were never shown because nobody read standard error, or because it took no more.
pub fn dropped_lines() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.outlet.dropped())
}

/// Panics are told in the log from now on: the standard library's own hook writes to standard error and waits.
pub fn tell_panics() {
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("no message");
    log::error!("the thread {} panicked at {place}: {message}", thread.name().unwrap_or("?"));
    // Only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        backtrace.to_string().lines().for_each(|line| log::error!("{line}"));
    }
}

/// Writes to standard output from a thread of its own, which stays behind where nobody reads.
pub fn say(text: String) {
    let say = move || {
        // A closed standard output must not stop a server.
        let _ = outlet::write_text(io::stdout(), &text, &mut false);
    };
    if let Err(error) = thread::Builder::new().name("larder-say".into()).spawn(say) {
        log::warn!("nothing was written to standard output: {error}");
    }
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
        init(LevelFilter::Error).unwrap();
        assert!(!log::log_enabled!(target: "larder", log::Level::Warn));
        init(LevelFilter::Warn).unwrap();
        assert!(log::log_enabled!(target: "larder", log::Level::Warn));
        set_level(LevelFilter::Off);
        assert!(!log::log_enabled!(target: "larder", log::Level::Error));
    }
}
