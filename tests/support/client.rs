//! A plain HTTP/1.1 client on a socket: it says exactly what it is told, and reads exactly one answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header fields in order, names as sent.
    pub headers: Vec<(String, String)>,
    /// The body, transfer coding removed.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a text body")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// The error code of a problem body; checks that it is one.
    pub fn code(&self) -> String {
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"), "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], self.status, "{document}");
        assert!(document["title"].is_string() && document["message"].is_string(), "{document}");
        document["code"].as_str().expect("a code").to_owned()
    }

    /// The version in the tag.
    pub fn version(&self) -> u64 {
        let tag = self.header("ETag").unwrap_or_else(|| panic!("no tag: {self:?}"));
        tag.trim_matches('"').parse().unwrap_or_else(|_| panic!("not a version: {tag}"))
    }

    /// Asserts the status and goes on.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{} {:?}", String::from_utf8_lossy(&self.body), self.headers);
        self
    }
}

/// A client that keeps its connection and opens a new one when that has ended.
pub struct Client {
    address: String,
    connection: Option<Connection>,
}

impl Client {
    /// For a server at `host:port`.
    pub fn new(address: &str) -> Client {
        Client { address: address.to_owned(), connection: None }
    }

    /// Sends one request and reads its answer; panics if there is none.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, path, headers, body).expect("an answer")
    }

    /// Sends one request and reads its answer.
    pub fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::try_open(&self.address)?,
        };
        connection.write_request(method, path, headers, body)?;
        let answer = connection.try_read(method == "HEAD")?;
        if answer.header("Connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

/// One socket.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects; panics if it cannot.
    pub fn open(address: &str) -> Connection {
        Connection::try_open(address).expect("a connection")
    }

    /// Connects.
    pub fn try_open(address: &str) -> std::io::Result<Connection> {
        Connection::of(TcpStream::connect(address)?)
    }

    fn of(stream: TcpStream) -> std::io::Result<Connection> {
        stream.set_nodelay(true)?;
        // Long enough for the slowest machine; only there so that no test hangs for ever.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    /// Connects from this address of the machine.
    pub fn open_from(local: &str, address: &str) -> Connection {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let local: std::net::IpAddr = local.parse().expect("an address");
        bind(&socket, &std::net::SocketAddr::new(local, 0)).expect("the address is of this machine");
        connect(&socket, &address.parse::<std::net::SocketAddr>().expect("an address")).expect("a connection");
        Connection::of(socket.into()).expect("a connection")
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// The socket with what was read ahead of it.
    pub fn into_reader(self) -> BufReader<TcpStream> {
        self.stream
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("the socket takes the bytes");
    }

    /// Sends a request with `Host` and, where there is a body or the method expects one, `Content-Length`.
    pub fn write_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<()> {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text.push_str("Host: localhost\r\n");
        }
        let framed = headers.iter().any(|(name, _)| {
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        });
        if !framed && (!body.is_empty() || matches!(method, "PUT" | "POST" | "PATCH")) {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)
    }

    /// Reads one answer; panics if there is none.
    pub fn read(&mut self, head_only: bool) -> Answer {
        self.try_read(head_only).expect("an answer")
    }

    /// Reads one answer. 100s are passed over.
    pub fn try_read(&mut self, head_only: bool) -> std::io::Result<Answer> {
        loop {
            let (status, headers) = self.read_head()?;
            if status / 100 == 1 && status != 101 {
                continue;
            }
            let mut answer = Answer { status, headers, body: Vec::new() };
            if !head_only && !matches!(status, 101 | 204 | 304) {
                answer.body = self.read_body(&answer)?;
            }
            return Ok(answer);
        }
    }

    /// Reads a status line and its fields.
    pub fn read_head(&mut self) -> std::io::Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| broken(format!("not a status line: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(": ").ok_or_else(|| broken(format!("not a field: {line:?}")))?;
            headers.push((name.to_owned(), value.to_owned()));
        }
    }

    fn read_body(&mut self, answer: &Answer) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if answer.header("Transfer-Encoding") == Some("chunked") {
            loop {
                let size = self.line()?;
                let size =
                    usize::from_str_radix(&size, 16).map_err(|_| broken(format!("not a chunk size: {size:?}")))?;
                let start = body.len();
                body.resize(start + size, 0);
                self.stream.read_exact(&mut body[start..])?;
                if !self.line()?.is_empty() {
                    return Err(broken("no line end after a chunk".to_owned()));
                }
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        match answer.header("Content-Length") {
            Some(length) => {
                body.resize(length.parse().map_err(|_| broken(format!("not a length: {length}")))?, 0);
                self.stream.read_exact(&mut body)?;
            }
            None => {
                self.stream.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    /// Whether the server has ended the connection with nothing more to say.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(read) => read == 0,
            // Nothing came, and no end: that is a connection that goes on.
            Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        }
    }

    /// Everything until the server ends the connection.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = self.stream.read_to_end(&mut all);
        all
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(broken(format!("a line without CRLF: {line:?}"))),
        }
    }
}

fn broken(what: String) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what)
}
