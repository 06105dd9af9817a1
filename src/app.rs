//! Builds the parts, joins them, runs, drains.
//!
//! The order of a start: sockets (a port that is taken is the commonest error, so it comes first) → store → engine →
//! `READY`. The order of a stop: engine drains → committer syncs → hottest keys to disk → store closes.

mod housekeeping;
mod opening;
mod place;
pub mod preflight;
mod restart;
mod signals;
mod sockets;
mod starts;
mod warm;

use std::process::ExitCode;
use std::sync::Arc;

use crate::api::access::Access;
use crate::api::{Api, Parts};
use crate::board::{self, notify};
use crate::cache::Cache;
use crate::config::{Config, ConfigError, EngineKind, descriptors};
use crate::http::epoll::Epoll;
use crate::http::network::Unbounded;
use crate::http::tiny::TinyHttp;
use crate::http::{Ended, Engine, EngineOptions};
use crate::limits::LiveLimits;
use crate::logging;
use crate::metrics::Registry;

use signals::Signals;
use starts::Starts;

/// The process should be started anew: `EX_TEMPFAIL`.
const EXIT_RESTART: u8 = 75;
/// Something that a new start with the same settings will not mend.
const EXIT_FAILURE: u8 = 1;
/// Something in the configuration: a new start is of no use before it is changed (`EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;

/// Why a start came to nothing.
struct Refusal {
    code: u8,
    reason: String,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal { code: EXIT_FAILURE, reason }
    }
}

impl From<ConfigError> for Refusal {
    fn from(error: ConfigError) -> Refusal {
        Refusal { code: EXIT_CONFIG, reason: error.to_string() }
    }
}

/// What a process has been given, and must take before anything else.
pub struct Given {
    handed_over: sockets::HandedOver,
    signals: Signals,
}

impl Given {
    /// Takes the sockets that were handed over, and the signals: from here on SIGHUP ends nothing, and SIGTERM and SIGINT
    /// end it cleanly, even where all is yet to begin.
    pub fn take() -> std::io::Result<Given> {
        // Before the first thread.
        board::process::set_stack_bytes();
        // Before the pipes of the signals: their numbers may be ones that LISTEN_FDS names wrongly.
        let handed_over = notify::listen_fds();
        Ok(Given { handed_over, signals: Signals::catch()? })
    }
}

/// Serves with this configuration until told to stop; the exit code says how it ended.
pub fn run(config: Config, given: Given) -> ExitCode {
    if let Err(error) = logging::init(config.log_level) {
        crate::cli::complain(&format!("the thread that writes the log could not be started: {error}"));
        return ExitCode::from(EXIT_FAILURE);
    }
    logging::tell_panics();
    let starts = Starts::of_this_service();
    starts.hold_back(&given.signals.drain);
    let code = match serve(config, given) {
        Ok(Ended::Drained) => {
            starts.forget();
            ExitCode::SUCCESS
        }
        Ok(Ended::CutShort) => {
            starts.forget();
            log::warn!("some connections were cut: they did not finish in time");
            ExitCode::SUCCESS
        }
        Ok(Ended::Exhausted) => ExitCode::from(EXIT_RESTART),
        Err(refusal) => {
            log::error!("{}", refusal.reason);
            ExitCode::from(refusal.code)
        }
    };
    log::logger().flush();
    code
}

fn serve(config: Config, given: Given) -> Result<Ended, Refusal> {
    let drain = given.signals.drain.clone();
    if drain.is_set() {
        return Ok(Ended::Drained);
    }
    let config = Arc::new(config);
    let listeners = sockets::listen(&config, given.handed_over)?;
    let registry = Registry::default();
    board::process::register(&registry, &config.data_dir);
    let help = "Log lines that were never shown: nobody read standard error, or it took no more.";
    registry.sampled_counter("larder_log_lines_dropped_total", help, &[], Box::new(|| logging::dropped_lines() as f64));
    board::process::register_build(&registry, crate::api::health::engine_name(config.engine));
    let limits = Arc::new(LiveLimits::new(config.limits.clone()));
    let access = Access::open(&config, &registry)?;
    sockets::check_exposure(&config, &listeners, access.has_tokens())?;
    let cache = Arc::new(Cache::new(config.cache_bytes, board::cores(), &registry));
    let api = Arc::new(Api::new(Parts {
        config: config.clone(),
        limits: limits.clone(),
        cache,
        access: Arc::new(access),
        registry: registry.clone(),
        files: preflight::files(&config)?,
        drain: drain.clone(),
    }));
    let _ticker = registry
        .start_ticker(&api.watchdog)
        .map_err(|error| format!("the metrics thread could not be started: {error}"))?;
    given.signals.serve(&api);
    let store = opening::open(&api)?;
    if let Some(text) = descriptors::cut(&config) {
        log::warn!("{text}");
    }
    if let Some(text) = preflight::open_to_others(&config) {
        log::warn!("{text}");
    }
    api.access.note_kept();
    let background = housekeeping::start(&api).map_err(|error| format!("a thread could not be started: {error}"))?;

    sockets::announce(&listeners, &config, api.access.has_tokens(), api.store().is_some());
    let options = EngineOptions {
        workers: config.workers,
        io_threads: config.io_threads,
        limits,
        unbounded: Unbounded { loopback: true, proxies: config.trusted_proxies.clone() },
        drain: drain.clone(),
        registry,
        watchdog: api.watchdog.clone(),
    };
    let ended = engine(config.engine).serve(listeners, api.clone(), options);

    notify::stopping("draining");
    drain.start();
    api.chores.stop();
    let restart = background.stop();
    let closed = opening::close(&api, store);
    if let Some(reason) = restart {
        // After the failure that this restart is to mend, the close fails as well.
        return Err(Refusal { code: EXIT_RESTART, reason });
    }
    closed?;
    let engine = crate::api::health::engine_name(config.engine);
    Ok(ended.map_err(|error| format!("the {engine} engine stopped: {error}"))?)
}

fn engine(kind: EngineKind) -> Box<dyn Engine> {
    match kind {
        EngineKind::TinyHttp => Box::new(TinyHttp),
        EngineKind::Epoll => Box::new(Epoll),
    }
}
