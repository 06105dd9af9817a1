//! The head of a request: found in the bytes of a connection, then judged by RFC 9112 to the letter.
//!
//! What two parsers could read in two ways is refused, never repaired: that is where request smuggling lives.
//! `httparse` checks the field lines; the request line and everything that frames the message is checked here.
//!
//! Invariant: a head that was accepted says in exactly one way where its message ends.

use memchr::memchr;

use crate::http::grammar::{TARGET, TOKEN, TransferCoding, count_of, is_host, is_token_byte};
use crate::http::headers::{Head, HeaderName};
use crate::http::method::Method;
use crate::limits::Limits;

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none (no `Content-Length`, or 0).
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// What the client expects before it sends its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// Nothing.
    None,
    /// `100-continue`.
    Continue,
    /// Something nobody knows: 417.
    Unknown,
}

/// A head that was accepted.
pub struct ParsedHead {
    /// The method.
    pub method: Method,
    /// Target and the fields that larder reads.
    pub head: Head,
    /// The request came as HTTP/1.0.
    pub http_1_0: bool,
    /// The client wants the connection to go on.
    pub keep_alive: bool,
    /// How the body is framed.
    pub framing: BodyFraming,
    /// What the client expects before its body.
    pub expectation: Expectation,
}

/// Why a message was refused. The connection ends with the answer: nobody knows where the next message would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The stable code.
    pub code: &'static str,
    /// What is wrong.
    pub message: &'static str,
}

impl Refusal {
    /// 400 `BAD_REQUEST`.
    pub const fn bad(message: &'static str) -> Refusal {
        Refusal { status: 400, code: "BAD_REQUEST", message }
    }
}

/// What a client that speaks TLS begins with.
pub const TLS_HANDSHAKE: u8 = 0x16;
/// What it is told.
pub const TLS: &str = "this port speaks plain HTTP: use http:// in place of https://";

const TARGET_TOO_LONG: Refusal =
    Refusal { status: 414, code: "URI_TOO_LONG", message: "the request target is too long" };
const HEAD_TOO_LARGE: Refusal =
    Refusal { status: 431, code: "HEADERS_TOO_LARGE", message: "the head of the request is too large" };

/// Where the search for the end of a head stands; it never looks at a byte twice.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    start: usize,
    at: usize,
    line_start: usize,
}

impl HeadScan {
    /// Looks for the empty line that ends a head. Returns where the head starts (one empty line before it is skipped,
    /// RFC 9112 §2.2) and ends, or `None` if its end is not there yet.
    pub fn find(&mut self, input: &[u8], limits: &Limits) -> Result<Option<(usize, usize)>, Refusal> {
        if input.first() == Some(&TLS_HANDSHAKE) {
            return Err(Refusal::bad(TLS));
        }
        while let Some(found) = memchr(b'\n', &input[self.at..]) {
            let line_feed = self.at + found;
            if line_feed == self.line_start || input[line_feed - 1] != b'\r' {
                return Err(Refusal::bad("a line of the head ends with a bare line feed"));
            }
            let is_empty = line_feed - 1 == self.line_start;
            self.at = line_feed + 1;
            if is_empty && self.line_start != self.start {
                return self.complete(&input[..=line_feed], limits).map(Some);
            }
            if is_empty && self.start != 0 {
                return Err(Refusal::bad("more than one empty line before the request"));
            }
            self.line_start = line_feed + 1;
            if is_empty {
                self.start = self.line_start;
            }
        }
        self.at = input.len();
        // Whoever speaks another protocol waits for an answer, and sends no line.
        if !matches!(&input[self.start..], [] | [b'\r']) {
            self.check_start(input)?;
        }
        if input.len() - self.start >= limits.head_bytes_max {
            return Err(if self.line_start == self.start { TARGET_TOO_LONG } else { HEAD_TOO_LARGE });
        }
        Ok(None)
    }

    fn check_start(&self, input: &[u8]) -> Result<(), Refusal> {
        match is_token_byte(input[self.start]) {
            true => Ok(()),
            false => Err(Refusal::bad("the request line does not begin with a method")),
        }
    }

