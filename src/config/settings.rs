//! The table of settings: one row for each, from which the file, the environment, `larder check`, the shipped
//! `larder.toml` and the suggestions are made.
//!
//! Invariant: a setting that is not in this table does not exist.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::field::{Field, quote, quote_list};
use super::raw::Given;
use super::{AuthMode, Config, EngineKind, ListenAddress, StoreKind, suggest, web};
use crate::http::network::Proxy;
use crate::store::Durability;

/// One setting.
pub struct Setting {
    /// The table of the file it stands in.
    pub section: &'static str,
    /// Its name there.
    pub key: &'static str,
    /// A short name in the environment, besides `LARDER_<SECTION>_<KEY>`.
    pub short: Option<&'static str>,
    /// What it does and in which unit, for the shipped file.
    pub help: &'static str,
    /// Its type and place.
    pub field: Field,
}

impl Setting {
    /// `section.key`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// `LARDER_SECTION_KEY`.
    pub fn variable(&self) -> String {
        format!("LARDER_{}_{}", self.section, self.key).to_ascii_uppercase()
    }
}

const fn row(section: &'static str, key: &'static str, field: Field, help: &'static str) -> Setting {
    Setting { section, key, short: None, help, field }
}

const fn short(name: &'static str, setting: Setting) -> Setting {
    Setting { short: Some(name), ..setting }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn seconds(least: u64, most: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(least)..=Duration::from_secs(most)
}

const fn from_ms(least_ms: u64, most_seconds: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(least_ms)..=Duration::from_secs(most_seconds)
}

/// All settings but `[[cache_control]]`, in the order of the shipped file.
#[rustfmt::skip]
pub static SETTINGS: &[Setting] = &[
    short("LARDER_LISTEN", row("server", "listen", Field::Custom { set: set_listen, show: show_listen },
        "Where to listen: \"127.0.0.1:8080\", \"unix:/run/larder/larder.sock\" (epoll only), \"fd://\" for the sockets that\nsystemd hands over; one, or a list. Port 0 lets the kernel choose.")),
    row("server", "engine", Field::Custom { set: set_engine, show: show_engine },
        "What carries the wire: \"tiny_http\" (for trusted networks) or \"epoll\" (for many or untrusted clients).\nThe default is \"tiny_http\"."),
    row("server", "workers", Field::Count(|c| &mut c.workers, 1..=1024),
        "Threads that answer requests. The default is two a core, at least 4."),
    row("server", "io_threads", Field::Count(|c| &mut c.io_threads, 1..=256),
        "Threads that own connections (epoll only). The default is one a core."),
    row("server", "backlog", Field::Count(|c| &mut c.backlog, 1..=65_535),
        "Connections that may wait to be accepted; the kernel allows no more than net.core.somaxconn.\nMore lets a flood of connections stand before those of others."),
    row("server", "trusted_proxies", Field::Custom { set: set_proxies, show: |c| quote_list(c.trusted_proxies.iter().map(Proxy::to_string)) },
        "Addresses of proxies (10.1.2.3), their networks (10.0.0.0/8, fd00::/8), or \"unix\" for whoever connects to a Unix socket:\ntheir X-Forwarded-For counts for rate limits and logs, and limits.connections_per_address_max does not bound them."),

    row("store", "kind", Field::Custom { set: set_store, show: show_store },
        "\"fjall\" keeps the data on the card; \"memory\" loses it when the process ends."),
    short("LARDER_DATA_DIR", row("store", "dir", Field::Path(|c| &mut c.data_dir),
        "The data folder. The default is $STATE_DIRECTORY under systemd, else ./larder-data.")),
    row("store", "durability", Field::Custom { set: set_durability, show: show_durability },
        "\"sync\": a write is answered after it is on the card. \"relaxed\": it is answered at once and synced within\nstore.sync_interval. A request can ask for either."),
    row("store", "sync_interval", Field::Time(|c| &mut c.sync_interval, from_ms(10, 3600)),
        "The most a power cut can take of relaxed writes (10ms to 60m)."),
    row("store", "reserve", Field::SizeOrAuto(|c| &mut c.reserve_bytes, MIB..=1 << 60),
        "Free space below which writes get 507; 0 is none. The default is 3% of the card, at least 256MiB."),
    row("store", "block_cache", Field::Size(|c| &mut c.block_cache_bytes, 256 * KIB..=GIB),
        "Memory for blocks of the store. The default is 1/128 of the memory, 2MiB to 8MiB."),
    row("store", "memtable", Field::Size(|c| &mut c.memtable_bytes, MIB..=256 * MIB),
        "Memory for writes before they become a table; up to five of these exist at once."),

    short("LARDER_CACHE_SIZE", row("cache", "size", Field::SizeOrNone(|c| &mut c.cache_bytes, 64 * KIB..=64 * GIB),
        "Memory for hot values, keys and overhead counted; 0 is none. The default is 1/32 of the memory, 1MiB to 256MiB.")),

    row("expiry", "scan_rate", Field::Number(|c| &mut c.expiry_scan_rate, 1..=10_000_000),
        "Keys a second that the sweeper looks at for what has expired."),

    row("auth", "mode", Field::Custom { set: set_auth, show: show_auth },
        "\"tokens\": who has a token may do what it allows; without any token only this machine is served.\n\"open\": everyone in the network may do everything, but no web page of another origin."),
    row("auth", "tokens_file", Field::PathOrNone(|c| &mut c.tokens_file),
        "Where the tokens are kept (larder token add). The default is tokens.jsonl in the data folder."),
    row("auth", "public_read", Field::Custom { set: set_public, show: |c| quote_list(&c.public_read) },
        "Namespaces that anyone may read without a token."),
    row("auth", "hosts", Field::Custom { set: set_hosts, show: |c| quote_list(&c.auth_hosts) },
        "Names in Host that an open larder answers to, besides addresses, names without a dot, this machine's own, and those\nin .local, .lan, .home.arpa, .internal and the like: a name elsewhere may be a web page's trick (DNS rebinding)."),

    row("rate", "per_second", Field::Custom { set: set_rate, show: |c| c.rate_per_second.map_or(String::new(), |n| n.to_string()) },
        "Requests a second of one token or address, over time; more get 429 (/health never does). Unknown paths, refused methods and OPTIONS count for the address. Without it there is no limit."),
    row("rate", "burst", Field::Custom { set: set_burst, show: |c| c.rate_burst.to_string() },
        "Requests of one token or address at once before rate.per_second counts (1 to 1000000)."),

    row("cors", "origins", Field::Custom { set: web::set_origins, show: |c| quote_list(&c.cors_origins) },
        "Web pages that may use larder from a browser: [\"https://app.example\"], or [\"*\"] for all (with a token, or with auth.mode = \"open\")."),
    row("cors", "headers", Field::Custom { set: web::set_headers, show: |c| quote_list(&c.cors_headers) },
        "Header fields that these pages may send besides those that larder reads and X-Requested-With, tracestate and\nbaggage; [\"*\"] is any."),

    row("www", "dir", Field::PathOrNone(|c| &mut c.www_dir),
        "A folder of static files to serve at /; neither in store.dir nor around it. Without it / is 404."),
    row("www", "public", Field::Switch(|c| &mut c.www_public),
        "Whether the files need no token."),
    row("www", "spa", Field::Switch(|c| &mut c.www_spa),
        "Whether an unknown path answers whoever takes a page with index.html, for single-page applications."),
    row("www", "immutable", Field::Custom { set: web::set_immutable, show: |c| quote_list(&c.www_immutable) },
        "Folders, wherever they lie, whose files with a hash in their name are kept by browsers for a year; elsewhere only\nscripts, styles and fonts named as app.3f2a9c1b.js are. \"/\" is every folder, [] none."),

    row("compress", "threshold_bytes", Field::SizeOf(|c| &mut c.compress_threshold_bytes, 64..=GIB),
        "Bodies of this size and more are gzipped for those who accept it."),

    row("metrics", "public", Field::Switch(|c| &mut c.metrics_public),
        "Whether /metrics needs no token."),

    short("LARDER_LOG", row("log", "level", Field::Custom { set: set_level, show: |c| quote(&c.log_level.as_str().to_ascii_lowercase()) },
        "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\".")),
    row("log", "slow_request", Field::Time(|c| &mut c.slow_request, from_ms(0, 3600)),
        "Requests that take as long or longer are logged with where their time went; 0s is off."),

    row("limits", "connections_max", Field::Count(|c| &mut c.limits.connections_max, 1..=1_000_000),
        "Connections at once. For one more the longest idle or slowest of the address with most makes way;\nif all are at work it gets 503. The default is 500 for tiny_http, 12000 for epoll;\nfewer where the process may open few files, or (tiny_http) has few addresses, as with 32 bits."),
    row("limits", "connections_per_address_max", Field::Count(|c| &mut c.limits.connections_per_address_max, 1..=1_000_000),
        "Connections at once from one address (IPv6: one /64), of which the longest idle or slowest makes way for one more.\nLoopback, Unix sockets and trusted proxies have only limits.connections_max."),
    row("limits", "head_timeout", Field::Time(|c| &mut c.limits.head_timeout, seconds(1, 3600)),
        "From the first byte of a head to its last."),
    row("limits", "head_bytes_max", Field::SizeOf(|c| &mut c.limits.head_bytes_max, KIB..=MIB),
        "Bytes of a request line with all its fields; more is 431."),
    row("limits", "head_fields_max", Field::Count(|c| &mut c.limits.head_fields_max, 8..=1000),
        "Fields in a head; more is 431."),
    row("limits", "target_bytes_max", Field::SizeOf(|c| &mut c.limits.target_bytes_max, 2 * KIB..=MIB),
        "Bytes of a request target; more is 414."),
    row("limits", "body_timeout", Field::Time(|c| &mut c.limits.body_timeout, seconds(1, 86_400)),
        "From the end of the head to the end of the body."),
    row("limits", "body_rate_min", Field::Size(|c| &mut c.limits.body_rate_min, 0..=GIB),
        "Bytes a second a body must come at, after limits.body_grace."),
    row("limits", "body_grace", Field::Time(|c| &mut c.limits.body_grace, seconds(0, 3600)),
        "How long a body may be slower than limits.body_rate_min."),
    row("limits", "idle_timeout", Field::Time(|c| &mut c.limits.idle_timeout, seconds(1, 86_400)),
        "A connection without a request for this long is closed; also the longest a client may take no byte of an answer."),
    row("limits", "request_timeout", Field::Time(|c| &mut c.limits.request_timeout, seconds(1, 3600)),
        "A request's time over queue, read and commit; after it 503, or 504 for a write that was begun."),
    row("limits", "value_bytes_max", Field::Size(|c| &mut c.limits.value_bytes_max, 1..=64 * MIB),
        "Bytes of one value; more is 413."),
    row("limits", "body_bytes_max", Field::Size(|c| &mut c.limits.body_bytes_max, KIB..=256 * MIB),
        "Bytes of any other body, decoded; more is 413."),
    row("limits", "bodies_bytes_max", Field::Size(|c| &mut c.limits.bodies_bytes_max, KIB..=64 * GIB),
        "Memory for request bodies over all connections; what does not fit waits unread, and gets 503 after limits.request_timeout.\nThe default is 1/16 of the memory, 8MiB to 256MiB, and at least limits.body_bytes_max."),
    row("limits", "heads_bytes_max", Field::Size(|c| &mut c.limits.heads_bytes_max, 64 * KIB..=GIB),
        "Memory for heads and small bodies that have not come whole; beyond it those that wait longest, on tiny_http the heaviest, end with 408.\nThe default is 1/64 of the memory, 1MiB to 64MiB."),
    row("limits", "answers_bytes_max", Field::Size(|c| &mut c.limits.answers_bytes_max, 256 * KIB..=64 * GIB),
        "Memory for answers that their clients do not take; beyond three quarters large ones get 503, and who takes nothing is cut.\nThe default is 1/16 of the memory, 4MiB to 256MiB."),
    row("limits", "batch_operations_max", Field::Count(|c| &mut c.limits.batch_operations_max, 1..=100_000),
        "Operations in one batch; more is 400."),
    row("limits", "pipelined_requests_max", Field::Count(|c| &mut c.limits.pipelined_requests_max, 1..=1024),
        "Requests of one connection that wait behind an unanswered one; one more ends the connection (tiny_http only: epoll leaves them unread)."),
    row("limits", "queued_requests_max", Field::Count(|c| &mut c.limits.queued_requests_max, 1..=1_000_000),
        "Requests that wait for a worker; more get 503."),
    row("limits", "queued_writes_max", Field::Count(|c| &mut c.limits.queued_writes_max, 1..=1_000_000),
        "Writes that wait for the committer; more get 503."),
    row("limits", "imports_max", Field::Count(|c| &mut c.limits.imports_max, 1..=64),
        "Imports at once; more get 503."),
    row("limits", "streams_max", Field::Count(|c| &mut c.limits.streams_max, 0..=100_000),
        "Streams (feeds, long polls, NDJSON) at once; more get 503."),
    row("limits", "snapshot_age", Field::Time(|c| &mut c.limits.snapshot_age, seconds(1, 86_400)),
        "The longest that a stream's client may take nothing of it, if less than limits.idle_timeout: then it is cut, and its view of the store is free."),
    row("limits", "leaked_threads_max", Field::Count(|c| &mut c.limits.leaked_threads_max, 1..=10_000),
        "tiny_http threads that cannot be freed; at this number the process drains and exits 75, to be started anew."),
    row("limits", "drain_timeout", Field::Time(|c| &mut c.limits.drain_timeout, seconds(1, 600)),
        "How long a stop may take before connections are cut."),
];

/// The row of a setting.
pub fn find(section: &str, key: &str) -> Option<usize> {
    SETTINGS.iter().position(|setting| setting.section == section && setting.key == key)
}

/// One of a few words, or an error that names them and the nearest.
fn choose<T: Copy>(given: &Given, choices: &[(&str, T)]) -> Result<T, String> {
    let text = given.text(choices.first().map_or("", |(name, _)| name))?;
    let names = || choices.iter().map(|(name, _)| *name);
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let list: Vec<String> = names().map(|name| format!("\"{name}\"")).collect();
        format!("expected one of {}, not `{text}`{}", list.join(", "), suggest::hint(text, names()))
    })
}

