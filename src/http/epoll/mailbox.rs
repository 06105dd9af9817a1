//! What other threads tell an I/O thread: answers, connections handed over, and when to stop.
//!
//! Invariant: it never holds more than one answer or piece of one for each connection and the connections that were counted at
//! accept, so it is bounded by `limits.connections_max` without a limit of its own. Sending never blocks.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::workers::Piece;
use crate::http::budget::Answers;
use crate::http::budget::answers::Room;
use crate::http::door::seat::Seat;
use crate::http::message::{Peer, Puller, Response, Trace};
use crate::http::responder::ResponseSink;
use crate::wake::{self, Wake};

/// One message.
pub enum Message {
    /// The answer for a ticket, with the room that a large one has.
    Answer(u64, Box<(Response, Trace, Option<Room>)>),
    /// A connection that another thread accepted for this one.
    Connection(OwnedFd, Peer, Arc<Seat>),
    /// A worker has made the next piece of a body, and the room that it has.
    Pulled(u64, Box<Piece>, Room),
    /// There is no room for a piece of this ticket's answer; what makes it comes back.
    NoRoomForPiece(u64, Puller),
    /// The reader of an import has room again.
    ReaderHasRoom(u64),
    /// There is memory for the body that this ticket's connection waits with, or (false) there was none in its time.
    BodyMayCome(u64, bool),
    /// The body that this ticket's connection reads stands still while others wait for its memory.
    EndBody(u64),
    /// The client of this connection takes too little of its answer while memory is short.
    EndAnswer(u64),
    /// The place of this connection was given to another: it goes, unless it has work by now.
    GiveUpPlace(u64),
    /// Look at the drain signal.
    Drain,
    /// Close everything and end.
    Cut,
}

/// The mailbox of one I/O thread.
pub struct Mailbox {
    messages: Mutex<Vec<Message>>,
    /// The owner sleeps, or is about to: the next message must wake it.
    asleep: AtomicBool,
    event: OwnedFd,
    /// Memory for answers that are not sent yet.
    answers: Arc<Answers>,
    me: Weak<Mailbox>,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new(answers: &Arc<Answers>) -> std::io::Result<Arc<Mailbox>> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new_cyclic(|me| {
            let (messages, asleep) = (Mutex::new(Vec::new()), AtomicBool::new(false));
            Mailbox { messages, asleep, event, answers: Arc::clone(answers), me: Weak::clone(me) }
        }))
    }

    /// Leaves a message and wakes the owner if it sleeps; inside [`wake::together`], at the end of that.
    pub fn send(&self, message: Message) {
        self.messages.lock().push(message);
        if let Some(me) = self.me.upgrade() {
            wake::wake(&me);
        }
    }

    /// The owner is about to sleep: false if it must not, because there are messages.
    pub fn prepare_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let is_empty = self.messages.lock().is_empty();
        if !is_empty {
            self.asleep.store(false, Ordering::SeqCst);
        }
        is_empty
    }

    /// The owner is awake again: all messages, into `taken`, which is empty.
    pub fn take(&self, taken: &mut Vec<Message>) {
        self.asleep.store(false, Ordering::SeqCst);
        std::mem::swap(&mut *self.messages.lock(), taken);
    }

    /// What to watch (edge-triggered, so that nobody has to read it).
    pub fn event(&self) -> &OwnedFd {
        &self.event
    }
}

impl Wake for Mailbox {
    fn wake(&self) {
        // IMPORTANT: after the push. The owner says that it sleeps before it looks for messages a last time.
        if self.asleep.swap(false, Ordering::SeqCst) {
            // It fails only when the counter is full, and then the owner has been woken.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }
}

impl ResponseSink for Mailbox {
    fn deliver(&self, ticket: u64, response: Response, trace: Trace) {
        // Here, so that what waits to be taken out of the mailbox is bounded too.
        let (response, room) = self.answers.admit(response, &trace);
        self.send(Message::Answer(ticket, Box::new((response, trace, room))));
    }
}
