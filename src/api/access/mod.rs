//! Who may do what: tokens, scopes, namespaces, and what is served without a token.
//!
//! Not here: how often (rate limits). Invariant: no answer of this module, and no log line, holds a token's secret; a
//! request with a credential that is not good is never served as if it had none.

pub mod file;
mod grant;
pub mod local;
pub mod token;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use parking_lot::{Mutex, RwLock};

use crate::config::{AuthMode, Config, ConfigError, ListenAddress};
use crate::http::budget::Client;
use crate::http::network::{Network, Proxies};
use crate::http::{Head, HeaderName, Method, Peer, Problem, media};
use crate::metrics::{Counter, Registry};
use crate::store::Database;

pub use grant::Grant;
pub use token::{Scope, Token};

use local::{Foreign, LocalRules};

/// The tokens in force.
#[derive(Default)]
struct Tokens {
    by_id: HashMap<String, Arc<Token>>,
    /// No moment before this can be now: a board without a clock starts in 1970, and must not revive what has ended.
    not_before: u64,
}

/// Decides every request. Shared by all threads; reloading drops none.
pub struct Access {
    path: PathBuf,
    required_file: bool,
    open: bool,
    public_read: Arc<[String]>,
    local: LocalRules,
    trusted_proxies: Proxies,
    tokens: RwLock<Arc<Tokens>>,
    /// What time it is at least, by what the store knows; in seconds since 1970.
    not_before: AtomicU64,
    /// Whether there is any token; on its own, so that a request without one takes no lock.
    has_tokens: AtomicBool,
    /// What the file looked like when it was read last.
    seen: Mutex<Option<FileState>>,
    failures: Failures,
}

type FileState = (SystemTime, u64, u64);

/// Refused requests, by reason.
struct Failures {
    missing: Counter,
    malformed: Counter,
    unknown: Counter,
    expired: Counter,
    forbidden: Counter,
    foreign: Counter,
}

impl Failures {
    fn register(registry: &Registry) -> Failures {
        let counter = |labels| {
            let help = "Requests refused for want of a right, by reason.";
            registry.counter("larder_access_refused_total", help, labels)
        };
        Failures {
            missing: counter(&[("reason", "missing")]),
            malformed: counter(&[("reason", "malformed")]),
            unknown: counter(&[("reason", "unknown")]),
            expired: counter(&[("reason", "expired")]),
            forbidden: counter(&[("reason", "forbidden")]),
            foreign: counter(&[("reason", "foreign")]),
        }
    }
}

/// Why a token does not count.
enum Unfit {
    Unknown,
    Expired,
}

/// What a request showed.
enum Credential<'a> {
    /// Nothing.
    None,
    /// A token's id and secret.
    Token(&'a str, &'a str),
    /// The same, decoded from HTTP Basic.
    Decoded(String),
    /// Something that is no token.
    Malformed,
}

impl Access {
    /// Reads the tokens. Fails if the file cannot be read, or was named and is not there.
    pub fn open(config: &Config, registry: &Registry) -> Result<Access, ConfigError> {
        let sockets = config.listen.iter().filter_map(|address| match address {
            ListenAddress::Unix(path) => Some(path.clone()),
            _ => None,
        });
        let access = Access {
            path: config.tokens_path(),
            required_file: config.tokens_file.is_some(),
            open: config.auth_mode == AuthMode::Open,
            public_read: config.public_read.clone().into(),
            local: LocalRules {
                sockets: sockets.collect(),
                origins: config.cors_origins.clone(),
                hosts: config.auth_hosts.iter().cloned().chain([local::own_name()]).collect(),
                any_page: config.cors_origins.iter().any(|origin| origin == "*"),
            },
            trusted_proxies: config.trusted_proxies.clone(),
            tokens: RwLock::default(),
            not_before: AtomicU64::new(0),
            has_tokens: AtomicBool::new(false),
            seen: Mutex::new(None),
            failures: Failures::register(registry),
        };
        access.reload()?;
        Ok(access)
    }

