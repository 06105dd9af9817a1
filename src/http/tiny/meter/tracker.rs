//! Where the bytes of a connection stand, as tiny_http will read them: in which head, or in the small body behind one.
//!
//! Pure: it follows bytes, however they are cut. Invariant: a head of which it finds no fault is read by tiny_http as it
//! stands, but where others have read a body before it ([`Tracker::is_torn`]): there it only measures until the next
//! request line.

use crate::http::problem::Problem;
use crate::limits::{Limits, SMALL_BODY_BYTES};

/// What tiny_http makes of one field besides its bytes: two texts with an allocation each, in a list that doubles.
const FIELD_BYTES: usize = 160;
/// It has the bytes twice while it gathers a line.
const BYTE_WEIGHT: usize = 2;
/// What a head may be longer by on the wire than by the count that the workers hold against its limit; they answer better.
const SLACK_BYTES: usize = 1024;
const SLACK_FIELDS: usize = 8;
/// The part of a line that is kept to be understood.
const KEPT_BYTES: usize = 128;

/// Where a connection's bytes stand.
#[derive(Default)]
pub struct Tracker {
    /// Bytes of a small body that are still to come: tiny_http reads it with the head.
    body_left: usize,
    /// Of the head that is coming: bytes, whole lines, and the beginning of the line that is not whole.
    pub bytes: usize,
    lines: usize,
    line: Vec<u8>,
    line_bytes: usize,
    last: u8,
    request_line: RequestLine,
    framing: Framing,
    /// Others read the body before, and perhaps the beginning of this head with it.
    is_torn: bool,
    /// Heads that have come whole.
    pub heads: u64,
}

/// A request line, as far as it has come: the third word by the rule that tiny_http finds it by.
#[derive(Clone, Copy, Default)]
struct RequestLine {
    has_begun: bool,
    is_indented: bool,
    spaces: usize,
    version: [u8; 12],
    version_bytes: usize,
}

impl RequestLine {
    fn follow(&mut self, piece: &[u8]) {
        for byte in piece {
            self.is_indented |= !self.has_begun && byte.is_ascii_whitespace();
            self.has_begun |= !byte.is_ascii_whitespace();
            match (self.has_begun, byte, self.spaces) {
                (true, b' ', _) => self.spaces += 1,
                (true, _, 2) if self.version_bytes < self.version.len() => {
                    self.version[self.version_bytes] = *byte;
                    self.version_bytes += 1;
                }
                _ => {}
            }
        }
    }

    fn version(&self) -> &[u8] {
        &self.version[..self.version_bytes]
    }

    /// Whether a whole line is as nearly all are: one look at its end instead of one at each byte.
    fn is_ordinary(line: &[u8]) -> bool {
        let words = line.strip_suffix(b" HTTP/1.1\r\n").unwrap_or_default();
        words.first().is_some_and(u8::is_ascii_graphic) && memchr::memchr_iter(b' ', words).count() == 1
    }

    /// Judges a whole line.
    fn judge(&self) -> Result<(), Fault> {
        let is_version = |version: &[u8]| {
            let digits = version.strip_prefix(b"HTTP/").filter(|digits| digits.len() == 3 && digits[1] == b'.');
            digits.is_some_and(|digits| digits[0].is_ascii_digit() && digits[2].is_ascii_digit())
        };
        let version = self.version().trim_ascii_end();
        if is_version(version) && version[5] > b'1' {
            return Err(Fault::Version);
        }
        if is_version(version) && &version[5..] > b"1.1".as_slice() {
            return Err(Fault::Malformed("tiny_http serves HTTP/1.0 and HTTP/1.1 only"));
        }
        let is_exact = !self.is_indented && self.spaces == 2 && self.version().strip_prefix(version) == Some(b"\r\n");
        if is_exact && is_version(version) { Ok(()) } else { Err(Fault::Malformed(LINE)) }
    }
}

/// What a request line is.
const LINE: &str = "a request begins with a line of method, target and version, one blank between them";

/// What the fields so far say of the body, as far as tiny_http heeds it.
#[derive(Clone, Copy, Default)]
struct Framing {
    length: Option<Option<usize>>,
    expects: bool,
    upgrades: Option<bool>,
    is_chunked: bool,
}

