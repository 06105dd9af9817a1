//! When requests are due in an open loop: times that follow from the plan alone, never from how the server does.
//!
//! Invariant: times do not decrease with the number of the arrival, and each lies within its phase.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use parking_lot::Mutex;

/// A phase on the time line.
#[derive(Clone, Debug)]
struct Stretch {
    phase: usize,
    began_s: f64,
    seconds: f64,
    from: f64,
    to: f64,
    arrivals: u64,
}

/// Phases with rates, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    stretches: Vec<Stretch>,
}

impl Schedule {
    /// Appends a phase whose rate goes evenly from one value to another, in arrivals a second.
    pub fn push(&mut self, phase: usize, from: f64, to: f64, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let arrivals = ((from + to) / 2.0 * seconds).round() as u64;
        self.stretches.push(Stretch { phase, began_s: self.length().as_secs_f64(), seconds, from, to, arrivals });
    }

    /// How long all phases take.
    pub fn length(&self) -> Duration {
        Duration::from_secs_f64(self.stretches.last().map_or(0.0, |last| last.began_s + last.seconds))
    }

    /// When a phase begins and ends.
    pub fn span(&self, phase: usize) -> Option<(Duration, Duration)> {
        let stretch = self.stretches.iter().find(|stretch| stretch.phase == phase)?;
        let end = stretch.began_s + stretch.seconds;
        Some((Duration::from_secs_f64(stretch.began_s), Duration::from_secs_f64(end)))
    }

    /// When arrival `number` (from 0) is due, and in which phase.
    pub fn arrival(&self, number: u64) -> Option<(Duration, usize)> {
        let mut left = number;
        for stretch in &self.stretches {
            if left < stretch.arrivals {
                let at = stretch.began_s + stretch.offset_s(left).min(stretch.seconds);
                return Some((Duration::from_secs_f64(at), stretch.phase));
            }
            left -= stretch.arrivals;
        }
        None
    }
}

impl Stretch {
    /// Solves from·t + (to − from)/2d·t² = k, in the form that does not divide by a difference of zero.
    fn offset_s(&self, number: u64) -> f64 {
        let number = number as f64;
        if number == 0.0 {
            return 0.0;
        }
        let curve = (self.to - self.from) / (2.0 * self.seconds);
        let root = (self.from * self.from + 4.0 * curve * number).max(0.0).sqrt();
        2.0 * number / (self.from + root)
    }
}

/// A request that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// When, since the beginning.
    pub at: Duration,
    /// In which phase its user arrived.
    pub phase: usize,
    /// Requests that this user still sends, this one included.
    pub left: u32,
}

/// Hands out what is due in order of time: new users by the schedule, and users who come back after a pause.
///
/// Who takes an item waits for its time. A worker that puts a later item in is free itself, and takes the earliest
/// that nobody has: so no item waits for a sleeping worker.
pub struct Agenda {
    schedule: Schedule,
    requests_per_user: u32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_arrival: u64,
    returning: BinaryHeap<Reverse<Due>>,
}

impl Agenda {
    /// The agenda of a schedule.
    pub fn new(schedule: Schedule, requests_per_user: u32) -> Agenda {
        Agenda { schedule, requests_per_user, state: Mutex::default() }
    }

    /// Takes the earliest item; `None`: there is none now, and none will come but from who puts one in.
    pub fn take(&self) -> Option<Due> {
        let mut state = self.state.lock();
        let arrival = self.schedule.arrival(state.next_arrival);
        let arrival = arrival.map(|(at, phase)| Due { at, phase, left: self.requests_per_user });
        let returning = state.returning.peek().map(|Reverse(due)| *due);
        match (arrival, returning) {
            (Some(arrival), Some(returning)) if returning.at <= arrival.at => {
                state.returning.pop().map(|Reverse(due)| due)
            }
            (None, Some(_)) => state.returning.pop().map(|Reverse(due)| due),
            (Some(arrival), _) => {
                state.next_arrival += 1;
                Some(arrival)
            }
            (None, None) => None,
        }
    }

    /// Puts a user in who comes back later.
    pub fn put(&self, due: Due) {
        self.state.lock().returning.push(Reverse(due));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(schedule: &Schedule) -> Vec<(f64, usize)> {
        (0..).map_while(|number| schedule.arrival(number)).map(|(at, phase)| (at.as_secs_f64(), phase)).collect()
    }

    #[test]
    fn a_constant_rate_is_evenly_spaced() {
        let mut schedule = Schedule::default();
        schedule.push(0, 10.0, 10.0, Duration::from_secs(2));
        let times = times(&schedule);
        assert_eq!(times.len(), 20);
        for (number, (at, _)) in times.iter().enumerate() {
            assert!((at - number as f64 * 0.1).abs() < 1e-6, "{number}: {at}");
        }
    }

    #[test]
    fn a_ramp_has_the_mean_rate_and_follows_its_slope() {
        for (from, to) in [(0.0, 100.0), (100.0, 0.0), (20.0, 80.0)] {
            let mut schedule = Schedule::default();
            schedule.push(0, from, to, Duration::from_secs(10));
            let times = times(&schedule);
            assert_eq!(times.len(), 500, "{from} to {to}");
            assert!(times.windows(2).all(|pair| pair[0].0 <= pair[1].0));
            assert!(times.iter().all(|(at, _)| (0.0..=10.0).contains(at)));
            let first_half = times.iter().filter(|(at, _)| *at < 5.0).count() as f64;
            assert!((first_half - (from * 0.75 + to * 0.25) * 5.0).abs() <= 1.0, "{from} to {to}: {first_half}");
        }
    }

    #[test]
    fn phases_follow_each_other_and_a_pause_is_a_phase_of_none() {
        let mut schedule = Schedule::default();
        schedule.push(3, 2.0, 2.0, Duration::from_secs(1));
        schedule.push(4, 0.0, 0.0, Duration::from_secs(5));
        schedule.push(5, 1.0, 1.0, Duration::from_secs(2));
        assert_eq!(times(&schedule), [(0.0, 3), (0.5, 3), (6.0, 5), (7.0, 5)]);
        assert_eq!(schedule.length(), Duration::from_secs(8));
        assert_eq!(schedule.span(5), Some((Duration::from_secs(6), Duration::from_secs(8))));
    }

    #[test]
    fn users_who_come_back_are_taken_in_order_of_time_with_those_who_arrive() {
        let mut schedule = Schedule::default();
        schedule.push(0, 1.0, 1.0, Duration::from_secs(3));
        let agenda = Agenda::new(schedule, 2);
        let at = |due: Option<Due>| due.map(|due| (due.at.as_millis(), due.left));
        assert_eq!(at(agenda.take()), Some((0, 2)));
        agenda.put(Due { at: Duration::from_millis(1500), phase: 0, left: 1 });
        agenda.put(Due { at: Duration::from_millis(9000), phase: 0, left: 1 });
        let rest: Vec<_> = std::iter::from_fn(|| at(agenda.take())).collect();
        assert_eq!(rest, [(1000, 2), (1500, 1), (2000, 2), (9000, 1)]);
    }
}