fn name_of<T: PartialEq>(value: &T, choices: &[(&str, T)]) -> String {
    choices.iter().find(|(_, v)| v == value).map_or(String::new(), |(name, _)| quote(name))
}

const ENGINES: &[(&str, EngineKind)] = &[("tiny_http", EngineKind::TinyHttp), ("epoll", EngineKind::Epoll)];
const STORES: &[(&str, StoreKind)] = &[("fjall", StoreKind::Fjall), ("memory", StoreKind::Memory)];
const DURABILITIES: &[(&str, Durability)] = &[("sync", Durability::Sync), ("relaxed", Durability::Relaxed)];
const AUTH_MODES: &[(&str, AuthMode)] = &[("tokens", AuthMode::Tokens), ("open", AuthMode::Open)];
const LEVELS: &[(&str, log::LevelFilter)] = &[
    ("off", log::LevelFilter::Off),
    ("error", log::LevelFilter::Error),
    ("warn", log::LevelFilter::Warn),
    ("info", log::LevelFilter::Info),
    ("debug", log::LevelFilter::Debug),
    ("trace", log::LevelFilter::Trace),
];

fn set_engine(config: &mut Config, given: &Given) -> Result<(), String> {
    config.engine = choose(given, ENGINES)?;
    Ok(())
}

