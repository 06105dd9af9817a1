//! The chunked transfer coding (RFC 9112 §7.1), decoded as it comes.
//!
//! Invariant: the decoder never looks past the end of its message, keeps no input, and gives the same result however
//! the input is cut. Extensions and trailers are checked, bounded and dropped.

use crate::http::grammar::is_token_byte;

/// Bytes of chunk extensions in one body; more is refused.
const EXTENSION_BYTES_MAX: u32 = 16 * 1024;
/// Bytes of trailer fields; more is refused.
const TRAILER_BYTES_MAX: u32 = 8 * 1024;

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// It is not what the coding allows.
    Malformed(&'static str),
    /// It holds more than the limit.
    TooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    SizeBlank,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    LineStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    EndLineFeed,
    Done,
}

/// A decoder for one body.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    has_digits: bool,
    chunk_left: u64,
    room: u64,
    extension_bytes: u32,
    trailer_bytes: u32,
}

impl Chunked {
    /// A decoder for a body of at most `bytes_max` decoded bytes.
    pub fn new(bytes_max: u64) -> Chunked {
        Chunked {
            state: State::Size,
            has_digits: false,
            chunk_left: 0,
            room: bytes_max,
            extension_bytes: 0,
            trailer_bytes: 0,
        }
    }

    /// Holds the body against a limit that was not known when it began.
    pub fn set_limit(&mut self, bytes_max: u64) {
        self.room = bytes_max;
    }

