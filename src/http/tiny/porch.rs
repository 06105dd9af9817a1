//! Who is in: every accepted socket, its seat at the door, and the way out for those who make way.
//!
//! tiny_http accepts without an end and says nothing of it, so [`super::porter`] takes the connections in its place, and
//! the guard tells at every look how each stands. Invariant: a seat is given back only when no descriptor of its socket
//! is left in this process, so what clients take stays within the places and those beside them.
//!
//! One that is to make way was idle at the last look: nothing lay unread, and every byte that ever came belonged to a
//! request that was answered. It is looked at once more then, has a last chance to ask, and after that the end of what it
//! may still send; what came before is still served. So no request ends with it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::connection::{Glimpse, Key};
use super::figures::{Figures, Reason};
use super::guard::scan::{Scan, Seen};
use super::linger::Leftover;
use super::meter::{Ahead, Heads, Meter, Refusal};
use super::porter::answer_past;
use super::shared::Shared;
use super::{socket, sys};
use crate::http::door::seat::{Seat, TICK_MS};
use crate::http::door::{Door, Full, Whose, no_place};
use crate::http::headers::Head;
use crate::http::message::Response;
use crate::http::method::Method;
use crate::http::problem::Problem;
use crate::limits::{Limits, LiveLimits};

/// How long one that has made way may still come back.
const LAST_CHANCE: Duration = Duration::from_millis(500);
/// That long at least, also where its descriptor is needed.
const LEAST_CHANCE: Duration = Duration::from_millis(20);
/// How long a request may be on its way through tiny_http before it counts as a head that comes slowly.
const HEAD_TIME: Duration = Duration::from_secs(1);
/// tiny_http must have noticed the end of a connection by then.
const END_TIME: Duration = Duration::from_secs(2);

/// How a connection stands that makes way.
#[derive(Clone, Copy)]
enum Way {
    In,
    LastChance(Instant),
    Out(Instant),
    Gone,
}

/// One accepted socket.
struct Guest {
    inode: u64,
    key: Key,
    number: AtomicI32,
    seat: Arc<Seat>,
    meter: Arc<Meter>,
    since: Instant,
    way: Way,
    /// Bytes that had come at the last look.
    bytes: u64,
    /// Of these, some belong to a head that has been coming for long.
    is_slow_head: bool,
}

/// What a fresh look at a guest that is to make way found.
enum Found {
    /// Nobody.
    Gone,
    /// It has work.
    Work,
    /// It only holds on.
    Idle(OwnedFd),
    /// A head, or a body, that comes slowly.
    Slow(OwnedFd),
}

/// Everyone that is in.
pub struct Porch {
    pub door: Door,
    pub limits: Arc<LiveLimits>,
    pub figures: Arc<Figures>,
    /// The heads that are coming.
    pub heads: Heads,
    /// Those that wait for an earlier request's answer.
    pub ahead: Ahead,
    guests: Mutex<HashMap<u64, Guest>>,
    /// Rung after every look of the guard.
    bell: Condvar,
    epoch: Instant,
    shared: OnceLock<Weak<Shared>>,
}

impl Porch {
    /// An empty one.
    pub fn new(door: Door, limits: Arc<LiveLimits>, figures: Arc<Figures>) -> Porch {
        let (guests, bell) = (Mutex::default(), Condvar::new());
        Porch {
            door,
            limits,
            figures,
            heads: Heads::default(),
            ahead: Ahead::default(),
            guests,
            bell,
            epoch: Instant::now(),
            shared: OnceLock::new(),
        }
    }

    /// Makes the engine known, which comes to be later.
    pub fn belongs_to(&self, shared: &Arc<Shared>) {
        let _ = self.shared.set(Arc::downgrade(shared));
    }

    /// The engine, once it is there.
    pub fn shared(&self) -> Option<Arc<Shared>> {
        self.shared.get().and_then(Weak::upgrade)
    }

    /// Whether the engine has been there: nobody comes in before.
    pub fn is_open(&self) -> bool {
        self.shared.get().is_some()
    }

    /// Whether nobody is to come in any more.
    pub fn is_draining(&self) -> bool {
        self.shared().is_some_and(|shared| shared.is_draining())
    }

