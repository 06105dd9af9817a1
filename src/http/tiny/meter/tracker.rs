//! Where the bytes of a connection stand: in which head, or in which body, as tiny_http reads them.
//!
//! It follows every byte that is read of a connection, whoever reads it, however the bytes are cut. Invariant: it is right
//! about where each message ends, or has found a fault in the one before: what it lets pass, tiny_http frames alike.

use super::request_line::RequestLine;
use super::sender::Sender;
use crate::http::epoll::chunked::Chunked;
use crate::http::problem::Problem;
use crate::limits::Limits;

/// What tiny_http makes of one field besides its bytes: two texts with an allocation each, in a list that doubles.
const FIELD_BYTES: usize = 160;
/// It has the bytes twice while it gathers a line.
const BYTE_WEIGHT: usize = 2;
/// What a head may be longer by on the wire than by the count that the workers hold against its limit; they answer better.
const SLACK_BYTES: usize = 1024;
const SLACK_FIELDS: usize = 8;
/// Bytes of a line that frames the message. tiny_http would take longer ones, of which nobody has a use.
const FRAMING_BYTES_MAX: usize = 256;

/// What comes next.
#[derive(Default)]
enum At {
    #[default]
    Head,
    Body(u64),
    Chunks(Box<Chunked>),
    /// The rest is no more of tiny_http's.
    Rest,
}

/// Where a connection's bytes stand.
#[derive(Default)]
pub struct Tracker {
    at: At,
    /// Of the head that is coming: bytes, whole lines, and the line that is not whole.
    bytes: usize,
    lines: usize,
    line: Line,
    sender: Sender,
    last: u8,
    request_line: RequestLine,
    framing: Framing,
    heads: u64,
}

/// A field line that is not whole.
#[derive(Default)]
struct Line {
    kept: Vec<u8>,
    bytes: usize,
    has_name: bool,
}

const CR: &str = "the head holds a CR that ends no line";
const NAME: &str = "a header field begins with a name and a colon";

/// What the fields so far say of the body, as far as tiny_http heeds it.
#[derive(Clone, Copy, Default)]
struct Framing {
    length: Option<Option<usize>>,
    expects: bool,
    upgrades: Option<bool>,
    is_chunked: bool,
}

/// Why what comes is not given to tiny_http.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The head is too long, or has too many fields.
    TooLarge,
    /// Its request line is too long.
    TargetTooLong,
    /// Something that tiny_http would make something else of, or end the connection for without a word.
    Malformed(&'static str),
    /// Another version, which may cost tiny_http a thread.
    Version,
    /// An expectation that nobody knows.
    Expectation,
    /// A body in chunks that are none: for its reader to find out.
    Chunks,
}

/// What was found in a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Bytes before the head that is not whole, or that has the fault.
    pub before: usize,
    pub fault: Option<Fault>,
}

/// What a framing field is called, by the place of its colon.
fn framing_name(line: &[u8]) -> Option<&'static str> {
    let name = match line.first()? | 0x20 {
        b'c' if line.get(10) == Some(&b':') => "connection",
        b'c' => "content-length",
        b't' => "transfer-encoding",
        b'e' => "expect",
        _ => return None,
    };
    let (start, rest) = line.split_at_checked(name.len())?;
    (rest.first() == Some(&b':') && start.eq_ignore_ascii_case(name.as_bytes())).then_some(name)
}

impl Framing {
    fn body(self) -> At {
        match (self.upgrades, self.is_chunked, self.length.flatten()) {
            (Some(true), ..) => At::Rest,
            (_, true, _) => At::Chunks(Box::new(Chunked::new(u64::MAX))),
            (.., Some(length)) if length > 0 => At::Body(length as u64),
            _ => At::Head,
        }
    }

