//! Writing a response's head: the one place where status lines and framing fields are made, for both engines.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rustix::time::ClockId;

use super::message::{Body, Response};
use super::method::Method;
use super::problem::reason;

/// What every answer says. SECURITY: no browser is to take bytes for something else than they are said to be.
const COMMON_LINES: &str =
    concat!("Server: larder/", env!("CARGO_PKG_VERSION"), "\r\nX-Content-Type-Options: nosniff\r\n");

/// How the body of an answer is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing follows the head (HEAD, 204, 304, empty bodies).
    None,
    /// As many bytes as `Content-Length` said.
    Length,
    /// Chunks.
    Chunked,
    /// Until the connection closes (HTTP/1.0 without a length).
    Close,
}

/// What the head of an answer depends on besides the answer itself.
#[derive(Clone, Copy, Debug)]
pub struct HeadContext {
    /// The request's method.
    pub method: Method,
    /// The request came as HTTP/1.0.
    pub http_1_0: bool,
    /// The connection goes on after this answer. The response's own `close` wins over it.
    pub keep_alive: bool,
}

/// Appends the head of `response` and says how its body is framed. The response must be sealed.
pub fn write_head(out: &mut Vec<u8>, response: &Response, context: HeadContext) -> Framing {
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, u64::from(response.status));
    out.push(b' ');
    out.extend_from_slice(reason(response.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(COMMON_LINES.as_bytes());
    push_date(out);
    if let Some(prepared) = &response.prepared {
        out.extend_from_slice(prepared);
    }
    out.extend_from_slice(&response.fields);

    let bodiless = matches!(response.status, 100..=199 | 204 | 304);
    let length = match &response.body {
        Body::Empty => Some(response.length_only.unwrap_or(0)),
        Body::Bytes(bytes) => Some(bytes.len() as u64),
        Body::Pull { length, .. } => *length,
        Body::Problem(_) => unreachable!("a sealed response holds no problem"),
    };
    let mut framing = match (length, context.http_1_0) {
        _ if bodiless => Framing::None,
        // How GET would frame what was not made is not said.
        (None, _) if context.method == Method::Head => Framing::None,
        (Some(length), _) => {
            out.extend_from_slice(b"Content-Length: ");
            push_decimal(out, length);
            out.extend_from_slice(b"\r\n");
            if length == 0 { Framing::None } else { Framing::Length }
        }
        (None, false) => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            Framing::Chunked
        }
        (None, true) => Framing::Close,
    };
    if context.method == Method::Head {
        framing = Framing::None;
    }
    if response.close || !context.keep_alive || framing == Framing::Close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if context.http_1_0 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// Appends a number in decimal without allocating.
pub fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

static CLOCK_IS_SET: AtomicBool = AtomicBool::new(true);

/// Says whether the wall clock can be believed; while it cannot, answers carry no `Date`.
pub fn set_clock_trusted(trusted: bool) {
    CLOCK_IS_SET.store(trusted, Ordering::Relaxed);
}

/// Whether the wall clock can be believed: `Date` and `Last-Modified` are left out while it cannot.
pub fn clock_is_trusted() -> bool {
    CLOCK_IS_SET.load(Ordering::Relaxed)
}

/// The wall clock as `Date` shows it: as of the last timer tick, which is near enough for seconds and is read without
/// asking the hardware.
fn now_s() -> u64 {
    u64::try_from(rustix::time::clock_gettime(ClockId::RealtimeCoarse).tv_sec).unwrap_or(0)
}

/// A time of change as far as an answer may tell it and dates of others may be judged by it: not while the clock cannot be
/// believed, and not where it lies behind the answer's own `Date` (RFC 9110 §8.8.2.1), as after a step back.
pub fn told_s(modified_s: u64) -> Option<u64> {
    (clock_is_trusted() && modified_s <= now_s()).then_some(modified_s)
}

thread_local! {
    static DATE: std::cell::RefCell<(u64, Vec<u8>)> = const { std::cell::RefCell::new((u64::MAX, Vec::new())) };
}

fn push_date(out: &mut Vec<u8>) {
    if !clock_is_trusted() {
        return;
    }
    let second = now_s();
    DATE.with_borrow_mut(|(made_for, line)| {
        if *made_for != second {
            *made_for = second;
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            *line = format!("Date: {date}\r\n").into_bytes();
        }
        out.extend_from_slice(line);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(response: &Response, method: Method, http_1_0: bool) -> (String, Framing) {
        let mut out = Vec::new();
        let framing = write_head(&mut out, response, HeadContext { method, http_1_0, keep_alive: true });
        (String::from_utf8(out).unwrap(), framing)
    }

    #[test]
    fn head_announces_what_get_would_send() {
        let (text, framing) = head(&Response::with_body(200, "text/plain", "hello"), Method::Head, false);
        assert!(text.contains("Content-Length: 5\r\n"), "{text}");
        assert_eq!(framing, Framing::None);
    }

    #[test]
    fn head_says_nothing_of_a_body_that_was_not_made() {
        for http_1_0 in [false, true] {
            let (text, framing) = head(&Response::new(200).without_length(), Method::Head, http_1_0);
            assert!(!text.contains("Content-Length") && !text.contains("Transfer-Encoding"), "{text}");
            assert!(!text.contains("Connection: close"), "{text}");
            assert_eq!(framing, Framing::None);
        }
    }

    #[test]
    fn no_length_on_204_and_304() {
        for status in [204, 304] {
            let (text, framing) = head(&Response::new(status), Method::Get, false);
            assert!(!text.contains("Content-Length"), "{text}");
            assert_eq!(framing, Framing::None);
        }
    }

    #[test]
    fn a_stream_without_length_closes_in_http_1_0() {
        let mut response = Response::new(200);
        response.body = Body::Pull { length: None, keeps: 0, patience: Duration::MAX, pull: Box::new(|_| Ok(false)) };
        let (text, framing) = head(&response, Method::Get, true);
        assert!(text.contains("Connection: close\r\n"));
        assert_eq!(framing, Framing::Close);
    }
}
