//! The connections that the engine knows, and the order of the requests on each.
//!
//! Invariant: of one connection at most one request is at work. Those behind it wait here, never in a thread; an
//! ended connection lets none of its requests begin.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::figures::Reason;
use crate::limits::Limits;

const SHARDS: usize = 16;
/// What a request takes besides its head.
const REQUEST_BYTES: usize = 512;
/// An ended connection is asked at most this often whether a new one has taken over its address.
const SUCCESSOR_CHECK: Duration = Duration::from_millis(50);

/// What names a connection: our port and the peer's address as tiny_http tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The port of the listener.
    pub port: u16,
    /// The peer, IPv4-mapped addresses left as they are.
    pub peer: SocketAddr,
}

/// A request as tiny_http delivered it.
pub struct Incoming {
    /// tiny_http's request.
    pub raw: tiny_http::Request,
    /// When the engine got hold of it.
    pub received_at: Instant,
}

impl Incoming {
    /// A request that was just taken.
    pub fn new(raw: tiny_http::Request) -> Incoming {
        Incoming { raw, received_at: Instant::now() }
    }

    /// The memory that tiny_http made of its head: texts, and for each field two of them with their own allocations.
    fn bytes(&self) -> usize {
        const FIELD_BYTES: usize = 112;
        let fields = self.raw.headers().iter();
        let fields = fields.map(|line| FIELD_BYTES + line.field.as_str().as_str().len() + line.value.as_str().len());
        REQUEST_BYTES + self.raw.url().len() + fields.sum::<usize>()
    }
}

/// What requests that wait weigh together, and how much that may be.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    bytes: Arc<AtomicUsize>,
}

impl Weights {
    fn add(&self, bytes: usize, bytes_max: u64) -> Option<Weight> {
        let weight = Weight { bytes, of: self.clone() };
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        ((before + bytes) as u64 <= bytes_max).then_some(weight)
    }
}

struct Weight {
    bytes: usize,
    of: Weights,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How fast a body comes, for the guard.
pub struct BodyPace {
    /// When its head had come, and it was its turn: all its time counts from here, whoever reads it.
    pub began_at: Instant,
    /// It waits for memory since then, which is no fault of its client.
    pub waits_since: Mutex<Option<Instant>>,
    /// For how long it has waited so before.
    pub waited_ms: AtomicU64,
    /// The guard has found it too slow and shut the reading side.
    pub is_too_slow: AtomicBool,
    /// Bytes read so far, after transfer decoding.
    pub bytes: AtomicU64,
    /// The whole transfer may not take longer than this; `None` for imports, where only the rate counts.
    pub timeout: Option<Duration>,
}

impl BodyPace {
    /// Until when what has come would have lasted at the slowest pace that a body may have; `None` for an import, which
    /// a handler is reading, and for a body that waits for us.
    pub fn paid_until(&self, limits: &Limits) -> Option<Instant> {
        if self.timeout.is_none() || self.waits() {
            return None;
        }
        let paid_ms = self.bytes.load(Ordering::Relaxed).saturating_mul(1000) / limits.body_rate_min.max(1);
        self.began_at.checked_add(Duration::from_millis(paid_ms.saturating_add(self.waited_ms.load(Ordering::Relaxed))))
    }

    /// For how long its client has had it in hand: what it waited for memory is left out.
    pub fn elapsed(&self, now: Instant) -> Duration {
        let waited = Duration::from_millis(self.waited_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began_at).saturating_sub(waited)
    }

    /// Whether it waits for memory.
    pub fn waits(&self) -> bool {
        self.waits_since.lock().is_some()
    }

