//! A card that is full, of what larder stores or of what others have put there: what is deleted gives its space back by
//! itself, deletions go on, and nothing acknowledged is lost.
//!
//! Each test has a small file system of its own, in a mount namespace that a sleeping process holds open. It is filled and
//! emptied twice; `FULL_CARD_ROUNDS` asks for more.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;
use serde_json::json;
use support::{Answer, Server, skipped};

const MIB: u64 = 1 << 20;
/// Waiting for what larder does by itself ends here. Generous: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
const VALUE_BYTES: usize = 64 << 10;
/// More values than any of the cards takes.
const VALUES_MAX: usize = 2000;
const COLLECTION: &str = "/api/v1/kv/n/c";

/// A file system of 96 MiB.
struct SmallCard {
    holder: Child,
    point: tempfile::TempDir,
}

impl SmallCard {
    /// `None`, said loudly, if this user may not mount.
    fn mount() -> Option<SmallCard> {
        let point = tempfile::tempdir().unwrap();
        let script = r#"mount -t tmpfs -o size=96M card "$0" && echo mounted && exec sleep infinity"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(point.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let card = SmallCard { holder, point };
        if said.trim() != "mounted" {
            skipped("this user may not mount");
            return None;
        }
        Some(card)
    }

    fn start(&self, engine: &str, durability: &str) -> Telling {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.holder.id());
        let config = format!("[store]\nreserve = \"24MiB\"\ndurability = \"{durability}\"\n");
        let data = self.point.path().join("data");
        let builder = Server::builder().engine(engine).config(&config).data(&data);
        Telling(Some(builder.wrapper(&["nsenter", &namespace, "--"]).start()))
    }

    /// Where it can be reached from here.
    fn path(&self) -> PathBuf {
        let point = self.point.path().strip_prefix("/").unwrap();
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(point)
    }

    fn free_bytes(&self) -> u64 {
        let figures = rustix::fs::statvfs(self.path()).unwrap();
        figures.f_bavail * figures.f_frsize
    }

    /// Has somebody else take all but so many bytes.
    fn take_all_but(&self, name: &str, bytes: u64) {
        let file = File::create(self.path().join(name)).unwrap();
        // larder may write meanwhile, so that there is less than there was.
        until("others can take what is free", || {
            let length = self.free_bytes().saturating_sub(bytes).max(1);
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length).ok()
        });
    }

    fn give_back(&self, names: &[String]) {
        names.iter().for_each(|name| fs::remove_file(self.path().join(name)).unwrap());
    }
}

impl Drop for SmallCard {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Bytes that do not compress, the same for the same seed.
fn value(seed: usize) -> Vec<u8> {
    let mut state = seed as u64 + 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..VALUE_BYTES / 8).flat_map(|_| next()).collect()
}

/// A server whose log is shown when the test fails.
struct Telling(Option<Server>);

impl Telling {
    fn kill(mut self) {
        self.0.take().unwrap().kill();
    }

    fn stop(mut self) -> ExitStatus {
        self.0.take().unwrap().stop()
    }
}

impl std::ops::Deref for Telling {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.0.as_ref().unwrap()
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(server) = self.0.as_ref().filter(|_| std::thread::panicking()) {
            eprintln!("{}", server.log());
        }
    }
}

fn key(number: usize) -> String {
    format!("{COLLECTION}/{number:05}")
}

fn refused_for_space(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (507, "INSUFFICIENT_STORAGE"), "{answer:?}");
    assert!(answer.header("Retry-After").is_some(), "{answer:?}");
    assert_eq!(answer.json()["written"], "no");
}

