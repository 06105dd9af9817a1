//! Time that stands wrong, jumps and is set.

use std::sync::Arc;

use super::support::*;
use crate::store::clock::*;
use crate::store::*;

const HOUR_MS: u64 = 3_600_000;

/// A clock without history.
fn clock(time: &Arc<ManualTime>) -> Clock {
    Clock::new(time.clone(), &Known::default(), 1, CONFIRM_AFTER).unwrap()
}

/// A clock after a release that left nothing but the last known time.
fn clock_after(time: &Arc<ManualTime>, last_ms: u64) -> Clock {
    let known = Known { last_ms: Some(last_ms), epochs: None };
    Clock::new(time.clone(), &known, 1, CONFIRM_AFTER).unwrap()
}

fn now(clock: &Clock) -> u64 {
    clock.moment().now_ms()
}

fn look(clock: &Clock) {
    clock.tick();
    clock.correct(1);
}

#[test]
fn time_passes_whatever_is_done_to_the_wall_clock() {
    for synchronised in [true, false] {
        let time = ManualTime::new(NEW_YEAR_MS, synchronised);
        let clock = clock(&time);
        for wall_ms in [NEW_YEAR_MS - HOUR_MS, NEW_YEAR_MS + HOUR_MS, 0, u64::MAX / 2] {
            let before = now(&clock);
            time.set_wall(wall_ms);
            look(&clock);
            time.advance(5);
            look(&clock);
            assert_eq!(now(&clock), before + 5, "{wall_ms}");
        }
    }
}

#[test]
fn before_synchronisation_it_is_the_last_known_time_plus_uptime() {
    let time = ManualTime::new(1000, false);
    let clock = clock_after(&time, NEW_YEAR_MS);
    time.advance(7);
    assert_eq!((now(&clock), clock.wall_ms()), (NEW_YEAR_MS + 7, NEW_YEAR_MS + 7));
    assert!(!clock.is_set() && !clock.may_delete());
    time.set_wall(NEW_YEAR_MS + 60_000);
    time.set_synchronised(true);
    assert!(clock.tick());
    assert!(!clock.may_delete(), "not before all is corrected");
    clock.correct(1);
    assert_eq!(now(&clock), NEW_YEAR_MS + 60_000);
    assert!(clock.is_set() && clock.may_delete(), "a step of a minute needs no grace");
}

#[test]
fn a_battery_clock_ahead_of_the_last_known_time_is_believed() {
    let clock = clock_after(&ManualTime::new(NEW_YEAR_MS + HOUR_MS, false), NEW_YEAR_MS);
    assert_eq!(now(&clock), NEW_YEAR_MS + HOUR_MS);
    assert!(clock.is_set() && !clock.may_delete());
}

#[test]
fn a_clock_that_was_never_set_is_not_made_right_by_being_called_synchronised() {
    let time = ManualTime::new(1000, true);
    let clock = clock(&time);
    look(&clock);
    assert!(!clock.is_synchronised() && !clock.is_set() && !clock.may_delete());
    assert_eq!(now(&clock), 1000);
}

#[test]
fn a_step_counts_when_it_is_still_there_a_minute_later() {
    for synchronised in [true, false] {
        let time = ManualTime::new(NEW_YEAR_MS, synchronised);
        let clock = clock(&time);
        time.set_wall(NEW_YEAR_MS + HOUR_MS);
        look(&clock);
        time.advance(6000);
        look(&clock);
        time.set_wall(NEW_YEAR_MS + 6000);
        look(&clock);
        time.set_wall(NEW_YEAR_MS + HOUR_MS);
        look(&clock);
        time.advance(59_999);
        look(&clock);
        assert_eq!(now(&clock), NEW_YEAR_MS + 65_999, "it was back in between");
        time.advance(1);
        look(&clock);
        assert_eq!(now(&clock), NEW_YEAR_MS + HOUR_MS + 60_000);
        assert_eq!(clock.may_delete(), synchronised, "no expiry was moved by it");
    }
}

#[test]
fn what_is_less_than_a_second_is_no_step() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let clock = clock(&time);
    for wall_ms in [NEW_YEAR_MS + 999, NEW_YEAR_MS + 60_000 - 999] {
        time.set_wall(wall_ms);
        look(&clock);
        time.advance(60_000);
        assert!(!clock.tick());
    }
    assert_eq!(now(&clock), NEW_YEAR_MS + 120_000);
}

#[test]
fn if_much_more_has_passed_than_was_known_deletions_wait_a_day() {
    for (off_ms, waits) in [(HOUR_MS, false), (HOUR_MS + 1, true)] {
        let time = ManualTime::new(1000, false);
        let clock = clock_after(&time, NEW_YEAR_MS);
        time.set_wall(NEW_YEAR_MS + off_ms);
        time.set_synchronised(true);
        look(&clock);
        assert_eq!(clock.may_delete(), !waits);
        time.advance(24 * HOUR_MS - 1);
        assert_eq!(clock.may_delete(), !waits);
        time.advance(1);
        assert!(clock.may_delete());
    }
}

