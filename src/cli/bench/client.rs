//! A keep-alive HTTP/1.1 client for the hot loop: one connection, one request at a time, bodies counted and dropped.
//!
//! Not here: redirects, proxies, TLS, compression. A connection that ended in any doubt is not used again.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

const FIELDS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 64 * 1024;
const PIECE_BYTES: usize = 16 * 1024;

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The address, looked up once.
    pub address: SocketAddr,
    /// What stands in `Host`.
    pub host: String,
    /// What stands before each path.
    pub base: String,
    /// The field that opens the door.
    pub authorization: Option<String>,
}

impl Target {
    /// From a checked `http://host[:port][/base]`.
    pub fn new(url: &str, authorization: Option<String>) -> Result<Target, String> {
        let rest = url.strip_prefix("http://").unwrap_or(url);
        let (host, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let lookup = if has_port { host.to_owned() } else { format!("{host}:80") };
        let address = lookup.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        let address = address.ok_or_else(|| format!("the address of {host} is not known"))?;
        Ok(Target { address, host: host.to_owned(), base: base.trim_end_matches('/').to_owned(), authorization })
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// No connection could be made.
    Connect,
    /// The answer did not come in time.
    Timeout,
    /// The connection was closed before the whole answer had come.
    Closed,
    /// The answer is not HTTP/1.1.
    Protocol,
}

impl Trouble {
    /// A word for the report.
    pub fn name(self) -> &'static str {
        match self {
            Trouble::Connect => "connect",
            Trouble::Timeout => "timeout",
            Trouble::Closed => "closed",
            Trouble::Protocol => "protocol",
        }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Bytes of the body.
    pub body_bytes: u64,
}

/// One user's connection, made when it is needed.
pub struct Client<'a> {
    target: &'a Target,
    timeout: Duration,
    connection: Option<Connection>,
    /// Connections made after the first.
    pub reconnects: u64,
    connected_once: bool,
}

impl<'a> Client<'a> {
    /// A client without a connection.
    pub fn new(target: &'a Target, timeout: Duration) -> Client<'a> {
        Client { target, timeout, connection: None, reconnects: 0, connected_once: false }
    }

    /// Sends a request and reads its answer to the end. A kept connection that turns out to be closed before any byte
    /// of the answer is replaced once where the method may be repeated; any server may close an idle one.
    pub fn exchange(&mut self, request: &[u8], method: &str) -> Result<Answer, Trouble> {
        let deadline = Instant::now() + self.timeout;
        let kept = self.connection.is_some();
        match self.attempt(request, method, deadline) {
            Err(Failed { trouble: Trouble::Closed, nothing_came: true }) if kept && may_repeat(method) => {
                self.attempt(request, method, deadline).map_err(|failed| failed.trouble)
            }
            other => other.map_err(|failed| failed.trouble),
        }
    }

    fn attempt(&mut self, request: &[u8], method: &str, deadline: Instant) -> Result<Answer, Failed> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(deadline)?,
        };
        let (answer, reusable) = connection.exchange(request, method == "HEAD", deadline)?;
        if reusable {
            self.connection = Some(connection);
        }
        Ok(answer)
    }

    fn connect(&mut self, deadline: Instant) -> Result<Connection, Failed> {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let failed = |_: io::Error| Failed { trouble: Trouble::Connect, nothing_came: true };
        let stream = TcpStream::connect_timeout(&self.target.address, left).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(self.timeout)).map_err(failed)?;
        stream.set_write_timeout(Some(self.timeout)).map_err(failed)?;
        self.reconnects += u64::from(self.connected_once);
        self.connected_once = true;
        Ok(Connection { stream, buffer: Vec::with_capacity(PIECE_BYTES), used: 0 })
    }
}

fn may_repeat(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS")
}

struct Failed {
    trouble: Trouble,
    nothing_came: bool,
}

/// How the end of a body is known.
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

struct Connection {
    stream: TcpStream,
    /// What was read and not yet used begins at `used`.
    buffer: Vec<u8>,
    used: usize,
}

impl Connection {
    fn exchange(&mut self, request: &[u8], head_only: bool, deadline: Instant) -> Result<(Answer, bool), Failed> {
        let early = |trouble| Failed { trouble, nothing_came: true };
        self.stream.write_all(request).map_err(|error| early(trouble_of(&error)))?;
        self.read_more(deadline).map_err(early)?;
        self.answer(head_only, deadline).map_err(|trouble| Failed { trouble, nothing_came: false })
    }