    fn tick_of(&self, at: Instant) -> u32 {
        (at.saturating_duration_since(self.epoch).as_millis() / u128::from(TICK_MS)) as u32
    }

    /// Lets a connection in that has a seat.
    pub fn welcome(self: &Arc<Self>, inode: u64, number: i32, key: Key, seat: Arc<Seat>) -> Arc<Meter> {
        // Its client had another connection from the same port before.
        self.shared().inspect(|shared| shared.connections.forget(&key));
        let meter = Arc::new(Meter::new(self, inode, key));
        sys::gauge(inode, Some(meter.clone()));
        let (number, since) = (AtomicI32::new(number), Instant::now());
        let theirs = Arc::clone(&meter);
        let guest =
            Guest { inode, key, number, seat, meter: theirs, since, way: Way::In, bytes: 0, is_slow_head: false };
        if let Some(before) = self.guests.lock().insert(inode, guest) {
            self.leave(&before);
        }
        meter
    }

    /// Gives back what a guest had who is gone.
    fn leave(&self, guest: &Guest) {
        guest.meter.close(&self.heads);
        self.door.leave(&guest.seat);
    }

    /// What the engine knows of a connection.
    pub fn glimpse(&self, key: &Key) -> Option<Glimpse> {
        Some(self.shared()?.connections.get(key)?.glimpse())
    }

    /// Ends the heaviest head, of equal ones that which has been coming longest: all of them together take too much.
    pub fn end_heaviest_head(&self) {
        let mut guests = self.guests.lock();
        let coming = guests.values_mut().filter_map(|guest| Some((guest.meter.coming()?, guest)));
        let heaviest = coming.max_by_key(|((bytes, since), _)| (*bytes, std::cmp::Reverse(*since)));
        let Some((_, guest)) = heaviest else { return };
        let is_due = guest.meter.end(Refusal::Memory, &self.heads);
        // Its thread waits for what may never come.
        let taken = self.glimpse(&guest.key).map_or(0, |glimpse| glimpse.taken);
        if is_due && !guest.meter.is_ahead_of(taken) {
            self.end_head(guest, Refusal::Memory);
        }
    }

    /// Ends a connection whose head is not acceptable, and whose earlier requests are all answered. False if there is
    /// another one after all.
    pub fn refuse_head(&self, inode: u64, refusal: Refusal) -> bool {
        self.guests.lock().get_mut(&inode).is_none_or(|guest| self.end_head(guest, refusal))
    }

    fn end_head(&self, guest: &mut Guest, refusal: Refusal) -> bool {
        let Some(shared) = self.shared() else { return true };
        let Ok(Some(socket)) = socket::find(&guest.key, &guest.number) else { return true };
        let connection = shared.connections.of(guest.key);
        let is_ended = connection.end_if_idle();
        if is_ended {
            guest.way = Way::Gone;
            guest.meter.close(&self.heads);
            self.figures.closed(refusal.reason());
            let response = refusal.problem(&self.limits.get()).into();
            let head = Head::salvage(&guest.meter.what_came(&socket));
            answer_past(&shared, &socket, guest.key.peer, Method::parse(b""), &head, response);
            shared.end_gently(&connection, refusal.reason(), Leftover { socket, request: None });
        }
        is_ended
    }

    /// Cuts a connection of which nothing can be made any more.
    pub fn cut(&self, inode: u64) {
        if let Some(guest) = self.guests.lock().get(&inode)
            && let Ok(Some(socket)) = socket::find(&guest.key, &guest.number)
        {
            socket::cut(&socket);
        }
    }

    /// Whether a thread of tiny_http waits for earlier requests before it reads on from this socket.
    pub fn is_waiting(&self, inode: u64) -> bool {
        self.guests.lock().get(&inode).is_some_and(|guest| guest.meter.is_waiting())
    }

    /// The measure of what comes over the socket with this inode.
    pub fn meter(&self, inode: u64) -> Option<Arc<Meter>> {
        self.guests.lock().get(&inode).map(|guest| Arc::clone(&guest.meter))
    }

    /// Has the guard look at everybody, and waits for that, but not long.
    pub fn wait_for_look(&self, at_most: Duration) {
        let Some(shared) = self.shared() else { return std::thread::sleep(at_most) };
        shared.nudge.now();
        let mut guests = self.guests.lock();
        self.bell.wait_for(&mut guests, at_most);
    }