fn show_engine(config: &Config) -> String {
    name_of(&config.engine, ENGINES)
}

fn set_store(config: &mut Config, given: &Given) -> Result<(), String> {
    config.store = choose(given, STORES)?;
    Ok(())
}

fn show_store(config: &Config) -> String {
    name_of(&config.store, STORES)
}

fn set_durability(config: &mut Config, given: &Given) -> Result<(), String> {
    config.durability = choose(given, DURABILITIES)?;
    Ok(())
}

fn show_durability(config: &Config) -> String {
    name_of(&config.durability, DURABILITIES)
}

fn set_auth(config: &mut Config, given: &Given) -> Result<(), String> {
    config.auth_mode = choose(given, AUTH_MODES)?;
    Ok(())
}

fn show_auth(config: &Config) -> String {
    name_of(&config.auth_mode, AUTH_MODES)
}

fn set_level(config: &mut Config, given: &Given) -> Result<(), String> {
    config.log_level = choose(given, LEVELS)?;
    Ok(())
}

const LISTEN_EXAMPLE: &str = "127.0.0.1:8080";

fn set_listen(config: &mut Config, given: &Given) -> Result<(), String> {
    if let Given::Integer(port) = given {
        return parse_listen(&port.to_string()).map(drop);
    }
    let listen = given.list(LISTEN_EXAMPLE)?.iter().map(|text| parse_listen(text)).collect::<Result<Vec<_>, _>>()?;
    if listen.is_empty() {
        return Err("names no address; larder must listen somewhere".to_owned());
    }
    if let Some(twice) = listen.iter().enumerate().find(|(at, one)| !is_port_0(one) && listen[..*at].contains(one)) {
        return Err(format!("names {} twice", twice.1));
    }
    config.listen = listen;
    Ok(())
}

