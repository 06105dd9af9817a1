//! Errors on the wire: `application/problem+json` (RFC 9457) with larder's stable `code`.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Whether a failed write may have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Nothing was written: safe to repeat.
    No,
    /// Nobody knows: read before repeating.
    Unknown,
}

/// Bytes of a message: what a client sent may be part of it, and is not sent back at length.
const MESSAGE_BYTES_MAX: usize = 512;

/// An error answer. `code` is stable and in upper snake case; `message` says what to do next and holds no path of the
/// board, no token, and nothing of another client.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: &'static str,
    /// What happened and what to do next.
    pub message: Cow<'static, str>,
    /// On a write that failed with 429 or 5xx: whether it was applied.
    pub written: Option<Written>,
    /// Further members of the document (`failed`, `results`, `oldest` …).
    pub extra: Option<Box<Map<String, Value>>>,
    /// One more member, as a name and JSON text that is written as it is.
    pub raw: Option<Box<(&'static str, String)>>,
    /// Header lines of the answer (`Allow`, `Retry-After`, `WWW-Authenticate`), each ended by CRLF.
    pub fields: Vec<u8>,
}

impl Problem {
    /// A problem without further members. Of a long message the beginning is kept.
    pub fn new(status: u16, code: &'static str, message: impl Into<Cow<'static, str>>) -> Problem {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message = format!("{}…", &message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)]).into();
        }
        Problem { status, code, message, written: None, extra: None, raw: None, fields: Vec::new() }
    }

    /// Says whether the write was applied.
    pub fn written(mut self, written: Written) -> Problem {
        self.written = Some(written);
        self
    }

    /// Adds a header line to the answer. The value must hold no control characters.
    pub fn field(mut self, name: &str, value: &str) -> Problem {
        debug_assert!(super::message::is_field_value(value.as_bytes()), "a field value with control characters");
        for part in [name, ": ", value, "\r\n"] {
            self.fields.extend_from_slice(part.as_bytes());
        }
        self
    }

    /// Adds a member to the document.
    pub fn with(mut self, name: &str, value: Value) -> Problem {
        self.extra.get_or_insert_default().insert(name.to_owned(), value);
        self
    }

    /// Adds a member whose value is JSON already. The text is not looked at: it may nest deeper than a parser goes.
    pub fn with_raw(mut self, name: &'static str, json: String) -> Problem {
        self.raw = Some(Box::new((name, json)));
        self
    }

    /// The document as JSON.
    pub fn render(&self, request_id: Option<&str>) -> Vec<u8> {
        let mut document = Map::new();
        document.insert("status".into(), self.status.into());
        document.insert("title".into(), reason(self.status).into());
        document.insert("code".into(), self.code.into());
        document.insert("message".into(), self.message.as_ref().into());
        match self.written {
            Some(Written::No) => drop(document.insert("written".into(), "no".into())),
            Some(Written::Unknown) => drop(document.insert("written".into(), "unknown".into())),
            None => {}
        }
        if let Some(id) = request_id {
            document.insert("request_id".into(), id.into());
        }
        for (name, value) in self.extra.iter().flat_map(|extra| extra.iter()) {
            document.insert(name.clone(), value.clone());
        }
        let mut text = Value::Object(document).to_string();
        if let Some((name, json)) = self.raw.as_deref() {
            // The document has members, so that it ends with the brace that this takes off.
            text.pop();
            for part in [",\"", *name, "\":", json, "}"] {
                text.push_str(part);
            }
        }
        text.into_bytes()
    }
}

/// The standard reason phrase of a status.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_message_the_beginning_is_kept() {
        for (sent, kept) in [("x".repeat(512), 512), ("x".repeat(513), 512), ("ä".repeat(400), 512)] {
            let problem = Problem::new(400, "INVALID_JSON", sent.clone());
            assert_eq!(problem.message.strip_suffix('…').unwrap_or(&problem.message), &sent[..kept]);
        }
        // One that is not cut at a boundary of two bytes.
        let problem = Problem::new(400, "INVALID_JSON", format!("x{}", "ä".repeat(400)));
        assert_eq!(problem.message.len(), 511 + "…".len());
    }

    #[test]
    fn a_raw_member_stands_last_and_as_it_is() {
        let problem =
            Problem::new(409, "BATCH_ABORTED", "m").with("failed", 1.into()).with_raw("results", "[1.50]".into());
        let text = String::from_utf8(problem.render(None)).unwrap_or_default();
        assert!(text.starts_with("{\"status\":409,"), "{text}");
        assert!(text.ends_with(",\"failed\":1,\"results\":[1.50]}"), "{text}");
    }
}
