//! What the clocks of records make of histories that are drawn: boots, wall clocks that are wrong or stepped, and truth.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::store::Record;
use crate::store::clock::{Clock, Known, ManualTime, TimeSource};

const START_MS: u64 = 1_767_225_600_000;
const MINUTE_MS: u64 = 60_000;

/// What happens to a board.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes while it is on.
    Pass(u64),
    /// The wall clock is set so far from the truth, ms; `None`: to 1970.
    Wall(Option<i64>),
    /// The wall clock is set right, and called so.
    Synchronise,
    /// The program ends and begins again.
    Restart,
    /// So does the board; it is off for so long, and comes back with this wall clock.
    Reboot(u64, Option<i64>),
    /// A record for so long.
    Write(u64),
    /// A record that is imported with a date so far from now.
    Import(u64),
    /// A record is written with the expiry that it has.
    Keep(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let wall = prop_oneof![Just(None), Just(Some(0)), (-200_000_000i64..200_000_000).prop_map(Some)];
    let span = prop_oneof![0u64..10_000, 0u64..100_000_000];
    prop_oneof![
        3 => span.clone().prop_map(Step::Pass),
        2 => wall.clone().prop_map(Step::Wall),
        2 => Just(Step::Synchronise),
        1 => Just(Step::Restart),
        2 => (span.clone(), wall).prop_map(|(off, wall)| Step::Reboot(off, wall)),
        4 => span.clone().prop_map(Step::Write),
        2 => span.prop_map(Step::Import),
        2 => any::<usize>().prop_map(Step::Keep),
    ]
}

/// A record and what is true of it.
struct Written {
    record: Record,
    ends_ms: u64,
    /// In which boot; a date is true in each.
    boot: Option<u8>,
    /// Whether nobody can know how long it has been there: its boot ended without the truth.
    is_lost: bool,
}

struct Board {
    now_ms: u64,
    boot: u8,
    time: Arc<ManualTime>,
    clock: Clock,
    next: u64,
    records: Vec<Written>,
    /// Epochs that came to be, merged or not.
    begun: usize,
}

impl Board {
    fn new(wall: Option<i64>) -> Board {
        let time = ManualTime::in_boot(1, wall_ms(START_MS, wall), false);
        let clock = Clock::new(time.clone(), &Known::default(), 1, Duration::from_secs(60)).unwrap();
        Board { now_ms: START_MS, boot: 1, time, clock, next: 1, records: Vec::new(), begun: 1 }
    }

    fn go(&mut self, step: &Step) {
        match *step {
            Step::Pass(ms) => {
                self.now_ms += ms;
                self.time.advance(ms);
            }
            Step::Wall(wall) if !self.time.synchronised() => self.time.set_wall(wall_ms(self.now_ms, wall)),
            Step::Wall(_) => {}
            Step::Synchronise => {
                self.time.set_wall(self.now_ms);
                self.time.set_synchronised(true);
            }
            Step::Restart => self.start(),
            Step::Reboot(off_ms, wall) => {
                let ended = Some(self.boot);
                if !self.clock.is_synchronised() {
                    self.records.iter_mut().filter(|written| written.boot == ended).for_each(|one| one.is_lost = true);
                }
                self.now_ms += off_ms;
                self.boot += 1;
                self.time = ManualTime::in_boot(self.boot, wall_ms(self.now_ms, wall), false);
                self.start();
            }
            Step::Write(ms) => self.write(Ttl::After(Duration::from_millis(ms)), self.now_ms + ms, Some(self.boot)),
            Step::Import(ms) => self.write(Ttl::At(self.now_ms + ms), self.now_ms + ms, None),
            Step::Keep(n) => self.keep(n),
        }
        self.clock.tick();
        self.correct();
    }

    /// A wall clock that stands is seen to stand.
    fn settle(&mut self) {
        self.go(&Step::Pass(MINUTE_MS));
    }

    fn correct(&mut self) {
        let before = self.clock.moment().old_epochs();
        self.clock.correct(self.next);
        self.begun += usize::from(before != self.clock.moment().old_epochs());
    }

    fn start(&mut self) {
        let (last_ms, epochs) = self.clock.save();
        let known = Known { last_ms: Some(last_ms), epochs: Some(epochs) };
        self.next += 1000;
        self.begun += 1;
        self.clock = Clock::new(self.time.clone(), &known, self.next, Duration::from_secs(60)).unwrap();
    }

    fn write(&mut self, ttl: Ttl, ends_ms: u64, boot: Option<u8>) {
        let record = self.stamped(ttl, None);
        self.records.push(Written { record, ends_ms, boot, is_lost: false });
    }

    fn keep(&mut self, n: usize) {
        let Some(at) = n.checked_rem(self.records.len()) else { return };
        let present = self.records[at].record.clone();
        if !self.clock.is_expired(&present) {
            self.records[at].record = self.stamped(Ttl::Keep, Some(&present));
        }
    }

    fn stamped(&mut self, ttl: Ttl, present: Option<&Record>) -> Record {
        let (version, modified_ms) = (self.next, self.next * 7);
        let (expires_ms, modified_ms) = self.clock.moment().stamp(ttl, present, modified_ms);
        self.next += 1;
        Record { version, modified_ms, expires_ms, content_type: Default::default(), value: Default::default() }
    }

