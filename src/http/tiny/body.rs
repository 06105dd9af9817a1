//! Reading request bodies from tiny_http, and getting rid of those that nobody wants.
//!
//! IMPORTANT: tiny_http reads what is left of a body when its reader is dropped, into one buffer of the whole remaining
//! length. So a reader with something left is dropped only after its socket stopped reading, and above
//! [`DROPPABLE_BYTES_MAX`] not at all: it is forgotten, and with it one thread and two descriptors leak, counted.
//!
//! IMPORTANT: tiny_http reads the end of the stream inside a chunk like the last chunk. So chunks count as whole only
//! while the client can still send; otherwise what a client had sent when it died would be stored as its value.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use super::connection::{BodyPace, Connection};
use super::head::BodyKind;
use super::{socket, sys};

/// A body with at most this many bytes left may be dropped: the buffer is zeroed memory of which only what came in is
/// ever touched.
pub const DROPPABLE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// Bytes that one read may bring.
const READ_MOST_BYTES: usize = 64 * 1024;

/// A request whose body may not have been read to its end.
pub struct RawRequest {
    raw: tiny_http::Request,
    kind: BodyKind,
    read_bytes: u64,
    at_end: bool,
}

/// What dropping a request came to.
pub enum Writer {
    /// The way to the client.
    Ready(Box<dyn io::Write + Send>),
    /// The request had to be forgotten; an answer can only go past tiny_http.
    Forgotten,
}

/// Why a body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It is longer than it may be.
    TooLarge,
    /// It is not valid, or ended early.
    Broken,
    /// The guard found it too slow.
    TooSlow,
    /// There was no memory for it in its time.
    NoRoom,
}

impl RawRequest {
    /// Takes a request over from tiny_http.
    pub fn new(raw: tiny_http::Request, kind: BodyKind) -> RawRequest {
        RawRequest { raw, kind, read_bytes: 0, at_end: matches!(kind, BodyKind::None) }
    }

    /// How the body comes.
    pub fn kind(&self) -> BodyKind {
        self.kind
    }

    /// Whether some of the body is, or may be, still to come on the socket.
    pub fn has_rest(&self) -> bool {
        !self.at_end && !self.kind.is_at_hand()
    }

    fn remaining(&self) -> u64 {
        self.kind.length().map_or(0, |length| length - self.read_bytes)
    }