    /// Has the connection that has been quiet longest make way. True if a place is free now.
    pub fn make_room(&self, whose: Whose) -> bool {
        let (limits, tick) = (self.limits.get(), self.tick_of(Instant::now()));
        while let Some(seat) = self.door.choose(whose, tick, &limits) {
            let mut guests = self.guests.lock();
            let Some(guest) = guests.values_mut().find(|guest| Arc::ptr_eq(&guest.seat, &seat)) else {
                self.door.leave(&seat);
                return true;
            };
            match self.look_at(guest) {
                Found::Work => self.stay(guest),
                Found::Gone => guest.way = Way::Gone,
                Found::Idle(_) => guest.way = Way::LastChance(Instant::now()),
                Found::Slow(socket) => self.refuse_slow(guest, socket),
            }
            if !matches!(guest.way, Way::In) {
                return true;
            }
        }
        false
    }

    /// Ends those whose last chance is over, and lets back in who has come back. True if somebody is on the way out.
    pub fn tend(&self) -> bool {
        let now = Instant::now();
        let chance = if self.door.has_room_beside(&self.limits.get()) { LAST_CHANCE } else { LEAST_CHANCE };
        let mut any = false;
        for guest in self.guests.lock().values_mut() {
            match guest.way {
                Way::In | Way::Gone => continue,
                Way::LastChance(since) => match self.look_at(guest) {
                    Found::Gone => guest.way = Way::Gone,
                    Found::Work | Found::Slow(_) => self.stay(guest),
                    Found::Idle(socket) if guest.bytes == 0 => {
                        // Its first request may be on its way.
                        if now.saturating_duration_since(since) >= LAST_CHANCE {
                            self.refuse(guest, socket, no_place(Full::All, Method::parse(b"")));
                        }
                    }
                    Found::Idle(socket) if now.saturating_duration_since(since) >= chance => {
                        socket::stop_reading(&socket);
                        self.figures.closed(Reason::Evicted);
                        guest.way = Way::Out(now);
                    }
                    Found::Idle(_) => {}
                },
                Way::Out(since) if now.saturating_duration_since(since) >= END_TIME => {
                    if let Found::Idle(socket) | Found::Slow(socket) = self.look_at(guest) {
                        socket::cut(&socket);
                    }
                    guest.way = Way::Gone;
                }
                Way::Out(_) => {}
            }
            any = true;
        }
        any
    }

    fn stay(&self, guest: &mut Guest) {
        guest.way = Way::In;
        guest.seat.at_work();
        self.door.stay(&guest.seat);
    }

    fn look_at(&self, guest: &Guest) -> Found {
        let Some(shared) = self.shared() else { return Found::Work };
        let Ok(found) = socket::find(&guest.key, &guest.number) else { return Found::Work };
        let Some(socket) = found else { return Found::Gone };
        if rustix::fs::fstat(&socket).is_ok_and(|stat| stat.st_ino != guest.inode) {
            // Its client has another connection from the same port by now.
            return Found::Gone;
        }
        let Ok(info) = sys::tcp_info(&socket) else { return Found::Work };
        let glimpse = shared.connections.get(&guest.key).map(|connection| connection.glimpse());
        if let Some(glimpse) = glimpse.filter(|glimpse| glimpse.busy) {
            let is_slow = self.paid_until(&glimpse).is_some_and(|paid_until| paid_until <= Instant::now());
            return if is_slow { Found::Slow(socket) } else { Found::Work };
        }
        let unread = rustix::io::ioctl_fionread(&socket).unwrap_or(1);
        if unread > 0 {
            return Found::Work;
        }
        let bytes = info.bytes_received.saturating_sub(guest.meter.skipped_bytes());
        match (guest.is_slow_head, bytes == guest.bytes) {
            (true, _) => Found::Slow(socket),
            (false, true) => Found::Idle(socket),
            (false, false) => Found::Work,
        }
    }

