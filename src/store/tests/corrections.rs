//! Records with an expiry on a board whose wall clock is wrong, is stepped and is set right, over restarts and boots.

use std::sync::Arc;
use std::time::Duration;

use super::scene::Scene;
use super::support::*;
use crate::store::clock::ManualTime;
use crate::store::epochs::EPOCHS_MAX;
use crate::store::*;

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A board with one store, in one boot after the other.
struct Board {
    store: Arc<MemoryStore>,
    boot: u8,
    time: Arc<ManualTime>,
    database: Arc<Database>,
}

impl Board {
    fn new(wall_ms: u64, synchronised: bool) -> Board {
        let (store, time) = (MemoryStore::new(), ManualTime::in_boot(1, wall_ms, synchronised));
        let database = start(store.clone(), with(&time));
        Board { store, boot: 1, time, database }
    }

    /// The program is killed and begins again.
    fn restart(&mut self) {
        let store = self.store.crash();
        let _ = self.database.stop();
        self.store = store;
        self.database = start(self.store.clone(), with(&self.time));
    }

    /// The board is shut down, and comes back with this wall clock.
    fn reboot(&mut self, wall_ms: u64, synchronised: bool) {
        self.database.stop().unwrap();
        self.boot += 1;
        self.time = ManualTime::in_boot(self.boot, wall_ms, synchronised);
        self.database = start(self.store.clone(), with(&self.time));
    }

    fn put(&self, name: &str, ms: u64) {
        one(&self.database, put_for(name, "1", Ttl::After(Duration::from_millis(ms))));
    }

    fn import(&self, name: &str, date_ms: u64) {
        one(&self.database, put_for(name, "1", Ttl::At(date_ms)));
    }

    /// The wall clock is set right, and called so.
    fn synchronise(&self, wall_ms: u64) {
        self.time.set_wall(wall_ms);
        self.time.set_synchronised(true);
        eventually("the clock is corrected", || self.database.clock().is_synchronised());
    }

    /// The wall clock is set, and stays so for a minute.
    fn step(&self, wall_ms: u64) {
        self.time.set_wall(wall_ms);
        eventually("the step is confirmed", || self.database.clock().moment().now_ms() == wall_ms);
    }

    /// Time left as readers see it, and as a writer does.
    fn left(&self, name: &str) -> u64 {
        let record = self.database.view().read(&key(name)).unwrap().expect("a record, expired or not");
        let left_ms = self.database.clock().left_ms(&record).unwrap();
        let found = one(&self.database, op(name, Action::Get));
        assert_eq!(matches!(found, OpOutcome::Got(Some(_))), left_ms > 0, "{name}");
        left_ms
    }

    fn shown(&self, name: &str) -> u64 {
        self.database.clock().moment().shown_ms(&self.database.view().read(&key(name)).unwrap().unwrap())
    }

    fn is_stored(&self, name: &str) -> bool {
        self.database.view().read(&key(name)).unwrap().is_some()
    }

    fn sweeps(&self, name: &str) {
        eventually("the sweep", || !self.is_stored(name));
    }
}

/// A sweeper at work, and steps of the wall clock that count at once.
fn with(time: &Arc<ManualTime>) -> DatabaseOptions {
    let (expiry_scan_rate, clock_confirm_after) = (1_000_000, Duration::ZERO);
    DatabaseOptions { time: time.clone(), expiry_scan_rate, clock_confirm_after, ..options() }
}

#[test]
fn a_clock_that_was_ahead_until_it_was_set_stops_no_expiry() {
    for wrong_ms in [2 * HOUR_MS, 400 * DAY_MS, 5 * SECOND_MS] {
        let board = Board::new(NEW_YEAR_MS + wrong_ms, false);
        board.put("short", 3 * SECOND_MS);
        board.put("long", 3 * HOUR_MS);
        board.time.advance(SECOND_MS);
        board.synchronise(NEW_YEAR_MS + SECOND_MS);
        assert_eq!(board.left("short"), 2 * SECOND_MS);
        assert_eq!(board.left("long"), 3 * HOUR_MS - SECOND_MS);
        assert_eq!(board.shown("long"), NEW_YEAR_MS + 3 * HOUR_MS);
        board.put("after", 3 * SECOND_MS);
        assert_eq!(board.left("after"), 3 * SECOND_MS);
        board.time.advance(2 * SECOND_MS);
        board.sweeps("short");
        board.time.advance(SECOND_MS);
        board.sweeps("after");
        assert!(board.is_stored("long"));
    }
}

