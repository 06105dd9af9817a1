//! Answers against a budget of 32 MiB, of which the last quarter is for clients that hold little.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::http::message::Peer;
use crate::limits::{Limits, MIB};

const M: u64 = MIB as u64;

fn budget() -> Arc<Answers> {
    Arc::new(Answers::new(Arc::new(LiveLimits::new(Limits::default())), &Registry::default()))
}

fn client(name: &str) -> Client {
    Client::of_token(name)
}

fn hold(budget: &Arc<Answers>, name: &str, own: u64, shared: Option<Shared>) -> (Unsent, Arc<AtomicU64>) {
    let cut = Arc::<AtomicU64>::default();
    let told = cut.clone();
    let give_up = Box::new(move || {
        told.fetch_add(1, Ordering::SeqCst);
    });
    (budget.hold(client(name), own, shared, give_up), cut)
}

fn has_room(budget: &Arc<Answers>, name: &str, bytes: usize) -> bool {
    budget.room(client(name), bytes).is_some()
}

fn trace(method: Method) -> Trace {
    Trace::new(method, Peer::Tcp(IpAddr::V4(Ipv4Addr::LOCALHOST), 1), Instant::now())
}

#[test]
fn what_is_held_is_charged_once_however_many_share_it() {
    let (budget, value) = (budget(), vec![7; MIB]);
    let shared = Some(Shared::of(&value));
    let (mut first, _) = hold(&budget, "a", 100, shared);
    let (second, _) = hold(&budget, "b", 200, shared);
    assert_eq!((budget.unsent.get(), budget.state.lock().ledger.held_by(client("b"))), (M + 300, 200));
    // Whoever paid has sent them: the other pays.
    first.set_own(50);
    assert_eq!((budget.unsent.get(), budget.state.lock().ledger.held_by(client("b"))), (M + 250, M + 200));
    drop(second);
    assert_eq!(budget.unsent.get(), 50);
    drop(first);
    assert_eq!(budget.unsent.get(), 0);
    assert!(budget.state.lock().sharing.is_empty());
}

#[test]
fn the_last_quarter_is_for_those_who_hold_little() {
    let budget = budget();
    assert!(has_room(&budget, "a", 100 * MIB), "alone, anything has its turn");
    let (_held, cut) = hold(&budget, "a", 24 * M, None);
    assert!(!has_room(&budget, "a", MIB), "it holds most of it");
    assert!(has_room(&budget, "b", MIB) && !has_room(&budget, "b", 5 * MIB));
    let mut room = budget.room(client("c"), 4 * MIB).unwrap();
    let other = budget.room(client("d"), 4 * MIB).unwrap();
    assert!(!has_room(&budget, "b", MIB), "what is on its way counts");
    room.resize(MIB);
    assert!(has_room(&budget, "b", MIB));
    drop((room, other));
    assert_eq!(budget.on_the_way.load(Ordering::Relaxed), 0);
    assert!(has_room(&budget, "b", MIB));
    assert_eq!(cut.load(Ordering::SeqCst), 0, "it has just begun");
}

#[test]
fn light_clients_together_leave_room_for_one_who_holds_nothing() {
    let budget = budget();
    let names: Vec<String> = (0..8).map(|n| format!("light {n}")).collect();
    let held: Vec<_> = names.iter().map(|name| hold(&budget, name, 3 * M + 3 * M / 4, None)).collect();
    assert!(names.iter().all(|name| !has_room(&budget, name, MIB / 4)), "each may have no more");
    assert!(has_room(&budget, "neighbour", MIB));
    drop(held);
    assert!(has_room(&budget, "light 0", MIB));
}

#[test]
fn pieces_that_are_made_at_once_leave_room_for_one_who_holds_nothing() {
    let (budget, piece, item) = (budget(), 32 * 1024, MIB / 3 * 4 + 4096);
    let names: Vec<String> = (0..8).map(|n| format!("light {n}")).collect();
    let mut held = Vec::new();
    // Five threads at a time make a piece each for one of eight clients, and charge them together, until none has room.
    for turn in 0.. {
        let at_once = names.iter().cycle().skip(turn * 5).take(5);
        let made: Vec<_> =
            at_once.filter_map(|name| Some((name, budget.room_for_piece(client(name), piece)?))).collect();
        held.extend(made.iter().map(|(name, _)| hold(&budget, name, item as u64, None)));
        if turn % 8 == 7 && made.is_empty() {
            break;
        }
    }
    assert!(has_room(&budget, "neighbour", MIB), "{} bytes are held", budget.unsent.get());
    // However little there is in all, one stream goes on.
    let limits = Limits { answers_bytes_max: M, ..Limits::default() };
    let small = Arc::new(Answers::new(Arc::new(LiveLimits::new(limits)), &Registry::default()));
    let (_held, _) = hold(&small, "a", M / 2, None);
    assert!(small.room_for_piece(client("a"), piece).is_some());
}

#[test]
fn more_than_all_is_held_by_nobody_for_long() {
    let budget = budget();
    let (_light, spared) = hold(&budget, "a", 4 * M, None);
    let (moving, kept) = hold(&budget, "b", 15 * M, None);
    moving.moved(10 * MIB);
    let (_still, cut) = hold(&budget, "b", 14 * M, None);
    let all = || [&spared, &kept, &cut].map(|told| told.load(Ordering::SeqCst));
    assert_eq!((all(), budget.cut.get()), ([0, 0, 1], 1), "of the heaviest client, what moves least");
}

#[test]
fn only_large_answers_to_reads_are_refused() {
    let budget = budget();
    let (_held, _) = hold(&budget, "other", 31 * M, None);
    let status = |bytes: usize, method: Method| {
        budget.admit(Response::with_body(200, "text/plain", vec![0; bytes]), &trace(method)).0.status
    };
    assert_eq!(status(SMALL_BYTES, Method::Get), 200);
    assert_eq!(status(2 * MIB, Method::Get), 503);
    assert_eq!((status(2 * MIB, Method::Put), status(2 * MIB, Method::Head)), (200, 200));
    assert_eq!(budget.refused.get(), 1);
    let mut made = Response::new(200);
    let patience = std::time::Duration::MAX;
    made.body = Body::Pull { length: None, keeps: 2 * MIB, patience, pull: Box::new(|_| Ok(false)) };
    assert_eq!((large_bytes(&made), budget.admit(made, &trace(Method::Get)).0.status), (2 * MIB, 503));
}
