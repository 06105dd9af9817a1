//! What a client calls itself, for the log: short, and nothing but what can be printed.

use std::fmt;

/// Bytes that are kept of a name.
pub const AGENT_BYTES_MAX: usize = 48;

/// A `User-Agent`, cut and cleaned. It stands in every trace, so it owns no memory.
#[derive(Clone, Copy)]
pub struct Agent {
    bytes: [u8; AGENT_BYTES_MAX],
    len: u8,
}

impl Agent {
    /// The beginning of a name, with `?` for whatever is no printable ASCII: what a terminal takes for an order, or
    /// turns the line around for, stands in no log.
    pub fn of(name: &str) -> Agent {
        let mut agent = Agent { bytes: [0; AGENT_BYTES_MAX], len: 0 };
        for (place, letter) in agent.bytes.iter_mut().zip(name.chars()) {
            *place = if matches!(letter, ' '..='~') { letter as u8 } else { b'?' };
            agent.len += 1;
        }
        agent
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_and_cleaned() {
        for (name, kept) in [
            ("curl/8.5.0", "curl/8.5.0"),
            ("Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (X11; Linux x86_64)"),
            ("a\tb\u{1b}[31mc\u{7f}", "a?b?[31mc?"),
            ("\u{9b}31m\u{202e}txt", "?31m?txt"),
            ("Gerät/1", "Ger?t/1"),
            ("", ""),
        ] {
            assert_eq!(Agent::of(name).as_str(), kept, "{name:?}");
        }
        assert_eq!(Agent::of(&"x".repeat(10_000)).as_str(), "x".repeat(AGENT_BYTES_MAX));
        assert_eq!(Agent::of(&"é".repeat(10_000)).as_str(), "?".repeat(AGENT_BYTES_MAX));
    }
}
