//! What passes between an engine and a handler: a request, a response, and the trace that goes with both.
//!
//! Nothing here knows sockets, and nothing here knows keys and values.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::agent::Agent;
use super::budget::Client;
use super::encoding;
use super::headers::Head;
use super::method::Method;
use super::problem::Problem;

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A TCP peer: its address (IPv4-mapped IPv6 already unmapped) and port.
    Tcp(IpAddr, u16),
    /// A peer on a Unix socket.
    Unix,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Peer::Tcp(ip, port) => write!(f, "{}", std::net::SocketAddr::new(*ip, *port)),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// The body of a request.
pub enum RequestBody {
    /// Read whole, within the limit that [`super::Handler::admit`] gave (transfer coding removed, content coding kept).
    Bytes(Bytes),
    /// Read by the handler itself, on a thread of the import lane, which may block.
    Reader(Box<dyn io::Read + Send>),
}

impl RequestBody {
    /// The bytes of a body that was read whole; empty for a reader.
    pub fn bytes(&self) -> &[u8] {
        match self {
            RequestBody::Bytes(bytes) => bytes,
            RequestBody::Reader(_) => &[],
        }
    }

    /// The same, shared instead of borrowed.
    pub fn shared(&self) -> Bytes {
        match self {
            RequestBody::Bytes(bytes) => bytes.clone(),
            RequestBody::Reader(_) => Bytes::new(),
        }
    }
}

/// Who asks, as logs name it: the client, and the proxy that speaks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The other end of the connection.
    pub peer: Peer,
    /// Whom it speaks for, if it is a trusted proxy that says so.
    pub forwarded: Option<IpAddr>,
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.forwarded {
            None => self.peer.fmt(f),
            Some(client) => write!(f, "{client} (through {})", self.peer),
        }
    }
}

/// One request, free of the socket it came from.
pub struct Request {
    /// The method.
    pub method: Method,
    /// Target and header fields.
    pub head: Head,
    /// The body.
    pub body: RequestBody,
    /// Who asks.
    pub peer: Peer,
}

/// An index into the route table; metrics and logs name the route by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u8);

impl RouteId {
    /// Not routed yet, or refused by the engine before any routing.
    pub const NONE: RouteId = RouteId(0);
}

/// What is noted of a request on its way, for metrics and the slow-request log.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The method.
    pub method: Method,
    /// The route, once known.
    pub route: RouteId,
    /// Who asks.
    pub peer: Peer,
    /// When the engine first held the whole head.
    pub received_at: Instant,
    /// When its body was complete too; the limit on a request's time counts from here.
    pub ready_at: Instant,
    /// When a thread began to work on it: `began_at - ready_at` is the time in the queue.
    pub began_at: Instant,
    /// Time spent reading the store on a miss.
    pub store: Duration,
    /// Time between hand-over to the committer and its reply.
    pub commit: Duration,
    /// The error code of the answer, if it is one.
    pub code: Option<&'static str>,
    /// Whether the handler does no more than a small read, or hands over one write.
    pub is_brief: bool,
    /// False for streams and long polls, which are counted but not timed.
    pub timed: bool,
    /// On whose behalf it is, if that is more than the peer's address.
    pub client: Option<Client>,
    /// A large answer may be refused for want of memory: nothing was done that it has to tell.
    pub only_reads: bool,
    /// Whom a trusted proxy names as asking, if that is another than the peer.
    pub forwarded: Option<IpAddr>,
    /// What the client calls itself.
    pub agent: Option<Agent>,
    /// A validated `X-Request-Id`, echoed and logged.
    pub request_id: Option<Box<str>>,
    /// A validated `traceparent`, echoed and logged.
    pub traceparent: Option<Box<str>>,
    /// Header lines that every answer to this request carries, whoever makes it.
    pub echoed: Vec<u8>,
    /// Text of larder's own of so many bytes and more is gzipped for whoever asks; `None`: none is.
    pub gzip_from: Option<usize>,
    /// The handler has identified this request and let it in; it does so once, whether or not there is a body.
    pub admitted: bool,
}

impl Trace {
    /// Who asks, for logs.
    pub fn asker(&self) -> Asker {
        Asker { peer: self.peer, forwarded: self.forwarded }
    }