    fn complete(&self, input: &[u8], limits: &Limits) -> Result<(usize, usize), Refusal> {
        self.check_start(input)?;
        let end = input.len();
        if end - self.start > limits.head_bytes_max { Err(HEAD_TOO_LARGE) } else { Ok((self.start, end)) }
    }
}

/// The method of a head that may be damaged, for the answer that refuses it.
pub fn method_of(input: &[u8]) -> Method {
    let input = input.strip_prefix(b"\r\n").unwrap_or(input);
    Method::parse(&input[..memchr(b' ', input).unwrap_or(0)])
}

/// Reads a head: `input` starts with the request line and ends with the empty line.
pub fn parse(input: &[u8], limits: &Limits) -> Result<ParsedHead, Refusal> {
    const LINE_END: Refusal = Refusal::bad("the request line does not end with CRLF");
    let line_end = memchr(b'\r', input).ok_or(LINE_END)?;
    if input.get(line_end + 1) != Some(&b'\n') {
        return Err(LINE_END);
    }
    let line = RequestLine::parse(&input[..line_end], limits)?;
    let block = input.get(line_end + 2..).unwrap_or(b"");

    // Most requests have few fields: the long list is made only for those that have more.
    let mut short = [httparse::EMPTY_HEADER; SHORT_LIST];
    let mut long;
    let mut parsed = httparse::parse_headers(block, &mut short[..limits.head_fields_max.min(SHORT_LIST)]);
    if matches!(parsed, Err(httparse::Error::TooManyHeaders)) && limits.head_fields_max > SHORT_LIST {
        long = vec![httparse::EMPTY_HEADER; limits.head_fields_max];
        parsed = httparse::parse_headers(block, &mut long);
    }
    let fields = match parsed {
        Ok(httparse::Status::Complete((len, fields))) if len == block.len() => fields,
        Ok(_) => return Err(Refusal::bad("the fields of the head end too early")),
        Err(httparse::Error::TooManyHeaders) => return Err(HEAD_TOO_LARGE),
        Err(httparse::Error::HeaderName) => {
            return Err(Refusal::bad("a field name is not a token, or a line is folded"));
        }
        Err(_) => return Err(Refusal::bad("a field value holds a byte that may not stand there")),
    };
    line.with_fields(fields)
}

const SHORT_LIST: usize = 24;

struct RequestLine<'a> {
    method: Method,
    target: Target<'a>,
    http_1_0: bool,
}

enum Target<'a> {
    /// A path with its query, or `*`.
    Origin(&'a str),
    /// `http://authority/path`: authority, and path with query (which may lack its slash).
    Absolute(&'a str, &'a str),
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8], limits: &Limits) -> Result<RequestLine<'a>, Refusal> {
        const SHAPE: Refusal = Refusal::bad("the request line is not `METHOD target HTTP/1.1`");
        let first = count_of(line, TOKEN);
        if first == 0 || line.get(first) != Some(&b' ') {
            return Err(Refusal::bad("the request line does not begin with a method and a blank"));
        }
        let (method, rest) = (&line[..first], &line[first + 1..]);
        let valid = count_of(rest, TARGET);
        let second = valid + memchr(b' ', &rest[valid..]).unwrap_or(rest.len() - valid);
        if second > limits.target_bytes_max {
            return Err(TARGET_TOO_LONG);
        }
        let http_1_0 = parse_version(rest.get(second + 1..).ok_or(SHAPE)?)?;
        if valid != second {
            return Err(Refusal::bad("the request target holds a byte that may not stand there"));
        }
        let target = &rest[..second];
        let target = std::str::from_utf8(target).map_err(|_| SHAPE)?;
        let target = parse_target(method, target)?;
        Ok(RequestLine { method: Method::parse(method), target, http_1_0 })
    }

    fn with_fields(self, fields: &[httparse::Header<'_>]) -> Result<ParsedHead, Refusal> {
        let mut head = match self.target {
            Target::Origin(target) => Head::new(target),
            Target::Absolute(_, rest) if rest.starts_with('/') => Head::new(rest),
            Target::Absolute(_, rest) => Head::new(&format!("/{rest}")),
        };
        let mut framing = FramingFields::default();
        for field in fields {
            let name = HeaderName::parse(field.name.as_bytes());
            if let Some(name) = name {
                framing.note(name, field.value)?;
                // RFC 9112 §3.2.2: the authority of an absolute target replaces the Host field.
                match (name, &self.target) {
                    (HeaderName::Host, Target::Absolute(authority, _)) => head.push_known(name, authority.as_bytes()),
                    _ => head.push_known(name, field.value),
                }
            }
        }
        if framing.hosts == 0 && !self.http_1_0 {
            return Err(Refusal::bad("the request has no Host field"));
        }
        let body = framing.body(self.http_1_0)?;
        let expectation = if self.http_1_0 { Expectation::None } else { framing.expectation };
        let keep_alive = !framing.close && (!self.http_1_0 || framing.keep_alive);
        Ok(ParsedHead { method: self.method, head, http_1_0: self.http_1_0, keep_alive, framing: body, expectation })
    }
}

