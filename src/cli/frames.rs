//! The backup file.
//!
//! ```text
//! file  = header data* end            nothing follows the end
//! frame = "LDRF" kind:u8 number:u32 plain:u32 length:u32 payload[length] crc:u32      little endian
//! ```
//! `kind` is `H`, `D` or `E`; `number` counts frames from 0, so that none can be missing, twice or elsewhere; `crc` is
//! the CRC-32 of everything between "LDRF" and itself. `H` holds JSON (what was saved), `D` NDJSON lines of the export,
//! whole and deflated to `length` bytes from `plain`, `E` JSON (how many values, at which version). A file without its
//! end was cut. Each data frame stands for itself: what follows a damaged one can still be read.
//!
//! Not here: HTTP. Invariant: memory does not follow what a file says or unpacks to: lines are unpacked in pieces, and no
//! length is believed before its bytes have arrived.

use std::fmt;
use std::io::{self, Read, Write};

use flate2::read::DeflateEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::http::json;

const MAGIC: &[u8; 4] = b"LDRF";
/// The version of this format.
pub const FORMAT: u32 = 1;
/// Lines are gathered up to this many bytes a frame.
const FRAME_BYTES: usize = 256 * 1024;
/// One line holds at most one value, in base64 and with its names: a frame cannot be larger.
const FRAME_BYTES_MAX: u64 = 192 * 1024 * 1024;
/// A header and an end are a line each.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024;
const PIECE_BYTES: u64 = 64 * 1024;
const CUT: &str = "the file ends inside a frame: it was cut";
const NO_LINES: &str = "the data does not unpack to whole lines";

/// What was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub format: u32,
    /// The larder that wrote it.
    pub larder: String,
    /// When, in seconds since 1970 by the clock of the machine that saved it.
    pub created: u64,
    /// Only what was written after this version; 0 is all.
    pub since: u64,
    /// Only this namespace.
    pub namespace: Option<String>,
}

/// That it is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Values in the file.
    pub items: u64,
    /// The version of the store at the moment that was saved.
    pub version: u64,
}

/// A part of a backup.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first.
    Header(Header),
    /// Lines, which are read by [`FrameReader::read_lines`].
    Data,
    /// The last.
    End(End),
}

/// What is wrong with a file, and where.
#[derive(Debug)]
pub struct Damaged {
    /// The frame, counted from 0.
    pub frame: u32,
    /// Where the frame begins, in bytes.
    pub offset: u64,
    /// What.
    pub what: String,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frame {} at byte {}: {}", self.frame, self.offset, self.what)
    }
}

/// Writes a backup.
pub struct FrameWriter<W> {
    out: W,
    number: u32,
    lines: Vec<u8>,
    /// Values written so far.
    pub items: u64,
    /// Bytes of the file so far.
    pub bytes: u64,
}

impl<W: Write> FrameWriter<W> {
    /// Begins a file.
    pub fn new(out: W, header: &Header) -> io::Result<FrameWriter<W>> {
        let mut writer = FrameWriter { out, number: 0, lines: Vec::new(), items: 0, bytes: 0 };
        let payload = serde_json::to_vec(header)?;
        writer.frame(b'H', payload.len(), &payload)?;
        Ok(writer)
    }

    /// Adds a value: its line, with or without the line break.
    pub fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.lines.extend_from_slice(line.trim_ascii_end());
        self.lines.push(b'\n');
        self.items += 1;
        if self.lines.len() >= FRAME_BYTES { self.flush_lines() } else { Ok(()) }
    }

    /// Ends the file.
    pub fn finish(mut self, version: u64) -> io::Result<(W, End, u64)> {
        self.flush_lines()?;
        let end = End { items: self.items, version };
        let payload = serde_json::to_vec(&end)?;
        self.frame(b'E', payload.len(), &payload)?;
        self.out.flush()?;
        Ok((self.out, end, self.bytes))
    }

    fn flush_lines(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let mut payload = Vec::with_capacity(self.lines.len() / 2);
        DeflateEncoder::new(self.lines.as_slice(), Compression::new(5)).read_to_end(&mut payload)?;
        let plain = self.lines.len();
        self.lines.clear();
        self.frame(b'D', plain, &payload)
    }

    fn frame(&mut self, kind: u8, plain: usize, payload: &[u8]) -> io::Result<()> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidData, "a value is larger than a frame may be");
        let fit = |length: usize| u32::try_from(length).ok().filter(|&l| u64::from(l) <= FRAME_BYTES_MAX);
        let (plain, length) = (fit(plain).ok_or_else(too_large)?, fit(payload.len()).ok_or_else(too_large)?);
        let mut head = vec![kind];
        for number in [self.number, plain, length] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head);
        crc.update(payload);
        for part in [MAGIC.as_slice(), &head, payload, &crc.finalize().to_le_bytes()] {
            self.out.write_all(part)?;
            self.bytes += part.len() as u64;
        }
        self.number += 1;
        Ok(())
    }
}