    /// Whether the whole body, with its trailers, has been read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Appends what `input` holds of the body to `out` and says how many bytes of `input` belonged to the body.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, ChunkError> {
        self.follow(input, |data| out.extend_from_slice(data))
    }

    /// As [`Chunked::decode`], for one who takes the body piece by piece.
    pub fn follow(&mut self, input: &[u8], mut take_data: impl FnMut(&[u8])) -> Result<usize, ChunkError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let take = (input.len() - at).min(usize::try_from(self.chunk_left).unwrap_or(usize::MAX));
                take_data(&input[at..at + take]);
                at += take;
                self.chunk_left -= take as u64;
                if self.chunk_left == 0 {
                    self.state = State::DataReturn;
                }
            } else {
                self.state = self.step(input[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        use ChunkError::Malformed;
        match (self.state, byte) {
            (State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => self.digit(byte),
            (State::Size, _) if !self.has_digits => Err(Malformed("a chunk size is not a hexadecimal number")),
            (State::Size | State::SizeBlank, b';') => Ok(State::Extension),
            // White space is read only where the grammar has it: before an extension.
            (State::Size | State::SizeBlank, b' ' | b'\t') => self.extension_byte(State::SizeBlank),
            (State::Size | State::Extension, b'\r') => Ok(State::SizeLineFeed),
            (State::Size | State::SizeBlank, _) => Err(Malformed("a chunk size is not a hexadecimal number")),
            (State::Extension, byte) if is_text(byte) => self.extension_byte(State::Extension),
            (State::Extension, _) => Err(Malformed("a chunk extension holds a control character")),
            (State::SizeLineFeed, b'\n') => self.size_read(),
            (State::DataReturn, b'\r') => Ok(State::DataLineFeed),
            (State::DataLineFeed, b'\n') => {
                self.has_digits = false;
                Ok(State::Size)
            }
            (State::DataReturn | State::DataLineFeed, _) => Err(Malformed("a chunk is longer than its size")),
            (State::LineStart, b'\r') => Ok(State::EndLineFeed),
            (State::LineStart, byte) if is_token_byte(byte) => self.trailer_byte(State::TrailerName),
            (State::TrailerName, b':') => self.trailer_byte(State::TrailerValue),
            (State::TrailerName, byte) if is_token_byte(byte) => self.trailer_byte(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLineFeed),
            (State::TrailerValue, byte) if is_text(byte) => self.trailer_byte(State::TrailerValue),
            (State::TrailerLineFeed, b'\n') => Ok(State::LineStart),
            (State::EndLineFeed, b'\n') => Ok(State::Done),
            (State::SizeLineFeed, _) => Err(Malformed("a chunk size line does not end with CRLF")),
            (State::Data | State::Done, _) => unreachable!("decode handles data itself and stops when done"),
            _ => Err(Malformed("a trailer field is malformed")),
        }
    }

    fn digit(&mut self, byte: u8) -> Result<State, ChunkError> {
        let value = (byte as char).to_digit(16).map_or(0, u64::from);
        self.has_digits = true;
        if self.chunk_left >> 60 != 0 {
            return Err(ChunkError::Malformed("a chunk size is beyond all bounds"));
        }
        self.chunk_left = self.chunk_left << 4 | value;
        // A run of leading zeros is bounded like an extension.
        if self.chunk_left == 0 { self.extension_byte(State::Size) } else { Ok(State::Size) }
    }

    fn size_read(&mut self) -> Result<State, ChunkError> {
        if self.chunk_left == 0 {
            return Ok(State::LineStart);
        }
        self.room = self.room.checked_sub(self.chunk_left).ok_or(ChunkError::TooLarge)?;
        Ok(State::Data)
    }

    fn extension_byte(&mut self, next: State) -> Result<State, ChunkError> {
        self.extension_bytes += 1;
        let fits = self.extension_bytes <= EXTENSION_BYTES_MAX;
        fits.then_some(next).ok_or(ChunkError::Malformed("the chunk extensions are too long"))
    }

    fn trailer_byte(&mut self, next: State) -> Result<State, ChunkError> {
        self.trailer_bytes += 1;
        let fits = self.trailer_bytes <= TRAILER_BYTES_MAX;
        fits.then_some(next).ok_or(ChunkError::Malformed("the trailer fields are too long"))
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
        let (mut decoder, mut out) = (Chunked::new(100), Vec::new());
        let used = decoder.decode(input, &mut out)?;
        Ok((out, used, decoder.is_done()))
    }

    #[test]
    fn every_split_point_gives_the_same_body() {
        let body = b"5;a=b\r\nhello\r\n00a ;x\r\n 0123456\r\n\r\n0\r\nT-1: a\tb\r\nEmpty:\r\n\r\n";
        let input = [body.as_slice(), b"GET /next"].concat();
        for first in 0..=input.len() {
            for second in first..=input.len() {
                let (mut decoder, mut out) = (Chunked::new(15), Vec::new());
                let mut used = 0;
                for end in [first, second, input.len()] {
                    used += decoder.decode(&input[used..end], &mut out).unwrap();
                }
                assert!(decoder.is_done());
                assert_eq!((out.as_slice(), used), (b"hello 0123456\r\n".as_slice(), body.len()), "{first} {second}");
            }
        }
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        let bad: [&[u8]; 19] = [
            b"\r\n",
            b"g\r\n",
            b"+5\r\n",
            b" 5\r\n",
            b"5 \r\n",
            b"0x5\r\n",
            b"5\nhello",
            b"5\r\rhello",
            b"-1\r\n",
            b";a\r\n",
            b"5;a\nb\r\n",
            b"5;\0\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n",
            b"0\r\n :x\r\n\r\n",
            b"0\r\na b: c\r\n",
            b"0\r\nT: a\n\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\n\rX",
        ];
        for input in bad {
            assert!(matches!(decode(input), Err(ChunkError::Malformed(_))), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn the_limit_is_checked_when_the_size_is_read() {
        assert_eq!(decode(b"64\r\n").map(|(_, used, _)| used), Ok(4));
        assert_eq!(decode(b"65\r\n").map(|(_, used, _)| used), Err(ChunkError::TooLarge));
        assert_eq!(decode(b"32\r\n").map(|(_, used, _)| used), Ok(4));
        let two = [b"33\r\n".as_slice(), &[b'x'; 0x33], b"\r\n33\r\n"].concat();
        assert_eq!(decode(&two).map(|(_, used, _)| used), Err(ChunkError::TooLarge));
        assert_eq!(decode(b"ffffffffffffffff\r\n").map(|(_, used, _)| used), Err(ChunkError::TooLarge));
    }

    #[test]
    fn zeros_extensions_and_trailers_are_bounded() {
        let bound = EXTENSION_BYTES_MAX as usize + 1;
        for (start, filler) in [(&b""[..], b'0'), (b"1;", b'a'), (b"1", b' '), (b"0\r\nT:", b'a')] {
            let input = [start, &vec![filler; bound]].concat();
            assert!(matches!(decode(&input), Err(ChunkError::Malformed(_))), "{}", filler as char);
        }
    }
}
