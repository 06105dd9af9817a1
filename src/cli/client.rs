//! The HTTP client of the commands: one request at a time, plain HTTP over TCP or a Unix socket, no redirects, no proxy.
//!
//! SECURITY: the token comes from the environment or a file, never from an argument, and goes to no other host.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use ureq::http;

use super::clean;
use super::exit::{FAILED, Failure, NOT_FOUND, PRECONDITION, UNREACHABLE, USAGE};
use super::output::wrote;
use super::page::Page;
use super::parse::{Invocation, usage};
use super::secret::find_token;
use super::unix::UnixConnector;

const DEFAULT_URL: &str = "http://127.0.0.1:8080";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any single answer of larder takes to begin, imports and prefix deletes included.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// An error's document is short; what is longer is not from larder.
const PROBLEM_BYTES_MAX: u64 = 64 * 1024;
/// A page of a list is about 1 MiB; one item may hold the largest value twice over.
const DOCUMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What a request carries.
pub enum Payload {
    /// Nothing.
    None,
    /// Bytes, with their length.
    Bytes(Vec<u8>),
    /// Bytes of unknown length.
    Stream(Box<dyn Read>),
}

/// An answer that was not an error.
pub struct Reply {
    response: http::Response<ureq::Body>,
}

/// Where a larder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `http://host[:port][/base]`, without a slash at the end.
    Http(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Http(base) => f.write_str(base),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection to one larder.
pub struct Client {
    agent: ureq::Agent,
    address: Address,
    /// What stands before each target. Over a Unix socket the host in it is not looked up.
    base: String,
    authorization: Option<String>,
}

impl Client {
    /// The client that the options and the environment describe.
    pub fn new(invocation: &Invocation) -> Result<Client, Failure> {
        let variable = std::env::var("LARDER_URL").ok().filter(|url| !url.is_empty());
        let url = invocation.text("url")?.map(str::to_owned).or(variable);
        let address = check_url(url.as_deref().unwrap_or(DEFAULT_URL)).map_err(|message| usage(invocation, message))?;
        let authorization = find_token(invocation)?.map(|token| format!("Bearer {token}"));
        Ok(Client::at(address, authorization))
    }

    /// The client of a larder at a checked address.
    pub fn at(address: Address, authorization: Option<String>) -> Client {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(SILENCE_MAX))
            .timeout_per_write(Some(SILENCE_MAX))
            .build();
        let (agent, base) = match &address {
            Address::Http(base) => (config.new_agent(), base.clone()),
            Address::Unix(path) => {
                let connector = UnixConnector { path: path.clone(), silence_max: SILENCE_MAX };
                let resolver = ureq::unversioned::resolver::DefaultResolver::default();
                // A literal address: nothing is looked up. It counts as local where no token is asked for.
                (ureq::Agent::with_parts(config, connector, resolver), "http://127.0.0.1".to_owned())
            }
        };
        Client { agent, address, base, authorization }
    }

    /// Where requests go.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What stands in `Authorization`.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Sends a request; an answer other than 2xx is a failure with the exit code for it.
    pub fn send(
        &self,
        method: http::Method,
        target: &str,
        fields: &[(&str, &str)],
        payload: Payload,
    ) -> Result<Reply, Failure> {
        let mut builder = http::Request::builder().method(method).uri(format!("{}{target}", self.base));
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            builder = builder.header("Authorization", authorization);
        }
        let wrong = |error: http::Error| Failure::new(USAGE, format!("no request can be made of this: {error}"));
        let sent = match payload {
            Payload::None => self.agent.run(builder.body(()).map_err(wrong)?),
            Payload::Bytes(bytes) => self.agent.run(builder.body(bytes).map_err(wrong)?),
            Payload::Stream(input) => {
                let failed = Arc::new(OnceLock::new());
                let input = Noting { input, failed: failed.clone() };
                // NOTE: no `Expect: 100-continue`: tiny_http's 100 carries fields, which this client takes for an error.
                let sent = self.agent.run(builder.body(ureq::SendBody::from_owned_reader(input)).map_err(wrong)?);
                // What could not be read could not be sent: that is not the server's silence.
                if let Some(reason) = failed.get() {
                    return Err(Failure::plain(format!("cannot read what is to be sent: {reason}")));
                }
                sent
            }
        };
        let reply = Reply { response: sent.map_err(|error| self.unreachable(&error))? };
        if (200..300).contains(&reply.status()) { Ok(reply) } else { Err(reply.into_failure()) }
    }

    /// GET of a page of a list.
    pub fn page(&self, target: &str) -> Result<Page, Failure> {
        let reply = self.send(http::Method::GET, target, &[("Accept", "application/json")], Payload::None)?;
        Page::parse(&reply.into_bytes()?).map_err(Failure::plain)
    }

    /// Whether anything answers there, whatever it says.
    pub fn reachable(&self) -> Result<(), Failure> {
        let asked = self.agent.get(format!("{}/health/live", self.base)).call();
        asked.map(|_| ()).map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let error = error.to_string();
        Failure::new(UNREACHABLE, format!("no answer from {}: {}", self.address, clean::line(&error)))
    }
}