    /// It waits for memory from now on, or no more.
    pub fn set_waits(&self, waits: bool) {
        let since = std::mem::replace(&mut *self.waits_since.lock(), waits.then(Instant::now));
        let waited_ms = since.map_or(0, |since| since.elapsed().as_millis() as u64);
        self.waited_ms.fetch_add(waited_ms, Ordering::Relaxed);
    }
}

/// One connection.
pub struct Connection {
    /// Its name.
    pub key: Key,
    /// The descriptor number at which it was last found.
    pub fd_hint: AtomicI32,
    /// Requests taken from it.
    pub taken: AtomicU64,
    /// When its first request was taken.
    pub since: Instant,
    /// Its socket has the options that answers rely on, whatever the listener had when it was accepted.
    pub is_tuned: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    busy: bool,
    ended_at: Option<Instant>,
    cut: bool,
    lingering: bool,
    waiting: VecDeque<(Incoming, Weight)>,
    unsent_bytes: usize,
    body: Option<Arc<BodyPace>>,
    bodies_read: u64,
    reason: Option<Reason>,
}

/// Where a request stands after it was put in its connection's order.
pub enum Place {
    /// It is its turn.
    Run(Arc<Connection>, Incoming),
    /// It waits behind another of its connection.
    Waits,
    /// Too many wait already: the connection must end.
    Overrun(Arc<Connection>, Incoming),
    /// The connection has ended; nothing of it is begun any more.
    Discard(Arc<Connection>, Incoming),
}

/// What the guard wants to know of a connection.
#[derive(Clone)]
pub struct Glimpse {
    /// A request of it is at work, or waits.
    pub busy: bool,
    /// The engine has ended it.
    pub ended: bool,
    /// Its socket was shut down for that, so one that is still open is another connection's.
    pub cut: bool,
    /// It was answered and ended, and is held open until its client has closed it.
    pub lingering: bool,
    /// Requests taken from it so far.
    pub taken: u64,
    /// Bodies of it that are no longer being read.
    pub bodies_read: u64,
    /// The body that is being read.
    pub body: Option<Arc<BodyPace>>,
}

impl Connection {
    fn new(key: Key, since: Instant) -> Connection {
        Connection {
            key,
            fd_hint: AtomicI32::new(-1),
            taken: AtomicU64::new(0),
            since,
            is_tuned: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn place(self: Arc<Self>, incoming: Incoming, waiting_max: usize, weights: (&Weights, u64)) -> Place {
        let mut state = self.state.lock();
        if state.ended_at.is_some() {
            drop(state);
            return Place::Discard(self, incoming);
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        if !state.busy {
            state.busy = true;
            drop(state);
            return Place::Run(self, incoming);
        }
        let weight = weights.0.add(incoming.bytes(), weights.1).filter(|_| state.waiting.len() < waiting_max);
        let Some(weight) = weight else {
            drop(state);
            return Place::Overrun(self, incoming);
        };
        state.waiting.push_back((incoming, weight));
        Place::Waits
    }

    /// Called when an answer has left: the next request whose turn it is, if one waits.
    pub fn next(&self) -> Option<Incoming> {
        let mut state = self.state.lock();
        state.bodies_read += u64::from(state.body.take().is_some());
        let next = state.waiting.pop_front().map(|(next, _)| next);
        state.busy = next.is_some();
        next
    }

    /// Ends the order: no further request begins. Returns those that waited.
    pub fn end(&self) -> Vec<Incoming> {
        let mut state = self.state.lock();
        state.ended_at = Some(Instant::now());
        state.waiting.drain(..).map(|(incoming, _)| incoming).collect()
    }

    /// Ends the order if no request is at work, and notes that its socket stays open for a while; true if so.
    pub fn end_if_idle(&self) -> bool {
        let mut state = self.state.lock();
        let is_idle = !state.busy && state.ended_at.is_none();
        if is_idle {
            state.ended_at = Some(Instant::now());
            state.lingering = true;
        }
        is_idle
    }

    /// Whether the engine has ended this connection.
    pub fn is_ended(&self) -> bool {
        self.state.lock().ended_at.is_some()
    }

    /// Notes that its socket is shut down, or gone.
    pub fn note_cut(&self) {
        let mut state = self.state.lock();
        state.cut = true;
        state.lingering = false;
    }

    /// Notes that its socket stays open for a while after the end.
    pub fn note_lingering(&self) {
        self.state.lock().lingering = true;
    }

    /// Whether it is worth asking if another connection has the same address by now.
    pub fn successor_check_due(&self) -> bool {
        let mut state = self.state.lock();
        let due = state.cut && state.ended_at.is_some_and(|at| at.elapsed() >= SUCCESSOR_CHECK);
        if due {
            state.ended_at = Some(Instant::now());
        }
        due
    }

    /// Notes why it is going to end, where what ends it cannot tell.
    pub fn note_reason(&self, reason: Reason) {
        self.state.lock().reason = Some(reason);
    }

    /// The reason that was noted.
    pub fn reason(&self) -> Option<Reason> {
        self.state.lock().reason
    }

    /// Notes that nothing more of the body is being read.
    pub fn end_body(&self) {
        let mut state = self.state.lock();
        state.bodies_read += u64::from(state.body.take().is_some());
    }

    /// Notes that a body is being read, or waits for it.
    pub fn set_body(&self, pace: Arc<BodyPace>) {
        self.state.lock().body = Some(pace);
    }

    /// Bytes that were written and are not known to be gone.
    pub fn unsent_bytes(&self) -> usize {
        self.state.lock().unsent_bytes
    }

    /// Replaces that number by what the kernel says.
    pub fn set_unsent_bytes(&self, bytes: usize) {
        self.state.lock().unsent_bytes = bytes;
    }

    /// Adds a write to that number.
    pub fn add_unsent_bytes(&self, bytes: usize) {
        self.state.lock().unsent_bytes += bytes;
    }

    /// A look from the guard.
    pub fn glimpse(&self) -> Glimpse {
        let state = self.state.lock();
        Glimpse {
            busy: state.busy,
            ended: state.ended_at.is_some(),
            cut: state.cut,
            lingering: state.lingering,
            taken: self.taken.load(Ordering::Relaxed),
            bodies_read: state.bodies_read,
            body: state.body.clone(),
        }
    }
}

/// All connections that have sent a request.
pub struct Connections {
    shards: [Mutex<HashMap<Key, Arc<Connection>, foldhash::fast::RandomState>>; SHARDS],
    /// Requests that wait.
    weights: Weights,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections { shards: std::array::from_fn(|_| Mutex::default()), weights: Weights::default() }
    }
}

impl Connections {
    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, Arc<Connection>, foldhash::fast::RandomState>> {
        // Ephemeral ports go up by two on many systems; the shift keeps both parities in use.
        &self.shards[(key.peer.port() >> 1) as usize % SHARDS]
    }

    /// Puts a request in its connection's order. The caller must keep requests of one server in the order in which it
    /// took them. True if the connection is new.
    pub fn place(&self, key: Key, incoming: Incoming, waiting_max: usize, bytes_max: u64) -> (Place, bool) {
        let mut shard = self.shard(&key).lock();
        let mut is_new = false;
        let connection = shard.entry(key).or_insert_with(|| {
            is_new = true;
            Arc::new(Connection::new(key, incoming.received_at))
        });
        let connection = Arc::clone(connection);
        drop(shard);
        (connection.place(incoming, waiting_max, (&self.weights, bytes_max)), is_new)
    }

    /// The connection of this name, if a request of it was seen.
    pub fn get(&self, key: &Key) -> Option<Arc<Connection>> {
        self.shard(key).lock().get(key).cloned()
    }

    /// The connection of this name, also if none of its requests was seen.
    pub fn of(&self, key: Key) -> Arc<Connection> {
        let made = || Arc::new(Connection::new(key, Instant::now()));
        Arc::clone(self.shard(&key).lock().entry(key).or_insert_with(made))
    }

    /// Forgets whatever had this name: a connection that has it now was accepted.
    pub fn forget(&self, key: &Key) {
        self.shard(key).lock().remove(key);
    }

    /// Forgets a connection, unless another one has taken its name.
    pub fn remove(&self, connection: &Arc<Connection>) {
        let mut shard = self.shard(&connection.key).lock();
        if shard.get(&connection.key).is_some_and(|known| Arc::ptr_eq(known, connection)) {
            shard.remove(&connection.key);
        }
    }

    /// All connections, for the guard.
    pub fn all(&self) -> Vec<Arc<Connection>> {
        self.shards.iter().flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// How many connections have a request at work.
    pub fn busy(&self) -> usize {
        self.all().iter().filter(|connection| connection.glimpse().busy).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(path: &str) -> Incoming {
        let raw = tiny_http::TestRequest::new().with_path(path).into();
        Incoming::new(raw)
    }

    fn key(port: u16) -> Key {
        Key { port: 80, peer: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    fn place(connections: &Connections, path: &str) -> Place {
        connections.place(key(1), incoming(path), 2, 10_000).0
    }

    #[test]
    fn requests_of_one_connection_take_turns_in_their_order() {
        let connections = Connections::default();
        let Place::Run(connection, first) = place(&connections, "/1") else { panic!("nothing is before it") };
        assert_eq!(first.raw.url(), "/1");
        assert!(matches!(place(&connections, "/2"), Place::Waits));
        assert!(matches!(place(&connections, "/3"), Place::Waits));
        assert!(matches!(place(&connections, "/4"), Place::Overrun(..)));
        assert_eq!(connection.next().unwrap().raw.url(), "/2");
        assert_eq!(connection.next().unwrap().raw.url(), "/3");
        assert!(connection.next().is_none());
        assert!(matches!(place(&connections, "/5"), Place::Run(..)));
    }

    #[test]
    fn requests_that_wait_weigh_what_their_heads_take_and_not_once_their_turn_has_come() {
        let connections = Connections::default();
        let place = |bytes_max| connections.place(key(1), incoming("/1"), 9, bytes_max).0;
        let Place::Run(connection, _) = place(0) else { panic!("nothing is before it") };
        assert!(matches!(place(2000), Place::Waits));
        assert!(matches!(place(1000), Place::Overrun(..)), "together they are too heavy");
        let weight = || connections.weights.bytes.load(Ordering::Relaxed);
        assert!(weight() > REQUEST_BYTES, "the one that waits");
        assert!(connection.next().is_some());
        assert_eq!(weight(), 0);
    }

    #[test]
    fn other_connections_do_not_wait() {
        let connections = Connections::default();
        assert!(matches!(place(&connections, "/1"), Place::Run(..)));
        let (other, is_new) = connections.place(key(2), incoming("/x"), 2, 10_000);
        assert!(matches!(other, Place::Run(..)));
        assert!(is_new);
        assert_eq!(connections.busy(), 2);
    }

    #[test]
    fn nothing_begins_on_an_ended_connection() {
        let connections = Connections::default();
        let Place::Run(connection, _) = place(&connections, "/1") else { panic!("nothing is before it") };
        assert!(matches!(place(&connections, "/2"), Place::Waits));
        assert_eq!(connection.end().len(), 1);
        assert!(connection.next().is_none());
        assert!(matches!(place(&connections, "/3"), Place::Discard(..)));
        connections.remove(&connection);
        assert!(matches!(place(&connections, "/4"), Place::Run(..)));
    }
}
