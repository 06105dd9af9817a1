//! Builds the parts, joins them, runs, drains.
//!
//! The order of a start: sockets (a port that is taken is the commonest error, so it comes first) → store → engine →
//! `READY`. The order of a stop: engine drains → committer syncs → hottest keys to disk → store closes.

mod housekeeping;
mod opening;
pub mod preflight;
mod restart;
mod signals;
mod warm;

use std::process::ExitCode;
use std::sync::Arc;

use crate::api::access::Access;
use crate::api::{Api, Parts};
use crate::board::{self, notify};
use crate::cache::Cache;
use crate::config::{Config, ConfigError, EngineKind, ListenAddress, descriptors};
use crate::http::epoll::Epoll;
use crate::http::listener::Listener;
use crate::http::network::Unbounded;
use crate::http::tiny::TinyHttp;
use crate::http::{DrainSignal, Ended, Engine, EngineOptions};
use crate::limits::LiveLimits;
use crate::logging;
use crate::metrics::Registry;

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

/// Serves with this configuration until told to stop; the exit code says how it ended.
pub fn run(config: Config) -> ExitCode {
    if let Err(error) = logging::init(config.log_level) {
        crate::cli::complain(&format!("the thread that writes the log could not be started: {error}"));
        return ExitCode::from(EXIT_FAILURE);
    }
    logging::tell_panics();
    let code = match serve(config) {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::CutShort) => {
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

fn serve(config: Config) -> Result<Ended, Refusal> {
    let config = Arc::new(config);
    let listeners = listen(&config)?;
    let drain = DrainSignal::default();
    let registry = Registry::default();
    board::process::register(&registry, &config.data_dir);
    let help = "Log lines that were never shown: nobody read standard error, or it took no more.";
    registry.sampled_counter("larder_log_lines_dropped_total", help, &[], Box::new(|| logging::dropped_lines() as f64));
    board::process::register_build(&registry, crate::api::health::engine_name(config.engine));
    let limits = Arc::new(LiveLimits::new(config.limits.clone()));
    let access = Access::open(&config, &registry)?;
    check_exposure(&config, &listeners, access.has_tokens())?;
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
    signals::install(&api).map_err(|error| format!("the signal handlers could not be installed: {error}"))?;
    let store = opening::open(&api)?;
    if let Some(text) = descriptors::cut(&config) {
        log::warn!("{text}");
    }
    if let Some(text) = preflight::open_to_others(&config) {
        log::warn!("{text}");
    }
    api.access.note_kept();
    let background = housekeeping::start(&api).map_err(|error| format!("a thread could not be started: {error}"))?;

    announce(&listeners, &config);
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

fn listen(config: &Config) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::new();
    for address in &config.listen {
        let bound = match address {
            ListenAddress::Tcp(address) => Listener::bind_tcp(*address).map(|listener| vec![listener]),
            ListenAddress::Unix(path) => Listener::bind_unix(path).map(|listener| vec![listener]),
            ListenAddress::Inherited => inherited(),
        };
        listeners.extend(bound.map_err(|error| format!("cannot listen on {address}: {error}"))?);
    }
    if listeners.is_empty() {
        return Err("there is no socket to listen on; fd:// needs a systemd socket unit".to_owned());
    }
    Ok(listeners)
}

/// Looks at the addresses as they are: those that systemd bound stand in no configuration.
fn check_exposure(config: &Config, listeners: &[Listener], tokens: bool) -> Result<(), ConfigError> {
    for listener in listeners {
        let Listener::Tcp(socket) = listener else { continue };
        let Ok(address) = socket.local_addr() else { continue };
        config.check_exposure(address, tokens).map_err(|message| ConfigError { source: None, message })?;
    }
    Ok(())
}

fn inherited() -> std::io::Result<Vec<Listener>> {
    notify::listen_fds()?.into_iter().map(|(fd, _)| Listener::from_fd(fd)).collect()
}

/// Says on stdout where larder listens, and to the service manager that it is ready.
fn announce(listeners: &[Listener], config: &Config) {
    let urls: Vec<String> = listeners.iter().map(Listener::url).collect();
    let mut text: String = urls.iter().map(|url| format!("larder listening on {url}\n")).collect();
    if let Some(url) = urls.iter().find(|url| url.starts_with("http")) {
        let path = "/api/v1/kv/home/notes/first";
        text.push_str(&format!("try: curl -i -X PUT {url}{path} -H 'Content-Type: text/plain' -d 'hello'\n"));
    }
    logging::say(text);
    if config.engine == EngineKind::TinyHttp {
        log::info!("engine tiny_http: for trusted networks; --engine epoll is for many or untrusted clients");
    }
    notify::ready(&format!("listening on {}", urls.join(", ")));
}

fn engine(kind: EngineKind) -> Box<dyn Engine> {
    match kind {
        EngineKind::TinyHttp => Box::new(TinyHttp),
        EngineKind::Epoll => Box::new(Epoll),
    }
}
