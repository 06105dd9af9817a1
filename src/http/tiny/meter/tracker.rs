//! Where the bytes of a connection stand: in which head, or in which body, as tiny_http reads them.
//!
//! It follows every byte that is read of a connection, whoever reads it, however the bytes are cut. Invariant: it is right
//! about where each message ends, or has found a fault in the one before: what it lets pass, tiny_http frames alike, but
//! for the bodies that larder reads itself, of which tiny_http gets no byte.

use super::fault::Fault;
use super::framing::{FRAMING_BYTES_MAX, Framing, framing_name};
use super::hide::{self, TOLD_BYTES_MAX};
use super::request_line::RequestLine;
use super::sender::Sender;
use crate::http::epoll::chunked::{ChunkError, Chunked};
use crate::http::epoll::parse::TLS_HANDSHAKE;
use crate::limits::Limits;

/// What tiny_http makes of one field besides its bytes: two texts with an allocation each, in a list that doubles.
const FIELD_BYTES: usize = 160;
/// It has the bytes twice while it gathers a line.
const BYTE_WEIGHT: usize = 2;
/// What a head may be longer by on the wire than by the count that the workers hold against its limit; they answer better.
const SLACK_BYTES: usize = 1024;
const SLACK_FIELDS: usize = 8;

/// What comes next.
#[derive(Default)]
enum At {
    #[default]
    Head,
    /// A body that tiny_http reads.
    Body(u64),
    /// Bodies that larder reads itself.
    Long(u64),
    Chunks(Box<Chunked>),
}

/// How much of an empty line before a request has come (RFC 9112 §2.2): clients end a body with one.
#[derive(Clone, Copy, Default)]
enum Blank {
    #[default]
    None,
    Return,
    Line,
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
    blank: Blank,
    /// Bytes of empty lines between requests, which nobody else sees.
    skipped_bytes: u64,
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

/// What was found in a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Bytes before the head that is not whole, or that has the fault.
    pub before: usize,
    /// Where those end that tiny_http may have; those behind are of a body that larder reads itself, and up to `end`.
    pub given: usize,
    pub end: usize,
    pub fault: Option<Fault>,
}

impl Tracker {
    /// Follows what was read, up to a body that larder reads itself. Takes out of it what is no part of a message, and hides
    /// from tiny_http what it is not to know.
    pub fn follow(&mut self, all: &mut [u8], limits: &Limits) -> Followed {
        // Nearly always true, and found out much faster than for each line.
        let is_clean = !has_bad_bytes(all);
        let (mut at, mut before, mut end) = (0, 0, all.len());
        while at < end && !self.is_at_own() {
            if self.bytes == 0 {
                before = at;
            }
            match self.step(&mut all[at..end], is_clean, limits) {
                Ok(0) => {
                    all.copy_within(at + 1..end, at);
                    end -= 1;
                }
                Ok(count) => at += count,
                Err(fault) => {
                    self.sender.add_rest(&all[at..end]);
                    return Followed { before, given: before, end: before, fault: Some(fault) };
                }
            }
        }
        Followed { before: if self.bytes == 0 { at } else { before }, given: at, end, fault: None }
    }

    /// Takes what belongs together off the beginning of what came; nothing if that begins with a byte to be left out.
    fn step(&mut self, came: &mut [u8], is_clean: bool, limits: &Limits) -> Result<usize, Fault> {
        match &mut self.at {
            At::Head => {
                if self.bytes == 0 && self.is_blank(came[0])? {
                    self.skipped_bytes += 1;
                    return Ok(0);
                }
                let (count, is_end) = self.line_in(came)?;
                self.piece(&mut came[..count], is_end, is_clean)?;
                self.measure(limits)?;
                Ok(count)
            }
            At::Body(left) => {
                let count = came.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= count as u64;
                if *left == 0 {
                    self.at = At::Head;
                }
                Ok(count)
            }
            At::Long(_) | At::Chunks(_) => Ok(came.len()),
        }
    }

    /// Whether a byte between two messages is of the one empty line that may stand there.
    fn is_blank(&mut self, byte: u8) -> Result<bool, Fault> {
        self.blank = match (self.blank, byte) {
            (Blank::None, b'\r') => Blank::Return,
            (Blank::Return, b'\n') => Blank::Line,
            (Blank::Return, _) => return Err(Fault::Malformed(CR)),
            (Blank::Line, b'\r') => return Err(Fault::Malformed("more than one empty line before the request")),
            (Blank::None, TLS_HANDSHAKE) if self.heads == 0 => return Err(Fault::Tls),
            _ => return Ok(false),
        };
        Ok(true)
    }

    /// Whether what comes next is of a body that larder reads itself.
    pub fn is_at_own(&self) -> bool {
        matches!(self.at, At::Long(_) | At::Chunks(_))
    }

    /// Holds such a body, of which nothing was followed yet, against a limit.
    pub fn set_own_limit(&mut self, bytes_max: u64) {
        if let At::Chunks(chunks) = &mut self.at {
            chunks.set_limit(bytes_max);
        }
    }

    /// Follows such a body. Returns how much of what came is of it, and whether it is whole.
    pub fn follow_own(&mut self, came: &[u8], mut take_data: impl FnMut(&[u8])) -> Result<(usize, bool), ChunkError> {
        let (count, is_whole) = match &mut self.at {
            At::Chunks(chunks) => (chunks.follow(came, take_data)?, chunks.is_done()),
            At::Long(left) => {
                let count = came.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                take_data(&came[..count]);
                *left -= count as u64;
                (count, *left == 0)
            }
            At::Head | At::Body(_) => return Err(ChunkError::Malformed("no body is coming")),
        };
        if is_whole {
            self.at = At::Head;
        }
        Ok((count, is_whole))
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
    fn piece(&mut self, piece: &mut [u8], is_end: bool, is_clean: bool) -> Result<(), Fault> {
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
            if let Some(name) = framing_name(piece) {
                self.framing.field(piece, piece.len(), name)?;
                hide::hidden(name, piece).into_iter().for_each(|at| piece[at] = hide::hide(piece[at]));
            }
            self.sender.keep(piece);
            self.next_line();
            return Ok(());
        }
        let before = self.line.kept.len();
        self.line.kept.extend_from_slice(&piece[..piece.len().min(FRAMING_BYTES_MAX - before)]);
        if let Some(name) = framing_name(&self.line.kept) {
            if is_end {
                self.framing.field(&self.line.kept, self.line.bytes, name)?;
            }
            let came = |at: usize| at.checked_sub(before);
            let hidden = hide::hidden(name, &self.line.kept).into_iter().filter_map(came);
            hidden.for_each(|at| piece[at] = hide::hide(piece[at]));
        }
        if is_end {
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
        let framing = std::mem::take(&mut self.framing);
        self.at = match (framing.is_chunked, framing.length()) {
            (true, _) => At::Chunks(Box::new(Chunked::new(u64::MAX))),
            (false, 0) => At::Head,
            (false, length) if length > TOLD_BYTES_MAX => At::Long(length),
            (false, length) => At::Body(length),
        };
        self.heads += 1;
        self.blank = Blank::None;
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
            At::Body(left) | At::Long(left) => left,
            At::Chunks(_) => u64::MAX,
        }
    }

    /// Bytes that came between requests and are no part of any.
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
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

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
