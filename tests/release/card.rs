//! What larder promises when the card is stuck, fails, is full, or loses power.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::BOARD;
use super::support::{self, Answer, Card, CardOptions, Client, Fault, Server, engines, eventually};

/// A card over a folder, or nothing where there is no FUSE.
fn card(backing: &Path, options: CardOptions) -> Option<Card> {
    match Card::mount(backing, options) {
        Ok(card) => Some(card),
        Err(error) => {
            support::skipped(&format!("no FUSE here: {error}"));
            None
        }
    }
}

fn on_a_card(test: impl Fn(&Card, Server)) {
    for engine in engines() {
        let backing = tempfile::tempdir().unwrap();
        let Some(card) = card(backing.path(), CardOptions { power_cuts: true, ..CardOptions::default() }) else {
            return;
        };
        let server = Server::builder().engine(&engine).config(BOARD).data(&card.path().join("data")).start();
        println!("engine {engine}");
        test(&card, server);
    }
}

fn written(answer: &Answer) -> String {
    answer.json()["written"].as_str().unwrap_or("not said").to_owned()
}

#[test]
fn reads_are_answered_while_a_sync_is_stuck() {
    on_a_card(|card, server| {
        server.put("/api/v1/kv/n/c/a", b"old").expect(201);
        server.get("/api/v1/kv/n/c/a").expect(200);
        card.hold_syncs(true);
        let answered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                server.put("/api/v1/kv/n/c/a", b"new").expect(204);
                answered.store(true, Ordering::SeqCst);
            });
            eventually("the sync has begun", || card.syncs_in_progress() > 0);
            let (mut client, began, mut reads) = (server.client(), Instant::now(), 0);
            while began.elapsed() < Duration::from_secs(2) {
                let answer = client.send("GET", "/api/v1/kv/n/c/a", &[], b"").expect(200);
                assert_eq!(answer.text(), "old", "a durable write is not seen before it is synced");
                client.send("GET", "/api/v1/kv/n/c/absent", &[], b"").expect(404);
                client.send("GET", "/health", &[], b"").expect(200);
                reads += 1;
            }
            assert!(reads > 10, "{reads} reads in two seconds");
            assert!(!answered.load(Ordering::SeqCst), "no answer before the sync");
            card.hold_syncs(false);
        });
        assert_eq!(server.get("/api/v1/kv/n/c/a").text(), "new");
    });
}

#[test]
fn after_a_failed_sync_the_write_is_unknown_and_the_store_is_read_only() {
    on_a_card(|card, server| {
        server.put("/api/v1/kv/n/c/a", b"kept").expect(201);
        card.set_fault(Fault::SyncFails);
        let answer = server.put("/api/v1/kv/n/c/b", b"?").expect(504);
        assert_eq!((answer.code(), written(&answer)), ("OUTCOME_UNKNOWN".to_owned(), "unknown".to_owned()));
        for _ in 0..2 {
            let answer = server.put("/api/v1/kv/n/c/c", b"no").expect(503);
            assert_eq!((answer.code(), written(&answer)), ("READ_ONLY".to_owned(), "no".to_owned()));
            assert!(answer.header("Retry-After").is_some());
            server.delete("/api/v1/kv/n/c/a").expect(503);
            // The card is well again, but what was written in between is not to be trusted.
            card.set_fault(Fault::None);
        }
        server.get("/health").expect(503);
        server.get("/health/live").expect(200);
        assert_eq!(server.get("/api/v1/kv/n/c/a").expect(200).text(), "kept");
        server.get("/api/v1/kv/n/c/c").expect(404);
        let data = server.data().to_owned();
        server.kill();
        let server = Server::builder().config(BOARD).data(&data).start();
        assert_eq!(server.get("/api/v1/kv/n/c/a").expect(200).text(), "kept");
        server.get("/api/v1/kv/n/c/c").expect(404);
        server.put("/api/v1/kv/n/c/c", b"yes").expect(201);
    });
}

#[test]
fn a_card_that_turns_out_to_be_full_loses_nothing_acknowledged() {
    on_a_card(|card, server| {
        server.put("/api/v1/kv/n/c/before", b"kept").expect(201);
        card.set_fault(Fault::WriteFindsNoSpace);
        let mut acknowledged = Vec::new();
        for number in 0..20 {
            let answer = server.put(&format!("/api/v1/kv/n/c/{number}"), b"value");
            match answer.status {
                201 => acknowledged.push(number),
                504 => assert_eq!((answer.code().as_str(), written(&answer).as_str()), ("OUTCOME_UNKNOWN", "unknown")),
                503 | 507 => assert_eq!(written(&answer), "no"),
                _ => panic!("{answer:?}"),
            }
        }
        assert!(acknowledged.is_empty(), "nothing can be written, so nothing may be acknowledged: {acknowledged:?}");
        assert_eq!(server.get("/api/v1/kv/n/c/before").expect(200).text(), "kept");
        let data = server.data().to_owned();
        server.kill();
        card.set_fault(Fault::None);
        let server = Server::builder().config(BOARD).data(&data).start();
        assert_eq!(server.get("/api/v1/kv/n/c/before").expect(200).text(), "kept");
        server.put("/api/v1/kv/n/c/after", b"yes").expect(201);
    });
}

