//! The door: how many connections there may be, in all and of one network, and which of them makes way for another.
//!
//! It knows no sockets. An engine takes a [`Seat`] for each connection, notes in it how the connection stands, and ends
//! the one that the door names. A connection has a place, or is *beside* the places: it waits for one, or is on its way
//! out while its client may still be sending.
//!
//! Invariant: whose request is at work is never named. Places and what is beside them never exceed
//! `limits.connections_max` and [`beside_max`] together, so the descriptors that clients can take are bounded by both.

pub mod seat;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use self::seat::{Place, Seat, Standing};
use crate::http::message::{Peer, Response};
use crate::http::method::Method;
use crate::http::network::{Network, Unbounded};
use crate::http::problem::{Problem, Written};
use crate::limits::Limits;

/// Of so many connections of a network one is noted as the next to go whenever they are all looked at.
const NOTED_SHARE: usize = 64;

/// How many connections may be beside those that have a place.
pub const fn beside_max(connections_max: usize) -> usize {
    match connections_max / 4 {
        few if few < 8 => 8,
        some if some < 256 => some,
        _ => 256,
    }
}

/// What is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many connections as there may be.
    All,
    /// The peer's network has as many as it may.
    Network(Network),
}

impl Full {
    /// Who is to make way for one more.
    pub fn whose_to_go(self) -> Whose {
        match self {
            Full::All => Whose::Largest,
            Full::Network(network) => Whose::Network(network),
        }
    }
}

/// What a connection without a place is told.
pub fn no_place(full: Full, method: Method) -> Response {
    let mut problem = match full {
        Full::All => Problem::new(503, "OVERLOADED", "all connections are at work; try again"),
        Full::Network(_) => {
            Problem::new(503, "OVERLOADED", "this address has as many connections as it may, all at work; try again")
        }
    };
    if method.is_write() {
        problem = problem.written(Written::No);
    }
    Response::from(problem).field("Retry-After", "1")
}

/// Of whom one is to make way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of those who have most.
    Largest,
    /// Of this network.
    Network(Network),
}

#[derive(Default)]
struct State {
    taken: usize,
    beside: usize,
    networks: HashMap<Network, Vec<Arc<Seat>>>,
    by_size: BTreeSet<(usize, Network)>,
    /// Those of one network that have been quiet longest, the longest last, each with what was noted of it. Whoever has
    /// moved since then is younger than the others, and not the next any more.
    next: Vec<(Standing, Arc<Seat>)>,
    /// When a look at everybody last found none who could go.
    none_at: Option<u32>,
}

/// The door of one engine.
#[derive(Default)]
pub struct Door {
    unbounded: Unbounded,
    state: Mutex<State>,
}

impl Door {
    /// An empty house.
    pub fn new(unbounded: Unbounded) -> Door {
        Door { unbounded, state: Mutex::default() }
    }

    fn seat(&self, peer: Peer) -> Seat {
        Seat::new(Network::of(peer), !self.unbounded.has(peer))
    }

    /// Whether there is a place for somebody.
    pub fn has_place(&self, limits: &Limits) -> bool {
        self.state.lock().taken < limits.connections_max
    }

    /// Whether somebody may wait beside the places.
    pub fn has_room_beside(&self, limits: &Limits) -> bool {
        self.state.lock().beside < beside_max(limits.connections_max)
    }

    /// Takes a place for a peer.
    pub fn enter(&self, peer: Peer, limits: &Limits) -> Result<Arc<Seat>, Full> {
        let seat = Arc::new(self.seat(peer));
        let mut state = self.state.lock();
        state.admits(&seat, limits)?;
        state.add(&seat);
        Ok(seat)
    }

    /// Lets a peer wait beside the places; `None` if too many do.
    pub fn wait(&self, peer: Peer, limits: &Limits) -> Option<Arc<Seat>> {
        let mut state = self.state.lock();
        if state.beside >= beside_max(limits.connections_max) {
            return None;
        }
        state.beside += 1;
        Some(Arc::new(self.seat(peer)))
    }

