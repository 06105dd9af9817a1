//! Who sends a head: the lines that an answer must repeat or heed, should the head be refused.

/// Bytes of these lines that are kept.
const BYTES_MAX: usize = 512;
const NAMES: [&[u8]; 3] = [b"origin:", b"traceparent:", b"x-request-id:"];

/// What is known of the sender of the head that is coming.
#[derive(Default)]
pub struct Sender {
    lines: Vec<u8>,
}

impl Sender {
    /// Keeps a whole line if it is one of these.
    pub fn keep(&mut self, line: &[u8]) {
        let is_one = |name: &&[u8]| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let may_be = matches!(line[0] | 0x20, b'o' | b't' | b'x') && self.lines.len() + line.len() <= BYTES_MAX;
        if may_be && NAMES.iter().any(is_one) && line.ends_with(b"\n") {
            self.lines.extend_from_slice(line);
        }
    }

    /// Adds what came from the line on that is refused.
    pub fn add_rest(&mut self, rest: &[u8]) {
        self.lines.extend_from_slice(rest);
    }

    /// The next head may be another's.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// All that is known.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.lines)
    }
}