    /// Reads the tokens again and returns how many there are. On an error the old ones stay in force.
    pub fn reload(&self) -> Result<usize, ConfigError> {
        let mut seen = self.seen.lock();
        // IMPORTANT: looked at before it is read, so that a change in between is seen next time.
        let state = self.file_state();
        // Open to all, nobody is asked for a token: no file is needed, and a broken one harms nobody.
        let list = match self.open {
            true => None,
            false => file::look(&self.path)?.tokens(&self.path, self.has_tokens())?,
        };
        if list.is_none() && !self.open && (self.required_file || self.has_tokens()) {
            let message =
                format!("the tokens file {} does not exist; `larder token add NAME` makes it", self.path.display());
            return Err(ConfigError { source: None, message });
        }
        let list = list.unwrap_or_default();
        let count = list.len();
        let not_before = list.iter().map(|token| token.created).max().unwrap_or(0);
        let by_id = list.into_iter().map(|token| (token.id.clone(), Arc::new(token))).collect();
        *self.tokens.write() = Arc::new(Tokens { by_id, not_before });
        self.has_tokens.store(count > 0, Ordering::Release);
        *seen = state;
        Ok(count)
    }

    /// Reads the tokens again if their file has changed since; for a caller that looks every few seconds.
    /// `None` if nothing changed.
    pub fn refresh(&self) -> Option<Result<usize, ConfigError>> {
        let state = self.file_state();
        let changed = state != *self.seen.lock();
        if !changed {
            return None;
        }
        let result = self.reload();
        // One complaint a change is enough.
        *self.seen.lock() = state;
        Some(result)
    }

    /// Has an empty file count as damage from now on, if there are tokens; larder may not be allowed to write beside it.
    pub fn note_kept(&self) {
        if self.has_tokens() {
            let _ = file::note_kept(&self.path);
        }
    }

    /// Takes the time that a store knows from earlier runs: on a board without a clock, no token lives again that had
    /// expired before its restart. Where the system clock is right it says all.
    pub fn note_time(&self, store: Option<&Database>) {
        let clock = store.map(Database::clock).filter(|clock| !clock.is_synchronised());
        self.not_before.store(clock.map_or(0, |clock| clock.wall_ms() / 1000), Ordering::Relaxed);
    }

