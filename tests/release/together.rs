//! What was written together is seen together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::support::{self, Card, CardOptions, Client, Server, engines};
use super::value_text;

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];
const RUN: Duration = Duration::from_secs(4);

/// Writes both keys in one atomic batch, again and again.
fn write_pairs(address: &str, ended: &AtomicBool) -> u64 {
    let mut client = Client::new(address);
    let mut number = 0;
    while !ended.load(Ordering::Relaxed) {
        number += 1;
        let body = format!(
            r#"{{"namespace":"n","collection":"pair","operations":[
                {{"op":"set","key":"a","value":{number}}},{{"op":"set","key":"b","value":{number}}}]}}"#
        );
        client.send("POST", "/api/v1/batch", &JSON, body.as_bytes()).expect(200);
    }
    number
}

/// Other writes beside them, so that memtables are flushed and tables compacted meanwhile: that is when a snapshot
/// opened at a wrong moment shows half a batch.
fn write_noise(address: &str, writer: u64, ended: &AtomicBool) {
    let mut client = Client::new(address);
    let mut number = 0;
    while !ended.load(Ordering::Relaxed) {
        number += 1;
        let path = format!("/api/v1/kv/n/noise/{writer}-{}?durability=relaxed", number % 50);
        let answer = client.send("PUT", &path, &[], value_text(number, 32 * 1024).as_bytes());
        assert!(answer.status / 100 == 2, "{answer:?}");
    }
}

fn pair_by_batch(client: &mut Client) -> (u64, u64) {
    let body = br#"{"namespace":"n","collection":"pair","operations":[{"op":"get","key":"a"},{"op":"get","key":"b"}]}"#;
    let document = client.send("POST", "/api/v1/batch", &JSON, body).expect(200).json();
    let of = |index: usize| document["results"][index]["value"].as_u64().unwrap_or(0);
    (of(0), of(1))
}

fn pair_by_list(client: &mut Client) -> (u64, u64) {
    loop {
        let document = client.send("GET", "/api/v1/kv/n/pair?values=true", &[], b"").expect(200).json();
        // A page that ran out of time ends early, and the next one shows another moment.
        if document["next"].is_null() {
            let of = |index: usize| document["items"][index]["value"].as_u64().unwrap_or(0);
            return (of(0), of(1));
        }
    }
}

fn pair_by_stream(client: &mut Client) -> (u64, u64) {
    let accept = [("Accept", "application/x-ndjson")];
    let text = client.send("GET", "/api/v1/kv/n/pair?values=true", &accept, b"").expect(200).text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.last().unwrap()["end"], true, "{text}");
    let of = |index: usize| lines.get(index).and_then(|line| line["value"].as_u64()).unwrap_or(0);
    (of(0), of(1))
}

/// Two reads after each other: the second may be newer, never older.
fn pair_by_gets(client: &mut Client) -> (u64, u64) {
    let mut get = |key: &str| {
        let answer = client.send("GET", &format!("/api/v1/kv/n/pair/{key}"), &[], b"");
        if answer.status == 404 { 0 } else { answer.expect(200).json().as_u64().unwrap() }
    };
    (get("a"), get("b"))
}

type Reader = fn(&mut Client) -> (u64, u64);

#[test]
fn two_keys_of_one_batch_are_never_seen_apart() {
    let backing = tempfile::tempdir().unwrap();
    let options = CardOptions { sync_delay: Duration::from_millis(8), ..CardOptions::default() };
    let card = match Card::mount(backing.path(), options) {
        Ok(card) => card,
        Err(error) => return support::skipped(&format!("no FUSE here: {error}")),
    };
    for engine in engines() {
        let data = card.path().join(&engine);
        let server = Server::builder().engine(&engine).config("[store]\nmemtable = \"1MiB\"\n").data(&data).start();
        let ended = AtomicBool::new(false);
        let reads = AtomicU64::new(0);
        let mut written = 0;
        std::thread::scope(|scope| {
            let (ended, reads, address) = (&ended, &reads, server.address());
            let writer = scope.spawn(|| write_pairs(address, ended));
            for noise in 0..2 {
                scope.spawn(move || write_noise(address, noise, ended));
            }
            let readers: [(&str, Reader, bool); 4] = [
                ("batch", pair_by_batch, true),
                ("list", pair_by_list, true),
                ("stream", pair_by_stream, true),
                ("gets", pair_by_gets, false),
            ];
            for (name, read, at_once) in readers {
                scope.spawn(move || {
                    let mut client = Client::new(address);
                    let mut last = 0;
                    while !ended.load(Ordering::Relaxed) {
                        let (a, b) = read(&mut client);
                        let fits = if at_once { a == b } else { a <= b };
                        if !fits || a < last {
                            ended.store(true, Ordering::Relaxed);
                            panic!("by {name}: a is {a}, b is {b}, a was {last}");
                        }
                        last = a;
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let began = Instant::now();
            while began.elapsed() < RUN && !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
            }
            ended.store(true, Ordering::Relaxed);
            written = writer.join().unwrap();
        });
        let reads = reads.into_inner();
        println!("trial: {engine}: {written} pairs written, {reads} pairs read");
        assert!(written > 10 && reads > 100, "{engine}: {written} pairs written, {reads} read");
    }
}
