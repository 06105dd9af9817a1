//! The settings of a running larder: typed, validated, immutable once loaded.
//!
//! They come in two stages. The first ([`raw`]) takes values as they were given; the second ([`settings`]) gives each
//! its type and range and puts it in its place, in the order defaults < file < environment < flags; at last
//! [`rules`] looks at how they go together. Invariant: a `Config` that [`load`] returned contradicts nothing, and
//! nothing that was given is ignored.

pub mod addresses;
pub mod descriptors;
pub mod env;
pub mod error;
pub mod example;
pub mod field;
pub mod file;
pub mod load;
pub mod raw;
pub mod rules;
pub mod settings;
pub mod suggest;
pub mod units;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::http::cache_control::ResponseRule;
use crate::http::listener::BACKLOG;
use crate::http::network::Proxies;
use crate::http::static_files::IMMUTABLE_FOLDERS;
use crate::limits::Limits;
use crate::store::Durability;

pub use error::{ConfigError, Source};
pub use load::{Board, Inputs, Loaded, Reloaded, load};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(std::net::SocketAddr),
    /// A Unix socket (epoll only), mode 0660.
    Unix(PathBuf),
    /// The sockets that systemd hands over.
    Inherited,
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(f, "{address}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ListenAddress::Inherited => f.write_str("fd://"),
        }
    }
}

/// Which engine carries the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// tiny_http: the default, for trusted networks.
    TinyHttp,
    /// Our own, for many or untrusted clients.
    Epoll,
}

/// Which store holds the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// fjall, on the card.
    Fjall,
    /// In memory: gone when the process ends.
    Memory,
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Tokens; without any token only local clients are served.
    Tokens,
    /// Everyone may do everything, but for web pages of elsewhere. Must be chosen.
    Open,
}

/// A rule of `[[cache_control]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheControlRule {
    /// The namespace it is for; `None` is any.
    pub namespace: Option<String>,
    /// The collection it is for; `None` is any.
    pub collection: Option<String>,
    /// The header's value.
    pub value: ResponseRule,
}

/// An entry of `[[unsandboxed]]`: where stored HTML, SVG and XML may run scripts on larder's own origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The namespace.
    pub namespace: String,
    /// The collection; `None` is all of them.
    pub collection: Option<String>,
}

/// All settings.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Config {
    // [server]
    pub listen: Vec<ListenAddress>,
    pub engine: EngineKind,
    pub workers: usize,
    pub io_threads: usize,
    pub backlog: usize,
    pub trusted_proxies: Proxies,
    // [store]
    pub store: StoreKind,
    pub data_dir: PathBuf,
    pub durability: Durability,
    pub sync_interval: Duration,
    pub reserve_bytes: Option<u64>,
    pub block_cache_bytes: u64,
    pub memtable_bytes: u64,
    // [cache]
    pub cache_bytes: u64,
    // [expiry]
    pub expiry_scan_rate: u64,
    // [auth]
    pub auth_mode: AuthMode,
    pub tokens_file: Option<PathBuf>,
    pub public_read: Vec<String>,
    pub auth_hosts: Vec<String>,
    // [rate]
    pub rate_per_second: Option<f64>,
    pub rate_burst: u32,
    // [cors]
    pub cors_origins: Vec<String>,
    pub cors_headers: Vec<String>,
    // [www]
    pub www_dir: Option<PathBuf>,
    pub www_public: bool,
    pub www_spa: bool,
    pub www_immutable: Vec<String>,
    // [compress]
    pub compress_threshold_bytes: usize,
    // [[cache_control]]
    pub cache_control: Vec<CacheControlRule>,
    // [[unsandboxed]]
    pub unsandboxed: Vec<Place>,
    // [metrics]
    pub metrics_public: bool,
    // [log]
    pub log_level: log::LevelFilter,
    pub slow_request: Duration,
    // [limits]
    pub limits: Limits,
    // What `limits.connections_max` was before it was cut to the descriptors that there are.
    pub connections_wanted: usize,
    // Where all this came from, so that SIGHUP can read it again.
    pub inputs: Inputs,
}

impl Config {
    /// The defaults for a board with this much memory and this many cores.
    pub fn defaults(ram_bytes: u64, cores: usize) -> Config {
        let mib = 1024 * 1024;
        Config {
            listen: vec![ListenAddress::Tcp(([127, 0, 0, 1], 8080).into())],
            engine: EngineKind::TinyHttp,
            workers: (2 * cores).max(4),
            io_threads: cores.max(1),
            backlog: BACKLOG,
            trusted_proxies: Proxies::default(),
            store: StoreKind::Fjall,
            data_dir: PathBuf::from("./larder-data"),
            durability: Durability::Sync,
            sync_interval: Duration::from_secs(1),
            reserve_bytes: None,
            block_cache_bytes: (ram_bytes / 128).clamp(2 * mib, 8 * mib),
            memtable_bytes: 4 * mib,
            cache_bytes: (ram_bytes / 32).clamp(mib, 256 * mib),
            expiry_scan_rate: 1000,
            auth_mode: AuthMode::Tokens,
            tokens_file: None,
            public_read: Vec::new(),
            auth_hosts: Vec::new(),
            rate_per_second: None,
            rate_burst: 100,
            cors_origins: Vec::new(),
            cors_headers: Vec::new(),
            www_dir: None,
            www_public: false,
            www_spa: false,
            www_immutable: IMMUTABLE_FOLDERS.iter().map(|&folder| folder.to_owned()).collect(),
            compress_threshold_bytes: 1024,
            cache_control: Vec::new(),
            unsandboxed: Vec::new(),
            metrics_public: false,
            log_level: log::LevelFilter::Info,
            slow_request: Duration::from_secs(1),
            limits: Limits {
                bodies_bytes_max: (ram_bytes / 16).clamp(8 * mib, 256 * mib),
                heads_bytes_max: (ram_bytes / 64).clamp(mib, 64 * mib),
                answers_bytes_max: (ram_bytes / 16).clamp(4 * mib, 256 * mib),
                ..Limits::default()
            },
            connections_wanted: crate::limits::CONNECTIONS_TINY_HTTP,
            inputs: Inputs::default(),
        }
    }

    /// Whether an IPv6 address leaves IPv4 alone: `[::]` takes both, but where an IPv4 address has the same port.
    pub fn is_v6_only(&self, address: SocketAddr) -> bool {
        let is_v4 = |other: &ListenAddress| matches!(other, ListenAddress::Tcp(other) if other.is_ipv4() && other.port() == address.port());
        address.is_ipv6() && address.ip().is_unspecified() && self.listen.iter().any(is_v4)
    }

    /// Where the tokens are kept.
    pub fn tokens_path(&self) -> PathBuf {
        self.tokens_file.clone().unwrap_or_else(|| self.data_dir.join("tokens.jsonl"))
    }

    /// Reads file, environment and flags again and returns what may change while larder runs (the tokens are read
    /// again by `Access`). On an error the old settings stay in force.
    pub fn reload(&self) -> Result<Reloaded, Vec<ConfigError>> {
        load::reload(self)
    }
}