fn is_port_0(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(address) if address.port() == 0)
}

fn parse_listen(text: &str) -> Result<ListenAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let fits = (1..=107).contains(&path.len());
        return fits
            .then(|| ListenAddress::Unix(PathBuf::from(path)))
            .ok_or_else(|| format!("`{text}`: the path of a socket has 1 to 107 bytes"));
    }
    if text == "fd://" {
        return Ok(ListenAddress::Inherited);
    }
    let text = text.strip_prefix("http://").unwrap_or(text);
    let localhost = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    let address = localhost.as_deref().unwrap_or(text).parse::<SocketAddr>();
    // An IPv4 address may be written as one of IPv6.
    let plain = |address: SocketAddr| ListenAddress::Tcp(SocketAddr::new(address.ip().to_canonical(), address.port()));
    address.map(plain).map_err(|_| {
        let hint = match text.trim_start_matches(':').parse::<u16>() {
            Ok(port) => format!("; did you mean \"127.0.0.1:{port}\" (this machine only) or \"0.0.0.0:{port}\"?"),
            Err(_) => String::new(),
        };
        format!("expected an address with a port, such as \"{LISTEN_EXAMPLE}\", \"[::1]:8080\", \"unix:/run/larder/larder.sock\" or \"fd://\", not `{text}`{hint}")
    })
}