    /// Takes a whole field, or the beginning of a longer one.
    fn field(&mut self, line: &[u8], line_bytes: usize) -> Result<(), Fault> {
        let Some(name) = framing_name(line) else { return Ok(()) };
        if line_bytes > FRAMING_BYTES_MAX {
            return Err(Fault::Malformed("a header field that says how the body comes is too long"));
        }
        let value = line[name.len() + 1..].trim_ascii();
        match name {
            "content-length" => {
                self.length.get_or_insert(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()));
            }
            "transfer-encoding" => self.is_chunked = true,
            "connection" => {
                self.upgrades.get_or_insert(value.windows(7).any(|part| part.eq_ignore_ascii_case(b"upgrade")));
            }
            _ if !self.expects && !value.eq_ignore_ascii_case(b"100-continue") => return Err(Fault::Expectation),
            _ => self.expects = true,
        }
        Ok(())
    }
}

impl Tracker {
    /// Follows what was read.
    pub fn follow(&mut self, all: &[u8], limits: &Limits) -> Followed {
        // Nearly always true, and found out much faster than for each line.
        let is_clean = !has_bad_bytes(all);
        let (mut came, mut before) = (all, 0);
        while !came.is_empty() {
            let is_between = self.bytes == 0;
            if is_between {
                before = all.len() - came.len();
            }
            match self.step(&mut came, is_clean, limits) {
                Ok(()) => {}
                Err(fault) => {
                    self.sender.add_rest(came);
                    return Followed { before, fault: Some(fault) };
                }
            }
        }
        Followed { before: if self.bytes == 0 { all.len() } else { before }, fault: None }
    }

    /// Takes what belongs together off the beginning of what came.
    fn step(&mut self, came: &mut &[u8], is_clean: bool, limits: &Limits) -> Result<(), Fault> {
        let count = match &mut self.at {
            At::Head => {
                let (count, is_end) = self.line_in(came)?;
                self.piece(&came[..count], is_end, is_clean)?;
                self.measure(limits)?;
                count
            }
            At::Body(left) => {
                let count = came.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                if *left == 0 {
                    self.at = At::Head;
                }
                count
            }
            At::Chunks(chunks) => {
                let count = chunks.follow(came, |_| {}).map_err(|_| Fault::Chunks)?;
                if chunks.is_done() {
                    self.at = At::Head;
                }
                count
            }
            At::Rest => came.len(),
        };
        *came = &came[count..];
        Ok(())
    }

    /// How much of what came is of one line, and whether its end is there.
    fn line_in(&self, came: &[u8]) -> Result<(usize, bool), Fault> {
        let has_cr = self.bytes > 0 && self.last == b'\r';
        let found = memchr::memchr2(b'\r', b'\n', came);
        match found.map(|at| (at, came[at], came.get(at + 1))) {
            Some((0, b'\n', _)) if has_cr => Ok((1, true)),
            Some((_, b'\n', _)) => Err(Fault::Malformed("a line of the head ends without a CR")),
            _ if has_cr => Err(Fault::Malformed(CR)),
            Some((at, _, Some(b'\n'))) => Ok((at + 2, true)),
            Some((.., Some(_))) => Err(Fault::Malformed(CR)),
            Some((.., None)) | None => Ok((came.len(), false)),
        }
    }

    /// Follows what came of one line.
    fn piece(&mut self, piece: &[u8], is_end: bool, is_clean: bool) -> Result<(), Fault> {
        self.last = piece[piece.len() - 1];
        // tiny_http trims each line of what it takes for white space.
        if !is_clean && has_bad_bytes(piece) {
            return Err(Fault::Malformed("the head holds a control byte, or one beyond ASCII"));
        }
        if self.lines > 0 && self.line.bytes == 0 && matches!(piece[0], b' ' | b'\t') {
            return Err(Fault::Malformed("a header field goes on in the next line"));
        }
        self.bytes += piece.len();
        let is_whole = is_end && self.line.bytes == 0;
        self.line.bytes += piece.len();
        if self.lines == 0 {
            if is_whole && RequestLine::is_ordinary(piece) {
                self.next_line();
                return Ok(());
            }
            self.request_line.follow(piece);
            if is_end {
                self.request_line.judge()?;
                self.next_line();
            }
            return Ok(());
        }
        if is_end && self.line.bytes == "\r\n".len() {
            self.end_head();
            return Ok(());
        }
        self.name(piece, is_end)?;
        if is_whole {
            self.framing.field(piece, piece.len())?;
            self.sender.keep(piece);
            self.next_line();
            return Ok(());
        }
        let room = FRAMING_BYTES_MAX - self.line.kept.len();
        self.line.kept.extend_from_slice(&piece[..piece.len().min(room)]);
        if is_end {
            self.framing.field(&self.line.kept, self.line.bytes)?;
            self.sender.keep(&self.line.kept);
            self.next_line();
        }
        Ok(())
    }

