//! Builds the parts, joins them, runs, drains.

use std::process::ExitCode;

use crate::config::Config;

/// Serves with this configuration until told to stop; the exit code says how it ended.
pub fn run(_config: Config) -> ExitCode {
    log::error!("the parts of the server are not joined yet");
    ExitCode::FAILURE
}
