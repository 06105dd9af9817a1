//! SIGINT and SIGTERM stop larder, a second one at once; SIGHUP reads log level, tokens and limits again.

use std::io;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::api::Api;
use crate::http::DrainSignal;
use crate::logging;

/// The exit code of a stop that waited for nothing: what a shell shows for SIGINT.
const EXIT_FORCED: i32 = 130;

/// The signals, taken over. The handler threads live as long as the process.
pub struct Signals {
    /// Set by SIGINT and SIGTERM.
    pub drain: DrainSignal,
    reloading: Arc<Mutex<Reloading>>,
}

/// Who is to read again, once it is there, and whether it has been asked for before.
#[derive(Default)]
struct Reloading {
    api: Option<Arc<Api>>,
    is_asked: bool,
}

impl Signals {
    /// Takes them over.
    pub fn catch() -> io::Result<Signals> {
        let (drain, reloading) = (DrainSignal::default(), Arc::<Mutex<Reloading>>::default());
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGHUP])?;
        let on_interrupt = drain.clone();
        // Without its `termination` feature this takes SIGINT alone.
        ctrlc::set_handler(move || stop(&on_interrupt, "SIGINT")).map_err(io::Error::other)?;
        let caught = Signals { drain: drain.clone(), reloading: reloading.clone() };
        thread::Builder::new().name("larder-signals".into()).spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => {
                        let mut reloading = reloading.lock();
                        match &reloading.api {
                            Some(api) => reload(api),
                            None => reloading.is_asked = true,
                        }
                    }
                    _ => stop(&drain, "SIGTERM"),
                }
            }
        })?;
        Ok(caught)
    }

    /// From here on SIGHUP has something to read again; if it came before, that is done now.
    pub fn serve(&self, api: &Arc<Api>) {
        let mut reloading = self.reloading.lock();
        reloading.api = Some(api.clone());
        if std::mem::take(&mut reloading.is_asked) {
            reload(api);
        }
    }
}

fn stop(drain: &DrainSignal, signal: &str) {
    if drain.is_set() {
        log::warn!("{signal} again: leaving at once; what was acknowledged as synced is on the card");
        log::logger().flush();
        // IMPORTANT: no destructors. One of them may be what hangs.
        std::process::exit(EXIT_FORCED);
    }
    log::info!("{signal}: answering what was accepted, then stopping");
    drain.start();
}

fn reload(api: &Api) {
    match api.config.reload() {
        Ok(reloaded) => {
            log::info!("SIGHUP: log level and limits were read again");
            logging::set_level(reloaded.log_level);
            api.limits.set(reloaded.limits);
            if !reloaded.needs_restart.is_empty() {
                log::warn!("changed, but in force only after a restart: {}", reloaded.needs_restart.join(", "));
            }
        }
        Err(errors) => {
            for error in errors {
                log::error!("the settings stay as they are: {error}");
            }
        }
    }
    match api.access.reload() {
        Ok(tokens) => log::info!("SIGHUP: the tokens were read again: {tokens}"),
        Err(error) => log::error!("the tokens stay as they are: {error}"),
    }
}
