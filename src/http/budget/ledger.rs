//! Who holds how much, and who is to make way. Pure: it tells nobody anything.
//!
//! Invariant: `used` is the sum over all holders, and so is each client's part of it.

use std::collections::HashMap;
use std::time::Instant;

use super::{Client, GiveUp, Pulse};

/// The holders of one budget.
#[derive(Default)]
pub(super) struct Ledger {
    used: u64,
    /// Held by those who were asked to make way and have not done so yet.
    leaving: u64,
    next_number: u64,
    holders: HashMap<u64, Holder>,
    clients: HashMap<Client, u64>,
}

struct Holder {
    client: Client,
    held: u64,
    pulse: Pulse,
    /// `None` if it may not be asked to make way any more, or has been.
    give_up: Option<GiveUp>,
    is_leaving: bool,
    /// It waits for us, not for its client.
    waits: bool,
}

/// How badly memory is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// For this client: those who move nothing make way, and those of a client that holds more that have had their time.
    Of(Client),
    /// For anybody: those who move nothing.
    Soon,
    /// More is held than may be: whoever moves least makes way.
    Urgent,
}

impl Ledger {
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// What will be used once those who were asked to make way have done so.
    pub(super) fn staying(&self) -> u64 {
        self.used - self.leaving
    }

    pub(super) fn held_by(&self, client: Client) -> u64 {
        self.clients.get(&client).copied().unwrap_or(0)
    }