#[test]
fn writes_stop_before_the_card_is_full_and_resume_by_themselves() {
    on_a_card(|card, server| {
        server.put("/api/v1/kv/n/c/a", b"kept").expect(201);
        // It fills up by other hands. Writes meanwhile cannot go through, but that is the other test.
        card.set_fault(Fault::Full);
        let began = Instant::now();
        while server.get("/health").status != 503 {
            assert!(began.elapsed() < Duration::from_secs(60), "health does not say so");
            std::thread::sleep(Duration::from_millis(100));
        }
        let answer = server.put("/api/v1/kv/n/c/b", b"no").expect(507);
        assert_eq!((answer.code(), written(&answer)), ("INSUFFICIENT_STORAGE".to_owned(), "no".to_owned()));
        assert_eq!(server.get("/api/v1/kv/n/c/a").expect(200).text(), "kept");
        card.set_fault(Fault::None);
        // larder looks every few seconds.
        let began = Instant::now();
        while server.put("/api/v1/kv/n/c/b", b"yes").status / 100 != 2 {
            assert!(began.elapsed() < Duration::from_secs(60), "writes are not taken again");
            std::thread::sleep(Duration::from_millis(100));
        }
        server.get("/health").expect(200);
    });
}

const WRITERS: u64 = 8;
const KEYS: u64 = 5;

/// The last acknowledged number of each key, and the one that was on its way.
type Ledger = HashMap<String, (u64, u64)>;

fn body(number: u64) -> Vec<u8> {
    let length = 8 + (number * 37 % 3000) as usize;
    number.to_le_bytes().iter().copied().cycle().take(length).collect()
}

/// Writes synced values until an answer does not come or says that it cannot.
fn write_until_dark(address: &str, writer: u64, from: u64, acknowledged: &AtomicU64) -> Ledger {
    let mut client = Client::new(address);
    let mut ledger = Ledger::new();
    for number in from + 1.. {
        let key = format!("{writer}-{}", number % KEYS);
        ledger.entry(key.clone()).or_insert((0, 0)).1 = number;
        // Every third write is relaxed and of a key of its own: it may be lost, and must not harm the others.
        if number % 3 == 0 {
            let path = format!("/api/v1/kv/cut/relaxed/{key}?durability=relaxed");
            if client.try_send("PUT", &path, &[], &body(number)).is_err() {
                return ledger;
            }
        }
        match client.try_send("PUT", &format!("/api/v1/kv/cut/synced/{key}"), &[], &body(number)) {
            Ok(answer) if answer.status / 100 == 2 => {
                assert_eq!(answer.header("Larder-Durability"), Some("synced"));
                ledger.insert(key, (number, number));
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Ok(answer) => {
                assert!(answer.status >= 500, "{answer:?}");
                return ledger;
            }
            Err(_) => return ledger,
        }
    }
    unreachable!("the numbers do not end before the power")
}

fn verify(server: &Server, ledger: &mut Ledger) {
    for (key, (acknowledged, tried)) in ledger {
        let answer = server.get(&format!("/api/v1/kv/cut/synced/{key}"));
        let found = match answer.status {
            404 => 0,
            200 => u64::from_le_bytes(answer.body[..8].try_into().unwrap()),
            _ => panic!("{answer:?}"),
        };
        assert!(found == 0 || answer.body == body(found), "{key} holds bytes that nobody wrote");
        assert!(found == *acknowledged || found == *tried, "{key} is {found}, not {acknowledged} or {tried}");
        (*acknowledged, *tried) = (found, found);
    }
}

#[test]
fn every_acknowledged_write_is_there_after_a_power_cut() {
    let engines = engines();
    let backing = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::new();
    let mut highest = 0;
    for round in 0..6 {
        // A millisecond a sync, so that the cut comes while something is on its way.
        let options = CardOptions { sync_delay: Duration::from_millis(1), power_cuts: true, ..CardOptions::default() };
        let Some(card) = card(backing.path(), options) else { return };
        let engine = &engines[round % engines.len()];
        let config = "[store]\nmemtable = \"1MiB\"\nblock_cache = \"4MiB\"\n";
        let server = Server::builder().engine(engine).config(config).data(&card.path().join("data")).start();
        verify(&server, &mut ledger);
        let acknowledged = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let (address, acknowledged) = (server.address(), &acknowledged);
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| scope.spawn(move || write_until_dark(address, writer, highest, acknowledged)))
                .collect();
            // Each round ends at another place.
            let enough = 100 + 77 * round as u64;
            eventually("enough was written", || acknowledged.load(Ordering::SeqCst) > enough);
            card.cut_power();
            for writer in writers {
                for (key, (sure, tried)) in writer.join().unwrap() {
                    let entry = ledger.entry(key).or_insert((0, 0));
                    *entry = (if sure > 0 { sure } else { entry.0 }, tried);
                    highest = highest.max(tried);
                }
            }
        });
        println!("round {round}, {engine}: {} acknowledged before the cut", acknowledged.into_inner());
        server.kill();
    }
    let server = Server::builder().data(&backing.path().join("data")).start();
    verify(&server, &mut ledger);
}
