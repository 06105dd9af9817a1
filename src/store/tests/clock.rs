//! Time that stands wrong, jumps and is set.

use super::support::*;
use crate::store::clock::*;
use crate::store::*;

const HOUR_MS: u64 = 3_600_000;

#[test]
fn the_expiry_clock_never_goes_back() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let clock = Clock::new(time.clone(), None);
    assert_eq!(clock.expiry_now_ms(), NEW_YEAR_MS);
    time.set_wall(NEW_YEAR_MS - HOUR_MS);
    assert_eq!(clock.expiry_now_ms(), NEW_YEAR_MS);
    time.advance(HOUR_MS + 5);
    assert_eq!(clock.expiry_now_ms(), NEW_YEAR_MS + 5);
}

#[test]
fn before_synchronisation_it_is_the_last_known_time_plus_uptime() {
    let time = ManualTime::new(1000, false);
    let clock = Clock::new(time.clone(), Some(NEW_YEAR_MS));
    time.advance(7);
    assert_eq!(clock.expiry_now_ms(), NEW_YEAR_MS + 7);
    assert_eq!(clock.wall_ms(), NEW_YEAR_MS + 7);
    assert!(!clock.is_set() && !clock.may_delete());
    time.set_wall(NEW_YEAR_MS + 60_000);
    time.set_synchronised(true);
    clock.tick();
    assert_eq!(clock.expiry_now_ms(), NEW_YEAR_MS + 60_000);
    assert!(clock.is_set() && clock.may_delete(), "a step of a minute needs no grace");
}

#[test]
fn a_battery_clock_ahead_of_the_last_known_time_is_believed() {
    let clock = Clock::new(ManualTime::new(NEW_YEAR_MS + HOUR_MS, false), Some(NEW_YEAR_MS));
    assert_eq!(clock.expiry_now_ms(), NEW_YEAR_MS + HOUR_MS);
    assert!(clock.is_set() && !clock.may_delete());
}

#[test]
fn a_clock_that_was_never_set_is_not_made_right_by_being_called_synchronised() {
    let time = ManualTime::new(1000, true);
    let clock = Clock::new(time.clone(), None);
    clock.tick();
    assert!(!clock.is_synchronised() && !clock.is_set() && !clock.may_delete());
    assert_eq!(clock.expiry_now_ms(), 1000);
}

#[test]
fn after_a_large_forward_step_deletions_wait_a_day() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let clock = Clock::new(time.clone(), None);
    time.advance(2 * HOUR_MS);
    clock.tick();
    assert!(clock.may_delete(), "time that passed is no step");
    time.set_wall(NEW_YEAR_MS + 2 * HOUR_MS + HOUR_MS);
    clock.tick();
    assert!(clock.may_delete(), "an hour is no large step");
    time.set_wall(NEW_YEAR_MS + 4 * HOUR_MS + 1);
    // Readers move the clock before the next tick sees the step.
    clock.expiry_now_ms();
    clock.tick();
    assert!(!clock.may_delete());
    time.advance(24 * HOUR_MS - 1);
    clock.tick();
    assert!(!clock.may_delete());
    time.advance(1);
    clock.tick();
    assert!(clock.may_delete());
}

#[test]
fn modified_follows_the_wall_when_that_is_right_and_never_goes_back_when_it_is_not() {
    let time = ManualTime::new(NEW_YEAR_MS, true);
    let clock = Clock::new(time.clone(), None);
    time.set_wall(NEW_YEAR_MS - 5);
    assert_eq!(clock.modified_ms(NEW_YEAR_MS), NEW_YEAR_MS - 5);
    let time = ManualTime::new(1000, false);
    let clock = Clock::new(time.clone(), Some(NEW_YEAR_MS));
    assert_eq!(clock.modified_ms(NEW_YEAR_MS + 9), NEW_YEAR_MS + 9);
    time.advance(10);
    assert_eq!(clock.modified_ms(NEW_YEAR_MS + 9), NEW_YEAR_MS + 10);
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
    assert_eq!(database.clock().expiry_now_ms(), NEW_YEAR_MS + HOUR_MS);
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
    let clock = Clock::new(time.clone(), None);
    time.set_synchronised(false);
    clock.tick();
    assert!(clock.is_synchronised());
}
