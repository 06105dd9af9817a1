//! How the body of a message comes, told by the fields that tiny_http heeds.

use super::fault::Fault;

/// Bytes of a line that frames the message. tiny_http would take longer ones, of which nobody has a use.
pub const FRAMING_BYTES_MAX: usize = 256;

/// What the fields so far say of the body, as far as tiny_http heeds it.
#[derive(Clone, Copy, Default)]
pub struct Framing {
    length: Option<Option<u64>>,
    expects: bool,
    /// It comes in chunks, whatever its length is said to be.
    pub is_chunked: bool,
}

/// What a framing field is called, by the place of its colon.
pub fn framing_name(line: &[u8]) -> Option<&'static str> {
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
    /// The length, where one was told.
    pub fn length(self) -> u64 {
        self.length.flatten().unwrap_or(0)
    }

    /// Takes a whole field, or the beginning of a longer one.
    pub fn field(&mut self, line: &[u8], line_bytes: usize, name: &str) -> Result<(), Fault> {
        if line_bytes > FRAMING_BYTES_MAX {
            return Err(Fault::Malformed("a header field that says how the body comes is too long"));
        }
        let value = line[name.len() + 1..].trim_ascii();
        match name {
            "content-length" => {
                self.length.get_or_insert(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()));
            }
            "transfer-encoding" => self.is_chunked = true,
            "connection" => {}
            _ if !self.expects && !value.eq_ignore_ascii_case(b"100-continue") => return Err(Fault::Expectation),
            _ => self.expects = true,
        }
        Ok(())
    }
}