    /// A trace for a request whose head was complete at `received_at`.
    pub fn new(method: Method, peer: Peer, received_at: Instant) -> Trace {
        Trace {
            method,
            route: RouteId::NONE,
            peer,
            received_at,
            ready_at: received_at,
            began_at: received_at,
            store: Duration::ZERO,
            commit: Duration::ZERO,
            code: None,
            is_brief: false,
            timed: true,
            client: None,
            only_reads: !method.is_write(),
            forwarded: None,
            agent: None,
            request_id: None,
            traceparent: None,
            echoed: Vec::new(),
            gzip_from: None,
            admitted: false,
        }
    }

    /// On whose behalf memory is held for it.
    pub fn client(&self) -> Client {
        self.client.unwrap_or_else(|| Client::of_peer(self.peer))
    }

    /// Notes a header line that the answer must carry, whoever makes it.
    pub fn echo(&mut self, name: &[u8], value: &[u8]) {
        debug_assert!(is_field_value(value), "a field value with control characters");
        for part in [name, b": ", value, b"\r\n"] {
            self.echoed.extend_from_slice(part);
        }
    }
}

/// Why an answer ended before its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The client left, or the network broke.
    Client,
    /// The client took nothing for too long.
    Unread,
    /// Memory was short, and its client took too little of it.
    Memory,
    /// Its connection made way for another, or there was too much work of one kind.
    Room,
    /// larder stops.
    Drain,
    /// Its body could not be made to its end.
    Body,
}

/// How an answer ended, told to [`super::Handler::finished`].
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The status that was sent.
    pub status: u16,
    /// Bytes of the body that were handed to the socket.
    pub body_bytes: u64,
    /// Time from the answer's hand-over to its last byte in the socket.
    pub write: Duration,
    /// When that last byte was taken.
    pub ended_at: Instant,
    /// Why the connection ended before the whole answer was taken; `None`: it did not.
    pub cut: Option<Cut>,
}

impl Outcome {
    /// The end of an answer of which nothing was sent.
    pub fn unsent(status: u16) -> Outcome {
        let cut = Some(Cut::Client);
        Outcome { status, body_bytes: 0, write: Duration::ZERO, ended_at: Instant::now(), cut }
    }
}

/// Asked for more of a body whenever the socket can take it. Appends to the buffer and says whether more will come. An
/// `Err` cuts the answer behind what was appended.
pub type Puller = Box<dyn FnMut(&mut Vec<u8>) -> io::Result<bool> + Send>;

/// The body of a response.
pub enum Body {
    /// No body. The engine sends `Content-Length: 0` unless the status forbids it (204, 304).
    Empty,
    /// Shared bytes, not copied.
    Bytes(Bytes),
    /// An RFC 9457 error, rendered by [`Response::seal`].
    Problem(Box<Problem>),
    /// Made while it is sent. With a length it is framed by `Content-Length`, else chunked (or, in HTTP/1.0, by the close).
    /// Where it is cut the connection ends without the end of the body (in HTTP/1.0 with a reset), so that the client can
    /// tell.
    Pull {
        /// The exact length in bytes, if it is known.
        length: Option<u64>,
        /// Bytes of memory that it keeps from its first piece to its last.
        keeps: usize,
        /// The longest that the client may take nothing of it, if less than `limits.idle_timeout`.
        patience: Duration,
        /// Where the bytes come from.
        pull: Puller,
    },
}

/// Bytes of a text that are compressed at once.
const TEXT_PIECE_BYTES: usize = 64 * 1024;

/// Room for the fields of most answers, taken at once instead of in many small steps.
const FIELDS_BYTES_USUAL: usize = 256;

/// One response. `fields` is a block of complete header lines, each ended by CRLF.
///
/// The engine adds the status line, `Server`, `Date`, `Content-Length` or `Transfer-Encoding`, and `Connection`.
/// For HEAD it sends the head that GET would have, without the body.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines made for this answer.
    pub fields: Vec<u8>,
    /// Header lines prepared earlier and shared (a cached value's), sent before `fields`.
    pub prepared: Option<Bytes>,
    /// The body.
    pub body: Body,
    /// The connection ends after this answer.
    pub close: bool,
    /// For HEAD where making the body is not worth it, and for 304: the length that GET would have announced.
    pub length_only: Option<u64>,
    /// The body is text that larder made for this request: it may be gzipped on its way.
    pub own_text: bool,
}

impl Response {
    /// An answer without body or fields.
    pub fn new(status: u16) -> Response {
        Response {
            status,
            fields: Vec::new(),
            prepared: None,
            body: Body::Empty,
            close: false,
            length_only: None,
            own_text: false,
        }
    }