#[test]
fn modified_follows_the_wall_when_that_is_right_and_never_goes_back_when_it_is_not() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let clock = clock(&time);
    time.set_wall(NEW_YEAR_MS - 5);
    assert_eq!(clock.modified_ms(NEW_YEAR_MS), NEW_YEAR_MS - 5);
    let time = ManualTime::new(1000, false);
    let clock = clock_after(&time, NEW_YEAR_MS);
    assert_eq!(clock.modified_ms(NEW_YEAR_MS + 9), NEW_YEAR_MS + 9);
    time.advance(10);
    assert_eq!(clock.modified_ms(NEW_YEAR_MS + 9), NEW_YEAR_MS + 10);
    time.set_wall(NEW_YEAR_MS + HOUR_MS);
    assert_eq!(clock.modified_ms(NEW_YEAR_MS + 9), NEW_YEAR_MS + 10, "what nobody vouches for moves it by no step");
}

#[test]
fn the_time_is_known_again_after_a_restart() {
    let store = MemoryStore::new();
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let database = start(store.clone(), DatabaseOptions { time: time.clone(), ..options() });
    one(&database, put("a", "1"));
    time.advance(HOUR_MS);
    database.stop().unwrap();
    let time = ManualTime::new(0, false);
    let database = start(store.crash(), DatabaseOptions { time, ..options() });
    assert_eq!(now(database.clock()), NEW_YEAR_MS + HOUR_MS);
}

#[test]
fn where_boots_are_not_told_apart_none_is_counted_twice() {
    let store = MemoryStore::new();
    let time = ManualTime::new(NEW_YEAR_MS, false);
    for _ in 0..3 {
        let database = start(store.clone(), DatabaseOptions { time: time.clone(), ..options() });
        one(&database, put("a", "1"));
        time.advance(HOUR_MS);
        database.stop().unwrap();
    }
    time.set_wall(0);
    let database = start(store, DatabaseOptions { time, ..options() });
    assert_eq!(now(database.clock()), NEW_YEAR_MS + 3 * HOUR_MS);
}

#[test]
fn a_machine_that_is_put_back_in_time_does_not_stand_still() {
    let store = MemoryStore::new();
    let time = ManualTime::in_boot(1, NEW_YEAR_MS, false);
    time.advance(HOUR_MS);
    let database = start(store.clone(), DatabaseOptions { time, ..options() });
    one(&database, put("a", "1"));
    database.stop().unwrap();
    let time = ManualTime::in_boot(1, NEW_YEAR_MS, false);
    let database = start(store, DatabaseOptions { time: time.clone(), ..options() });
    assert_eq!(now(database.clock()), NEW_YEAR_MS + HOUR_MS);
    time.advance(5);
    assert_eq!(now(database.clock()), NEW_YEAR_MS + HOUR_MS + 5);
}

#[test]
fn the_time_left_is_what_was_asked_for() {
    for (wall_ms, synchronised) in [(NEW_YEAR_MS, true), (NEW_YEAR_MS, false), (NEW_YEAR_MS + 1, false), (0, false)] {
        for ttl_ms in [1, 2, 3000, 3001] {
            let time = ManualTime::new(wall_ms, synchronised);
            let database = start(MemoryStore::new(), DatabaseOptions { time, ..options() });
            one(&database, put_for("a", "1", Ttl::After(std::time::Duration::from_millis(ttl_ms))));
            let record = database.view().read(&key("a")).unwrap().unwrap();
            let left_ms = database.clock().left_ms(&record).unwrap();
            assert_eq!(left_ms, ttl_ms, "at {wall_ms}");
        }
    }
}

#[test]
fn metadata_that_is_no_epochs_is_told_and_not_guessed_at() {
    let store = MemoryStore::new();
    let database = start(store.clone(), options());
    one(&database, put("a", "1"));
    database.stop().unwrap();
    let key = [&[TYPE_META][..], b"epochs"].concat();
    store.commit(vec![(Space::Data, key.into(), Some(vec![7; 40].into()))], true).unwrap();
    let registry = crate::metrics::Registry::default();
    assert!(matches!(Database::start(store, Arc::new(NoObserver), &registry, options()), Err(StoreError::Corrupt(_))));
}

#[test]
fn the_operator_the_mark_and_the_kernel_each_suffice_and_the_kernel_is_asked_last() {
    let folder = tempfile::tempdir().unwrap();
    let (mark, absent) = (folder.path().join("mark"), folder.path().join("absent"));
    std::fs::write(&mark, b"").unwrap();
    let never: fn() -> Option<bool> = || panic!("asked without need");
    let cases = [
        (true, &absent, never, true),
        (false, &mark, never, true),
        (false, &absent, || Some(true), true),
        (false, &absent, || Some(false), false),
        (false, &absent, || None, false),
    ];
    for (trusted, mark, kernel, expected) in cases {
        let source = SystemTimeSource::new(trusted).asking(mark.clone(), kernel);
        assert_eq!(source.synchronised(), expected);
    }
}

#[test]
fn a_clock_that_is_right_once_is_not_asked_about_again() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let clock = clock(&time);
    time.set_synchronised(false);
    look(&clock);
    assert!(clock.is_synchronised());
}