#[test]
fn a_clock_that_was_behind_until_it_was_set_ends_nothing_early() {
    for wall_ms in [0, NEW_YEAR_MS - DAY_MS] {
        let board = Board::new(wall_ms, false);
        board.put("a", 3 * SECOND_MS);
        board.time.advance(SECOND_MS);
        board.synchronise(NEW_YEAR_MS);
        assert_eq!(board.left("a"), 2 * SECOND_MS);
        board.time.advance(2 * SECOND_MS);
        assert_eq!(board.left("a"), 0);
        board.time.advance(DAY_MS);
        board.sweeps("a");
    }
}

#[test]
fn a_clock_that_flies_up_and_comes_back_changes_nothing_also_over_a_restart() {
    for synchronised in [true, false] {
        for (wrong_ms, reboots) in [(HOUR_MS, false), (HOUR_MS, true), (3 * DAY_MS, false)] {
            let mut board = Board::new(NEW_YEAR_MS, synchronised);
            board.step(NEW_YEAR_MS + wrong_ms);
            board.put("a", 3 * SECOND_MS);
            board.put("long", 2 * HOUR_MS);
            board.time.advance(6 * SECOND_MS);
            board.step(NEW_YEAR_MS + 6 * SECOND_MS);
            board.put("b", 3 * SECOND_MS);
            if reboots {
                board.reboot(NEW_YEAR_MS + 6 * SECOND_MS, synchronised);
            } else {
                board.restart();
            }
            assert_eq!(board.left("b"), 3 * SECOND_MS);
            assert_eq!(board.left("long"), 2 * HOUR_MS - 6 * SECOND_MS);
            if synchronised {
                board.sweeps("a");
            } else {
                assert_eq!(board.left("a"), 0);
            }
        }
    }
}

#[test]
fn a_step_of_a_clock_that_was_right_moves_no_expiry_in_either_direction() {
    for wall_ms in [NEW_YEAR_MS - 2 * HOUR_MS, NEW_YEAR_MS + 2 * HOUR_MS, NEW_YEAR_MS + 999 * HOUR_MS] {
        let mut board = Board::new(NEW_YEAR_MS, true);
        board.put("a", 3 * SECOND_MS);
        board.put("b", HOUR_MS);
        board.step(wall_ms);
        board.time.advance(SECOND_MS);
        assert_eq!((board.left("a"), board.left("b")), (2 * SECOND_MS, HOUR_MS - SECOND_MS));
        assert_eq!(board.shown("b"), wall_ms + HOUR_MS, "as a date it is another");
        board.restart();
        assert_eq!((board.left("a"), board.left("b")), (2 * SECOND_MS, HOUR_MS - SECOND_MS));
        board.time.advance(2 * SECOND_MS);
        board.sweeps("a");
        assert!(board.is_stored("b"));
    }
}

#[test]
fn a_step_while_the_program_was_down_moves_no_expiry() {
    for synchronised in [true, false] {
        let mut board = Board::new(NEW_YEAR_MS, synchronised);
        board.put("a", HOUR_MS);
        board.time.set_wall(NEW_YEAR_MS + 30 * HOUR_MS);
        board.restart();
        assert_eq!(board.left("a"), HOUR_MS);
        board.time.set_wall(NEW_YEAR_MS - 30 * HOUR_MS);
        board.time.advance(SECOND_MS);
        board.restart();
        assert_eq!(board.left("a"), HOUR_MS - SECOND_MS);
    }
}

#[test]
fn the_time_between_two_boots_is_counted_once_it_is_known() {
    let mut board = Board::new(NEW_YEAR_MS, true);
    board.put("short", 10 * MINUTE_MS);
    board.put("right", 2 * HOUR_MS);
    board.import("dated", NEW_YEAR_MS + 2 * HOUR_MS);
    // It was off for half an hour, and does not know.
    board.reboot(0, false);
    assert_eq!((board.left("short"), board.left("right")), (10 * MINUTE_MS, 2 * HOUR_MS));
    board.put("fresh", 10 * MINUTE_MS);
    board.time.advance(MINUTE_MS);
    board.restart();
    board.synchronise(NEW_YEAR_MS + 31 * MINUTE_MS);
    board.sweeps("short");
    assert_eq!(board.left("fresh"), 9 * MINUTE_MS);
    assert_eq!(board.left("right"), 89 * MINUTE_MS);
    assert_eq!(board.left("dated"), 89 * MINUTE_MS);
    // The next time it knows at once.
    board.reboot(NEW_YEAR_MS + 35 * MINUTE_MS, true);
    assert_eq!(board.left("fresh"), 5 * MINUTE_MS);
    assert_eq!(board.left("right"), 85 * MINUTE_MS);
}

