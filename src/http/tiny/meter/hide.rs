//! What tiny_http is not told of a head: larder reads long bodies itself, and nobody switches protocols here.
//!
//! tiny_http makes a buffer of all that is left of a body which nobody read, and hands over the bare socket to a request
//! that offers an upgrade. So one byte of such a field becomes, on its way to tiny_http, a control byte that no client can
//! send, since the meter refuses them; [`shown`] makes it what it was. Invariant: a hidden length is none to tiny_http, and
//! a hidden upgrade no upgrade.

use std::borrow::Cow;

/// Of a body that is longer tiny_http does not know.
pub const TOLD_BYTES_MAX: u64 = 64 * 1024 * 1024;

const UPGRADE: &[u8] = b"upgrade";

/// Which bytes of a line are hidden; the line need not have come to its end.
pub fn hidden(name: &str, line: &[u8]) -> Vec<usize> {
    match name {
        "connection" => {
            let parts = line.windows(UPGRADE.len()).enumerate();
            parts.filter(|(_, part)| part.eq_ignore_ascii_case(UPGRADE)).map(|(at, _)| at + UPGRADE.len() - 1).collect()
        }
        "content-length" => {
            let mut length = 0u64;
            let digits = line.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit());
            let is_long = |(at, digit): (usize, &u8)| {
                length = length.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
                (length > TOLD_BYTES_MAX).then_some(at)
            };
            digits.filter_map(is_long).collect()
        }
        _ => Vec::new(),
    }
}

/// What tiny_http is given for such a byte.
pub fn hide(byte: u8) -> u8 {
    byte & 0x1f
}

/// A value as the client sent it; but for the case of a letter.
pub fn shown(value: &str) -> Cow<'_, str> {
    let is_hidden = |letter: char| matches!(letter, '\x05' | '\x10'..='\x19');
    if !value.contains(is_hidden) {
        return value.into();
    }
    let show = |letter: char| if letter == '\x05' { 'e' } else { char::from(letter as u8 | 0x20) };
    value.chars().map(|letter| if is_hidden(letter) { show(letter) } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str, line: &str) -> String {
        let mut bytes = line.as_bytes().to_vec();
        hidden(name, line.as_bytes()).into_iter().for_each(|at| bytes[at] = hide(bytes[at]));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn long_lengths_and_upgrades_are_hidden_and_shown_again_and_nothing_else_is() {
        for value in ["0", "5", "67108864", "0067108864", "keep-alive", "x", "", "-5", "five"] {
            assert_eq!(given("content-length", value), value);
        }
        for value in
            ["67108865", "00067108865", "4294967296", "9223372036854775808", "18446744073709551616", "+99999999999"]
        {
            let told = given("content-length", value);
            assert!(told.trim().parse::<usize>().is_err(), "{value}");
            assert_eq!(shown(&told), value);
        }
        for value in ["upgrade", "Upgrade, HTTP2-Settings", "keep-alive, UPGRADE", "upgrade,upgrade", "no-upgrades"] {
            let told = given("connection", value);
            assert!(!told.to_ascii_lowercase().contains("upgrade"), "{value}");
            assert!(shown(&told).eq_ignore_ascii_case(value));
            assert_eq!(given("expect", value), value);
        }
        assert_eq!(given("connection", "keep-alive, upgrad"), "keep-alive, upgrad");
    }
}
