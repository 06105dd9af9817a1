//! Reading request bodies, from tiny_http or past it, and getting rid of those that nobody wants.
//!
//! IMPORTANT: tiny_http reads what is left of a counted body when its reader is dropped. So a reader with something left is
//! dropped only after its socket stopped reading, or its meter gives nothing more ([`super::shared::Shared::give_up`]). Of
//! longer bodies than [`super::meter::hide::TOLD_BYTES_MAX`] it does not know: larder reads these itself, as it does bodies
//! in chunks, which tiny_http would take for whole where a client died in a chunk.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};

use super::connection::{BodyPace, Connection};
use super::head::BodyKind;
use super::meter::Meter;
use super::porch::Porch;
use super::{socket, sys};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Bytes that one read may bring.
const READ_MOST_BYTES: usize = 64 * 1024;

/// A request whose body may not have been read to its end.
pub struct RawRequest {
    raw: tiny_http::Request,
    kind: BodyKind,
    read_bytes: u64,
    at_end: bool,
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
    /// There is no descriptor to read it by, which is no fault of its client.
    OutOfReach,
}

impl BodyError {
    /// What it means that a way was not found.
    pub fn of_search(error: io::Error) -> BodyError {
        if error.kind() == io::ErrorKind::NotConnected { BodyError::Broken } else { BodyError::OutOfReach }
    }
}

/// Where larder reads a body itself.
pub struct Way {
    /// The connection's socket.
    pub socket: OwnedFd,
    /// What follows them.
    pub meter: Arc<Meter>,
}

impl Way {
    /// The way to a connection's bytes. An error if its socket cannot be found.
    pub fn find(connection: &Connection, porch: &Porch) -> io::Result<Way> {
        let socket = socket::find(&connection.key, &connection.fd_hint)?.ok_or(io::ErrorKind::NotConnected)?;
        let inode = rustix::fs::fstat(&socket)?.st_ino;
        let meter = porch.meter(inode).ok_or(io::ErrorKind::NotConnected)?;
        Ok(Way { socket, meter })
    }

    /// Whether bytes for tiny_http to read are kept where no socket tells of them: with it, if it was asked for so few of
    /// the body of the last of so many requests that more is left of it than on the socket, or with the meter.
    pub fn has_kept(&self, taken: u64, left: u64) -> bool {
        self.meter.has_held() || self.meter.body_left(taken) < left
    }
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

    /// One read, never past the end of the body. It does not wait where larder reads itself.
    fn read(&mut self, buffer: &mut [u8], way: &Way) -> io::Result<usize> {
        if self.at_end || buffer.is_empty() {
            return Ok(0);
        }
        let room = self.kind.length().map_or(buffer.len(), |_| buffer.len().min(clamp(self.remaining())));
        if self.kind.is_own() {
            let (count, is_whole) = way.meter.read_own(&way.socket, &mut buffer[..room])?;
            self.read_bytes += count as u64;
            self.at_end = is_whole;
            return Ok(count);
        }
        self.read_theirs(&mut buffer[..room])
    }

    fn read_theirs(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.raw.as_reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                result => break result?,
            }
        };
        self.read_bytes += count as u64;
        self.at_end = self.remaining() == 0;
        Ok(count)
    }

    /// Takes a body that tiny_http has read already.
    pub fn take_at_hand(&mut self) -> io::Result<Vec<u8>> {
        let mut body = vec![0; clamp(self.remaining())];
        while !self.at_end {
            let start = clamp(self.read_bytes);
            self.read_theirs(&mut body[start..])?;
        }
        Ok(body)
    }

    /// One read into the memory that `body` has left. `None` if it must be waited for.
    pub fn read_some(&mut self, body: &mut Vec<u8>, way: &Way, pace: &BodyPace) -> Result<Option<usize>, BodyError> {
        let start = body.len();
        let room = (body.capacity() - start).min(READ_MOST_BYTES);
        body.resize(start + room, 0);
        let read = self.read(&mut body[start..], way);
        body.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(BodyError::TooLarge),
            Err(_) => Err(broken(pace)),
            Ok(count) => {
                pace.bytes.fetch_add(count as u64, Ordering::Relaxed);
                Ok(Some(count))
            }
        }
    }

    /// Sends the interim answer that the client may wait for before it sends its body. Once is enough, more do no harm.
    pub fn ask_for_body(&mut self) {
        // tiny_http's own says a length, which an interim answer must not (RFC 9110 §8.6), and HTTP/1.0 knows none.
        let answer: &[u8] = if self.raw.http_version() < &(1, 1) { b"" } else { CONTINUE };
        sys::send_instead(answer, || _ = self.raw.as_reader());
    }

    /// Whether the whole body was read.
    pub fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// What is still to come, of a body whose length is known.
    pub fn left(&self) -> u64 {
        self.remaining()
    }

    /// Gives up the request for its writer, after [`super::shared::Shared::give_up`] has seen to what is left of its body.
    pub fn into_writer(self) -> Box<dyn io::Write + Send> {
        self.raw.into_writer()
    }
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

/// The reader that an import handler gets. It waits for its client, which is what the handler's thread is for.
pub struct BodyReader {
    shared: Arc<SharedRequest>,
    connection: Arc<Connection>,
    pace: Arc<BodyPace>,
    porch: Arc<Porch>,
    way: Option<Way>,
}

impl BodyReader {
    /// A reader for a lent request.
    pub fn new(
        shared: Arc<SharedRequest>,
        connection: Arc<Connection>,
        pace: Arc<BodyPace>,
        porch: Arc<Porch>,
    ) -> BodyReader {
        BodyReader { shared, connection, pace, porch, way: None }
    }

    fn read_from(&mut self, request: &mut RawRequest, buffer: &mut [u8]) -> io::Result<usize> {
        let way = match &self.way {
            Some(way) => way,
            None => self.way.insert(Way::find(&self.connection, &self.porch)?),
        };
        request.ask_for_body();
        loop {
            match request.read(buffer, way) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut asked = [PollFd::new(&way.socket, PollFlags::IN | PollFlags::RDHUP)];
                    let _ = poll(&mut asked, None);
                }
                result => return result,
            }
        }
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
        let result = self.read_from(request, buffer);
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

/// The pace of a body whose head has come, and whose turn it is.
pub fn pace(timeout: Option<Duration>) -> Arc<BodyPace> {
    Arc::new(BodyPace {
        began_at: Instant::now(),
        waits_since: Mutex::new(None),
        waited_ms: AtomicU64::new(0),
        is_too_slow: AtomicBool::new(false),
        bytes: AtomicU64::new(0),
        timeout,
    })
}