    fn file_state(&self) -> Option<FileState> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(&self.path).ok()?;
        Some((meta.modified().ok()?, meta.len(), meta.ino()))
    }

    /// Whether any token exists.
    pub fn has_tokens(&self) -> bool {
        self.has_tokens.load(Ordering::Acquire)
    }

    /// The network a request is counted under: the peer's, or what a trusted proxy says of its own peer.
    pub fn network(&self, head: &Head, peer: Peer) -> Network {
        Network::of(local::client(head, peer, &self.trusted_proxies))
    }

    /// Whom a trusted proxy says that it asks for.
    pub fn forwarded(&self, head: &Head, peer: Peer) -> Option<IpAddr> {
        match local::client(head, peer, &self.trusted_proxies) {
            Peer::Tcp(client, _) if !matches!(peer, Peer::Tcp(direct, _) if direct == client) => Some(client),
            Peer::Tcp(..) | Peer::Unix => None,
        }
    }

    /// On whose behalf memory is held for a request; `None` says that the peer's address tells that.
    pub fn client(&self, head: &Head, peer: Peer, grant: &Grant) -> Option<Client> {
        match grant.token_id() {
            Some(id) => Some(Client::of_token(id)),
            None if self.trusted_proxies.is_empty() => None,
            None => Some(Client::of_network(self.network(head, peer))),
        }
    }

    /// Whether a request may do what needs `needed`: in one namespace, or (`None`) in something that belongs to the
    /// whole store. `Err` is a 401 or 403.
    ///
    /// A grant for `None` may still be restricted: who answers with names asks [`Grant::reaches`] for each.
    pub fn authorize(
        &self,
        head: &Head,
        peer: Peer,
        method: Method,
        needed: Scope,
        namespace: Option<&str>,
    ) -> Result<Grant, Problem> {
        if self.open {
            return self.authorize_in_open(head, peer);
        }
        let is_public = needed == Scope::Read && namespace.is_some_and(|name| self.is_public(name));
        let grant = match self.identify(head, peer, method) {
            Ok(Some(grant)) => grant,
            Ok(None) if is_public => Grant::public(&self.public_read),
            Ok(None) => return Err(self.refuse_anonymous(head, peer)),
            Err(problem) if is_public => return Err(with_no_need(problem, "this namespace")),
            Err(problem) => return Err(problem),
        };
        grant.require(needed, namespace).inspect_err(|_| self.failures.forbidden.inc())?;
        Ok(grant)
    }

    /// Whether somebody may read at all, for what is answered to everyone. Nothing is counted as refused.
    pub fn may_read(&self, head: &Head, peer: Peer, method: Method) -> bool {
        match credential(head, method) {
            _ if self.open => self.local.foreign(head, peer).is_none(),
            Credential::None => !self.has_tokens() && self.local.is_local(head, peer),
            Credential::Token(id, secret) => self.known(id, secret).is_ok(),
            Credential::Decoded(text) => token::split(&text).is_some_and(|(id, secret)| self.known(id, secret).is_ok()),
            Credential::Malformed => false,
        }
    }

    /// The same for routes that check each namespace themselves (lists of namespaces, batches): where namespaces are
    /// public, someone without a token gets a grant that reaches only those, to read.
    pub fn authorize_each(&self, head: &Head, peer: Peer, method: Method) -> Result<Grant, Problem> {
        if self.open {
            return self.authorize_in_open(head, peer);
        }
        match self.identify(head, peer, method) {
            Ok(Some(grant)) => Ok(grant),
            Ok(None) if !self.public_read.is_empty() => Ok(Grant::public(&self.public_read)),
            Ok(None) => Err(self.refuse_anonymous(head, peer)),
            Err(problem) if !self.public_read.is_empty() => Err(with_no_need(problem, "what is in auth.public_read")),
            Err(problem) => Err(problem),
        }
    }

    /// Offers a browser's own login to a person who goes to a page that needs a token, if there is any.
    pub fn offer_login(&self, problem: Problem, head: &Head, method: Method) -> Problem {
        if self.has_tokens() && is_navigation(head, method) { challenge_browser(problem) } else { problem }
    }

    /// Everyone may do everything, but no web page elsewhere by the hand of a browser in this network.
    fn authorize_in_open(&self, head: &Head, peer: Peer) -> Result<Grant, Problem> {
        let Some(foreign) = self.local.foreign(head, peer) else { return Ok(Grant::everything()) };
        self.failures.foreign.inc();
        let message = match foreign {
            Foreign::Host => {
                "an open larder answers under its addresses, under names of its own network and under those in \
                 auth.hosts: `Host` is none of these"
            }
            Foreign::Page => {
                "an open larder serves its own web pages and those of the origins in cors.origins: this request comes \
                 from another one"
            }
        };
        Err(Problem::new(403, "FORBIDDEN", message))
    }

    /// Who asks: `None` is someone without a token who is not of this machine.
    fn identify(&self, head: &Head, peer: Peer, method: Method) -> Result<Option<Grant>, Problem> {
        match credential(head, method) {
            Credential::None if !self.has_tokens() && self.local.is_local(head, peer) => Ok(Some(Grant::everything())),
            Credential::None => Ok(None),
            Credential::Token(id, secret) => self.verify(id, secret).map(Some),
            Credential::Decoded(text) => match token::split(&text) {
                Some((id, secret)) => self.verify(id, secret).map(Some),
                None => Err(self.refuse_malformed()),
            },
            Credential::Malformed => Err(self.refuse_malformed()),
        }
    }

    fn verify(&self, id: &str, secret: &str) -> Result<Grant, Problem> {
        self.known(id, secret).map(Grant::token).map_err(|unfit| match unfit {
            Unfit::Unknown => {
                self.failures.unknown.inc();
                unauthorized("this token is not known here, or no longer")
            }
            Unfit::Expired => {
                self.failures.expired.inc();
                unauthorized("this token has expired; ask for a new one")
            }
        })
    }

    fn known(&self, id: &str, secret: &str) -> Result<Arc<Token>, Unfit> {
        let tokens = self.tokens.read().clone();
        let token = tokens.by_id.get(id).filter(|token| token.is_secret(secret)).ok_or(Unfit::Unknown)?;
        let not_before = tokens.not_before.max(self.not_before.load(Ordering::Relaxed));
        let is_over = token.expires.is_some_and(|expires| expires <= now().max(not_before));
        if is_over { Err(Unfit::Expired) } else { Ok(token.clone()) }
    }

    fn is_public(&self, namespace: &str) -> bool {
        self.public_read.iter().any(|public| public == namespace)
    }

    fn refuse_anonymous(&self, head: &Head, peer: Peer) -> Problem {
        self.failures.missing.inc();
        unauthorized(if self.has_tokens() {
            "send a token: `Authorization: Bearer ldr_…`"
        } else if self.local.lacks_only_host(head, peer) {
            "the request has no Host: without tokens larder serves this machine only, which `Host: localhost` names \
             (HTTP/1.0 may leave it out, larder needs it)"
        } else {
            "without tokens only this machine is served, and not through a proxy or from a web page elsewhere; \
             make a token with `larder token add` and send it: `Authorization: Bearer ldr_…`"
        })
    }

    fn refuse_malformed(&self) -> Problem {
        self.failures.malformed.inc();
        unauthorized("the Authorization field holds no token of larder: `Authorization: Bearer ldr_…`")
    }
}

