//! Deadlines and the order of idleness of an I/O thread's connections, both as lists that run through slot numbers.
//!
//! Invariant: nothing here looks at all connections. Setting a deadline costs a comparison when it only moves later,
//! which is what happens on every request.

/// The length of a tick in milliseconds: time-outs are exact to this.
pub use crate::http::door::seat::TICK_MS;

const SLOTS: usize = 1024;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    previous: u32,
    next: u32,
    /// When it fires; 0 if it is in no list.
    tick: u32,
}

const FREE: Node = Node { previous: NONE, next: NONE, tick: 0 };

/// A hashed timer wheel with one deadline for each connection.
///
/// A deadline that moves later stays where it is and is looked at again when its old time comes: the owner keeps the
/// true one and sets it anew then.
pub struct Wheel {
    heads: Box<[u32; SLOTS]>,
    occupied: [u64; SLOTS / 64],
    nodes: Vec<Node>,
    /// The last tick that was fired.
    fired: u32,
}

impl Wheel {
    /// An empty wheel at tick 0.
    pub fn new() -> Wheel {
        Wheel { heads: Box::new([NONE; SLOTS]), occupied: [0; SLOTS / 64], nodes: Vec::new(), fired: 0 }
    }

    /// Makes sure that `slot` fires at `tick` or before.
    pub fn set(&mut self, slot: u32, tick: u32) {
        if self.nodes.len() <= slot as usize {
            self.nodes.resize(slot as usize + 1, FREE);
        }
        let tick = tick.max(self.fired + 1);
        let present = self.nodes[slot as usize].tick;
        if present != 0 && present <= tick {
            return;
        }
        self.clear(slot);
        let bucket = tick as usize % SLOTS;
        let head = self.heads[bucket];
        self.nodes[slot as usize] = Node { previous: NONE, next: head, tick };
        if head != NONE {
            self.nodes[head as usize].previous = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
    }

    /// Takes `slot` out.
    pub fn clear(&mut self, slot: u32) {
        let Some(node) = self.nodes.get(slot as usize).copied().filter(|node| node.tick != 0) else { return };
        let bucket = node.tick as usize % SLOTS;
        match node.previous {
            NONE => self.heads[bucket] = node.next,
            previous => self.nodes[previous as usize].next = node.next,
        }
        if node.next != NONE {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if self.heads[bucket] == NONE {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
        self.nodes[slot as usize] = FREE;
    }

    /// Moves to `now` and appends the slots whose time has come, each taken out.
    pub fn fire(&mut self, now: u32, due: &mut Vec<u32>) {
        while self.fired < now {
            let Some(ahead) = self.next_occupied().filter(|ahead| self.fired + ahead <= now) else {
                self.fired = now;
                return;
            };
            self.fired += ahead;
            let mut slot = self.heads[self.fired as usize % SLOTS];
            while slot != NONE {
                let node = self.nodes[slot as usize];
                // What stays is for a later turn of the wheel.
                if node.tick <= now {
                    self.clear(slot);
                    due.push(slot);
                }
                slot = node.next;
            }
        }
    }

    /// Milliseconds from tick `now` until something may fire; `None` if nothing is set.
    pub fn wait_ms(&self, now: u32) -> Option<u64> {
        let ahead = self.next_occupied()?;
        Some(u64::from((self.fired + ahead).saturating_sub(now)) * TICK_MS)
    }

    /// Ticks from the last one fired to the next bucket that holds something: 1 to `SLOTS`.
    fn next_occupied(&self) -> Option<u32> {
        let words = self.occupied.len();
        let start = (self.fired as usize + 1) % SLOTS;
        (0..=words).find_map(|step| {
            let word = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                last if last == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            let bucket = word * 64 + bits.trailing_zeros() as usize;
            (bits != 0).then(|| ((bucket + SLOTS - start) % SLOTS) as u32 + 1)
        })
    }
}

/// The connections of a thread from the longest idle to the latest.
pub struct IdleOrder {
    nodes: Vec<Node>,
    front: u32,
    back: u32,
}

impl IdleOrder {
    /// Nobody is idle.
    pub fn new() -> IdleOrder {
        IdleOrder { nodes: Vec::new(), front: NONE, back: NONE }
    }

    /// The slot has become idle at `tick`: it goes to the end, unless it has its place for that tick already.
    pub fn push(&mut self, slot: u32, tick: u32) {
        let tick = tick.max(1);
        if self.nodes.len() <= slot as usize {
            self.nodes.resize(slot as usize + 1, FREE);
        }
        if self.nodes[slot as usize].tick == tick {
            return;
        }
        self.remove(slot);
        self.nodes[slot as usize] = Node { previous: self.back, next: NONE, tick };
        match self.back {
            NONE => self.front = slot,
            back => self.nodes[back as usize].next = slot,
        }
        self.back = slot;
    }

    /// The slot is idle no more, or gone.
    pub fn remove(&mut self, slot: u32) {
        let Some(node) = self.nodes.get(slot as usize).copied().filter(|node| node.tick != 0) else { return };
        match node.previous {
            NONE => self.front = node.next,
            previous => self.nodes[previous as usize].next = node.next,
        }
        match node.next {
            NONE => self.back = node.previous,
            next => self.nodes[next as usize].previous = node.previous,
        }
        self.nodes[slot as usize] = FREE;
    }

    /// The slot at the front and the tick since when it is there.
    pub fn longest(&self) -> Option<(u32, u32)> {
        (self.front != NONE).then(|| (self.front, self.nodes[self.front as usize].tick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.fire(now, &mut due);
        due.sort_unstable();
        due
    }

    #[test]
    fn deadlines_fire_at_their_tick_and_not_before() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.wait_ms(0), None);
        wheel.set(0, 5);
        wheel.set(1, 5);
        wheel.set(2, 5 + SLOTS as u32);
        wheel.set(3, 2000);
        assert_eq!(wheel.wait_ms(0), Some(5 * TICK_MS));
        assert_eq!(fired(&mut wheel, 4), [0u32; 0]);
        assert_eq!(fired(&mut wheel, 5), [0, 1]);
        assert_eq!(fired(&mut wheel, 1028), [0u32; 0]);
        assert_eq!(fired(&mut wheel, 1029), [2]);
        assert_eq!(fired(&mut wheel, 10_000), [3]);
        assert_eq!(wheel.wait_ms(10_000), None);
    }

    #[test]
    fn an_earlier_deadline_moves_and_a_later_one_waits_to_be_asked_again() {
        let mut wheel = Wheel::new();
        wheel.set(7, 100);
        wheel.set(7, 10);
        wheel.set(7, 50);
        assert_eq!(fired(&mut wheel, 10), [7]);
        assert_eq!(fired(&mut wheel, 200), [0u32; 0]);
        wheel.set(7, 3);
        assert_eq!(fired(&mut wheel, 201), [7], "a deadline in the past fires at once");
        wheel.set(7, 300);
        wheel.clear(7);
        assert_eq!(fired(&mut wheel, 400), [0u32; 0]);
    }

    #[test]
    fn the_wheel_agrees_with_a_plain_list_under_many_changes() {
        let mut wheel = Wheel::new();
        let mut model = std::collections::BTreeMap::new();
        let mut state = 1u64;
        let mut random = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let mut now = 0u32;
        for _ in 0..20_000 {
            let slot = random(50) as u32;
            match random(4) {
                0 => {
                    wheel.clear(slot);
                    model.remove(&slot);
                }
                1 => {
                    now += random(600) as u32;
                    let mut expected: Vec<u32> =
                        model.iter().filter(|(_, tick)| **tick <= now).map(|(slot, _)| *slot).collect();
                    expected.sort_unstable();
                    model.retain(|_, tick| *tick > now);
                    assert_eq!(fired(&mut wheel, now), expected);
                }
                _ => {
                    let tick = now + 1 + random(3000) as u32;
                    wheel.set(slot, tick);
                    let entry = model.entry(slot).or_insert(tick);
                    *entry = (*entry).min(tick);
                }
            }
            let first = model.values().min().copied();
            let wait = wheel.wait_ms(now);
            assert_eq!(first.is_some(), wait.is_some());
            if let (Some(first), Some(wait)) = (first, wait) {
                assert!(wait <= u64::from(first - now) * TICK_MS, "it would sleep past a deadline");
            }
        }
    }

    #[test]
    fn the_longest_idle_is_at_the_front() {
        let mut order = IdleOrder::new();
        for slot in [3, 1, 2] {
            order.push(slot, 10 + slot);
        }
        order.push(3, 20);
        assert_eq!(order.longest(), Some((1, 11)));
        order.remove(1);
        order.remove(1);
        assert_eq!(order.longest(), Some((2, 12)));
        order.remove(2);
        assert_eq!(order.longest(), Some((3, 20)));
        order.remove(3);
        assert_eq!(order.longest(), None);
        order.push(3, 1);
        assert_eq!(order.longest(), Some((3, 1)));
    }
}
