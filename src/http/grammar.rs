//! The parts of HTTP's grammar that decide where a message ends and whom it is for, shared by both engines.
//!
//! What two parsers could read in two ways is refused, never repaired: that is where request smuggling lives.

/// In [`CLASSES`]: may stand in a token (RFC 9110 §5.6.2).
pub const TOKEN: u8 = 1;
/// In [`CLASSES`]: may stand in a request target; visible ASCII but the `#` of fragments.
pub const TARGET: u8 = 2;
/// In [`CLASSES`]: may stand in the name of a host (RFC 3986 §3.2.2). The comma is left out: it is what several Host
/// lines leave behind that somebody has joined (RFC 9110 §5.3), and those must be refused.
pub const HOST: u8 = 4;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0x21;
    while byte <= 0x7e {
        if byte != b'#' {
            table[byte as usize] |= TARGET;
        }
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] |= TOKEN | HOST;
        }
        byte += 1;
    }
    add(add(table, b"!#$%&'*+-.^_`|~", TOKEN), b"-._~!$&'()*+;=%", HOST)
}

const fn add(mut table: [u8; 256], bytes: &[u8], class: u8) -> [u8; 256] {
    let mut at = 0;
    while at < bytes.len() {
        table[bytes[at] as usize] |= class;
        at += 1;
    }
    table
}

/// How many bytes at the start of `text` are of a class.
pub fn count_of(text: &[u8], class: u8) -> usize {
    text.iter().take_while(|byte| CLASSES[usize::from(**byte)] & class != 0).count()
}

/// A token byte (RFC 9110 §5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

/// Whether bytes are a token: a method, or the name of a field.
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && count_of(text, TOKEN) == text.len()
}

/// Whether a text may stand as `host [":" port]`. Empty is allowed: a URI may have no authority.
pub fn is_host(value: &[u8]) -> bool {
    let host_len = match value.strip_prefix(b"[") {
        None => count_of(value, HOST),
        Some(rest) => {
            let is_address = |byte: &u8| byte.is_ascii_alphanumeric() || b":.%".contains(byte);
            let address_len = rest.iter().take_while(|byte| is_address(byte)).count();
            if address_len == 0 || rest.get(address_len) != Some(&b']') {
                return false;
            }
            address_len + 2
        }
    };
    match &value[host_len..] {
        [] => true,
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// What the `Transfer-Encoding` lines of a request come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransferCoding {
    /// There are none.
    #[default]
    None,
    /// `chunked` and nothing else.
    Chunked,
    /// Something that is not spoken here: 501.
    Unknown,
}

impl TransferCoding {
    /// Adds a line. The error, a 400, says why the end of such a message cannot be told (RFC 9112 §6.3).
    pub fn with_line(self, value: &[u8]) -> Result<TransferCoding, &'static str> {
        value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).try_fold(self, |coding, element| {
            match (coding, element.eq_ignore_ascii_case(b"chunked")) {
                _ if element.is_empty() => Err("Transfer-Encoding has an empty element"),
                (TransferCoding::Chunked, _) => Err("chunked is not the last transfer coding"),
                (TransferCoding::None, true) => Ok(TransferCoding::Chunked),
                _ => Ok(TransferCoding::Unknown),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_judged() {
        for good in ["", "a", "a.b-c:80", "[::1]", "[::1]:8080", "127.0.0.1:1", "a:"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in ["a b", "a/b", "u@a", "a:8x", "[::1", "::1]", "a:b:80", "[]", "a\"b", "[::1]x", "a,b", "a,a"] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn transfer_codings_are_judged_over_all_lines() {
        let judge = |lines: &[&str]| {
            lines.iter().try_fold(TransferCoding::None, |coding, line| coding.with_line(line.as_bytes()))
        };
        assert_eq!(judge(&[]), Ok(TransferCoding::None));
        assert_eq!(judge(&["Chunked"]), Ok(TransferCoding::Chunked));
        for unknown in [&["gzip"][..], &["gzip, chunked"], &["gzip", "chunked"], &["xchunked"], &["chunked;q=1"]] {
            assert_eq!(judge(unknown), Ok(TransferCoding::Unknown), "{unknown:?}");
        }
        for wrong in [&[""][..], &[",chunked"], &["chunked,"], &["chunked, chunked"], &["chunked", "gzip"]] {
            assert!(judge(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn tokens_have_at_least_one_byte_and_no_separator() {
        assert!(is_token(b"X-A_b~1") && is_token_byte(b'|'));
        for wrong in [&b""[..], b"a b", b"a:b", b"(a)", b"a\0", b"\xc3\xa9"] {
            assert!(!is_token(wrong), "{wrong:?}");
        }
    }
}