#[test]
fn a_battery_clock_that_was_ahead_hides_and_does_not_delete() {
    let mut board = Board::new(NEW_YEAR_MS, true);
    board.put("a", HOUR_MS);
    board.reboot(NEW_YEAR_MS + 2 * HOUR_MS, false);
    assert_eq!(board.left("a"), 0);
    board.put("b", HOUR_MS);
    board.reboot(NEW_YEAR_MS + 4 * HOUR_MS, false);
    assert_eq!(board.left("b"), 0);
    board.synchronise(NEW_YEAR_MS + 10 * MINUTE_MS);
    assert_eq!(board.left("a"), 50 * MINUTE_MS);
    assert_eq!(board.left("b"), HOUR_MS);
}

#[test]
fn boots_that_never_learn_the_time_count_what_they_live() {
    let mut board = Board::new(0, false);
    board.put("a", 10 * MINUTE_MS);
    for boot in 1..=5 {
        board.time.advance(MINUTE_MS);
        board.reboot(boot, false);
        assert_eq!(board.left("a"), (10 - boot) * MINUTE_MS);
        board.put(&format!("{boot}"), 10 * MINUTE_MS);
    }
    board.synchronise(NEW_YEAR_MS);
    assert_eq!(board.left("a"), 5 * MINUTE_MS);
    for boot in 1..=5 {
        assert_eq!(board.left(&format!("{boot}")), (5 + boot) * MINUTE_MS);
    }
    board.time.advance(5 * MINUTE_MS);
    assert_eq!((board.left("a"), board.left("1") > 0), (0, true));
    board.time.advance(DAY_MS);
    board.sweeps("a");
}

#[test]
fn an_expiry_that_is_kept_is_kept_as_a_moment_over_every_correction() {
    let mut board = Board::new(NEW_YEAR_MS, true);
    board.put("right", 100 * MINUTE_MS);
    board.reboot(0, false);
    board.put("fresh", 10 * MINUTE_MS);
    for name in ["right", "fresh", "right", "fresh"] {
        one(&board.database, add(name, 1));
    }
    let aborted = vec![put_for("fresh", "9", Ttl::After(Duration::from_secs(1))), if_version(put("right", "x"), 1)];
    assert_eq!(end(send(&board.database, aborted)).unwrap().failed, Some(1));
    board.synchronise(NEW_YEAR_MS + 30 * MINUTE_MS);
    assert_eq!(board.left("right"), 70 * MINUTE_MS);
    assert_eq!(board.left("fresh"), 10 * MINUTE_MS);
    board.step(NEW_YEAR_MS + HOUR_MS);
    for name in ["right", "fresh"] {
        let before = board.left(name);
        let outcome = one(&board.database, add(name, 1));
        assert!(matches!(&outcome, OpOutcome::Updated { record, .. } if &record.value[..] == b"4"), "{outcome:?}");
        assert_eq!(board.left(name), before);
        assert_eq!(board.shown(name), NEW_YEAR_MS + HOUR_MS + before);
    }
    one(&board.database, put("right", "no end"));
    assert_eq!(board.shown("right"), 0);
}

#[test]
fn a_date_that_is_imported_holds_whatever_the_clock_was_then() {
    for wall_ms in [0, NEW_YEAR_MS + 5 * HOUR_MS, NEW_YEAR_MS - 5 * HOUR_MS] {
        let board = Board::new(wall_ms, false);
        board.import("a", NEW_YEAR_MS + 2 * HOUR_MS);
        board.import("past", NEW_YEAR_MS - HOUR_MS);
        if board.left("a") > 0 {
            one(&board.database, add("a", 1));
        }
        assert_eq!(board.shown("a"), NEW_YEAR_MS + 2 * HOUR_MS);
        board.synchronise(NEW_YEAR_MS);
        assert_eq!(board.left("a"), 2 * HOUR_MS);
        assert_eq!(board.shown("a"), NEW_YEAR_MS + 2 * HOUR_MS);
        // The sweeper may have come first.
        let past = board.database.view().read(&key("past")).unwrap();
        assert_eq!(past.map_or(0, |record| board.database.clock().left_ms(&record).unwrap()), 0);
    }
}

