//! SIGINT and SIGTERM stop larder, a second one at once; SIGHUP reads log level, tokens and limits again.

use std::io;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;

use crate::api::Api;
use crate::http::DrainSignal;
use crate::logging;

/// The exit code of a stop that waited for nothing: what a shell shows for SIGINT.
const EXIT_FORCED: i32 = 130;

/// Takes the three signals over. The handler threads live as long as the process.
pub fn install(api: &Arc<Api>) -> io::Result<()> {
    let drain = api.drain.clone();
    // Without its `termination` feature this takes SIGINT alone.
    ctrlc::set_handler(move || stop(&drain, "SIGINT")).map_err(io::Error::other)?;
    let mut signals = Signals::new([SIGTERM, SIGHUP])?;
    let api = api.clone();
    thread::Builder::new().name("larder-signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => reload(&api),
                _ => stop(&api.drain, "SIGTERM"),
            }
        }
    })?;
    Ok(())
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