    fn answer(&mut self, head_only: bool, deadline: Instant) -> Result<(Answer, bool), Trouble> {
        loop {
            let (status, framing, keep) = self.head(head_only, deadline)?;
            // An interim answer is followed by the real one.
            if (100..200).contains(&status) {
                continue;
            }
            let (body_bytes, reusable) = match framing {
                Framing::Length(length) => (self.skip(length, deadline)?, keep),
                Framing::Chunked => (self.skip_chunks(deadline)?, keep),
                Framing::UntilClose => (self.skip_until_close(deadline)?, false),
            };
            // Bytes after the answer belong to nothing that was asked.
            let clean = self.used == self.buffer.len();
            return Ok((Answer { status, body_bytes }, reusable && clean));
        }
    }

    fn head(&mut self, head_only: bool, deadline: Instant) -> Result<(u16, Framing, bool), Trouble> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(&self.buffer[self.used..]) {
                Ok(httparse::Status::Complete(length)) => {
                    let status = response.code.ok_or(Trouble::Protocol)?;
                    let framing = framing(&response, status, head_only)?;
                    let said = |word: &str| token_in(&response, "connection", word);
                    let keep = if response.version == Some(1) { !said("close") } else { said("keep-alive") };
                    self.used += length;
                    return Ok((status, framing, keep));
                }
                Ok(httparse::Status::Partial) if self.buffer.len() - self.used < HEAD_BYTES_MAX => {
                    self.read_more(deadline)?;
                }
                _ => return Err(Trouble::Protocol),
            }
        }
    }

    /// Reads once. What was used makes room first.
    fn read_more(&mut self, deadline: Instant) -> Result<(), Trouble> {
        if Instant::now() >= deadline {
            return Err(Trouble::Timeout);
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        let old = self.buffer.len();
        self.buffer.resize(old + PIECE_BYTES, 0);
        let read = loop {
            match self.stream.read(&mut self.buffer[old..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(old + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(Trouble::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(trouble_of(&error)),
        }
    }

    fn skip(&mut self, length: u64, deadline: Instant) -> Result<u64, Trouble> {
        let mut left = length;
        loop {
            let here = ((self.buffer.len() - self.used) as u64).min(left);
            self.used += here as usize;
            left -= here;
            if left == 0 {
                return Ok(length);
            }
            self.read_more(deadline)?;
        }
    }

    fn skip_chunks(&mut self, deadline: Instant) -> Result<u64, Trouble> {
        let mut total = 0;
        loop {
            let line = self.line(deadline)?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let size = std::str::from_utf8(size).map_err(|_| Trouble::Protocol)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(|_| Trouble::Protocol)?;
            if size == 0 {
                // The trailer ends with an empty line.
                while !self.line(deadline)?.is_empty() {}
                return Ok(total);
            }
            total += self.skip(size, deadline)?;
            if !self.line(deadline)?.is_empty() {
                return Err(Trouble::Protocol);
            }
        }
    }

    /// A line without its end.
    fn line(&mut self, deadline: Instant) -> Result<Vec<u8>, Trouble> {
        loop {
            let here = &self.buffer[self.used..];
            if let Some(end) = memchr::memchr(b'\n', here) {
                let line = here[..end].strip_suffix(b"\r").unwrap_or(&here[..end]).to_vec();
                self.used += end + 1;
                return Ok(line);
            }
            if here.len() > HEAD_BYTES_MAX {
                return Err(Trouble::Protocol);
            }
            self.read_more(deadline)?;
        }
    }

    fn skip_until_close(&mut self, deadline: Instant) -> Result<u64, Trouble> {
        let mut total = 0;
        loop {
            total += (self.buffer.len() - self.used) as u64;
            self.used = self.buffer.len();
            match self.read_more(deadline) {
                Ok(()) => {}
                Err(Trouble::Closed) => return Ok(total),
                Err(trouble) => return Err(trouble),
            }
        }
    }
}

fn framing(response: &httparse::Response<'_, '_>, status: u16, head_only: bool) -> Result<Framing, Trouble> {
    if head_only || (100..200).contains(&status) || matches!(status, 204 | 304) {
        return Ok(Framing::Length(0));
    }
    if token_in(response, "transfer-encoding", "chunked") {
        return Ok(Framing::Chunked);
    }
    let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let Some(length) = length else { return Ok(Framing::UntilClose) };
    let length = std::str::from_utf8(length.value).ok().and_then(|text| text.trim().parse().ok());
    length.map(Framing::Length).ok_or(Trouble::Protocol)
}

fn token_in(response: &httparse::Response<'_, '_>, name: &str, word: &str) -> bool {
    response.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).any(|field| {
        field.value.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}

fn trouble_of(error: &io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Trouble::Timeout,
        _ => Trouble::Closed,
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
