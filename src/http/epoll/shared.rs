//! What all threads of one engine share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::mailbox::Mailbox;
use super::stats::Stats;
use super::workers::Queue;
use crate::http::budget::{Answers, Bodies};
use crate::http::engine::Handler;
use crate::http::message::Peer;
use crate::limits::LiveLimits;

/// The parts that every thread of an engine may touch.
pub struct Shared {
    /// The application.
    pub handler: Arc<dyn Handler>,
    /// The limits in force.
    pub limits: Arc<LiveLimits>,
    /// The engine's figures.
    pub stats: Stats,
    /// The way to the workers.
    pub queue: Queue,
    /// Memory for bodies.
    pub bodies: Arc<Bodies>,
    /// Memory for answers that are not sent yet.
    pub answers: Arc<Answers>,
    /// Import lanes that are open.
    pub imports: AtomicUsize,
    /// Held while one connection is accepted.
    pub accept_turn: Mutex<()>,
    /// A thread was told to close an idle connection for one that waits, and has not done so yet.
    pub making_room: AtomicBool,
    /// The I/O threads, as others see them.
    pub io: Vec<IoThreadView>,
    /// When tick 0 was.
    pub epoch: Instant,
    connections: AtomicUsize,
    /// Connections of each TCP address; those without one are not in it.
    addresses: Mutex<HashMap<IpAddr, u32>>,
}

/// What is known from outside of one I/O thread.
pub struct IoThreadView {
    /// Where messages for it go.
    pub mailbox: Arc<Mailbox>,
    /// Its connections.
    pub load: AtomicUsize,
    /// The tick since when its longest idle connection is idle; `u32::MAX` if none is.
    pub idle_since: AtomicU32,
}

impl Shared {
    /// Everything at its start.
    pub fn new(
        handler: Arc<dyn Handler>,
        limits: Arc<LiveLimits>,
        stats: Stats,
        (bodies, answers): (Bodies, Arc<Answers>),
        io: Vec<IoThreadView>,
    ) -> Shared {
        Shared {
            handler,
            limits,
            stats,
            queue: Queue::default(),
            bodies: Arc::new(bodies),
            answers,
            imports: AtomicUsize::new(0),
            accept_turn: Mutex::new(()),
            making_room: AtomicBool::new(false),
            io,
            epoch: Instant::now(),
            connections: AtomicUsize::new(0),
            addresses: Mutex::new(HashMap::new()),
        }
    }

    /// Claims a connection of the total; false if all are taken.
    pub fn claim_connection(&self, connections_max: usize) -> bool {
        let claim = |open: usize| (open < connections_max).then_some(open + 1);
        self.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, claim).is_ok()
    }

    /// Gives a claimed connection back.
    pub fn release_connection(&self) {
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }

    /// Claims a connection for an address; false if it has as many as it may. Unix peers are not limited.
    pub fn claim_address(&self, peer: Peer, per_address_max: usize) -> bool {
        let Peer::Tcp(ip, _) = peer else { return true };
        let mut addresses = self.addresses.lock();
        let open = addresses.entry(ip).or_insert(0);
        let is_free = (*open as usize) < per_address_max;
        if is_free {
            *open += 1;
        } else if *open == 0 {
            addresses.remove(&ip);
        }
        is_free
    }

    /// Gives an address's connection back.
    pub fn release_address(&self, peer: Peer) {
        let Peer::Tcp(ip, _) = peer else { return };
        let mut addresses = self.addresses.lock();
        if let Entry::Occupied(mut entry) = addresses.entry(ip) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
                // A burst of many addresses must not leave its table behind.
                if addresses.capacity() > 1024 && addresses.len() * 8 < addresses.capacity() {
                    addresses.shrink_to_fit();
                }
            }
        }
    }
}
