//! From tiny_http's request to larder's: reading its head, and refusing what RFC 9112 forbids and tiny_http lets in.
//!
//! Not visible from here, because tiny_http has thrown it away: folded header lines, white space before the first
//! header, words after the version; `tests/http_corpus.rs` lists all of it. Invariant: [`BodyKind`] says which reader
//! tiny_http built, whatever the client meant, because disposing of that reader wrongly blocks or aborts.

use std::borrow::Cow;
use std::time::Instant;

use bytes::Bytes;

use super::meter::hide::{TOLD_BYTES_MAX, shown};
use super::socket;
use crate::http::grammar::{self, TARGET, TransferCoding, is_token};
use crate::http::headers::{Head, HeaderName};
use crate::http::message::{Peer, Request, RequestBody};
use crate::http::method::Method;
use crate::http::problem::{Problem, Written};
use crate::limits::{Limits, SMALL_BODY_BYTES};

/// How tiny_http will hand out the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// There is none.
    None,
    /// Already read.
    Buffered(u64),
    /// So many bytes, to be read from the socket.
    Counted(u64),
    /// Chunks, which larder reads itself: tiny_http gets no byte of them.
    Chunked,
    /// So many bytes that larder reads itself: tiny_http does not know of them.
    Long(u64),
}

impl BodyKind {
    /// The kind of body that tiny_http made of a request. Follows the order of its decisions.
    pub fn of(raw: &tiny_http::Request) -> BodyKind {
        let hidden = || shown(first(raw, "content-length")?).parse().ok().filter(|length| *length > TOLD_BYTES_MAX);
        match raw.body_length().map(|length| length as u64) {
            Some(0) => BodyKind::None,
            Some(length) if length <= SMALL_BODY_BYTES as u64 && first(raw, "expect").is_none() => {
                BodyKind::Buffered(length)
            }
            Some(length) => BodyKind::Counted(length),
            None if first(raw, "transfer-encoding").is_some() => BodyKind::Chunked,
            None => hidden().map_or(BodyKind::None, BodyKind::Long),
        }
    }

    /// Whether larder reads it itself.
    pub fn is_own(self) -> bool {
        matches!(self, BodyKind::Chunked | BodyKind::Long(_))
    }

    /// The length, where the client told it.
    pub fn length(self) -> Option<u64> {
        match self {
            BodyKind::None => Some(0),
            BodyKind::Buffered(length) | BodyKind::Counted(length) | BodyKind::Long(length) => Some(length),
            BodyKind::Chunked => None,
        }
    }

    /// Whether nothing of it is left on the socket.
    pub fn is_at_hand(self) -> bool {
        matches!(self, BodyKind::None | BodyKind::Buffered(_))
    }
}

/// What of a request's head matters to the connection rather than to the handler.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The method.
    pub method: Method,
    /// It came as HTTP/1.0.
    pub http_1_0: bool,
    /// tiny_http takes no further request from this connection and closes it after the answer.
    pub last: bool,
    /// The client asked for the close in a way that tiny_http does not see.
    pub asked_close: bool,
}

impl Manner {
    /// Reads it from a request.
    pub fn of(raw: &tiny_http::Request) -> Manner {
        let http_1_0 = *raw.http_version() <= (1, 0);
        let last = match first(raw, "connection") {
            Some(value) if contains(value, "close") => true,
            Some(value) => http_1_0 && !contains(value, "keep-alive"),
            None => http_1_0,
        };
        let asked_close = !last
            && raw
                .headers()
                .iter()
                .filter(|line| line.field.as_str().as_str().eq_ignore_ascii_case("connection"))
                .any(|line| contains(line.value.as_str(), "close"));
        Manner { method: Method::parse(raw.method().as_str().as_bytes()), http_1_0, last, asked_close }
    }
}

fn first<'a>(raw: &'a tiny_http::Request, name: &str) -> Option<&'a str> {
    let line = raw.headers().iter().find(|line| line.field.as_str().as_str().eq_ignore_ascii_case(name));
    line.map(|line| line.value.as_str())
}

fn contains(value: &str, word: &str) -> bool {
    value.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
}

/// The peer of a request.
pub fn peer(raw: &tiny_http::Request) -> Peer {
    raw.remote_addr().map_or(Peer::Unix, |address| Peer::Tcp(socket::unmapped(address.ip()), address.port()))
}

/// Reads a head. `Err` is the answer for one that is not valid HTTP/1.x or over a limit: the connection must end with it.
pub fn read(raw: &tiny_http::Request, manner: Manner, limits: &Limits) -> Result<Request, Problem> {
    if *raw.http_version() < (1, 0) {
        let problem = Problem::new(505, "HTTP_VERSION_NOT_SUPPORTED", "use HTTP/1.1");
        return Err(if manner.method.is_write() { problem.written(Written::No) } else { problem });
    }
    if !is_token(raw.method().as_str().as_bytes()) {
        return Err(bad("the method is not a token"));
    }
    if *raw.method() == tiny_http::Method::Connect {
        return Err(Problem::new(501, "NOT_IMPLEMENTED", "CONNECT is not served here"));
    }
    let (target, authority) = target(raw.url(), manner.method, limits)?;
    let mut head = Head::new(&target);
    let hosts = fields(raw, &mut head, authority, limits)?;
    framing(&head, manner)?;
    check_host(hosts, manner)?;
    Ok(Request { method: manner.method, head, body: RequestBody::Bytes(Bytes::new()), peer: peer(raw) })
}

