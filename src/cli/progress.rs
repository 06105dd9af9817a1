//! How far a long command is, on a terminal; nothing at all anywhere else.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(200);

/// A line on stderr that is written over and over.
pub struct Progress {
    what: &'static str,
    began: Instant,
    shown: Option<Instant>,
    visible: bool,
    bytes: u64,
    items: u64,
}

impl Progress {
    /// Begins; `what` is the verb.
    pub fn new(what: &'static str) -> Progress {
        let visible = std::io::stderr().is_terminal();
        Progress { what, began: Instant::now(), shown: None, visible, bytes: 0, items: 0 }
    }

    /// Notes what was done since the last call.
    pub fn add(&mut self, items: u64, bytes: u64) {
        self.items += items;
        self.bytes += bytes;
        if self.visible && self.shown.is_none_or(|shown| shown.elapsed() >= EVERY) {
            self.shown = Some(Instant::now());
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", self.line());
        }
    }

    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let mib = self.bytes as f64 / (1024.0 * 1024.0);
        let items = if self.items > 0 { format!(" {} values,", self.items) } else { String::new() };
        format!("{}:{items} {mib:.1} MiB, {seconds:.0} s", self.what)
    }
}

impl Drop for Progress {
    /// The line goes; what the command says at its end stands alone.
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