    /// Takes a place for one that waits.
    pub fn enter_late(&self, seat: &Arc<Seat>, limits: &Limits) -> Result<(), Full> {
        let mut state = self.state.lock();
        state.admits(seat, limits)?;
        state.beside -= 1;
        state.add(seat);
        Ok(())
    }

    /// Names the one that has been quiet longest, and takes its place away: the engine ends it, or says that it stays.
    /// `None` if none can go, or too many are on their way out.
    pub fn choose(&self, whose: Whose, tick: u32, limits: &Limits) -> Option<Arc<Seat>> {
        let mut state = self.state.lock();
        if state.beside >= beside_max(limits.connections_max) {
            return None;
        }
        let found = match whose {
            Whose::Network(network) => state.quietest(network, tick),
            Whose::Largest => state.quietest_of_the_largest(tick),
        };
        let seat = found?;
        state.remove(&seat);
        seat.set_place(Place::Beside);
        state.beside += 1;
        Some(seat)
    }

    /// One that was named has work after all: it has its place back, though there may be one too many then.
    pub fn stay(&self, seat: &Arc<Seat>) {
        let mut state = self.state.lock();
        if seat.place() == Place::Beside {
            state.beside -= 1;
            state.add(seat);
        }
    }

    /// The connection is gone.
    pub fn leave(&self, seat: &Arc<Seat>) {
        let mut state = self.state.lock();
        match seat.place() {
            Place::Gone => return,
            Place::Beside => state.beside -= 1,
            Place::At(_) => state.remove(seat),
        }
        seat.set_place(Place::Gone);
    }
}

impl State {
    fn admits(&self, seat: &Seat, limits: &Limits) -> Result<(), Full> {
        let of_network = self.networks.get(&seat.network()).map_or(0, Vec::len);
        if seat.is_bounded() && of_network >= limits.connections_per_address_max {
            return Err(Full::Network(seat.network()));
        }
        if self.taken >= limits.connections_max { Err(Full::All) } else { Ok(()) }
    }

    fn add(&mut self, seat: &Arc<Seat>) {
        let seats = self.networks.entry(seat.network()).or_default();
        self.by_size.remove(&(seats.len(), seat.network()));
        seat.set_place(Place::At(seats.len()));
        seats.push(Arc::clone(seat));
        self.by_size.insert((seats.len(), seat.network()));
        self.taken += 1;
        self.none_at = None;
    }

    fn remove(&mut self, seat: &Seat) {
        let (Some(seats), Place::At(index)) = (self.networks.get_mut(&seat.network()), seat.place()) else { return };
        self.by_size.remove(&(seats.len(), seat.network()));
        seats.swap_remove(index);
        if let Some(moved) = seats.get(index) {
            moved.set_place(Place::At(index));
        }
        self.taken -= 1;
        if !seats.is_empty() {
            self.by_size.insert((seats.len(), seat.network()));
            return;
        }
        self.networks.remove(&seat.network());
        // A burst of many networks must not leave its table behind.
        if self.networks.capacity() > 1024 && self.networks.len() * 8 < self.networks.capacity() {
            self.networks.shrink_to_fit();
        }
    }

    fn quietest_of_the_largest(&mut self, tick: u32) -> Option<Arc<Seat>> {
        if self.none_at == Some(tick) {
            return None;
        }
        let by_size: Vec<Network> = match self.by_size.last() {
            Some((_, largest)) => match self.quietest(*largest, tick) {
                Some(seat) => return Some(seat),
                None => self.by_size.iter().rev().skip(1).map(|(_, network)| *network).collect(),
            },
            None => return None,
        };
        let found = by_size.into_iter().find_map(|network| self.quietest(network, tick));
        if found.is_none() {
            self.none_at = Some(tick);
        }
        found
    }