/// Reads a backup and believes nothing.
pub struct FrameReader<R> {
    input: R,
    /// Whether a frame is proven before any of its lines are given out.
    ahead: bool,
    number: u32,
    offset: u64,
    items: u64,
    ended: bool,
    open: Option<Open>,
}

/// A frame whose payload is being read.
struct Open {
    /// Bytes of the payload.
    length: u64,
    /// Those that are still in the file.
    left: u64,
    crc: crc32fast::Hasher,
    /// Whether the checksum was seen to be right.
    proven: bool,
    inflate: Decompress,
    unpacked: bool,
    /// Lines that are still to come, in bytes.
    plain_left: u64,
    last: u8,
    /// What was read of the payload; it begins at `used`.
    piece: Vec<u8>,
    used: usize,
}

impl<R: Read> FrameReader<R> {
    /// Reads from the first byte of a file, and gives out lines before their frame is proven: it ends with an error then.
    pub fn new(input: R) -> FrameReader<R> {
        FrameReader { input, ahead: false, number: 0, offset: 0, items: 0, ended: false, open: None }
    }

    /// The same, proving each frame before its lines: a frame of the file is held in memory.
    pub fn proving_ahead(input: R) -> FrameReader<R> {
        FrameReader { ahead: true, ..FrameReader::new(input) }
    }