    /// Looks at a field's name until its colon has come.
    fn name(&mut self, piece: &[u8], is_end: bool) -> Result<(), Fault> {
        if self.line.has_name {
            return Ok(());
        }
        let colon = memchr::memchr(b':', piece);
        let name = &piece[..colon.unwrap_or(piece.len())];
        let is_empty = self.line.bytes == piece.len() && colon == Some(0);
        // The line's own end may have come, or the CR of an empty one.
        let is_ending = colon.is_none() && name.trim_ascii_end().is_empty() && name.iter().all(|byte| *byte == b'\r');
        let has_blank = !is_ending && name.iter().any(u8::is_ascii_whitespace);
        self.line.has_name = colon.is_some();
        let is_missing = is_end && colon.is_none();
        if is_empty || has_blank || is_missing { Err(Fault::Malformed(NAME)) } else { Ok(()) }
    }

    fn measure(&self, limits: &Limits) -> Result<(), Fault> {
        if self.lines == 0 && self.bytes > limits.target_bytes_max + SLACK_BYTES {
            return Err(Fault::TargetTooLong);
        }
        let too_large =
            self.bytes > limits.head_bytes_max + SLACK_BYTES || self.lines > 1 + limits.head_fields_max + SLACK_FIELDS;
        if too_large { Err(Fault::TooLarge) } else { Ok(()) }
    }

    fn next_line(&mut self) {
        self.lines += 1;
        self.line.kept.clear();
        self.line.bytes = 0;
        self.line.has_name = false;
    }

    fn end_head(&mut self) {
        self.at = std::mem::take(&mut self.framing).body();
        self.heads += 1;
        self.sender.clear();
        self.bytes = 0;
        self.request_line = RequestLine::default();
        self.next_line();
        self.lines = 0;
    }

    /// What is known of who sends the head that has the fault.
    pub fn take_sender(&mut self) -> Vec<u8> {
        self.sender.take()
    }

    /// How many heads have come whole.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Bytes of a body of a known length that are still to come.
    pub fn body_left(&self) -> u64 {
        match self.at {
            At::Head => 0,
            At::Body(left) => left,
            At::Chunks(_) | At::Rest => u64::MAX,
        }
    }

    /// Bytes of the head that is coming.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the head that is coming takes.
    pub fn weight(&self) -> u64 {
        (self.bytes * BYTE_WEIGHT + self.lines * FIELD_BYTES) as u64
    }
}

/// Whether there is a byte that no head may hold, or that tiny_http takes in none.
fn has_bad_bytes(bytes: &[u8]) -> bool {
    let is_bad = |byte: u8| (byte >= 0x7f) | ((byte < b' ') & (byte != b'\t') & (byte != b'\r') & (byte != b'\n'));
    bytes.iter().fold(false, |any, byte| any | is_bad(*byte))
}