    /// Ends a head or a body that comes slowly, with the answer that it has not come in time.
    fn refuse_slow(&self, guest: &mut Guest, socket: OwnedFd) {
        let shared = self.shared();
        let connection = shared.as_ref().and_then(|shared| shared.connections.get(&guest.key));
        match (shared, connection) {
            (Some(shared), Some(connection)) if connection.glimpse().body.is_some() => {
                guest.way = Way::Gone;
                self.figures.closed(Reason::Evicted);
                shared.stop_slow_body(&connection);
            }
            _ => {
                let problem =
                    Problem::new(408, "REQUEST_TIMEOUT", "the head came too slowly, and its place was needed");
                self.refuse(guest, socket, problem.into());
            }
        }
    }

    /// Ends one that has not asked, with an answer to what may be on its way; lets it stay if it has asked after all.
    fn refuse(&self, guest: &mut Guest, socket: OwnedFd, response: Response) {
        guest.way = Way::Gone;
        let Some(shared) = self.shared() else { return };
        let connection = shared.connections.of(guest.key);
        if !connection.end_if_idle() {
            return self.stay(guest);
        }
        guest.meter.close(&self.heads);
        self.figures.closed(Reason::Evicted);
        let head = Head::salvage(&guest.meter.what_came(&socket));
        answer_past(&shared, &socket, guest.key.peer, Method::parse(b""), &head, response);
        shared.end_gently(&connection, Reason::Evicted, Leftover { socket, request: None });
    }

    /// Notes how a connection stands, as the guard sees it. `head_since`: bytes have come since then that are no request
    /// yet.
    pub fn observe(&self, seen: &Seen, glimpse: Option<&Glimpse>, head_since: Option<Instant>, now: Instant) {
        let mut guests = self.guests.lock();
        let Some(guest) = guests.get_mut(&seen.inode) else { return };
        guest.seat.name(0, seen.inode);
        if !matches!(guest.way, Way::In) {
            return;
        }
        guest.bytes = seen.info.bytes_received;
        guest.is_slow_head = false;
        match (glimpse, glimpse.and_then(|glimpse| self.paid_until(glimpse)), head_since) {
            (_, Some(paid_until), _) => guest.seat.paid_until(self.tick_of(paid_until)),
            (Some(glimpse), ..) if glimpse.busy || glimpse.ended => guest.seat.at_work(),
            _ if seen.unread_bytes > 0 => guest.seat.at_work(),
            (.., Some(since)) if now.saturating_duration_since(since) < HEAD_TIME => guest.seat.at_work(),
            (.., Some(since)) => {
                guest.is_slow_head = true;
                guest.seat.quiet(self.tick_of(since), 0);
            }
            _ => {
                let quiet_ms = seen.info.last_data_received_ms.min(seen.info.last_data_sent_ms);
                let since = now.checked_sub(Duration::from_millis(quiet_ms.into())).unwrap_or(self.epoch);
                let answered = glimpse.map_or(0, |glimpse| glimpse.taken.min(2) as u8);
                guest.seat.quiet(self.tick_of(since.max(guest.since)), answered);
            }
        }
    }

    /// Until when a body is on its way; it may be on its way through tiny_http for a while.
    fn paid_until(&self, glimpse: &Glimpse) -> Option<Instant> {
        glimpse.body.as_ref()?.paid_until(&self.limits.get())?.checked_add(HEAD_TIME)
    }

    /// Gives nothing more to read of a connection of which the socket cannot be had.
    pub fn close(&self, key: &Key) {
        for guest in self.guests.lock().values().filter(|guest| guest.key == *key) {
            guest.meter.close(&self.heads);
        }
        self.ahead.wake(key);
    }

    /// Gives back the seats of those whose socket this process has no more, after a look that began at `began`, and ends
    /// the waiting of threads whose client has gone.
    pub fn looked(&self, scan: &Scan, began: Instant) {
        let mut guests = self.guests.lock();
        for guest in scan.dead.iter().filter_map(|inode| guests.get(inode)) {
            guest.meter.close(&self.heads);
            self.ahead.wake(&guest.key);
        }
        if scan.is_whole {
            let open: std::collections::HashSet<u64> =
                scan.seen.iter().map(|seen| seen.inode).chain(scan.dead.iter().copied()).collect();
            guests.retain(|inode, guest| {
                let stays = guest.since >= began || open.contains(inode);
                if !stays {
                    sys::gauge(*inode, None);
                    self.leave(guest);
                }
                stays
            });
        }
        drop(guests);
        self.bell.notify_all();
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.get()
    }
}
