//! The import lane: bodies without a limit, read by a handler on a thread of its own while the I/O thread feeds it.
//!
//! Invariant: a pipe holds at most [`PIPE_BYTES_MAX`] plus what one read brought; when it is full the socket is not
//! read. At most `limits.imports_max` lanes exist, over all I/O threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};

use super::mailbox::{Mailbox, Message};
use super::shared::Shared;
use super::workers;
use crate::http::message::{Request, RequestBody};
use crate::http::responder::Responder;

/// Bytes that wait in a pipe before the socket is left alone.
const PIPE_BYTES_MAX: usize = 256 * 1024;

/// The I/O thread's end of a pipe.
pub struct PipeWriter(Arc<Pipe>);

struct Pipe {
    inner: Mutex<Inner>,
    changed: Condvar,
    mailbox: Arc<Mailbox>,
    ticket: u64,
}

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    end: Option<Result<(), (io::ErrorKind, &'static str)>>,
    /// The writer wants to be told when there is room.
    writer_waits: bool,
    reader_is_gone: bool,
}

impl PipeWriter {
    /// Passes bytes on, and says whether there is room for more; if not, the mailbox tells when there is.
    pub fn write(&self, bytes: &[u8]) -> bool {
        let mut inner = self.0.inner.lock();
        if inner.reader_is_gone {
            // Nobody will read the rest: the socket waits for the answer, which ends the connection.
            return false;
        }
        inner.bytes.extend_from_slice(bytes);
        inner.writer_waits = inner.bytes.len() >= PIPE_BYTES_MAX;
        let has_room = !inner.writer_waits;
        drop(inner);
        self.0.changed.notify_one();
        has_room
    }

    /// The body is complete.
    pub fn finish(&self) {
        self.end(Ok(()));
    }

    /// The body will not come to its end: the reader gets this error after what came before it.
    pub fn fail(&self, kind: io::ErrorKind, message: &'static str) {
        self.end(Err((kind, message)));
    }

    fn end(&self, end: Result<(), (io::ErrorKind, &'static str)>) {
        self.0.inner.lock().end.get_or_insert(end);
        self.0.changed.notify_one();
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.fail(io::ErrorKind::ConnectionAborted, "the connection ended");
    }
}

struct PipeReader {
    pipe: Arc<Pipe>,
    /// Taken from the pipe in one piece, read from here.
    taken: Vec<u8>,
    at: usize,
}

impl io::Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.taken.len() && !self.refill()? {
            return Ok(0);
        }
        let len = buffer.len().min(self.taken.len() - self.at);
        buffer[..len].copy_from_slice(&self.taken[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

impl PipeReader {
    fn refill(&mut self) -> io::Result<bool> {
        self.taken.clear();
        self.at = 0;
        let mut inner = self.pipe.inner.lock();
        while inner.bytes.is_empty() {
            match inner.end {
                Some(Ok(())) => return Ok(false),
                Some(Err((kind, message))) => return Err(io::Error::new(kind, message)),
                None => self.pipe.changed.wait(&mut inner),
            }
        }
        std::mem::swap(&mut inner.bytes, &mut self.taken);
        let writer_waits = std::mem::take(&mut inner.writer_waits);
        drop(inner);
        if writer_waits {
            self.pipe.mailbox.send(Message::ReaderHasRoom(self.pipe.ticket));
        }
        Ok(true)
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut inner = self.pipe.inner.lock();
        inner.reader_is_gone = true;
        inner.bytes = Vec::new();
    }
}

/// A lane that was claimed; it is free again when this is dropped.
pub struct Lane(Arc<Shared>);

impl Lane {
    /// Claims a lane, or `None` if all are taken.
    pub fn claim(shared: &Arc<Shared>, lanes_max: usize) -> Option<Lane> {
        let claim = |open: usize| (open < lanes_max).then_some(open + 1);
        let claimed = shared.imports.fetch_update(Ordering::SeqCst, Ordering::SeqCst, claim);
        claimed.is_ok().then(|| Lane(Arc::clone(shared)))
    }

    /// Runs the handler on a thread of its own; it reads what the returned end is given.
    pub fn open(self, mailbox: &Arc<Mailbox>, ticket: u64, mut request: Request, responder: Responder) -> PipeWriter {
        let pipe = Arc::new(Pipe {
            inner: Mutex::new(Inner::default()),
            changed: Condvar::new(),
            mailbox: Arc::clone(mailbox),
            ticket,
        });
        let reader = PipeReader { pipe: Arc::clone(&pipe), taken: Vec::new(), at: 0 };
        request.body = RequestBody::Reader(Box::new(reader));
        let spawned = std::thread::Builder::new().name("larder-import".to_owned()).spawn(move || {
            let lane = self;
            workers::handle(&lane.0, request, responder);
        });
        if let Err(error) = spawned {
            // The closure was dropped: the lane is free again, and the dropped responder has answered 500.
            log::error!("no thread for an import: {error}");
        }
        PipeWriter(pipe)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.imports.fetch_sub(1, Ordering::SeqCst);
    }
}