impl Reply {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header field, if it is there and is text.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The version in the `ETag`.
    pub fn version(&self) -> Option<u64> {
        self.field("ETag")?.trim_matches('"').parse().ok()
    }

    /// The body while it arrives. A body that was cut ends with an error.
    pub fn into_reader(self) -> impl Read {
        self.response.into_body().into_with_config().limit(u64::MAX).reader()
    }

    /// The body as JSON.
    pub fn into_json(self) -> Result<Value, Failure> {
        let body = self.into_bytes()?;
        serde_json::from_slice(&body).map_err(|error| Failure::plain(format!("the answer is no JSON: {error}")))
    }

    fn into_bytes(self) -> Result<Vec<u8>, Failure> {
        let body = self.response.into_body().into_with_config().limit(DOCUMENT_BYTES_MAX).read_to_vec();
        body.map_err(|error| Failure::new(UNREACHABLE, format!("the answer was cut: {error}")))
    }

    fn into_failure(self) -> Failure {
        let status = self.status();
        let code = match status {
            404 => NOT_FOUND,
            412 => PRECONDITION,
            _ => FAILED,
        };
        let mut text = Vec::new();
        let read = self.into_reader().take(PROBLEM_BYTES_MAX).read_to_end(&mut text);
        let problem: Value = read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let part = |name: &str| problem.get(name).and_then(Value::as_str);
        Failure::new(
            code,
            match (part("code"), part("message")) {
                (Some(code), Some(message)) => clean::line(&format!("{code}: {message}")).into_owned(),
                _ => format!("the server answered {status}, and it does not seem to be larder"),
            },
        )
    }
}

/// A reader that keeps why it failed.
struct Noting {
    input: Box<dyn Read>,
    failed: Arc<OnceLock<String>>,
}

impl Read for Noting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.input.read(buffer).inspect_err(|error| {
            if error.kind() != std::io::ErrorKind::Interrupted {
                let _ = self.failed.set(error.to_string());
            }
        })
    }
}

fn check_url(url: &str) -> Result<Address, String> {
    if let Some(path) = url.strip_prefix("unix:") {
        // `unix:///run/x` is another spelling of `unix:/run/x`.
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path.is_empty() {
            true => Err(format!("{url} names no socket, such as unix:/run/larder/larder.sock")),
            false => Ok(Address::Unix(Path::new(path).to_owned())),
        };
    }
    if url.starts_with("https://") {
        return Err(format!("{url}: this client speaks plain http; go through a tunnel, or use curl"));
    }
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let host = url.strip_prefix("http://").unwrap_or_default();
    if host.is_empty() || host.starts_with('/') || host.contains(['?', '#', ' ', '@']) {
        return Err(format!("{url} is no address of a larder, such as {DEFAULT_URL}"));
    }
    Ok(Address::Http(url.trim_end_matches('/').to_owned()))
}

/// Copies a body to where it goes; an error says which side it was.
pub fn copy(from: &mut impl Read, to: &mut impl Write, mut each: impl FnMut(usize)) -> Result<(), Failure> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::new(UNREACHABLE, format!("the answer was cut: {error}"))),
        };
        to.write_all(&buffer[..count]).map_err(wrote)?;
        each(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_plain_http_with_a_host() {
        for (url, base) in [
            ("http://pi:8080/", "http://pi:8080"),
            ("pi:8080", "http://pi:8080"),
            ("http://pi/base/", "http://pi/base"),
        ] {
            assert_eq!(check_url(url).unwrap(), Address::Http(base.to_owned()));
        }
        for url in ["https://pi", "", "http://", "ftp://pi", "http://user@pi", "http://pi?x", "http:///x"] {
            assert!(check_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_socket_is_a_path() {
        for (url, path) in [("unix:/run/l.sock", "/run/l.sock"), ("unix:///run/l", "/run/l"), ("unix:here", "here")] {
            assert_eq!(check_url(url).unwrap(), Address::Unix(path.into()));
        }
        assert!(check_url("unix:").is_err() && check_url("unix://").is_err());
    }
}
