//! Raw requests that RFC 9112 and RFC 9110 judge, and what a server must make of each: one table for every engine.
//!
//! Behind each case another request comes on the same connection, which asks for its end. Its answer, or that there is
//! none, tells where the server saw the end of the message before it. A case that is cut has nothing behind it; there
//! the client closes its sending side. All answers are read to the end of the connection.
//!
//! The paths are larder's own (`/health/live` is open to all, the `PUT` needs no token on loopback), so that the same
//! bytes can go to an engine with a test handler and to the real binary.

mod table;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

pub use table::cases;

/// What must come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Exactly one answer with this status, and the end of the connection: the request behind is not answered.
    Refused(u16),
    /// Exactly so many answers, none of them an error. That to the request behind is counted.
    Accepted(usize),
    /// No answer at all: the message never became whole.
    Silence,
}

use Expected::{Accepted, Refused, Silence};

/// One raw request (or several).
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it, with the section that judges it.
    pub name: &'static str,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What must come back.
    pub expected: Expected,
    /// Nothing comes behind it, and the client closes its sending side.
    pub is_cut: bool,
}

/// The request behind.
const LAST: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The statuses of all answers.
    pub statuses: Vec<u16>,
    /// The connection ended with a reset: a client that has more to send may lose the answer.
    pub is_reset: bool,
}

/// Sends a case and reads all answers. `Err` if what came back is no sequence of answers, or the server keeps the
/// connection open.
pub fn send(address: &str, case: &Case) -> Result<Answers, String> {
    send_in_pieces(address, case, case.bytes.len())
}

/// The same, with a moment between the bytes before `split` and those behind it.
pub fn send_in_pieces(address: &str, case: &Case, split: usize) -> Result<Answers, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let (first, second) = case.bytes.split_at(split);
    let rest = [second, if case.is_cut { b"" } else { LAST }].concat();
    // The server may refuse before it has read all: then the rest of this write fails, and the answer counts.
    if second.is_empty() {
        let _ = stream.write_all(&[first, &rest].concat());
    } else {
        let _ = stream.write_all(first);
        std::thread::sleep(Duration::from_millis(1));
        let _ = stream.write_all(&rest);
    }
    if case.is_cut {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let (received, is_reset) = read_all(&mut stream)?;
    Ok(Answers { statuses: statuses(&received)?, is_reset })
}

/// Everything until the end, and whether that was a reset. A server that says that it will close may wait for the
/// client to close first, and this one does.
fn read_all(stream: &mut TcpStream) -> Result<(Vec<u8>, bool), String> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok((received, false)),
            Ok(count) => received.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok((received, true)),
            Err(error) => return Err(format!("{error} after {}", received.escape_ascii())),
        }
        if received.windows(21).any(|bytes| bytes == b"\r\nConnection: close\r\n") {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

/// The statuses of a sequence of answers.
fn statuses(mut received: &[u8]) -> Result<Vec<u16>, String> {
    let mut found = Vec::new();
    while !received.is_empty() {
        let wrong = || format!("not an answer: {}", received.escape_ascii());
        let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or_else(wrong)? + 4;
        let head = std::str::from_utf8(&received[..end]).map_err(|_| wrong())?;
        let rest = ["HTTP/1.1 ", "HTTP/1.0 "].iter().find_map(|version| head.strip_prefix(version));
        let status = rest.and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(wrong)?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.unwrap_or("0").parse().map_err(|_| wrong())?;
        received = received.get(end + length..).ok_or_else(wrong)?;
        found.push(status);
    }
    Ok(found)
}

/// Whether the answers are what a case expects.
pub fn agrees(expected: Expected, statuses: &[u16]) -> bool {
    match expected {
        Refused(status) => statuses == [status],
        Accepted(count) => statuses.len() == count && statuses.iter().all(|status| *status < 400),
        Silence => statuses.is_empty(),
    }
}