/// Checks the request target and brings it to origin form; of an absolute form the authority comes along.
fn target<'a>(url: &'a str, method: Method, limits: &Limits) -> Result<(Cow<'a, str>, Option<&'a str>), Problem> {
    if url.len() > limits.target_bytes_max {
        let text = format!("a request target holds at most {} bytes", limits.target_bytes_max);
        return Err(Problem::new(414, "URI_TOO_LONG", text));
    }
    if grammar::count_of(url.as_bytes(), TARGET) < url.len() {
        return Err(bad("the request target holds a character that must be percent-encoded"));
    }
    if url.starts_with('/') || (url == "*" && method == Method::Options) {
        return Ok((url.into(), None));
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let start = url.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| &url[scheme.len()..])
    });
    let rest = rest.ok_or_else(|| bad("the request target must be a path"))?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || !grammar::is_host(authority.as_bytes()) {
        return Err(bad("the authority of the request target is not a host"));
    }
    let path = if path.starts_with('/') { path.into() } else { format!("/{path}").into() };
    Ok((path, Some(authority)))
}

/// Copies the fields and returns how many of them were `Host`.
fn fields(
    raw: &tiny_http::Request,
    head: &mut Head,
    authority: Option<&str>,
    limits: &Limits,
) -> Result<usize, Problem> {
    let mut hosts = 0;
    // RFC 9112 §3.2.2: the authority of an absolute target stands in place of the Host field.
    if let Some(authority) = authority {
        head.push_known(HeaderName::Host, authority.as_bytes());
    }
    let mut bytes = raw.method().as_str().len() + raw.url().len() + " HTTP/1.1\r\n\r\n".len();
    if raw.headers().len() > limits.head_fields_max {
        let text = format!("a request holds at most {} header fields", limits.head_fields_max);
        return Err(Problem::new(431, "HEADERS_TOO_LARGE", text));
    }
    for line in raw.headers() {
        let name = line.field.as_str().as_bytes();
        let known = HeaderName::parse(name);
        let is_hidden = matches!(known, Some(HeaderName::ContentLength | HeaderName::Connection));
        let value = if is_hidden { shown(line.value.as_str()) } else { line.value.as_str().into() };
        let value = value.as_bytes();
        bytes += name.len() + value.len() + ": \r\n".len();
        if bytes > limits.head_bytes_max {
            let text = format!("the head of a request holds at most {} bytes", limits.head_bytes_max);
            return Err(Problem::new(431, "HEADERS_TOO_LARGE", text));
        }
        if !is_token(name) {
            return Err(bad("a header field has an invalid name"));
        }
        if !crate::http::message::is_field_value(value) {
            return Err(bad("a header field holds a control character"));
        }
        match known {
            Some(HeaderName::Host) => {
                hosts += 1;
                if !grammar::is_host(value) {
                    return Err(bad("the Host is not a host"));
                }
                if authority.is_none() {
                    head.push_known(HeaderName::Host, value);
                }
            }
            Some(known) => head.push_known(known, value),
            None => {}
        }
    }
    Ok(hosts)
}

/// What can be told of a head that is refused.
pub fn known(raw: &tiny_http::Request) -> Head {
    let mut head = Head::new("");
    let lines = raw.headers().iter().map(|line| (line.field.as_str().as_bytes(), line.value.as_bytes()));
    for (name, value) in lines.filter(|(_, value)| crate::http::message::is_field_value(value)) {
        head.push(name, value);
    }
    head
}

/// SECURITY: a request that two parsers could cut differently is refused (RFC 9112 §6).
fn framing(head: &Head, manner: Manner) -> Result<(), Problem> {
    let lengths = head.count(HeaderName::ContentLength);
    if lengths > 1 {
        return Err(bad("more than one Content-Length"));
    }
    if let Some(length) = head.get(HeaderName::ContentLength) {
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || length.parse::<u64>().is_err() {
            return Err(bad("the Content-Length is not a number that this server can count to"));
        }
    }
    if !head.has(HeaderName::TransferEncoding) {
        return Ok(());
    }
    let mut lines = head.all(HeaderName::TransferEncoding);
    let codings = lines.try_fold(TransferCoding::None, |codings, line| codings.with_line(line.as_bytes()));
    let codings = codings.map_err(bad)?;
    if lengths > 0 {
        return Err(bad("Content-Length and Transfer-Encoding in one request"));
    }
    if manner.http_1_0 {
        return Err(bad("Transfer-Encoding in an HTTP/1.0 request"));
    }
    if codings != TransferCoding::Chunked {
        let problem = Problem::new(501, "NOT_IMPLEMENTED", "the only transfer coding served here is chunked");
        return Err(if manner.method.is_write() { problem.written(Written::No) } else { problem });
    }
    Ok(())
}

