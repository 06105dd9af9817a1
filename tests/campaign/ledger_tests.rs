//! The ledger sees what is not as promised: a campaign that finds nothing would otherwise prove nothing.

use std::time::{Duration, Instant};

use crate::has_cards;
use crate::ledger::{End, Found, Promise, Shared, State, Thing, bytes};
use crate::scene::Scene;
use crate::support::{Answer, Fault, Names, Seeded};
use crate::traffic::Mood;

fn value(number: u64) -> State {
    State::Bytes { number, length: 50, expires: None }
}

fn found(state: &State) -> Found {
    let body = match state {
        State::Absent => return Found::Nothing,
        State::Bytes { number, length, .. } => bytes(*number, *length),
        State::Count(count) => count.to_string().into_bytes(),
    };
    Found::Value(Box::new(Answer { status: 200, headers: vec![("ETag".to_owned(), "\"7\"".to_owned())], body }))
}

/// What may be there after an end, of a thing of one key with these writes.
fn allowed(writes: &[(State, Promise)], end: End, synced: Option<Instant>, candidates: &[State]) -> Vec<bool> {
    let mut thing = Thing::new(vec!["key".to_owned()]);
    writes.iter().for_each(|(state, promise)| thing.wrote(vec![state.clone()], *promise));
    thing.after(end, synced);
    candidates.iter().map(|state| thing.clone().found(&[found(state)]).is_ok()).collect()
}

/// What was promised of each write, the end, when the last durable write was sent, and which states may be found.
type Row<'a> = (&'a [Promise], End, Option<u64>, [bool; 4]);

#[test]
fn a_state_may_be_found_if_no_promise_excludes_it() {
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    let relaxed = |answered| Promise::Relaxed { answered: at(answered), lost_until: at(answered + 2) };
    let (synced, unknown, cut) = (Promise::Synced, Promise::Unknown, End::PowerCut(at(10)));
    let states = [State::Absent, value(1), value(2), value(3)];
    let rows: &[Row] = &[
        (&[synced], cut, None, [false, true, false, false]),
        (&[synced, synced], cut, None, [false, false, true, false]),
        (&[synced, unknown], cut, None, [false, true, true, false]),
        (&[unknown], cut, None, [true, true, false, false]),
        (&[synced, relaxed(9)], cut, None, [false, true, true, false]),
        (&[synced, relaxed(7)], cut, None, [false, false, true, false]),
        (&[synced, relaxed(9)], cut, Some(9), [false, true, true, false]),
        (&[synced, relaxed(8)], cut, Some(9), [false, false, true, false]),
        (&[relaxed(7), relaxed(9), unknown], cut, None, [false, true, true, true]),
        (&[relaxed(7), relaxed(9), unknown], End::Killed, None, [false, false, true, true]),
        (&[relaxed(7), relaxed(9), unknown], End::Stopped, None, [false, false, true, true]),
        (&[synced, relaxed(1)], End::CardFailed, None, [false, true, true, false]),
        (&[synced, relaxed(1)], End::CardFailed, Some(2), [false, false, true, false]),
    ];
    for (promises, end, synced, expected) in rows {
        let writes: Vec<_> = promises.iter().enumerate().map(|(n, promise)| (value(n as u64 + 1), *promise)).collect();
        let found = allowed(&writes, *end, synced.map(at), &states);
        assert_eq!(found, expected, "{promises:?}, {end:?}, {synced:?}");
    }
    let writes = [(value(1), synced), (value(2), relaxed(1)), (value(3), unknown)];
    for (later, expected) in [(End::Killed, [false, false, true, true]), (cut, [false, true, true, true])] {
        let mut thing = Thing::new(vec!["key".to_owned()]);
        writes.iter().for_each(|(state, promise)| thing.wrote(vec![state.clone()], *promise));
        thing.after(End::Killed, None);
        thing.after(later, None);
        let found = states.iter().map(|state| thing.clone().found(&[found(state)]).is_ok());
        assert!(found.eq(expected), "killed before it was synced, and then {later:?}");
    }
    let writes = [(value(1), synced), (State::Absent, synced)];
    assert_eq!(allowed(&writes, cut, None, &states), [true, false, false, false], "a deleted key came back");
    let writes = [(State::Count(4), synced), (State::Count(5), unknown)];
    let counts = [3, 4, 5, 6].map(State::Count);
    assert_eq!(allowed(&writes, cut, None, &counts), [false, true, true, false], "a counter");
}

#[test]
fn a_batch_is_whole_and_what_has_expired_stays_away() {
    let mut pair = Thing::new(vec!["x".to_owned(), "y".to_owned()]);
    pair.wrote(vec![value(1), value(1)], Promise::Synced);
    pair.wrote(vec![value(2), value(2)], Promise::Unknown);
    pair.after(End::Killed, None);
    pair.after(End::Stopped, None);
    for (x, y, whole) in [(1, 1, true), (2, 2, true), (1, 2, false), (2, 1, false)] {
        assert_eq!(pair.clone().found(&[found(&value(x)), found(&value(y))]).is_ok(), whole, "{x} {y}");
    }
    let expires = Some(Instant::now() - Duration::from_millis(1));
    let state = State::Bytes { number: 1, length: 50, expires };
    let mut thing = Thing::new(vec!["key".to_owned()]);
    thing.wrote(vec![state.clone()], Promise::Synced);
    thing.found(&[Found::Nothing]).unwrap();
    thing.found(&[found(&state)]).unwrap_err();
}

#[test]
fn a_version_is_given_to_one_state_of_one_key() {
    let rows = [(("a", value(1)), 0), (("a", value(2)), 1), (("b", value(1)), 1), (("a", State::Absent), 1)];
    for ((key, state), expected) in rows {
        let shared = Shared::default();
        shared.saw(7, "a", &value(1));
        shared.saw(7, key, &state);
        shared.saw(8, key, &state);
        assert_eq!(shared.take_violations().len(), expected, "{key} {state:?}");
    }
}

#[test]
fn a_card_that_lies_is_found_out() {
    if !has_cards() {
        return;
    }
    for names in [Names::Strict, Names::Ext4Like] {
        let mut scene = Scene::new(1, names).unwrap();
        let server = scene.start().unwrap();
        scene.card.set_fault(Fault::SyncsLie);
        assert_eq!(scene.work(&server, &mut Seeded::new(1), Mood::Durable, 10, false), None);
        server.kill();
        scene.card.cut_power();
        scene.ended(End::PowerCut(scene.card.cut_at().unwrap()), "");
        scene.card.power_up().unwrap();
        let server = scene.start().unwrap();
        scene.verify(&server).unwrap();
        let lost = scene.shared.take_violations();
        assert!(lost.len() > 4, "{names:?}: {lost:?}");
    }
}