impl Fault {
    /// What the client of a head is told.
    pub fn problem(self, limits: &Limits) -> Problem {
        match self {
            Fault::Version => Problem::new(505, "HTTP_VERSION_NOT_SUPPORTED", "use HTTP/1.1"),
            Fault::Chunks => Problem::new(400, "BAD_REQUEST", "the body is not in chunks"),
            Fault::Malformed(text) => Problem::new(400, "BAD_REQUEST", text),
            Fault::Expectation => Problem::new(417, "EXPECTATION_FAILED", "only 100-continue can be expected here"),
            Fault::TargetTooLong => {
                let text = format!("a request target holds at most {} bytes", limits.target_bytes_max);
                Problem::new(414, "URI_TOO_LONG", text)
            }
            Fault::TooLarge => {
                let text = format!(
                    "the head of a request holds at most {} bytes and {} fields",
                    limits.head_bytes_max, limits.head_fields_max
                );
                Problem::new(431, "HEADERS_TOO_LARGE", text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However it is cut, it comes to the same.
    fn followed(all: impl AsRef<[u8]>) -> Result<Tracker, Fault> {
        let mut trackers = Vec::new();
        for size in [1, 2, 7, 100, 1024, usize::MAX] {
            let mut tracker = Tracker::default();
            let parts = all.as_ref().chunks(size.min(all.as_ref().len().max(1)));
            let fault =
                parts.map(|part| tracker.follow(part, &Limits::default()).fault).find(Option::is_some).flatten();
            trackers.push(fault.map_or(Ok(tracker), Err));
        }
        let told = |tracker: &Result<Tracker, Fault>| {
            tracker
                .as_ref()
                .map(|tracker| (tracker.heads, tracker.bytes, tracker.lines))
                .map_err(std::mem::discriminant)
        };
        assert!(
            trackers.windows(2).all(|pair| told(&pair[0]) == told(&pair[1])),
            "{:?}",
            trackers.iter().map(told).collect::<Vec<_>>()
        );
        trackers.pop().unwrap()
    }

    fn malformed(text: &str) -> bool {
        matches!(followed(text), Err(Fault::Malformed(_)))
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn bodies_may_hold_anything_and_what_follows_is_a_head_again() {
        let evil = "GET / HTTP/2.0\r\nExpect: rain\r\nContent-Length: 7\r\n\r\n\r\n\0\u{e9} PRI * HTTP/2.0\r\n\r\n";
        for times in [1, 30, 300] {
            let body = evil.repeat(times);
            let length = body.len();
            let put = |fields: &str, body: &str| format!("PUT / HTTP/1.1\r\n{fields}\r\n\r\n{body}");
            let chunked = format!("5;a=b\r\nhello\r\n{length:X}\r\n{body}\r\n0\r\nX: y\r\n\r\n");
            let blanks = " ".repeat(100);
            for message in [
                put(&format!("content-LENGTH:\t {length} "), &body),
                put(&format!("Content-Length:{blanks}{length}\r\nContent-Length: 1"), &body),
                put(&format!("Expect: 100-Continue\r\nContent-Length: {length}"), &body),
                put("Transfer-Encoding: chunked\r\nContent-Length: 3", &chunked),
                put("Content-Length: 0", ""),
                put("Content-Length: -1", ""),
            ] {
                let tracker = followed([GET, &message, GET, "GET / HT"].concat()).unwrap();
                assert_eq!((tracker.heads, tracker.bytes, tracker.lines), (3, 8, 0), "{:?}", &message[..60]);
                assert_eq!(followed([&message, "GET / HTTP/2.0\r\n"].concat()).err(), Some(Fault::Version));
            }
        }
        let upgrade = "GET / HTTP/1.1\r\nConnection: a, Upgrade\r\n\r\n";
        assert_eq!(followed([upgrade, "\0 anything\r\n\r\n"].concat()).unwrap().heads, 1);
    }

    #[test]
    fn what_came_before_a_faulty_head_is_told() {
        let before = "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        let follow = |tracker: &mut Tracker, text: &str| tracker.follow(text.as_bytes(), &Limits::default());
        let mut tracker = Tracker::default();
        let found = follow(&mut tracker, &[before, "PRI * HTTP/2.0\r\n"].concat());
        assert_eq!(found, Followed { before: before.len(), fault: Some(Fault::Version) });
        let mut tracker = Tracker::default();
        assert_eq!(follow(&mut tracker, &[before, "P"].concat()), Followed { before: before.len(), fault: None });
        assert_eq!(follow(&mut tracker, "RI * HTTP/2.0\r\n"), Followed { before: 0, fault: Some(Fault::Version) });
        let mut tracker = Tracker::default();
        let head = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(
            follow(&mut tracker, &[head, "+5\r\n"].concat()),
            Followed { before: head.len(), fault: Some(Fault::Chunks) }
        );
    }

    #[test]
    fn what_tiny_http_would_misread_is_refused_by_the_letter() {
        let long = "x".repeat(5000);
        for line in ["PRI * HTTP/2.0", " \tPRI * HTTP/3.0 more", "A  HTTP/4.1 \t", &format!("GET /{long} HTTP/2.0")] {
            assert_eq!(followed(format!("{line}\r\n")).err(), Some(Fault::Version), "{line:?}");
        }
        for line in
            ["GET / HTTP/1.12", "GET HTTP/2.0 *", "GET / HTTP/1.1 x", " GET / HTTP/1.1", "GET / HTTP/1.1 ", "GET", ""]
        {
            assert!(malformed(&format!("{line}\r\n")), "{line:?}");
        }
        for line in ["GET / HTTP/1.2", "GET / HTTP/0.7", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r"] {
            assert!(malformed(&format!("{line}\r\n")), "{line:?}");
        }
        assert!(followed("GET / HTTP/1.0\r\n").is_ok() && followed("G(E)T / HTTP/1.1\r\n").is_ok());
        let fields = [
            " a:b",
            "\ta:b",
            "a: b\r\n c",
            "a: \u{e9}",
            "a:\x0bb",
            "a: b\r\r\n",
            "a: \0",
            "a: \x7f",
            "a\r\n",
            ":b\r\n",
            "a :b\r\n",
            "\ra:b\r\n",
            "a:b\n",
            "\n",
            &format!("{long}\r\n"),
            &format!("{long} a:b\r\n"),
            &format!("Content-Length:{}5\r\n", " ".repeat(300)),
            &format!("connection: {long}\r\n"),
        ];
        for field in fields {
            assert!(malformed(&format!("GET / HTTP/1.1\r\n{field}")), "{field:?}");
        }
        assert_eq!(followed("GET / HTTP/1.1\r\nexpect: all\r\n").err(), Some(Fault::Expectation));
        for field in ["a:\tb ", "Expect: 100-Continue", "a:", "x-a:", &format!("{long}:b"), &format!("x: {long}")] {
            assert!(followed(format!("GET / HTTP/1.1\r\n{field}\r\n")).is_ok(), "{field:?}");
        }
        let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in ["+5\r\n", " 5\r\n", "5\r\nhelloX", "0\r\n\n", &"0".repeat(100_000)] {
            assert_eq!(followed([chunked, body].concat()).err(), Some(Fault::Chunks), "{:?}", &body[..3]);
        }
    }

    #[test]
    fn a_head_is_held_against_its_limits_as_it_comes() {
        let start = "GET / HTTP/1.1\r\n";
        let limits = Limits::default();
        assert!(followed(format!("{start}{}", "a:b\r\n".repeat(limits.head_fields_max))).is_ok());
        let many = "a:b\r\n".repeat(limits.head_fields_max + 9);
        assert_eq!(followed(format!("{start}{many}")).err(), Some(Fault::TooLarge));
        assert!(followed(format!("{start}a:{}", "b".repeat(limits.head_bytes_max))).is_ok());
        let long = "b".repeat(limits.head_bytes_max + 1100);
        assert_eq!(followed(format!("{start}a:{long}")).err(), Some(Fault::TooLarge));
        assert_eq!(followed(format!("GET /{}", "y".repeat(10_000))).err(), Some(Fault::TargetTooLong));
    }
}