fn show_listen(config: &Config) -> String {
    match config.listen.as_slice() {
        [one] => quote(&one.to_string()),
        many => quote_list(many.iter().map(ListenAddress::to_string)),
    }
}

fn set_proxies(config: &mut Config, given: &Given) -> Result<(), String> {
    config.trusted_proxies = given.list("10.0.0.0/8")?.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    Ok(())
}

fn set_public(config: &mut Config, given: &Given) -> Result<(), String> {
    let names = given.list("site")?;
    if let Some(bad) = names.iter().find(|name| !is_name(name)) {
        return Err(format!("`{bad}` is no namespace: 1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or _"));
    }
    config.public_read = names;
    Ok(())
}

fn set_hosts(config: &mut Config, given: &Given) -> Result<(), String> {
    let hosts = given.list("kv.example.org")?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let wrong = |host: &&String| host.is_empty() || !host.bytes().all(allowed) || host.starts_with('.');
    if let Some(bad) = hosts.iter().find(wrong) {
        return Err(format!(
            "expected a host's name without scheme, port or *, such as \"kv.example.org\", not `{bad}`"
        ));
    }
    config.auth_hosts = hosts;
    Ok(())
}

/// Whether a text can be the name of a namespace or collection.
pub fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=crate::limits::NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with(['.', '_'])
}

fn set_rate(config: &mut Config, given: &Given) -> Result<(), String> {
    config.rate_per_second = Some(given.number()?);
    Ok(())
}

fn set_burst(config: &mut Config, given: &Given) -> Result<(), String> {
    let burst = given.count()?;
    config.rate_burst = u32::try_from(burst)
        .ok()
        .filter(|burst| (1..=1_000_000).contains(burst))
        .ok_or_else(|| format!("{burst} is outside of 1 to 1000000"))?;
    Ok(())
}