    /// Of a network that has many, all are looked at for some dozens that go and not for each.
    fn quietest(&mut self, network: Network, tick: u32) -> Option<Arc<Seat>> {
        if self.next.last().is_some_and(|(_, seat)| seat.network() != network) {
            self.next.clear();
        }
        while let Some((standing, seat)) = self.next.pop() {
            if matches!(seat.place(), Place::At(_)) && seat.standing() == standing {
                return Some(seat);
            }
        }
        let seats = self.networks.get(&network)?;
        // While some have only just come, of whom nothing is known yet, nobody goes who may soon be back.
        let is_settling = seats.iter().any(|seat| seat.is_new());
        let mut quiet: Vec<(Standing, &Arc<Seat>)> = seats
            .iter()
            .map(|seat| (seat.standing(), seat))
            .filter(|(standing, _)| standing.may_go(tick) && (!is_settling || standing.rank() <= tick))
            .collect();
        let noted = 1 + quiet.len() / NOTED_SHARE;
        if noted < quiet.len() {
            quiet.select_nth_unstable_by_key(noted, |(standing, _)| standing.rank());
            quiet.truncate(noted);
        }
        quiet.sort_unstable_by_key(|(standing, _)| std::cmp::Reverse(standing.rank()));
        self.next.extend(quiet.into_iter().map(|(standing, seat)| (standing, Arc::clone(seat))));
        self.next.pop().map(|(_, seat)| seat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Door {
        /// How many have a place, and how many are beside.
        fn count(&self) -> (usize, usize) {
            let state = self.state.lock();
            (state.taken, state.beside)
        }
    }

    fn limits(total: usize, each: usize) -> Limits {
        Limits { connections_max: total, connections_per_address_max: each, ..Limits::default() }
    }

    fn at(ip: &str) -> Peer {
        Peer::Tcp(ip.parse().unwrap(), 1)
    }

    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";

    fn enter(door: &Door, ip: &str, limits: &Limits, since: u32, answered: u8) -> Arc<Seat> {
        let seat = door.enter(at(ip), limits).unwrap();
        seat.name(0, 0);
        seat.quiet(since, answered);
        seat
    }

    fn chosen(door: &Door, whose: Whose, tick: u32, limits: &Limits, expected: &Arc<Seat>) -> bool {
        door.choose(whose, tick, limits).is_some_and(|seat| Arc::ptr_eq(&seat, expected))
    }

    #[test]
    fn a_network_has_so_many_places_and_this_machine_and_proxies_have_all() {
        let proxies = vec!["198.51.100.1".parse().unwrap()];
        let door = Door::new(Unbounded { loopback: true, proxies });
        let limits = limits(20, 2);
        let cases = [
            (at(A), Some(Network::of(at(A)))),
            (at("::ffff:192.0.2.9"), Some(Network::of(at("192.0.2.9")))),
            (at("2001:db8::1"), Some(Network::of(at("2001:db8::ffff")))),
            (at("198.51.100.1"), None),
            (at("::ffff:198.51.100.1"), None),
            (at("127.0.0.9"), None),
            (at("::ffff:127.0.0.1"), None),
            (at("::1"), None),
            (Peer::Unix, None),
        ];
        for (peer, bounded) in cases {
            let mut seats: Vec<_> = (0..2).map(|_| door.enter(peer, &limits).unwrap()).collect();
            match (door.enter(peer, &limits), bounded) {
                (Err(full), Some(network)) => assert_eq!(full, Full::Network(network)),
                (Ok(seat), None) => seats.push(seat),
                (result, _) => panic!("{peer}: {:?}", result.err()),
            }
            seats.iter().for_each(|seat| door.leave(seat));
            assert_eq!(door.count(), (0, 0));
        }
    }

    #[test]
    fn the_longest_quiet_of_the_largest_network_goes_and_nobody_at_work() {
        let door = Door::default();
        let limits = limits(4, 4);
        let lonely = enter(&door, B, &limits, 1, 0);
        let at_work = enter(&door, A, &limits, 2, 0);
        at_work.at_work();
        let (young, old) = (enter(&door, A, &limits, 60, 0), enter(&door, A, &limits, 50, 0));
        assert_eq!(door.enter(at(B), &limits).err(), Some(Full::All));
        assert!(chosen(&door, Whose::Largest, 100, &limits, &old));
        assert_eq!(door.count(), (3, 1));
        assert!(chosen(&door, Whose::Largest, 100, &limits, &young));
        assert!(chosen(&door, Whose::Largest, 100, &limits, &lonely), "the largest has none to give any more");
        assert!(door.choose(Whose::Largest, 100, &limits).is_none());
        [&lonely, &at_work, &young, &old, &old].into_iter().for_each(|seat| door.leave(seat));
        assert_eq!(door.count(), (0, 0));
    }

    #[test]
    fn who_comes_back_goes_after_those_who_only_hold_on() {
        let door = Door::default();
        let limits = limits(9, 9);
        let busy = enter(&door, A, &limits, 80, 2);
        let once = enter(&door, A, &limits, 80, 1);
        let silent = enter(&door, A, &limits, 100, 0);
        let forgotten = enter(&door, A, &limits, 10, 2);
        for expected in [&forgotten, &silent, &once, &busy] {
            assert!(chosen(&door, Whose::Network(silent.network()), 100, &limits, expected));
        }
    }

    #[test]
    fn a_body_goes_only_once_it_is_behind_its_pace() {
        let door = Door::default();
        let limits = limits(9, 9);
        let seat = enter(&door, A, &limits, 0, 0);
        let (younger, slow) = (enter(&door, A, &limits, 450, 0), enter(&door, A, &limits, 0, 2));
        seat.paid_until(500);
        slow.at_work();
        assert!(chosen(&door, Whose::Largest, 499, &limits, &younger));
        assert!(door.choose(Whose::Largest, 499, &limits).is_none());
        slow.paid_until(490);
        for expected in [&slow, &seat] {
            assert!(chosen(&door, Whose::Largest, 500, &limits, expected));
        }
    }

    #[test]
    fn one_that_stays_has_its_place_back_and_the_next_is_named() {
        let door = Door::default();
        let limits = limits(2, 9);
        let (first, second) = (enter(&door, A, &limits, 1, 0), enter(&door, A, &limits, 2, 0));
        assert!(chosen(&door, Whose::Largest, 9, &limits, &first));
        let third = door.enter(at(A), &limits).unwrap();
        first.at_work();
        door.stay(&first);
        assert_eq!(door.count(), (3, 0), "one too many, but no more sockets than before");
        assert!(chosen(&door, Whose::Largest, 9, &limits, &second));
        assert_eq!(door.enter(at(A), &limits).err(), Some(Full::All));
        [first, second, third].iter().for_each(|seat| door.leave(seat));
        assert_eq!(door.count(), (0, 0));
    }

    #[test]
    fn those_who_wait_and_those_on_their_way_out_are_bounded_together() {
        let door = Door::default();
        let limits = limits(1, 1);
        let inside = enter(&door, A, &limits, 0, 0);
        let waiting: Vec<_> = (0..beside_max(1)).map(|_| door.wait(at(A), &limits).unwrap()).collect();
        assert!(door.wait(at(A), &limits).is_none() && !door.has_room_beside(&limits));
        assert!(door.choose(Whose::Largest, 9, &limits).is_none());
        assert_eq!(door.enter_late(&waiting[0], &limits), Err(Full::Network(inside.network())));
        door.leave(&inside);
        assert_eq!(door.enter_late(&waiting[0], &limits), Ok(()));
        waiting.iter().for_each(|seat| door.leave(seat));
        assert_eq!(door.count(), (0, 0));
    }

    #[test]
    fn of_very_many_the_order_is_kept_though_they_are_not_looked_at_each_time() {
        let door = Door::default();
        let limits = limits(1000, 1000);
        let mut seats: Vec<_> = (0..1000u32).map(|n| enter(&door, A, &limits, n * 7919 % 1000, 0)).collect();
        seats.sort_by_key(|seat| seat.standing().rank());
        for (n, expected) in seats.iter().enumerate() {
            // Every third has moved meanwhile.
            if n % 3 == 0 {
                expected.at_work();
                continue;
            }
            let seat = door.choose(Whose::Largest, 2000, &limits).unwrap();
            assert!(Arc::ptr_eq(&seat, expected), "{n}");
            door.leave(&seat);
        }
        assert!(door.choose(Whose::Largest, 2000, &limits).is_none());
    }
}
