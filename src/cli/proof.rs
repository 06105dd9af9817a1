//! That the lines of a backup are values: its checksums say no more than that they are the bytes that were saved.
//!
//! Invariant: memory is bounded, whatever a frame unpacks to: a line that is longer than the buffer is read as it comes,
//! and of what is nested a byte is kept a level, up to [`DEPTH_MAX`].

use std::io::{self, Read};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::frames::FrameReader;

const BUFFER_BYTES: usize = 64 * 1024;
/// Deeper than any value that was meant.
const DEPTH_MAX: usize = 8 * 1024 * 1024;

/// Reads the lines of a frame; the error says which is none. `each` is told how many bytes went by.
pub fn check_lines<R: Read>(frames: &mut FrameReader<R>, mut each: impl FnMut(u64)) -> Result<(), String> {
    let mut window = Window { frames, bytes: Vec::with_capacity(BUFFER_BYTES), used: 0, failed: None };
    loop {
        let read = window.fill()?;
        each(read as u64);
        while let Some(length) = memchr::memchr(b'\n', window.rest()) {
            let line = &window.rest()[..length];
            if !line.is_empty() {
                serde_json::from_slice::<IgnoredAny>(line).map_err(|error| no_json(&error))?;
            }
            window.used += length + 1;
        }
        if window.rest().len() == BUFFER_BYTES {
            window.long_line(&mut each)?;
        } else if read == 0 {
            return Ok(());
        }
    }
}

fn no_json(error: &serde_json::Error) -> String {
    format!("a line that is no JSON: {error}")
}

/// Bytes of a frame that are looked at.
struct Window<'a, R> {
    frames: &'a mut FrameReader<R>,
    bytes: Vec<u8>,
    used: usize,
    failed: Option<String>,
}

impl<R: Read> Window<'_, R> {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// Reads more behind what is there, if there is room.
    fn fill(&mut self) -> Result<usize, String> {
        self.bytes.drain(..self.used);
        self.used = 0;
        let there = self.bytes.len();
        self.bytes.resize(BUFFER_BYTES, 0);
        let read = self.frames.read_lines(&mut self.bytes[there..]);
        self.bytes.truncate(there + *read.as_ref().unwrap_or(&0));
        read.map_err(|error| error.to_string())
    }

    /// Checks a line that does not fit, up to its end.
    fn long_line(&mut self, each: &mut impl FnMut(u64)) -> Result<(), String> {
        let mut line = LongLine { window: self, each, ended: false, depth: 0, in_string: false, escaped: false };
        let mut parser = serde_json::Deserializer::from_reader(&mut line);
        let parsed = IgnoredAny::deserialize(&mut parser).and_then(|_| parser.end());
        match (parsed, self.failed.take()) {
            (_, Some(failed)) => Err(failed),
            (parsed, None) => parsed.map_err(|error| no_json(&error)),
        }
    }
}

/// The bytes up to a line break.
struct LongLine<'a, 'b, R, E> {
    window: &'a mut Window<'b, R>,
    each: &'a mut E,
    ended: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl<R: Read, E: FnMut(u64)> LongLine<'_, '_, R, E> {
    /// The next byte, unless it is the line break.
    fn next_byte(&mut self) -> Result<Option<u8>, String> {
        if self.window.rest().is_empty() {
            let read = self.window.fill()?;
            (self.each)(read as u64);
        }
        let byte = self.window.rest().first().copied();
        self.window.used += usize::from(byte.is_some());
        let byte = byte.filter(|byte| *byte != b'\n');
        match byte {
            None => self.ended = true,
            _ if self.escaped => self.escaped = false,
            Some(b'\\') => self.escaped = self.in_string,
            Some(b'"') => self.in_string = !self.in_string,
            Some(b'[' | b'{') if !self.in_string => self.depth += 1,
            Some(b']' | b'}') if !self.in_string => self.depth = self.depth.saturating_sub(1),
            Some(_) => {}
        }
        if self.depth > DEPTH_MAX { Err("a line that is nested beyond measure".to_owned()) } else { Ok(byte) }
    }
}

impl<R: Read, E: FnMut(u64)> Read for LongLine<'_, '_, R, E> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (Some(place), false) = (into.first_mut(), self.ended) else { return Ok(0) };
        match self.next_byte() {
            Ok(None) => Ok(0),
            Ok(Some(byte)) => {
                *place = byte;
                Ok(1)
            }
            Err(what) => {
                self.window.failed = Some(what);
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::frames::{FORMAT, Frame, FrameWriter, Header};

    fn check(lines: &[&str]) -> Result<u64, String> {
        let header = Header { format: FORMAT, larder: "0.1.0".into(), created: 1, since: 0, namespace: None };
        let mut writer = FrameWriter::new(Vec::new(), &header).unwrap();
        for line in lines {
            writer.line(line.as_bytes()).unwrap();
        }
        let file = writer.finish(9).unwrap().0;
        let mut reader = FrameReader::new(file.as_slice());
        let mut bytes = 0;
        while let Some(frame) = reader.next_frame().map_err(|error| error.to_string())? {
            if matches!(frame, Frame::Data) {
                check_lines(&mut reader, |count| bytes += count)?;
            }
        }
        Ok(bytes)
    }

    #[test]
    fn lines_of_every_length_are_looked_at_to_their_end() {
        for length in [0, 1, BUFFER_BYTES - 9, BUFFER_BYTES - 8, BUFFER_BYTES - 7, BUFFER_BYTES, 3 * BUFFER_BYTES] {
            let long = format!("{{\"v\":\"{}\"}}", "[\\\"".repeat(length / 3));
            let lines = ["{}", long.as_str(), "{\"k\":1}", long.as_str()];
            let all: usize = lines.iter().map(|line| line.len() + 1).sum();
            assert_eq!(check(&lines).unwrap(), all as u64, "{length}");
            for broken in [&long[..long.len() - 1], &format!("{long}x"), &format!("{long}{long}"), &long[1..]] {
                let said = check(&["{}", broken, "{}"]).unwrap_err();
                assert!(said.contains("no JSON"), "{length}: {said}");
            }
        }
    }

    #[test]
    fn what_is_deep_is_looked_at_up_to_a_measure() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        check(&[&nested(200), &nested(500_000)]).unwrap();
        assert!(check(&[&nested(DEPTH_MAX + 1)]).unwrap_err().contains("beyond measure"));
        assert!(check(&["[".repeat(500_000).as_str()]).unwrap_err().contains("no JSON"));
    }
}