    /// One read, never past the end of the body.
    fn read(&mut self, buffer: &mut [u8], connection: &Connection, pace: &BodyPace) -> io::Result<usize> {
        if self.at_end || buffer.is_empty() {
            return Ok(0);
        }
        let room = self.kind.length().map_or(buffer.len(), |_| buffer.len().min(clamp(self.remaining())));
        let count = loop {
            match self.raw.as_reader().read(&mut buffer[..room]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.read_bytes += count as u64;
        match self.kind.length() {
            Some(length) if self.read_bytes == length => self.at_end = true,
            Some(_) if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None if count == 0 && !can_still_send(connection, pace) => return Err(io::ErrorKind::UnexpectedEof.into()),
            None if count == 0 => self.at_end = true,
            _ => {}
        }
        Ok(count)
    }

    /// Reads the whole body, at most `bytes_max`. May block for as long as the guard lets it. `grow` is asked before the
    /// body holds more.
    pub fn read_all(
        &mut self,
        bytes_max: u64,
        connection: &Connection,
        pace: &BodyPace,
        mut grow: impl FnMut(u64) -> Result<(), BodyError>,
    ) -> Result<Bytes, BodyError> {
        if self.kind.length().is_some_and(|length| length > bytes_max) {
            return Err(BodyError::TooLarge);
        }
        pace.began_at.get_or_init(Instant::now);
        let mut body = Vec::with_capacity(clamp(self.remaining().min(bytes_max).min(READ_BYTES as u64)));
        while !self.at_end {
            if body.capacity() - body.len() < READ_BYTES
                && self.kind.length().is_none_or(|length| length > body.capacity() as u64)
            {
                let more = body.len().max(READ_BYTES);
                grow((body.len() + more) as u64)?;
                body.reserve_exact(more);
            }
            self.read_some(&mut body, connection, pace)?;
            if body.len() as u64 > bytes_max {
                return Err(BodyError::TooLarge);
            }
        }
        Ok(body.into())
    }

    /// One read into the memory that `body` has left.
    pub fn read_some(
        &mut self,
        body: &mut Vec<u8>,
        connection: &Connection,
        pace: &BodyPace,
    ) -> Result<usize, BodyError> {
        let start = body.len();
        let room = (body.capacity() - start).min(READ_MOST_BYTES);
        body.resize(start + room, 0);
        let count = self.read(&mut body[start..], connection, pace).map_err(|_| broken(pace));
        body.truncate(start + count.unwrap_or(0));
        let count = count?;
        pace.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    /// Sends the interim answer that the client may wait for before it sends its body. Once is enough, more do no harm.
    pub fn ask_for_body(&mut self) {
        let _ = self.raw.as_reader();
    }

    /// Whether the whole body was read.
    pub fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// The most that one read more can leave to come, of a body whose length is known.
    pub fn left(&self) -> u64 {
        self.remaining()
    }

    /// Whether the request can be dropped once its socket is shut, without a buffer for a huge body.
    pub fn is_droppable(&self) -> bool {
        !matches!(self.kind, BodyKind::Counted(_)) || self.remaining() <= DROPPABLE_BYTES_MAX
    }

    /// Gives up the request for its writer. If some of the body is left, `socket` must be the connection's, so that
    /// nothing more is read; the connection has to end after the answer.
    pub fn into_writer(self, socket: Option<&OwnedFd>) -> Writer {
        if !self.has_rest() {
            return Writer::Ready(self.raw.into_writer());
        }
        let counted = matches!(self.kind, BodyKind::Counted(_));
        match socket {
            Some(socket) if self.is_droppable() => {
                socket::stop_reading(socket);
                Writer::Ready(self.raw.into_writer())
            }
            // Dropping the reader of chunks or of the bare socket reads nothing.
            None if !counted => Writer::Ready(self.raw.into_writer()),
            _ => {
                std::mem::forget(self.raw);
                Writer::Forgotten
            }
        }
    }
}

/// Whether the stream has not ended: neither by the client nor by the guard.
fn can_still_send(connection: &Connection, pace: &BodyPace) -> bool {
    let is_open = |socket: OwnedFd| sys::tcp_info(&socket).is_ok_and(|info| info.state == sys::TCP_ESTABLISHED);
    !pace.is_too_slow.load(Ordering::SeqCst)
        && socket::find(&connection.key, &connection.fd_hint).ok().flatten().is_some_and(is_open)
}

fn broken(pace: &BodyPace) -> BodyError {
    if pace.is_too_slow.load(Ordering::SeqCst) { BodyError::TooSlow } else { BodyError::Broken }
}

fn clamp(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A request whose body a handler reads itself. The engine gets the request back to write the answer.
pub struct SharedRequest {
    request: Mutex<Option<RawRequest>>,
    failed: AtomicBool,
}

impl SharedRequest {
    /// Lends a request to a reader.
    pub fn new(request: RawRequest) -> Arc<SharedRequest> {
        Arc::new(SharedRequest { request: Mutex::new(Some(request)), failed: AtomicBool::new(false) })
    }

    /// Takes it back. `None` while a read is under way on another thread.
    pub fn take(&self) -> Option<RawRequest> {
        self.request.try_lock()?.take()
    }
}

/// The reader that an import handler gets.
pub struct BodyReader {
    shared: Arc<SharedRequest>,
    connection: Arc<Connection>,
    pace: Arc<BodyPace>,
    socket: Option<OwnedFd>,
}

impl BodyReader {
    /// A reader for a lent request.
    pub fn new(shared: Arc<SharedRequest>, connection: Arc<Connection>, pace: Arc<BodyPace>) -> BodyReader {
        BodyReader { shared, connection, pace, socket: None }
    }

    /// IMPORTANT: tiny_http must not see the end of a stream while much of a counted body is missing: it would make a
    /// buffer for all of it. So while that is the case, look at the socket first.
    fn wait_for_bytes(&mut self, remaining: u64) -> io::Result<()> {
        if remaining <= DROPPABLE_BYTES_MAX {
            return Ok(());
        }
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let found = socket::find(&self.connection.key, &self.connection.fd_hint)?;
                self.socket.insert(found.ok_or(io::ErrorKind::UnexpectedEof)?)
            }
        };
        let mut one = [0u8; 1];
        let (_, count) = rustix::net::recv(socket, &mut one, rustix::net::RecvFlags::PEEK)?;
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let shared = Arc::clone(&self.shared);
        let mut slot = shared.request.lock();
        let request = slot.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        self.pace.began_at.get_or_init(Instant::now);
        let counted = matches!(request.kind, BodyKind::Counted(_));
        let ready = if counted { self.wait_for_bytes(request.remaining()) } else { Ok(()) };
        let result = ready.and_then(|()| request.read(buffer, &self.connection, &self.pace));
        if result.is_err() && broken(&self.pace) == BodyError::TooSlow {
            shared.failed.store(true, Ordering::Relaxed);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the body comes too slowly"));
        }
        match &result {
            Ok(count) => {
                self.pace.bytes.fetch_add(*count as u64, Ordering::Relaxed);
                if request.at_end {
                    // What the handler does from now on may take its time.
                    self.connection.end_body();
                }
            }
            Err(_) => shared.failed.store(true, Ordering::Relaxed),
        }
        result
    }
}

/// The pace of a body that nobody reads yet.
pub fn pace(timeout: Option<std::time::Duration>, holds_thread: bool) -> Arc<BodyPace> {
    Arc::new(BodyPace {
        began_at: OnceLock::new(),
        is_too_slow: AtomicBool::new(false),
        bytes: AtomicU64::new(0),
        holds_thread,
        timeout,
    })
}
