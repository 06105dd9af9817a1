//! The last stage: settings that are right by themselves and wrong together.
//!
//! Invariant: what is refused here is named with a place that the user wrote, never with a default.

use std::net::SocketAddr;

use super::addresses;
use super::error::{ConfigError, Source};
use super::load::Sources;
use super::settings::is_name;
use super::units::show_size;
use super::{AuthMode, CacheControlRule, Config, EngineKind, ListenAddress};

/// Everything that contradicts.
pub fn contradictions(config: &Config, sources: &Sources) -> Vec<ConfigError> {
    let mut found = Found { config, sources, errors: Vec::new() };
    found.engine();
    found.limits();
    found.memory();
    found.dependent();
    for (index, rule) in config.cache_control.iter().enumerate() {
        if let Some(message) = wrong_rule(config, rule) {
            found.errors.push(ConfigError::at(sources.rule(index), message));
        }
    }
    found.errors
}

struct Found<'a> {
    config: &'a Config,
    sources: &'a Sources,
    errors: Vec<ConfigError>,
}

impl Found<'_> {
    /// Reports at the first of these settings that somebody set.
    fn error(&mut self, settings: &[(&str, &str)], message: String) {
        let sources = settings.iter().map(|(section, key)| self.sources.of(section, key));
        let source = sources.clone().find(|source| **source != Source::Default).unwrap_or(&Source::Default);
        self.errors.push(ConfigError::at(source, message));
    }

    fn engine(&mut self) {
        let unix = self.config.listen.iter().find(|address| matches!(address, ListenAddress::Unix(_)));
        if let (Some(address), EngineKind::TinyHttp) = (unix, self.config.engine) {
            let message = format!("{address} needs server.engine = \"epoll\": tiny_http has TCP only");
            self.error(&[("server", "listen"), ("server", "engine")], message);
        }
        if let Some((all, one)) = covered(&self.config.listen) {
            let message = format!("{all} takes what comes to {one} too: name one of the two");
            self.error(&[("server", "listen")], message);
        }
    }

    fn limits(&mut self) {
        let limits = &self.config.limits;
        let (connections, per_address) = (limits.connections_max, limits.connections_per_address_max);
        let (value, body) = (limits.value_bytes_max, limits.body_bytes_max);
        let bodies = limits.bodies_bytes_max;
        let (target, head) = (limits.target_bytes_max, limits.head_bytes_max);
        let (grace, body_time) = (limits.body_grace, limits.body_timeout);
        if per_address > connections {
            let message = format!(
                "limits.connections_per_address_max ({per_address}) is more than limits.connections_max ({connections})"
            );
            self.error(&[("limits", "connections_per_address_max"), ("limits", "connections_max")], message);
        }
        if value > body {
            let (value, body) = (show_size(value), show_size(body));
            let message = format!(
                "limits.value_bytes_max ({value}) is more than limits.body_bytes_max ({body}): a batch could not set such a value"
            );
            self.error(&[("limits", "value_bytes_max"), ("limits", "body_bytes_max")], message);
        }
        if body > bodies {
            let (body, bodies) = (show_size(body), show_size(bodies));
            let message = format!(
                "limits.body_bytes_max ({body}) is more than limits.bodies_bytes_max ({bodies}), the memory for all bodies"
            );
            self.error(&[("limits", "bodies_bytes_max"), ("limits", "body_bytes_max")], message);
        }
        if target >= head {
            let (target, head) = (show_size(target as u64), show_size(head as u64));
            let message =
                format!("limits.target_bytes_max ({target}) does not fit into limits.head_bytes_max ({head})");
            self.error(&[("limits", "target_bytes_max"), ("limits", "head_bytes_max")], message);
        }
        if head as u64 > limits.heads_bytes_max {
            let (head, heads) = (show_size(head as u64), show_size(limits.heads_bytes_max));
            let message = format!(
                "limits.head_bytes_max ({head}) is more than limits.heads_bytes_max ({heads}), the memory for all heads"
            );
            self.error(&[("limits", "heads_bytes_max"), ("limits", "head_bytes_max")], message);
        }
        if grace > body_time {
            let message = "limits.body_grace is longer than limits.body_timeout, which ends the body first".to_owned();
            self.error(&[("limits", "body_grace"), ("limits", "body_timeout")], message);
        }
    }

    /// The budget of memory must fit the board: it is better not to start than to be killed under load.
    fn memory(&mut self) {
        let config = self.config;
        let wanted = addresses::budgets(config);
        let most = config.inputs.board.ram_bytes / 4 * 3;
        // Threads, buffers and what the allocator cannot use for want of a whole piece need the other half.
        let addresses = config.inputs.board.addresses.map(|bytes| bytes / 2).filter(|half| *half < most);
        if wanted > addresses.unwrap_or(most) {
            let (of_what, most) = match addresses {
                Some(half) => ("half of the addresses that this process has", half),
                None => ("three quarters of the memory", most),
            };
            let message = format!(
                "cache.size, store.block_cache, five times store.memtable, and the limits for bodies, heads and answers come to {} MiB, more than {of_what} ({} MiB)",
                wanted >> 20,
                most >> 20
            );
            let settings = [
                ("cache", "size"),
                ("store", "memtable"),
                ("store", "block_cache"),
                ("limits", "bodies_bytes_max"),
                ("limits", "answers_bytes_max"),
                ("limits", "heads_bytes_max"),
            ];
            self.error(&settings, message);
        }
    }

    fn dependent(&mut self) {
        let config = self.config;
        let set = |section, key| *self.sources.of(section, key) != Source::Default;
        if config.www_dir.is_none() && (config.www_public || config.www_spa) {
            let message = "there are no files without www.dir".to_owned();
            self.error(&[("www", "public"), ("www", "spa")], message);
        }
        if config.auth_mode != AuthMode::Open && !config.auth_hosts.is_empty() {
            let message = "auth.hosts means nothing without auth.mode = \"open\": tokens are asked for under any name";
            self.error(&[("auth", "hosts")], message.to_owned());
        }
        if config.rate_per_second.is_none() && set("rate", "burst") {
            let message = "rate.burst means nothing without rate.per_second".to_owned();
            self.error(&[("rate", "burst")], message);
        }
    }
}