/// Why a head is not given to tiny_http.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is too long, or has too many fields.
    TooLarge,
    /// Its request line is too long.
    TargetTooLong,
    /// Something that tiny_http would make something else of, or end the connection for without a word.
    Malformed(&'static str),
    /// Another version, which may cost tiny_http a thread.
    Version,
    /// An expectation that nobody knows.
    Expectation,
}

impl Framing {
    /// Bytes of body that tiny_http reads with the head; `None`: the body is read by others.
    fn small_body(self) -> Option<usize> {
        let length = if self.is_chunked { None } else { self.length.flatten() };
        match (self.upgrades.unwrap_or(false), length) {
            (true, _) => None,
            (_, Some(length)) if length > SMALL_BODY_BYTES || self.expects => (length == 0).then_some(0),
            (_, Some(length)) => Some(length),
            (_, None) => (!self.is_chunked).then_some(0),
        }
    }

    /// Takes a whole field, or as much of it as is kept.
    fn field(&mut self, line: &[u8]) -> Result<(), Fault> {
        let at = match line.first() {
            Some(b'c' | b'C') if line.get(10) == Some(&b':') => 10,
            Some(b'c' | b'C') => 14,
            Some(b't' | b'T') => 17,
            Some(b'e' | b'E') => 6,
            _ => return Ok(()),
        };
        let Some((name, [b':', value @ ..])) = line.split_at_checked(at) else { return Ok(()) };
        let value = value.trim_ascii();
        match at {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.length.get_or_insert(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()));
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.is_chunked = true,
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if !self.expects && !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Fault::Expectation);
                }
                self.expects = true;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                let has = value.windows(7).any(|part| part.eq_ignore_ascii_case(b"upgrade"));
                self.upgrades.get_or_insert(has);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Tracker {
    /// Follows what came. With a fault come the bytes before the head that has it.
    pub fn follow(&mut self, all: &[u8], limits: &Limits) -> Result<(), (usize, Fault)> {
        // Nearly always true, and found out much faster than for each line.
        let is_clean = !has_bad_bytes(all);
        let (mut came, mut good) = (all, 0);
        loop {
            let body = self.body_left.min(came.len());
            self.body_left -= body;
            came = &came[body..];
            if self.bytes == 0 {
                good = all.len() - came.len();
            }
            if came.is_empty() {
                return Ok(());
            }
            let end = memchr::memchr(b'\n', came);
            let (piece, rest) = came.split_at(end.map_or(came.len(), |at| at + 1));
            came = rest;
            self.piece(piece, end.is_some(), is_clean, limits).map_err(|fault| (good, fault))?;
        }
    }

    /// Follows what came of one line.
    fn piece(&mut self, piece: &[u8], has_lf: bool, is_clean: bool, limits: &Limits) -> Result<(), Fault> {
        let last = std::mem::replace(&mut self.last, piece[piece.len() - 1]);
        if !self.is_torn {
            self.check(piece, last, is_clean)?;
        }
        let is_end = has_lf && if piece.len() > 1 { piece[piece.len() - 2] == b'\r' } else { last == b'\r' };
        self.bytes += piece.len();
        let is_whole = is_end && self.line_bytes == 0;
        self.line_bytes += piece.len();
        match (self.lines, is_whole) {
            (0, true) if RequestLine::is_ordinary(piece) => {
                self.is_torn = false;
                self.next_line();
            }
            (0, _) => {
                self.request_line.follow(piece);
                if is_end {
                    self.end_request_line()?;
                }
            }
            (_, true) if piece.len() > 2 => {
                self.end_field(piece)?;
                self.next_line();
            }
            _ => {
                self.line.extend_from_slice(&piece[..piece.len().min(KEPT_BYTES - self.line.len())]);
                if is_end {
                    self.end_line()?;
                }
            }
        }
        self.measure(limits)
    }

    /// Looks at the next piece of a line, of which tiny_http trims what it takes for white space.
    fn check(&self, piece: &[u8], last: u8, is_clean: bool) -> Result<(), Fault> {
        if !is_clean && has_bad_bytes(piece) {
            return Err(Fault::Malformed("the head holds a control byte, or one beyond ASCII"));
        }
        let is_fold = self.lines > 0 && self.line_bytes == 0 && matches!(piece[0], b' ' | b'\t');
        let has_bare_cr = piece.ends_with(b"\r\r\n") || (last == b'\r' && piece[0] == b'\r');
        match (is_fold, has_bare_cr) {
            (true, _) => Err(Fault::Malformed("a header field goes on in the next line")),
            (_, true) => Err(Fault::Malformed("the head holds a CR that ends no line")),
            _ => Ok(()),
        }
    }

    fn measure(&self, limits: &Limits) -> Result<(), Fault> {
        let slack = if self.is_torn { SMALL_BODY_BYTES } else { 0 };
        if self.lines == 0 && self.bytes > limits.target_bytes_max + SLACK_BYTES + slack {
            return Err(Fault::TargetTooLong);
        }
        let too_large = self.bytes > limits.head_bytes_max + SLACK_BYTES + slack
            || self.lines > 1 + limits.head_fields_max + SLACK_FIELDS + slack;
        if too_large { Err(Fault::TooLarge) } else { Ok(()) }
    }

    fn end_request_line(&mut self) -> Result<(), Fault> {
        if self.line_bytes == "\r\n".len() && self.is_torn {
            self.end_head();
            return Ok(());
        }
        match self.request_line.judge() {
            // This is the beginning of a head for sure.
            Ok(()) => self.is_torn = false,
            Err(Fault::Malformed(_)) if self.is_torn => {}
            Err(fault) => return Err(fault),
        }
        self.next_line();
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), Fault> {
        if self.line_bytes == "\r\n".len() {
            self.end_head();
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        let ended = self.end_field(&line);
        self.line = line;
        self.next_line();
        ended
    }

    fn end_field(&mut self, line: &[u8]) -> Result<(), Fault> {
        let colon = memchr::memchr(b':', line);
        let is_name = colon.is_some_and(|colon| colon > 0 && !line[..colon].iter().any(u8::is_ascii_whitespace));
        // Of a long line that came in parts only the beginning is here.
        if !is_name && !self.is_torn && (colon.is_some() || line.len() < KEPT_BYTES) {
            return Err(Fault::Malformed("a header field begins with a name and a colon"));
        }
        self.framing.field(line)
    }

    fn next_line(&mut self) {
        self.lines += 1;
        self.line.clear();
        self.line_bytes = 0;
    }

    fn end_head(&mut self) {
        let small_body = self.framing.small_body();
        self.body_left = small_body.unwrap_or(0);
        self.is_torn |= small_body.is_none();
        self.heads += 1;
        self.bytes = 0;
        self.request_line = RequestLine::default();
        self.framing = Framing::default();
        self.next_line();
        self.lines = 0;
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
    /// What its client is told.
    pub fn problem(self, limits: &Limits) -> Problem {
        match self {
            Fault::Version => Problem::new(505, "HTTP_VERSION_NOT_SUPPORTED", "use HTTP/1.1"),
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

    fn followed(pieces: &[&str]) -> Result<Tracker, Fault> {
        let mut tracker = Tracker::default();
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes()).collect();
        // However it is cut, it comes to the same.
        for size in [1, 7, 1024] {
            tracker = Tracker::default();
            for part in all.chunks(size) {
                tracker.follow(part, &Limits::default()).map_err(|(_, fault)| fault)?;
            }
        }
        Ok(tracker)
    }

    #[test]
    fn heads_and_small_bodies_are_told_apart() {
        let get = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let foreign = "GET / HTTP/2.0\r\n";
        let put = "PUT / HTTP/1.1\r\nHost: x\r\ncontent-LENGTH:  16 \r\n\r\n";
        let tracker = followed(&[get, put, foreign, get, "G"]).unwrap();
        assert_eq!((tracker.heads, tracker.bytes, tracker.lines), (3, 1, 0));
        assert_eq!(followed(&[get, foreign]).err(), Some(Fault::Version));
        let tracker = followed(&[put, "0123456789"]).unwrap();
        assert_eq!((tracker.weight(), tracker.body_left), (0, 6));
    }

    #[test]
    fn what_came_before_a_faulty_head_is_good() {
        let (before, faulty) = ("PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "PRI * HTTP/2.0\r\n");
        let all = [before, faulty].concat();
        let mut tracker = Tracker::default();
        assert_eq!(tracker.follow(all.as_bytes(), &Limits::default()), Err((before.len(), Fault::Version)));
        let mut tracker = Tracker::default();
        tracker.follow([before, "P"].concat().as_bytes(), &Limits::default()).unwrap();
        assert_eq!(tracker.follow(&faulty.as_bytes()[1..], &Limits::default()), Err((0, Fault::Version)));
    }

    #[test]
    fn what_tiny_http_would_misread_is_refused_by_the_letter() {
        let long = "x".repeat(5000);
        for line in ["PRI * HTTP/2.0", " \t\nPRI * HTTP/3.0 more", "A  HTTP/4.1 \t", &format!("GET /{long} HTTP/2.0")] {
            assert_eq!(followed(&[line, "\r\n"]).err(), Some(Fault::Version), "{line:?}");
        }
        let malformed = |text: &str| matches!(followed(&[text]), Err(Fault::Malformed(_)));
        for line in
            ["GET / HTTP/1.12", "GET HTTP/2.0 *", "GET / HTTP/1.1 x", " GET / HTTP/1.1", "GET / HTTP/1.1 ", "GET"]
        {
            assert!(malformed(&format!("{line}\r\n")), "{line:?}");
        }
        assert!(followed(&["GET / HTTP/1.0\r\n"]).is_ok() && followed(&["G(E)T / HTTP/1.1\r\n"]).is_ok());
        assert_eq!(followed(&["GET / HTTP/1.1\r\nexpect: all\r\n"]).err(), Some(Fault::Expectation));
        assert!(malformed("GET / HTTP/1.2\r\n"));
        for rest in [
            "a\r\n",
            ":b\r\n",
            "a :b\r\n",
            " a:b",
            "\ta:b",
            "a: b\r\n c",
            "a: \u{e9}",
            "a:\x0bb",
            "a: b\r\r\n",
            "a: \0",
            "a: \x7f",
        ] {
            assert!(malformed(&format!("GET / HTTP/1.1\r\n{rest}")), "{rest:?}");
        }
        let long = "a".repeat(200);
        for rest in ["a:\tb \r\n", "Expect: 100-Continue\r\n", "a:\r\n", &format!("{long}:b\r\n")] {
            assert!(followed(&["GET / HTTP/1.1\r\n", rest]).is_ok(), "{rest:?}");
        }
    }

    #[test]
    fn a_head_is_held_against_its_limits_as_it_comes() {
        let start = "GET / HTTP/1.1\r\n";
        let limits = Limits::default();
        assert!(followed(&[start, &"a:b\r\n".repeat(limits.head_fields_max)]).is_ok());
        assert_eq!(followed(&[start, &"a:b\r\n".repeat(limits.head_fields_max + 9)]).err(), Some(Fault::TooLarge));
        assert!(followed(&[start, "a:", &"b".repeat(limits.head_bytes_max)]).is_ok());
        assert_eq!(followed(&[start, &"\n".repeat(limits.head_bytes_max + 1100)]).err(), Some(Fault::TooLarge));
        assert_eq!(followed(&["GET /", &"y".repeat(10_000)]).err(), Some(Fault::TargetTooLong));
    }

    #[test]
    fn after_a_body_that_others_read_a_head_has_the_room_that_a_small_body_in_it_would_take() {
        for field in ["Transfer-Encoding: chunked", "Content-Length: 5000", "Connection: Upgrade", "Content-Length: -1"]
        {
            let tracker = followed(&["PUT / HTTP/1.1\r\n", field, "\r\n\r\n"]).unwrap();
            assert_eq!(tracker.is_torn, field != "Content-Length: -1", "{field}");
            assert_eq!(tracker.body_left, 0);
        }
        let rest = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nX: rest of a head\r\n";
        assert!(followed(&[rest, &"\r\n".repeat(1000)]).is_ok());
        let anew = "GET / HTTP/1.1\r\n\r\n";
        assert!(!followed(&[rest, "\r\n", anew]).unwrap().is_torn);
    }
}