#[test]
fn a_group_under_way_while_the_clock_is_corrected_is_judged_by_the_clock_it_was_written_by() {
    let scene = Scene::new();
    let time = ManualTime::in_boot(1, NEW_YEAR_MS + 2 * HOUR_MS, false);
    let options = DatabaseOptions { time: time.clone(), ..options() };
    let database = scene.start(options.clone());
    scene.close_gate();
    let (held, behind) = (send(&database, vec![put_for("a", "1", Ttl::After(Duration::from_secs(3)))]), [(); 3]);
    scene.wait_at_gate();
    let behind = behind.map(|()| send(&database, vec![put_for("b", "1", Ttl::After(Duration::from_secs(3)))]));
    time.set_wall(NEW_YEAR_MS);
    time.set_synchronised(true);
    eventually("the keeper sees it", || database.clock().tick());
    assert!(!database.clock().may_delete() && options.droppable.lock().is_none(), "not before all is corrected");
    scene.open_gate();
    end(held).unwrap();
    for reply in behind {
        end(reply).unwrap();
    }
    eventually("the clock is corrected", || database.clock().is_synchronised());
    for name in ["a", "b"] {
        assert_eq!(database.clock().left_ms(&database.view().read(&key(name)).unwrap().unwrap()).unwrap(), 3000);
    }
}

#[test]
fn a_store_of_a_release_without_epochs_is_read_as_before_and_so_is_ours_after_it() {
    let (clock_key, epochs_key) = ([&[TYPE_META][..], b"clock"].concat(), [&[TYPE_META][..], b"epochs"].concat());
    let mut board = Board::new(NEW_YEAR_MS, true);
    board.put("a", HOUR_MS);
    let meta = |key: &[u8]| board.database.view().snapshot.get(Space::Data, key).unwrap();
    assert_eq!(meta(&clock_key).unwrap()[..], NEW_YEAR_MS.to_le_bytes(), "what that release reads");
    assert!(meta(&epochs_key).is_some());
    board.database.stop().unwrap();
    board.store.commit(vec![(Space::Data, epochs_key.into(), None)], true).unwrap();
    board.database = start(board.store.clone(), with(&board.time));
    assert_eq!(board.left("a"), HOUR_MS);
    board.reboot(0, false);
    board.put("b", HOUR_MS);
    assert_eq!(board.left("a"), HOUR_MS);
    board.database.stop().unwrap();
    // It writes dates by a clock that is right, and leaves our epochs as they are.
    let later_ms = NEW_YEAR_MS + 30 * MINUTE_MS;
    let change = (Space::Data, clock_key.into(), Some(later_ms.to_le_bytes().to_vec().into()));
    board.store.commit(vec![change], true).unwrap();
    board.database = start(board.store.clone(), with(&board.time));
    assert_eq!(board.left("a"), 30 * MINUTE_MS);
    board.synchronise(NEW_YEAR_MS + 40 * MINUTE_MS);
    assert_eq!(board.left("a"), 20 * MINUTE_MS);
}

#[test]
fn what_nobody_wrote_after_a_correction_is_judged_right_after_a_power_cut() {
    let mut board = Board::new(NEW_YEAR_MS + 2 * HOUR_MS, false);
    board.put("a", HOUR_MS);
    board.synchronise(NEW_YEAR_MS);
    board.restart();
    eventually("the clock is corrected", || board.database.clock().is_synchronised());
    assert_eq!(board.left("a"), HOUR_MS);
    board.put("b", HOUR_MS);
    board.restart();
    board.time.advance(MINUTE_MS);
    assert_eq!(board.left("a"), 59 * MINUTE_MS);
    assert_eq!(board.left("b"), 59 * MINUTE_MS);
}

#[test]
fn the_sweeper_lets_epochs_go_that_have_no_records_and_writes_them_anew_where_they_are_many() {
    let board = Board::new(NEW_YEAR_MS, true);
    let epochs = || board.database.clock().moment().old_epochs().len();
    let mut wall_ms = NEW_YEAR_MS;
    for n in 0..EPOCHS_MAX as u64 / 2 {
        board.put(&format!("{n}"), 30 * SECOND_MS + n * HOUR_MS);
        wall_ms += n + 2 * SECOND_MS;
        board.step(wall_ms);
    }
    board.time.advance(30 * SECOND_MS);
    eventually("one has no record any more", || epochs() == EPOCHS_MAX / 2 - 1);
    let versions = || ["1", "7"].map(|name| board.database.view().read(&key(name)).unwrap().unwrap().version);
    let (before, lefts) = (versions(), [board.left("1"), board.left("7")]);
    let mut n = 0;
    while versions() == before {
        assert!(n < EPOCHS_MAX, "they are written anew");
        n += 1;
        wall_ms += 30 * SECOND_MS + 5 * SECOND_MS;
        board.put(&format!("more {n}"), DAY_MS);
        board.step(wall_ms);
        board.database.clock().tick();
        std::thread::sleep(Duration::from_millis(20));
    }
    // Those that began while the sweeper was on its way stay, if they are few.
    eventually("few are left", || epochs() <= EPOCHS_MAX / 2);
    assert_eq!([board.left("1"), board.left("7")], lefts);
    assert_eq!(read(&board.database, "1").as_deref(), Some("1"));
}