/// Whether the version is 1.0. A minor version above 1 is read as 1.1; another major version is 505.
fn parse_version(version: &[u8]) -> Result<bool, Refusal> {
    let [major, b'.', minor] = version.strip_prefix(b"HTTP/").unwrap_or(b"") else {
        return Err(Refusal::bad("the request line does not end with an HTTP version"));
    };
    if !major.is_ascii_digit() || !minor.is_ascii_digit() {
        return Err(Refusal::bad("the HTTP version is not two digits"));
    }
    if *major != b'1' {
        return Err(Refusal {
            status: 505,
            code: "HTTP_VERSION_NOT_SUPPORTED",
            message: "only HTTP/1.0 and HTTP/1.1 are spoken here",
        });
    }
    Ok(*minor == b'0')
}

fn parse_target<'a>(method: &[u8], target: &'a str) -> Result<Target<'a>, Refusal> {
    if method == b"CONNECT" {
        return Err(Refusal { status: 501, code: "NOT_IMPLEMENTED", message: "CONNECT is not served here" });
    }
    if target.starts_with('/') || (target == "*" && method == b"OPTIONS") {
        return Ok(Target::Origin(target));
    }
    let is_scheme = |scheme: &&str| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let Some(scheme) = ["http://", "https://"].iter().find(|scheme| is_scheme(scheme)) else {
        return Err(Refusal::bad("the request target is neither a path nor an absolute URI"));
    };
    let rest = &target[scheme.len()..];
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || !is_host(authority.as_bytes()) {
        return Err(Refusal::bad("the authority of the request target is not a host"));
    }
    Ok(Target::Absolute(authority, path))
}

/// The fields that say where the message ends and whether the connection goes on.
struct FramingFields {
    hosts: usize,
    length: Option<u64>,
    transfer: TransferCoding,
    expectation: Expectation,
    close: bool,
    keep_alive: bool,
}

impl Default for FramingFields {
    fn default() -> FramingFields {
        FramingFields {
            hosts: 0,
            length: None,
            transfer: TransferCoding::None,
            expectation: Expectation::None,
            close: false,
            keep_alive: false,
        }
    }
}