    /// The next frame; `None` after the end. What was not read of the last one's lines is read first.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Damaged> {
        while self.open.is_some() {
            self.read_lines(&mut [0; 4096])?;
        }
        let result = self.read_frame();
        result.map_err(|what| self.damaged(what))
    }

    /// The next bytes of the lines of a data frame; none after its last, when it is proven.
    pub fn read_lines(&mut self, into: &mut [u8]) -> Result<usize, Damaged> {
        let result = self.unpack(into);
        result.map_err(|what| self.damaged(what))
    }

    fn damaged(&self, what: String) -> Damaged {
        Damaged { frame: self.number, offset: self.offset, what }
    }

    fn read_frame(&mut self) -> Result<Option<Frame>, String> {
        let mut head = Vec::new();
        self.read_up_to(17, &mut head)?;
        match (head.is_empty(), self.ended) {
            (true, true) => return Ok(None),
            (true, false) => return Err("the file ends before its end frame: it was cut".to_owned()),
            (false, true) => return Err("something follows the end".to_owned()),
            (false, false) => {}
        }
        let not_ours = self.number == 0 && !head.starts_with(MAGIC);
        if not_ours {
            return Err("this is no backup of larder".to_owned());
        }
        if head.len() < 17 {
            return Err(CUT.to_owned());
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, number, plain, length) = (head[4], word(5), u64::from(word(9)), u64::from(word(13)));
        if !head.starts_with(MAGIC) || plain.max(length) > FRAME_BYTES_MAX {
            return Err("damaged: no frame begins here".to_owned());
        }
        let mut open = Open::new(length, plain);
        open.crc.update(&head[4..]);
        let wrong = match (kind, self.number) {
            _ if number != self.number => Some(format!("a frame is missing: this one says it is number {number}")),
            (b'H', 1..) | (b'D' | b'E', 0) => Some("the header is not at the beginning".to_owned()),
            (b'H' | b'E', _) if length > DOCUMENT_BYTES_MAX => {
                Some("a frame is not what it should be: too long".to_owned())
            }
            (b'H' | b'D' | b'E', _) => None,
            (kind, _) => Some(format!("frames of kind {kind} are not known to this larder")),
        };
        if let Some(what) = wrong {
            return Err(self.blame(open, what));
        }
        if kind != b'D' || self.ahead {
            self.read_up_to(length, &mut open.piece)?;
            open.crc.update(&open.piece);
            open.left -= open.piece.len() as u64;
            self.check_sum(&mut open)?;
        }
        let frame = match kind {
            b'D' => {
                self.open = Some(open);
                return Ok(Some(Frame::Data));
            }
            b'H' => header(&open.piece)?,
            _ => self.end(&open.piece)?,
        };
        self.close(&open);
        Ok(Some(frame))
    }

    fn close(&mut self, open: &Open) {
        self.number += 1;
        self.offset += 17 + open.length + 4;
    }

    /// Reads as many bytes as there are, up to `count`.
    fn read_up_to(&mut self, count: u64, into: &mut Vec<u8>) -> Result<(), String> {
        self.input.by_ref().take(count).read_to_end(into).map_err(|error| format!("cannot read: {error}"))?;
        Ok(())
    }

    /// What is wrong, if it is not that the bytes themselves are damaged.
    fn blame(&mut self, mut open: Open, what: String) -> String {
        while open.left > 0 {
            if let Err(cut) = self.read_piece(&mut open) {
                return cut;
            }
        }
        self.check_sum(&mut open).err().unwrap_or(what)
    }

    fn read_piece(&mut self, open: &mut Open) -> Result<(), String> {
        open.piece.clear();
        open.used = 0;
        self.read_up_to(open.left.min(PIECE_BYTES), &mut open.piece)?;
        open.crc.update(&open.piece);
        open.left -= open.piece.len() as u64;
        if open.piece.is_empty() { Err(CUT.to_owned()) } else { Ok(()) }
    }

    /// Reads the checksum behind a payload that was read, and compares.
    fn check_sum(&mut self, open: &mut Open) -> Result<(), String> {
        if open.proven {
            return Ok(());
        }
        let mut sum = Vec::new();
        self.read_up_to(4, &mut sum)?;
        if open.left > 0 || sum.len() < 4 {
            return Err(CUT.to_owned());
        }
        open.proven = open.crc.clone().finalize().to_le_bytes().as_slice() == sum;
        if open.proven { Ok(()) } else { Err("damaged: the checksum differs".to_owned()) }
    }

    fn unpack(&mut self, into: &mut [u8]) -> Result<usize, String> {
        let Some(mut open) = self.open.take() else { return Ok(0) };
        while !open.unpacked {
            if open.used == open.piece.len() && open.left > 0 {
                self.read_piece(&mut open)?;
            }
            let count = match open.inflate_piece(into) {
                Ok(count) => count,
                Err(what) => return Err(self.blame(open, what)),
            };
            if count > 0 {
                self.items += memchr::memchr_iter(b'\n', &into[..count]).count() as u64;
                self.open = Some(open);
                return Ok(count);
            }
        }
        if open.used < open.piece.len() || open.left > 0 || open.plain_left > 0 || open.last != b'\n' {
            return Err(self.blame(open, NO_LINES.to_owned()));
        }
        self.check_sum(&mut open)?;
        self.close(&open);
        Ok(0)
    }

    fn end(&mut self, payload: &[u8]) -> Result<Frame, String> {
        let end: End = document(payload)?;
        if end.items != self.items {
            return Err(format!("the end speaks of {} values, and there are {}", end.items, self.items));
        }
        self.ended = true;
        Ok(Frame::End(end))
    }
}

impl Open {
    fn new(length: u64, plain: u64) -> Open {
        Open {
            length,
            left: length,
            crc: crc32fast::Hasher::new(),
            proven: false,
            inflate: Decompress::new(false),
            unpacked: false,
            plain_left: plain,
            last: 0,
            piece: Vec::new(),
            used: 0,
        }
    }

    /// Unpacks what there is, as far as there is room.
    fn inflate_piece(&mut self, into: &mut [u8]) -> Result<usize, String> {
        let before = (self.inflate.total_in(), self.inflate.total_out());
        let input = &self.piece[self.used..];
        let status = self.inflate.decompress(input, into, FlushDecompress::None);
        let status = status.map_err(|error| format!("the data cannot be unpacked: {error}"))?;
        let taken = (self.inflate.total_in() - before.0) as usize;
        let count = (self.inflate.total_out() - before.1) as usize;
        self.used += taken;
        self.unpacked = status == Status::StreamEnd;
        self.plain_left = self.plain_left.checked_sub(count as u64).ok_or_else(|| NO_LINES.to_owned())?;
        self.last = into[..count].last().copied().unwrap_or(self.last);
        let stuck = taken == 0 && count == 0 && !self.unpacked && !into.is_empty();
        if stuck { Err("the data cannot be unpacked: it stops".to_owned()) } else { Ok(count) }
    }
}

fn header(payload: &[u8]) -> Result<Frame, String> {
    let header: Header = document(payload)?;
    if header.format != FORMAT {
        return Err(format!("format {} is not known to this larder; use a newer one", header.format));
    }
    Ok(Frame::Header(header))
}

fn document<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    json::object(payload).map_err(|error| format!("not what it should be: {error}"))
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