fn until(what: &str, mut ask: impl FnMut() -> Option<()>) {
    let give_up = Instant::now() + PATIENCE;
    while ask().is_none() {
        assert!(Instant::now() < give_up, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Writes values until the card takes no more; tells how many were acknowledged.
fn fill(server: &Server, query: &str) -> usize {
    let mut client = server.client();
    for number in 0..VALUES_MAX {
        let answer = client.send("PUT", &format!("{}{query}", key(number)), &[], &value(number));
        if answer.status / 100 != 2 {
            refused_for_space(&answer);
            return number;
        }
    }
    VALUES_MAX
}

fn writes_resume(server: &Server) {
    until(&format!("writes are taken again by {}", server.address()), || {
        let answer = server.put("/api/v1/kv/n/other/k", b"again");
        if answer.status / 100 != 2 {
            refused_for_space(&answer);
        }
        (answer.status / 100 == 2).then_some(())
    });
    server.get("/health").expect(200);
}

fn holds(server: &Server, number: usize) {
    assert!(server.get(&key(number)).expect(200).body == value(number), "{number}");
}

/// A way to get rid of so many values.
type Remove = fn(&Server, usize);

fn whole_collection(server: &Server, _: usize) {
    while server.delete(COLLECTION).expect(200).json()["complete"] != true {}
}

fn key_by_key(server: &Server, count: usize) {
    let mut client = server.client();
    for number in 0..count {
        client.send("DELETE", &key(number), &[], b"").expect(204);
    }
}

fn in_atomic_batches(server: &Server, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(100) {
        let delete = |n: &usize| json!({"op": "delete", "namespace": "n", "collection": "c", "key": format!("{n:05}")});
        let batch = json!({"atomic": true, "operations": some.iter().map(delete).collect::<Vec<_>>()});
        let kind = [("Content-Type", "application/json")];
        server.send("POST", "/api/v1/batch", &kind, batch.to_string().as_bytes()).expect(200);
    }
}

fn by_waiting(server: &Server, count: usize) {
    let mut client = server.client();
    for number in 0..count {
        until("it has expired", || (client.send("GET", &key(number), &[], b"").status == 404).then_some(()));
    }
}

/// Fills and empties a card again and again.
fn in_parallel(cases: &[(&str, &str)], run: impl Fn(&str, &str) + Sync) {
    std::thread::scope(|scope| {
        for (engine, durability) in cases {
            let run = &run;
            scope.spawn(move || run(engine, durability));
        }
    });
}

fn in_rounds(query: &str, remove: Remove, cases: &[(&str, &str)]) {
    let rounds: u32 = std::env::var("FULL_CARD_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    std::thread::scope(|scope| {
        for (engine, durability) in cases {
            scope.spawn(move || {
                let Some(card) = SmallCard::mount() else { return };
                let server = card.start(engine, durability);
                server.put("/api/v1/kv/n/kept/k", &value(VALUES_MAX)).expect(201);
                for round in 0..rounds {
                    let count = fill(&server, query);
                    assert!(round > 0 || count > 100, "{count} values on an empty card");
                    remove(&server, count);
                    writes_resume(&server);
                    server.get(&key(0)).expect(404);
                }
                let kept = server.get("/api/v1/kv/n/kept/k").expect(200);
                assert!(kept.body == value(VALUES_MAX));
                server.kill();
                let server = card.start(engine, durability);
                server.get("/health").expect(200);
                server.get(&key(0)).expect(404);
                assert!(server.get("/api/v1/kv/n/kept/k").expect(200).body == value(VALUES_MAX));
                println!("trial: {engine}, {durability}{query}: full and emptied {rounds} times");
            });
        }
    });
}

const TINY_AND_EPOLL: [(&str, &str); 2] = [("tiny_http", "sync"), ("epoll", "relaxed")];
const EPOLL_AND_TINY: [(&str, &str); 2] = [("epoll", "sync"), ("tiny_http", "relaxed")];

#[test]
fn a_full_card_takes_writes_again_after_its_collection_was_deleted() {
    in_rounds("", whole_collection, &[TINY_AND_EPOLL, EPOLL_AND_TINY].concat());
}

#[test]
fn a_full_card_takes_writes_again_after_all_has_expired() {
    in_rounds("?ttl=10", by_waiting, &EPOLL_AND_TINY);
}

#[test]
fn a_full_card_takes_writes_again_after_its_keys_were_deleted() {
    in_rounds("", key_by_key, &TINY_AND_EPOLL);
}

#[test]
fn a_full_card_takes_writes_again_after_atomic_batches_of_deletes() {
    in_rounds("", in_atomic_batches, &EPOLL_AND_TINY);
}

#[test]
fn deletes_go_on_when_others_have_taken_more_than_half_of_the_reserve() {
    for (engine, durability) in TINY_AND_EPOLL {
        let Some(card) = SmallCard::mount() else { return };
        let server = card.start(engine, durability);
        let mut client = server.client();
        (0..200).for_each(|n| drop(client.send("PUT", &key(n), &[], &value(n)).expect(201)));
        card.take_all_but("foreign", 6 * MIB);
        refused_for_space(&server.put(&key(0), b"no"));
        for number in (0..200).step_by(2) {
            client.send("DELETE", &key(number), &[], b"").expect(204);
        }
        let health = server.get("/health").expect(503).json();
        assert_eq!(health["store"], "no_space", "{health}");
        assert!(health["reason"].as_str().unwrap().contains("are kept in reserve"), "{health}");
        holds(&server, 1);
        card.give_back(&["foreign".to_owned()]);
        writes_resume(&server);
        for number in 0..200 {
            match number % 2 {
                0 => drop(server.get(&key(number)).expect(404)),
                _ => holds(&server, number),
            }
        }
    }
}

/// Has others take everything until even deletes are refused. Nothing is flushed just then: a flush that others overtake
/// fails.
fn take_everything(card: &SmallCard, server: &Server) -> Vec<String> {
    let reclaimed = || server.log().matches("reclaimed space in").count();
    until("all but the last memtable is flushed", || {
        let stats = server.get("/api/v1/stats").expect(200).json();
        (stats["store"]["memtable_bytes"].as_u64().unwrap() < 4 * MIB).then_some(())
    });
    let mut names = Vec::new();
    for number in 0.. {
        let before = reclaimed();
        names.push(format!("foreign-{number}"));
        card.take_all_but(&names[number], 0);
        let answer = server.delete(&key(number));
        if answer.status == 507 {
            refused_for_space(&answer);
            break;
        }
        // What was held back for it is used now.
        answer.expect(204);
        until("space is being given back", || (reclaimed() > before).then_some(()));
        assert!(number < 20, "deletes find room for ever: {}", server.log());
    }
    names
}

#[test]
fn a_store_on_a_card_that_others_have_taken_whole_is_not_lost_and_goes_on_afterwards() {
    // At once: they wait more than they work.
    in_parallel(&EPOLL_AND_TINY, |engine, durability| {
        let Some(card) = SmallCard::mount() else { return };
        let server = card.start(engine, durability);
        let mut client = server.client();
        (0..200).for_each(|n| drop(client.send("PUT", &key(n), &[], &value(n)).expect(201)));
        let names = take_everything(&card, &server);
        let still = |server: &Server| {
            refused_for_space(&server.delete(&key(150)));
            refused_for_space(&server.put(&key(0), b"no"));
            let health = server.get("/health").expect(503).json();
            assert_eq!(health["store"], "no_space", "{health}");
            assert!(health["reason"].as_str().unwrap().contains("others hold the rest"), "{health}");
            holds(server, 150);
        };
        still(&server);
        server.kill();
        let server = card.start(engine, durability);
        still(&server);
        assert!(server.stop().success());
        let server = card.start(engine, durability);
        still(&server);
        card.give_back(&names);
        writes_resume(&server);
        server.delete(&key(199)).expect(204);
        (100..199).for_each(|number| holds(&server, number));
        assert!(server.stop().success());
    });
}