impl FramingFields {
    fn note(&mut self, name: HeaderName, value: &[u8]) -> Result<(), Refusal> {
        match name {
            HeaderName::Host => {
                self.hosts += 1;
                if self.hosts > 1 {
                    return Err(Refusal::bad("the request has more than one Host field"));
                }
                if !is_host(value) {
                    return Err(Refusal::bad("the Host field is not a host"));
                }
            }
            HeaderName::ContentLength => {
                if self.length.is_some() {
                    return Err(Refusal::bad("the request has more than one Content-Length"));
                }
                self.length = Some(parse_length(value)?);
            }
            HeaderName::TransferEncoding => {
                self.transfer = self.transfer.with_line(value).map_err(Refusal::bad)?;
            }
            HeaderName::Expect if !value.eq_ignore_ascii_case(b"100-continue") => {
                self.expectation = Expectation::Unknown;
            }
            HeaderName::Expect if self.expectation == Expectation::None => self.expectation = Expectation::Continue,
            HeaderName::Connection => {
                for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn body(&self, http_1_0: bool) -> Result<BodyFraming, Refusal> {
        match (self.transfer, self.length) {
            (TransferCoding::None, None | Some(0)) => Ok(BodyFraming::None),
            (TransferCoding::None, Some(length)) => Ok(BodyFraming::Length(length)),
            (_, Some(_)) => Err(Refusal::bad("the request has both Content-Length and Transfer-Encoding")),
            (_, None) if http_1_0 => Err(Refusal::bad("HTTP/1.0 has no Transfer-Encoding")),
            (TransferCoding::Chunked, None) => Ok(BodyFraming::Chunked),
            (TransferCoding::Unknown, None) => Err(Refusal {
                status: 501,
                code: "NOT_IMPLEMENTED",
                message: "the only transfer coding understood here is chunked",
            }),
        }
    }
}

fn parse_length(value: &[u8]) -> Result<u64, Refusal> {
    const SHAPE: Refusal = Refusal::bad("Content-Length is not one decimal number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(SHAPE);
    }
    value.iter().try_fold(0u64, |sum, &digit| {
        sum.checked_mul(10).and_then(|sum| sum.checked_add(u64::from(digit - b'0'))).ok_or(SHAPE)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<ParsedHead, Refusal> {
        let limits = Limits::default();
        let (start, end) = HeadScan::default().find(text, &limits)?.expect("a whole head");
        parse(&text[start..end], &limits)
    }

    fn status(text: &[u8]) -> u16 {
        read(text).map_or_else(|refusal| refusal.status, |_| 200)
    }

    #[test]
    fn a_head_is_found_at_every_split_point_and_read_once() {
        let text = b"\r\nGET /a?b=1 HTTP/1.1\r\nHost: x\r\n\r\nrest";
        let limits = Limits::default();
        for split in 0..text.len() {
            let mut scan = HeadScan::default();
            let early = scan.find(&text[..split], &limits).unwrap();
            let found = early.or_else(|| scan.find(text, &limits).unwrap());
            assert_eq!(found, Some((2, text.len() - 4)), "split at {split}");
        }
    }

    #[test]
    fn the_authority_of_an_absolute_target_replaces_host() {
        let parsed = read(b"GET http://other:81/p?q HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(parsed.head.target(), "/p?q");
        assert_eq!(parsed.head.get(HeaderName::Host), Some("other:81"));
        let bare = read(b"GET HTTP://h?q=1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert_eq!(bare.head.target(), "/?q=1");
    }

    #[test]
    fn the_connection_goes_on_by_default_only_in_1_1() {
        assert!(read(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap().keep_alive);
        assert!(!read(b"GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
        assert!(read(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap().keep_alive);
        assert!(!read(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, CLOSE\r\n\r\n").unwrap().keep_alive);
    }

    #[test]
    fn heads_that_are_too_large_are_refused_before_they_end() {
        let limits = Limits { head_bytes_max: 64, ..Limits::default() };
        let line = [b"GET /".as_slice(), &[b'a'; 100]].concat();
        assert_eq!(HeadScan::default().find(&line, &limits).unwrap_err().status, 414);
        let fields = [b"GET / HTTP/1.1\r\n".as_slice(), &[b'a'; 100]].concat();
        assert_eq!(HeadScan::default().find(&fields, &limits).unwrap_err().status, 431);
    }

    #[test]
    fn as_many_fields_as_allowed_and_not_one_more() {
        let with = |fields: usize| format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "a: b\r\n".repeat(fields - 1));
        assert_eq!(status(with(100).as_bytes()), 200);
        assert_eq!(status(with(101).as_bytes()), 431);
    }
}
