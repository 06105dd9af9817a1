//! The first line of a head: three words, the last one a version that tiny_http serves.

use super::fault::Fault;

/// What a request line is.
const LINE: &str = "a request begins with a line of method, target and version, one blank between them";

/// A request line, as far as it has come: the third word by the rule that tiny_http finds it by.
#[derive(Clone, Copy, Default)]
pub struct RequestLine {
    has_begun: bool,
    is_indented: bool,
    spaces: usize,
    version: [u8; 12],
    version_bytes: usize,
}

impl RequestLine {
    /// Follows what came of it.
    pub fn follow(&mut self, piece: &[u8]) {
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
    pub fn is_ordinary(line: &[u8]) -> bool {
        let words = line.strip_suffix(b" HTTP/1.1\r\n").unwrap_or_default();
        words.first().is_some_and(u8::is_ascii_graphic) && memchr::memchr_iter(b' ', words).count() == 1
    }

    /// Judges a whole line.
    pub fn judge(&self) -> Result<(), Fault> {
        let is_version = |version: &[u8]| {
            let digits = version.strip_prefix(b"HTTP/").filter(|digits| digits.len() == 3 && digits[1] == b'.');
            digits.is_some_and(|digits| digits[0].is_ascii_digit() && digits[2].is_ascii_digit())
        };
        let version = self.version().trim_ascii_end();
        if is_version(version) && version[5] > b'1' {
            return Err(Fault::Version);
        }
        if is_version(version) && !matches!(&version[5..], b"0.9" | b"1.0" | b"1.1") {
            return Err(Fault::Malformed("tiny_http serves HTTP/1.0 and HTTP/1.1 only"));
        }
        let is_exact = !self.is_indented && self.spaces == 2 && self.version().strip_prefix(version) == Some(b"\r\n");
        if is_exact && is_version(version) { Ok(()) } else { Err(Fault::Malformed(LINE)) }
    }
}