fn check_host(hosts: usize, manner: Manner) -> Result<(), Problem> {
    match (hosts, manner.http_1_0) {
        (0, false) => Err(bad("an HTTP/1.1 request must have a Host")),
        (0 | 1, _) => Ok(()),
        _ => Err(bad("more than one Host")),
    }
}

fn bad(message: &'static str) -> Problem {
    Problem::new(400, "BAD_REQUEST", message)
}

/// A trace for a request that began now.
pub fn trace(manner: Manner, peer: Peer, received_at: Instant) -> crate::http::message::Trace {
    let mut trace = crate::http::message::Trace::new(manner.method, peer, received_at);
    trace.began_at = Instant::now();
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(method: &str, url: &str, headers: &[(&str, &str)]) -> tiny_http::Request {
        let mut request =
            tiny_http::TestRequest::new().with_method(method.parse().unwrap()).with_path(url).with_body("hello");
        for (name, value) in headers {
            request = request.with_header(tiny_http::Header::from_bytes(name.as_bytes(), value.as_bytes()).unwrap());
        }
        request.into()
    }

    fn status(method: &str, url: &str, headers: &[(&str, &str)]) -> u16 {
        let raw = raw(method, url, headers);
        match read(&raw, Manner::of(&raw), &Limits::default()) {
            Ok(_) => 200,
            Err(problem) => problem.status,
        }
    }

    const HOST: (&str, &str) = ("Host", "board");

    #[test]
    fn what_rfc_9112_forbids_is_refused() {
        let long = "/".repeat(9000);
        type Case<'a> = (u16, &'a str, &'a str, &'a [(&'a str, &'a str)]);
        let cases: &[Case<'_>] = &[
            (200, "GET", "/", &[HOST]),
            (200, "OPTIONS", "*", &[HOST]),
            (400, "GET", "*", &[HOST]),
            (400, "G(E)T", "/", &[HOST]),
            (400, "GET", "/a\u{1}", &[HOST]),
            (400, "GET", "/a#b", &[HOST]),
            (400, "GET", "a", &[HOST]),
            (414, "GET", &long, &[HOST]),
            (400, "GET", "/", &[]),
            (400, "GET", "/", &[HOST, HOST]),
            (400, "GET", "/", &[("Host", "a,b")]),
            (400, "GET", "/", &[HOST, ("Content-Length", "5"), ("Content-Length", "5")]),
            (400, "GET", "/", &[HOST, ("Content-Length", "+5")]),
            (400, "GET", "/", &[HOST, ("Content-Length", "5, 5")]),
            (400, "GET", "/", &[HOST, ("Content-Length", "")]),
            (400, "GET", "/", &[HOST, ("Content-Length", "18446744073709551621")]),
            (400, "PUT", "/", &[HOST, ("Content-Length", "5"), ("Transfer-Encoding", "chunked")]),
            (400, "GET", "/", &[HOST, ("Bad(name)", "1")]),
            (400, "GET", "/", &[HOST, ("", "1")]),
            (400, "GET", "/", &[HOST, ("X", "a\rb")]),
            (400, "GET", "/", &[HOST, ("X", "a\0b")]),
            (200, "GET", "http://board/x", &[HOST]),
            (200, "GET", "https://board?x", &[HOST]),
            (400, "GET", "http://me@board/x", &[HOST]),
            (501, "CONNECT", "board:80", &[HOST]),
            (400, "GET", "/", &[("Host", "board:x")]),
        ];
        for (expected, method, url, headers) in cases {
            assert_eq!(status(method, url, headers), *expected, "{method} {url:.20} {headers:?}");
        }
    }

    #[test]
    fn too_many_or_too_long_fields_are_431() {
        let many: Vec<(&str, &str)> = std::iter::once(HOST).chain(std::iter::repeat_n(("X", "1"), 100)).collect();
        assert_eq!(status("GET", "/", &many), 431);
        let value = "v".repeat(33 * 1024);
        assert_eq!(status("GET", "/", &[HOST, ("X", &value)]), 431);
    }

    #[test]
    fn an_absolute_target_becomes_a_path_and_its_authority_the_host() {
        let raw = raw("GET", "HTTP://board:80/a?b=c", &[("Host", "ignored")]);
        let request = read(&raw, Manner::of(&raw), &Limits::default()).ok().unwrap();
        assert_eq!(request.head.target(), "/a?b=c");
        assert_eq!(request.head.get(HeaderName::Host), Some("board:80"));
    }

    #[test]
    fn the_close_that_tiny_http_sees_is_told_from_the_one_it_does_not() {
        let seen = raw("GET", "/", &[("Connection", "Close")]);
        assert!(Manner::of(&seen).last);
        let unseen = raw("GET", "/", &[("Connection", "x"), ("Connection", "close")]);
        let manner = Manner::of(&unseen);
        assert!(!manner.last && manner.asked_close);
    }
}