    /// A new holder, of nothing yet.
    pub(super) fn open(&mut self, client: Client, pulse: Pulse, give_up: GiveUp) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let give_up = Some(give_up);
        self.holders.insert(number, Holder { client, held: 0, pulse, give_up, is_leaving: false, waits: false });
        number
    }

    pub(super) fn client_of(&self, number: u64) -> Option<Client> {
        self.holders.get(&number).map(|holder| holder.client)
    }

    /// The holder has so much from now on.
    pub(super) fn set(&mut self, number: u64, held: u64) {
        let Some(holder) = self.holders.get_mut(&number) else { return };
        let (client, before) = (holder.client, std::mem::replace(&mut holder.held, held));
        self.used = self.used - before + held;
        if holder.is_leaving {
            self.leaving = self.leaving - before + held;
        }
        let of_client = self.clients.entry(client).or_insert(0);
        *of_client = *of_client - before + held;
        if *of_client == 0 {
            self.clients.remove(&client);
        }
    }

    pub(super) fn held(&self, number: u64) -> u64 {
        self.holders.get(&number).map_or(0, |holder| holder.held)
    }

    /// It waits for memory, or does so no more: meanwhile it is not asked to make way, and then begins anew.
    pub(super) fn wait(&mut self, number: u64, waits: bool) {
        if let Some(holder) = self.holders.get_mut(&number) {
            holder.waits = waits;
            holder.pulse.restart();
        }
    }

    /// From now on it is not asked to make way: it is being worked on.
    pub(super) fn pin(&mut self, number: u64) {
        if let Some(holder) = self.holders.get_mut(&number) {
            holder.give_up = None;
        }
    }

    pub(super) fn close(&mut self, number: u64) {
        self.set(number, 0);
        self.holders.remove(&number);
    }

    /// Chooses who makes way: of the client that holds most, whoever moves least. It looks at all holders, and is
    /// called only when memory is tight.
    pub(super) fn make_way(&mut self, need: Need, now: Instant) -> Option<GiveUp> {
        let may_go = |holder: &Holder| match need {
            Need::Urgent => true,
            Need::Soon => holder.pulse.is_slow(now),
            Need::Of(client) => {
                let is_heavier = self.held_by(holder.client) > self.held_by(client);
                holder.pulse.is_slow(now) || (holder.pulse.is_old(now) && is_heavier)
            }
        };
        let asked = |holder: &Holder| holder.give_up.is_some() && holder.held > 0 && !holder.waits;
        let candidates = self.holders.iter().filter(|(_, holder)| asked(holder));
        let worst = candidates.filter(|(_, holder)| may_go(holder)).max_by_key(|(number, holder)| {
            use std::cmp::Reverse;
            (self.held_by(holder.client), Reverse(holder.pulse.rate(now)), Reverse(**number))
        });
        let number = worst.map(|(number, _)| *number)?;
        let holder = self.holders.get_mut(&number)?;
        holder.is_leaving = true;
        self.leaving += holder.held;
        holder.give_up.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::super::{PATIENCE_MS, SLOW_RATE};
    use super::*;

    const A: Client = Client(1);
    const B: Client = Client(2);

    #[derive(Default)]
    struct Scene {
        ledger: Ledger,
        gone: Arc<AtomicU64>,
    }

    impl Scene {
        /// A holder of so many bytes that has moved so many, of which the scene hears under `name`.
        fn holds(&mut self, client: Client, held: u64, moved: u64, name: u64) -> u64 {
            let (gone, pulse) = (self.gone.clone(), Pulse::new());
            pulse.moved(moved as usize);
            let number = self.ledger.open(client, pulse, Box::new(move || gone.store(name, Ordering::SeqCst)));
            self.ledger.set(number, held);
            number
        }

        /// Who makes way so many ms from now; 0 for nobody.
        fn goes(&mut self, need: Need, after_ms: u64) -> u64 {
            self.gone.store(0, Ordering::SeqCst);
            if let Some(tell) = self.ledger.make_way(need, Instant::now() + Duration::from_millis(after_ms)) {
                tell();
            }
            self.gone.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn sums_follow_what_is_held() {
        let mut scene = Scene::default();
        let (first, second) = (scene.holds(A, 10, 0, 1), scene.holds(B, 5, 0, 2));
        scene.ledger.set(first, 7);
        assert_eq!((scene.ledger.used(), scene.ledger.held_by(A), scene.ledger.held_by(B)), (12, 7, 5));
        assert_eq!(scene.goes(Need::Urgent, 0), 1);
        assert_eq!((scene.ledger.used(), scene.ledger.staying()), (12, 5));
        scene.ledger.close(first);
        scene.ledger.close(second);
        assert_eq!((scene.ledger.used(), scene.ledger.staying()), (0, 0));
        assert!(scene.ledger.clients.is_empty() && scene.ledger.holders.is_empty());
    }

    #[test]
    fn of_the_heaviest_client_whoever_moves_least_goes_and_each_only_once() {
        let mut scene = Scene::default();
        scene.holds(B, 3, 0, 1);
        scene.holds(A, 2, 1_000_000, 2);
        scene.holds(A, 2, 100, 3);
        for expected in [3, 2, 1, 0] {
            assert_eq!(scene.goes(Need::Urgent, 500), expected);
        }
    }

    #[test]
    fn those_who_stand_still_go_for_anybody_and_those_who_move_for_a_lighter_client() {
        let mut scene = Scene::default();
        let number = scene.holds(A, 10, 0, 1);
        assert_eq!(scene.goes(Need::Of(A), 0), 0, "it has just begun");
        scene.ledger.wait(number, true);
        assert_eq!(scene.goes(Need::Of(B), PATIENCE_MS + 500), 0, "it waits for us");
        scene.ledger.wait(number, false);
        assert_eq!(scene.goes(Need::Soon, PATIENCE_MS + 500), 1);

        // Made long ago, and a second ago it moved much.
        let mut scene = Scene::default();
        scene.holds(A, 10, SLOW_RATE * 3600, 1);
        assert_eq!(scene.goes(Need::Of(B), PATIENCE_MS / 2), 0, "it has not had its time");
        scene.holds(A, 10, 10, 2);
        assert_eq!(scene.goes(Need::Soon, PATIENCE_MS / 2), 0);
        assert_eq!(scene.goes(Need::Of(B), PATIENCE_MS + 500), 2);
    }

    #[test]
    fn who_is_at_work_does_not_make_way() {
        let mut scene = Scene::default();
        let number = scene.holds(A, 10, 0, 1);
        scene.ledger.pin(number);
        assert_eq!(scene.goes(Need::Urgent, 60_000), 0);
    }
}
