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
//! Not here: HTTP. Invariant: memory is bounded by one frame; no length is believed before its bytes have arrived.

use std::fmt;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::{DeflateDecoder, DeflateEncoder};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::http::json;

const MAGIC: &[u8; 4] = b"LDRF";
/// The version of this format.
pub const FORMAT: u32 = 1;
/// Lines are gathered up to this many bytes a frame.
const FRAME_BYTES: usize = 256 * 1024;
/// One line holds at most one value, in base64 and with its names: a frame cannot be larger.
const FRAME_BYTES_MAX: u64 = 192 * 1024 * 1024;

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
    /// Lines, each with its line break.
    Data(Vec<u8>),
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
    number: u32,
    offset: u64,
    items: u64,
    ended: bool,
}

impl<R: Read> FrameReader<R> {
    /// Reads from the first byte of a file.
    pub fn new(input: R) -> FrameReader<R> {
        FrameReader { input, number: 0, offset: 0, items: 0, ended: false }
    }

    /// The next frame; `None` after the end.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Damaged> {
        let result = self.read_frame();
        result.map_err(|what| Damaged { frame: self.number, offset: self.offset, what })
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
            return Err("the file ends inside a frame: it was cut".to_owned());
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, number, plain, length) = (head[4], word(5), u64::from(word(9)), u64::from(word(13)));
        if !head.starts_with(MAGIC) || plain.max(length) > FRAME_BYTES_MAX {
            return Err("damaged: no frame begins here".to_owned());
        }
        let mut payload = Vec::new();
        self.read_up_to(length + 4, &mut payload)?;
        if (payload.len() as u64) < length + 4 {
            return Err("the file ends inside a frame: it was cut".to_owned());
        }
        let sum = payload.split_off(length as usize);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[4..]);
        crc.update(&payload);
        if crc.finalize().to_le_bytes().as_slice() != sum {
            return Err("damaged: the checksum differs".to_owned());
        }
        if number != self.number {
            return Err(format!("a frame is missing: this one says it is number {number}"));
        }
        let frame = self.decode(kind, &payload, plain)?;
        self.number += 1;
        self.offset += 17 + length + 4;
        Ok(Some(frame))
    }

    /// Reads as many bytes as there are, up to `count`.
    fn read_up_to(&mut self, count: u64, into: &mut Vec<u8>) -> Result<(), String> {
        self.input.by_ref().take(count).read_to_end(into).map_err(|error| format!("cannot read: {error}"))?;
        Ok(())
    }

    fn decode(&mut self, kind: u8, payload: &[u8], plain: u64) -> Result<Frame, String> {
        match (kind, self.number) {
            (b'H', 0) => {
                let header: Header = document(payload)?;
                if header.format != FORMAT {
                    return Err(format!("format {} is not known to this larder; use a newer one", header.format));
                }
                Ok(Frame::Header(header))
            }
            (b'H', _) | (_, 0) => Err("the header is not at the beginning".to_owned()),
            (b'D', _) => {
                let mut lines = Vec::new();
                let inflated = DeflateDecoder::new(payload).take(plain + 1).read_to_end(&mut lines);
                inflated.map_err(|error| format!("the data cannot be unpacked: {error}"))?;
                if lines.len() as u64 != plain || lines.last() != Some(&b'\n') {
                    return Err("the data does not unpack to whole lines".to_owned());
                }
                self.items += lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
                Ok(Frame::Data(lines))
            }
            (b'E', _) => {
                let end: End = document(payload)?;
                if end.items != self.items {
                    return Err(format!("the end speaks of {} values, and there are {}", end.items, self.items));
                }
                self.ended = true;
                Ok(Frame::End(end))
            }
            (kind, _) => Err(format!("frames of kind {kind} are not known to this larder")),
        }
    }
}

fn document<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    json::object(payload).map_err(|error| format!("not what it should be: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { format: FORMAT, larder: "0.1.0".into(), created: 7, since: 0, namespace: None }
    }

    fn backup(lines: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = FrameWriter::new(Vec::new(), &header()).unwrap();
        for line in lines {
            writer.line(line).unwrap();
        }
        writer.finish(42).unwrap().0
    }

    fn read(file: &[u8]) -> Result<(Vec<u8>, End), Damaged> {
        let mut reader = FrameReader::new(file);
        assert!(matches!(reader.next_frame()?, Some(Frame::Header(found)) if found == header()));
        let mut lines = Vec::new();
        let mut last = None;
        while let Some(frame) = reader.next_frame()? {
            match frame {
                Frame::Header(_) => unreachable!("a second header is refused"),
                Frame::Data(data) => lines.extend_from_slice(&data),
                Frame::End(end) => last = Some(end),
            }
        }
        Ok((lines, last.expect("the reader insists on an end")))
    }

    fn many_lines() -> Vec<Vec<u8>> {
        (0..3000u32)
            .map(|n| format!("{{\"key\":\"{n}\",\"value\":\"{}\"}}", "x".repeat(n as usize % 900)).into_bytes())
            .collect()
    }

    #[test]
    fn what_is_written_reads_back() {
        for lines in [Vec::new(), vec![b"{}".to_vec()], many_lines()] {
            let (read, end) = read(&backup(&lines)).unwrap();
            let expected: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
            assert!(read == expected);
            assert_eq!(end, End { items: lines.len() as u64, version: 42 });
        }
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let file = backup(&[b"{\"a\":1}".to_vec(), b"{\"b\":2}".to_vec()]);
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn no_cut_goes_unnoticed() {
        let file = backup(&many_lines());
        let step = file.len() / 60 + 1;
        for length in (0..file.len()).step_by(step).chain([file.len() - 1]) {
            let mut reader = FrameReader::new(&file[..length]);
            let error = loop {
                match reader.next_frame() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{length} of {} bytes pass for a whole file", file.len()),
                    Err(error) => break error,
                }
            };
            assert!(error.to_string().contains("cut") || length < 4, "{length}: {error}");
        }
    }

    #[test]
    fn frames_that_are_missing_twice_or_appended_are_noticed() {
        let file = backup(&many_lines());
        let mut starts: Vec<usize> = (0..file.len() - 4).filter(|&at| &file[at..at + 4] == MAGIC).collect();
        starts.push(file.len());
        assert!(starts.len() > 5, "several data frames");
        let frame = |n: usize| &file[starts[n]..starts[n + 1]];
        let all: Vec<usize> = (0..starts.len() - 1).collect();
        let mut without = all.clone();
        without.remove(2);
        let mut twice = all.clone();
        twice.insert(2, 2);
        let mut swapped = all.clone();
        swapped.swap(1, 2);
        let mut appended = all.clone();
        appended.push(1);
        assert!(read(&all.iter().flat_map(|&n| frame(n).to_vec()).collect::<Vec<u8>>()).is_ok());
        for order in [without, twice, swapped, appended] {
            let rebuilt: Vec<u8> = order.iter().flat_map(|&n| frame(n).to_vec()).collect();
            assert!(read(&rebuilt).is_err(), "{order:?}");
        }
    }

    #[test]
    fn a_length_that_lies_costs_no_memory() {
        let mut file = backup(&[]);
        file[13..17].copy_from_slice(&(FRAME_BYTES_MAX as u32).to_le_bytes());
        assert!(FrameReader::new(file.as_slice()).next_frame().unwrap_err().what.contains("cut"));
        file[13..17].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(FrameReader::new(file.as_slice()).next_frame().unwrap_err().what.contains("no frame"));
        assert!(
            FrameReader::new(&b"PK\x03\x04 something else"[..]).next_frame().unwrap_err().what.contains("no backup")
        );
    }
}