/// Two addresses of which the first takes all that comes to the second, so that the second cannot be bound.
fn covered(listen: &[ListenAddress]) -> Option<(SocketAddr, SocketAddr)> {
    let tcp = listen.iter().filter_map(|address| match address {
        ListenAddress::Tcp(address) if address.port() != 0 => Some(*address),
        _ => None,
    });
    let covers = |all: &SocketAddr, one: &SocketAddr| {
        all != one && all.port() == one.port() && all.is_ipv4() == one.is_ipv4() && all.ip().is_unspecified()
    };
    let pairs = tcp.clone().flat_map(|all| tcp.clone().map(move |one| (all, one)));
    pairs.into_iter().find(|(all, one)| covers(all, one))
}

/// Why a rule of `[[cache_control]]` cannot be, if so.
fn wrong_rule(config: &Config, rule: &CacheControlRule) -> Option<String> {
    for (what, name) in [("namespace", &rule.namespace), ("collection", &rule.collection)] {
        if let Some(name) = name.as_ref().filter(|name| !is_name(name)) {
            return Some(format!("cache_control.{what}: `{name}` cannot be the name of a {what}"));
        }
    }
    // SECURITY: a shared cache hands out what it holds without asking for a token.
    let open = config.auth_mode == AuthMode::Open
        || rule.namespace.as_ref().is_some_and(|namespace| config.public_read.contains(namespace));
    rule.value.opens().filter(|_| !open).map(|directive| {
        format!(
            "cache_control.value: `{directive}` lets shared caches keep what a token protects; add the namespace to auth.public_read, or say `private`"
        )
    })
}

impl Config {
    /// Whether larder may listen on `address`: other machines must not find an open store that nobody chose.
    /// `tokens` says whether any token exists. For sockets that systemd handed over, ask with their real address.
    pub fn check_exposure(&self, address: SocketAddr, tokens: bool) -> Result<(), String> {
        if tokens || self.auth_mode == AuthMode::Open || address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "{address} can be reached from other machines and there is no token: make one with `larder token add NAME --scope admin`, or set auth.mode = \"open\" to let everyone in, or listen on 127.0.0.1"
        ))
    }
}

/// All addresses of the configuration that [`Config::check_exposure`] refuses, with their place.
pub fn exposures(config: &Config, sources: &Sources, tokens: bool) -> Vec<ConfigError> {
    let source = sources.of("server", "listen");
    let addresses = config.listen.iter().filter_map(|address| match address {
        ListenAddress::Tcp(address) => Some(*address),
        ListenAddress::Unix(_) | ListenAddress::Inherited => None,
    });
    addresses
        .filter_map(|address| config.check_exposure(address, tokens).err())
        .map(|message| ConfigError::at(source, message))
        .collect()
}