    fn check(&self) {
        for Written { record, ends_ms, boot, is_lost } in &self.records {
            let (left_ms, true_ms) = (self.clock.left_ms(record).unwrap(), ends_ms.saturating_sub(self.now_ms));
            let is_sure = *boot == Some(self.boot) || self.clock.is_synchronised() && !is_lost;
            let is_exact = is_sure && self.begun <= EPOCHS_MAX;
            if is_exact {
                assert_eq!(left_ms, true_ms, "{record:?}");
            }
            if is_exact || self.clock.is_synchronised() {
                assert!(left_ms >= true_ms, "{left_ms} left, truly {true_ms}: {record:?}");
            }
        }
        assert!(self.clock.moment().old_epochs().len() < EPOCHS_MAX);
    }
}

fn wall_ms(now_ms: u64, wall: Option<i64>) -> u64 {
    wall.map_or(1000, |wrong_ms| now_ms.saturating_add_signed(wrong_ms))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn durations_are_right_within_a_boot_dates_once_the_clock_is_and_nothing_ends_early(
        wall in prop_oneof![Just(None), (-200_000_000i64..200_000_000).prop_map(Some)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut board = Board::new(wall);
        for step in &steps {
            board.go(step);
            board.check();
            board.settle();
            board.check();
        }
    }

    #[test]
    fn what_is_saved_is_read_back_and_nothing_else_is(
        epochs in prop::collection::vec((1u64..1000, any::<i64>(), any::<i64>(), any::<u64>()), 1..=EPOCHS_MAX),
        boot in any::<Option<[u8; 16]>>(),
        (boot_ms, clock_ms) in any::<(u64, u64)>(),
        settled in 0..=EPOCHS_MAX,
    ) {
        let mut first = 0;
        let epochs = epochs.into_iter().enumerate().map(|(at, (more, duration_ms, date_ms, guessed_ms))| {
            first += more;
            Epoch { first, duration_ms, date_ms, guessed_ms, settled: at < settled }
        });
        let saved = Saved { epochs: Epochs(epochs.collect()), boot, boot_ms, clock_ms };
        let form = saved.encode();
        let read = Saved::decode(&form).unwrap();
        prop_assert_eq!((&read.epochs, read.boot, read.boot_ms, read.clock_ms), (&saved.epochs, boot, boot_ms, clock_ms));
        for length in 0..form.len() {
            prop_assert!(Saved::decode(&form[..length]).is_err() || (length - HEAD_BYTES).is_multiple_of(EPOCH_BYTES));
        }
    }

    #[test]
    fn no_extreme_overflows(
        epochs in prop::collection::vec((any::<i64>(), any::<i64>(), any::<u64>(), any::<bool>()), 1..20),
        (now, since, hint, version, expires) in any::<(u64, i64, u64, u64, u64)>(),
        offset in any::<i64>(),
        seconds in any::<u64>(),
    ) {
        let mut epochs = Epochs(epochs.into_iter().zip(0..).map(|((duration_ms, date_ms, guessed_ms, settled), first)| {
            Epoch { first, duration_ms, date_ms, guessed_ms, settled }
        }).collect());
        for round in 0..3 {
            epochs.reboot(100 + round, since, now, hint);
            for modified_ms in [u64::MAX, u64::MAX - 1] {
                let life = Life { version, modified_ms, expires_ms: expires.max(1) };
                for ttl in [Ttl::After(Duration::from_secs(seconds)), Ttl::At(expires), Ttl::Keep] {
                    prop_assert!(epochs.stamp(now, ttl, Some(life), modified_ms).0 > 0);
                }
                epochs.shown_ms(&life);
            }
            epochs.correct(200 + round, offset, round > 0);
        }
    }
}

#[test]
fn metadata_of_another_form_is_no_epochs() {
    let form = Saved { epochs: Epochs::new(5, true), boot: None, boot_ms: 1, clock_ms: 2 }.encode();
    let another = [vec![2], form[1..].to_vec()].concat();
    let twice = [&form[..], &form[HEAD_BYTES..]].concat();
    for wrong in [&b""[..], &form[..HEAD_BYTES], &another, &twice, &[&form[..], &[0]].concat()] {
        assert!(Saved::decode(wrong).is_err());
    }
}

fn offset_ms(epochs: &Epochs, version: u64) -> i64 {
    epochs.offset_ms(&Life { version, modified_ms: 0, expires_ms: 1 })
}

#[test]
fn too_many_epochs_are_joined_where_they_differ_least_and_by_the_later_expiry() {
    let mut epochs = Epochs::new(0, true);
    for n in 1..EPOCHS_MAX as i64 {
        epochs.correct(n as u64 * 10, n * 1_000_000, true);
    }
    epochs.correct(500, 15_300_000, true);
    assert_eq!(epochs.0.len(), EPOCHS_MAX);
    assert_eq!(offset_ms(&epochs, 9), 0, "all pairs but the last differ alike, so the first are joined");
    assert_eq!(offset_ms(&epochs, 19), 0, "1 000 s later than they should");
    assert_eq!(offset_ms(&epochs, 20), 2_000_000);
    assert_eq!(epochs.belief_ms(), 15_300_000);
    epochs.correct(600, 40_000_000, true);
    assert_eq!((offset_ms(&epochs, 499), offset_ms(&epochs, 500)), (15_000_000, 15_000_000));
    epochs.forget(&[0, 20]);
    assert_eq!((epochs.0.len(), offset_ms(&epochs, 25)), (EPOCHS_MAX - 2, 3_000_000));
}
