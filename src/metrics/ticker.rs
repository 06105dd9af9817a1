//! The thread that opens a new slice every ten seconds. Without it the last minute is only as true as scrapes are frequent:
//! samples wait in their threads' lists until somebody pours them.

use std::io;
use std::thread::{Builder, JoinHandle};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

use super::registry::Registry;
use crate::board::watchdog::Watchdog;

/// Keeps the slices of a registry turning. Dropping it ends and joins the thread.
pub struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    /// Starts the thread `larder-metrics`. An error is that of starting a thread.
    pub fn start_ticker(&self, watchdog: &Watchdog) -> io::Result<Ticker> {
        let hub = self.0.hub.clone();
        let (stop, stopped) = bounded::<()>(0);
        let heartbeat = watchdog.heartbeat("larder-metrics");
        let thread = Builder::new().name("larder-metrics".to_owned()).spawn(move || {
            let wait = |max| stopped.recv_timeout(hub.until_next_slice().min(max));
            // Before the end of a slice a tick opens none.
            while heartbeat.wait(wait) == Err(RecvTimeoutError::Timeout) {
                hub.tick();
            }
        })?;
        Ok(Ticker { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // Closing the channel wakes the thread.
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the metrics thread ended in a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Registry;
    use crate::board::watchdog::Watchdog;
    use std::time::Duration;

    #[test]
    fn dropping_the_ticker_ends_its_thread_at_once() {
        let registry = Registry::default();
        drop(registry.start_ticker(&Watchdog::new()).unwrap());
        assert_eq!(std::sync::Arc::strong_count(&registry.0.hub), 1);
    }

    #[test]
    fn samples_belong_to_the_slice_that_was_open_when_they_were_recorded() {
        let registry = Registry::default();
        let sizes = registry.distribution("larder_size", "S.", &[]);
        sizes.record(1);
        registry.0.hub.tick_at(Duration::from_secs(10));
        sizes.record(2);
        let count = |seconds| {
            let slice = registry.0.hub.tick_at(Duration::from_secs(seconds));
            let views = registry.0.families.view(slice);
            match &views[0].series[0].1 {
                super::super::family::Figure::Distribution { last_minute, .. } => last_minute.count,
                super::super::family::Figure::Number(_) => panic!("a distribution"),
            }
        };
        assert_eq!((count(59), count(60), count(69), count(70)), (2, 1, 1, 0));
    }
}