/// Whether a person goes to a page there. What a script of a page asks for must open no dialogue.
fn is_navigation(head: &Head, method: Method) -> bool {
    let goes = match head.get(HeaderName::SecFetchMode) {
        Some(mode) => mode == "navigate",
        None => media::accepts_explicitly(head, "text/html"),
    };
    goes && matches!(method, Method::Get | Method::Head)
}

/// Whoever sends a token that is not good is told so, also where none is needed: nobody is let in by mistake.
fn with_no_need(mut problem: Problem, what: &str) -> Problem {
    problem.message = format!("{}. {what} can be read without any: leave Authorization out", problem.message).into();
    problem
}

/// Adds the Basic challenge to a refused page: a browser then asks for a name (any) and a password (the token).
pub fn challenge_browser(problem: Problem) -> Problem {
    if problem.status == 401 {
        problem.field("WWW-Authenticate", "Basic realm=\"larder: token as password\"")
    } else {
        problem
    }
}

fn unauthorized(message: &'static str) -> Problem {
    Problem::new(401, "UNAUTHORIZED", message).field("WWW-Authenticate", "Bearer realm=\"larder\"")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn credential(head: &Head, method: Method) -> Credential<'_> {
    if !head.has(HeaderName::Authorization) {
        return websocket_credential(head, method);
    }
    let one = head.get(HeaderName::Authorization).filter(|_| head.count(HeaderName::Authorization) == 1);
    let Some((scheme, rest)) = one.and_then(|value| value.split_once(' ')) else { return Credential::Malformed };
    let rest = rest.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        return token::split(rest).map_or(Credential::Malformed, |(id, secret)| Credential::Token(id, secret));
    }
    // SECURITY: browsers send Basic credentials by themselves, also on behalf of other sites' pages: only reading.
    let reads = matches!(method, Method::Get | Method::Head);
    if reads && scheme.eq_ignore_ascii_case("basic") {
        return password(rest).map_or(Credential::Malformed, Credential::Decoded);
    }
    Credential::Malformed
}

/// The password of HTTP Basic.
fn password(encoded: &str) -> Option<String> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// Browsers cannot set `Authorization` on a WebSocket: the token travels as a subprotocol.
///
/// SECURITY: only there. Elsewhere the field is one that a page may be made to send, and that a proxy may log.
fn websocket_credential(head: &Head, method: Method) -> Credential<'_> {
    if !head.has(HeaderName::SecWebsocketProtocol) {
        return Credential::None;
    }
    let mut tokens = list(head, HeaderName::SecWebsocketProtocol).filter_map(|one| one.strip_prefix("larder.bearer."));
    match (tokens.next().map(token::split), tokens.next()) {
        (None, _) => Credential::None,
        (Some(Some((id, secret))), None) if is_websocket(head, method) => Credential::Token(id, secret),
        _ => Credential::Malformed,
    }
}

/// Whether a request opens a WebSocket (RFC 6455 §4.2.1).
fn is_websocket(head: &Head, method: Method) -> bool {
    let one = |name| head.get(name).filter(|_| head.count(name) == 1);
    let key = one(HeaderName::SecWebsocketKey).map(|key| base64::engine::general_purpose::STANDARD.decode(key));
    method == Method::Get
        && list(head, HeaderName::Connection).any(|option| option.eq_ignore_ascii_case("upgrade"))
        && list(head, HeaderName::Upgrade).any(|protocol| protocol.eq_ignore_ascii_case("websocket"))
        && one(HeaderName::SecWebsocketVersion) == Some("13")
        && matches!(key, Some(Ok(bytes)) if bytes.len() == 16)
}

/// The elements of a field that is a list.
fn list(head: &Head, name: HeaderName) -> impl Iterator<Item = &str> {
    head.all(name).flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests;