    /// Has the answer to a HEAD announce no length: to know it, the body would have to be made (RFC 9110 §9.3.2).
    pub fn without_length(mut self) -> Response {
        self.body = Body::Pull { length: None, keeps: 0, patience: Duration::MAX, pull: Box::new(|_| Ok(false)) };
        self
    }

    /// An answer with a body of a given type.
    pub fn with_body(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response {
        let mut response = Response::new(status).field("Content-Type", content_type);
        response.body = Body::Bytes(body.into());
        response
    }

    /// An answer with text that larder made for this request.
    pub fn with_text(status: u16, content_type: &str, text: impl Into<Bytes>) -> Response {
        let mut response = Response::with_body(status, content_type, text).field("Vary", "Accept-Encoding");
        response.own_text = true;
        response
    }

    /// Adds a header line. The value must hold no CR, LF or NUL: [`Response::try_field`] checks what comes from outside.
    pub fn field(mut self, name: &str, value: &str) -> Response {
        self.push_field(name, value.as_bytes());
        self
    }

    /// Adds a header line in place.
    pub fn push_field(&mut self, name: &str, value: &[u8]) {
        debug_assert!(is_field_value(value), "a field value with control characters");
        if self.fields.capacity() == 0 {
            self.fields.reserve(FIELDS_BYTES_USUAL);
        }
        self.fields.extend_from_slice(name.as_bytes());
        self.fields.extend_from_slice(b": ");
        self.fields.extend_from_slice(value);
        self.fields.extend_from_slice(b"\r\n");
    }

    /// Adds a header line whose value came from outside; one that may not stand in a head is left out.
    pub fn try_field(&mut self, name: &str, value: &[u8]) -> bool {
        let valid = is_field_value(value);
        if valid {
            self.push_field(name, value);
        }
        valid
    }

    /// The first value of a header line of this answer, for tests and for code that decorates answers.
    pub fn get(&self, name: &str) -> Option<&str> {
        let blocks = [self.prepared.as_deref().unwrap_or(b""), &self.fields];
        blocks.into_iter().filter_map(|block| std::str::from_utf8(block).ok()).find_map(|block| {
            block
                .split("\r\n")
                .filter_map(|line| line.split_once(": "))
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v)
        })
    }

    /// Makes the answer ready for the wire: adds the echoed lines, renders a problem body, and has large texts of larder's
    /// own gzipped while they are sent. Engines call it once, before they write the head.
    pub fn seal(&mut self, trace: &mut Trace) {
        self.fields.extend_from_slice(&trace.echoed);
        if let Body::Problem(problem) = &self.body {
            trace.code = Some(problem.code);
            let rendered = problem.render(trace.request_id.as_deref());
            self.push_field("Content-Type", b"application/problem+json");
            self.push_field("Cache-Control", b"no-store");
            self.body = Body::Bytes(rendered.into());
            self.gzip(trace, true);
        } else if self.own_text {
            self.gzip(trace, false);
        }
    }

    /// Has the body gzipped by whoever pulls it: never by who seals the answer, and may have much else to do.
    fn gzip(&mut self, trace: &Trace, adds_vary: bool) {
        let Body::Bytes(bytes) = &mut self.body else { return };
        if trace.gzip_from.is_none_or(|least| bytes.len() < least) {
            return;
        }
        let mut left = std::mem::take(bytes);
        let keeps = encoding::GZIP_KEEPS_BYTES + left.len();
        let pieces: Puller = Box::new(move |out| {
            out.extend_from_slice(&left.split_to(left.len().min(TEXT_PIECE_BYTES)));
            Ok(!left.is_empty())
        });
        self.body = Body::Pull { length: None, keeps, patience: Duration::MAX, pull: encoding::gzip_puller(pieces) };
        self.push_field("Content-Encoding", b"gzip");
        if adds_vary {
            self.push_field("Vary", b"Accept-Encoding");
        }
    }
}

/// Whether bytes may stand as a field value (RFC 9110 §5.5): visible ASCII, blanks and obs-text, no other controls.
pub fn is_field_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

impl From<Problem> for Response {
    fn from(mut problem: Problem) -> Response {
        let mut response = Response::new(problem.status);
        response.fields = std::mem::take(&mut problem.fields);
        response.body = Body::Problem(Box::new(problem));
        response
    }
}
