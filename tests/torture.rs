//! kill -9 with a ledger: whatever was acknowledged before the kill stands after it, and nothing else was made up.
//!
//! 20 rounds here; `TORTURE_ROUNDS` asks for more (`make torture`).
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use support::{Client, Server, engines};

const WRITERS: u64 = 4;
const KEYS_PER_WRITER: u64 = 12;

/// What is known of a key: the last acknowledged value, and the values sent since then without an answer.
#[derive(Default, Clone, Debug)]
struct Entry {
    acknowledged: Option<u64>,
    version: u64,
    in_doubt: Vec<u64>,
}

#[test]
fn what_was_acknowledged_survives_kill_nine() {
    let rounds: u64 = std::env::var("TORTURE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let folder = tempfile::tempdir().unwrap();
    let mut ledger: HashMap<String, Entry> = HashMap::new();
    let engines = engines();
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut total = 0;
    for round in 0..rounds {
        let engine = &engines[round as usize % engines.len()];
        let server = Server::builder().engine(engine).data(folder.path()).start();
        verify(&server, &mut ledger, round);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        total += write_until_killed(server, &mut ledger, round, Duration::from_millis(50 + seed % 300));
    }
    let server = Server::builder().data(folder.path()).start();
    verify(&server, &mut ledger, rounds);
    assert!(total > rounds, "the rounds wrote something: {total}");
    println!("trial: {rounds} rounds, {total} acknowledged writes, none lost");
}

fn write_until_killed(server: Server, ledger: &mut HashMap<String, Entry>, round: u64, life: Duration) -> u64 {
    let shared = Mutex::new(std::mem::take(ledger));
    let acknowledged = std::sync::atomic::AtomicU64::new(0);
    let address = server.address().to_owned();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (shared, acknowledged, address) = (&shared, &acknowledged, &address);
            scope.spawn(move || {
                let mut client = Client::new(address);
                for n in 0.. {
                    let key = format!("w{writer}-{}", n % KEYS_PER_WRITER);
                    let value = (round << 32) | (writer << 24) | n;
                    // Noted before it is sent: an answer that never comes leaves the value in doubt.
                    shared.lock().unwrap().entry(key.clone()).or_default().in_doubt.push(value);
                    let body = body_of(value);
                    let Ok(answer) = client.try_send("PUT", &format!("/api/v1/kv/t/t/{key}"), &[], &body) else {
                        return;
                    };
                    assert!(answer.status == 201 || answer.status == 204, "{answer:?}");
                    let mut ledger = shared.lock().unwrap();
                    let entry = ledger.get_mut(&key).unwrap();
                    let version = answer.version();
                    assert!(version > entry.version, "versions grow: {version} after {}", entry.version);
                    *entry = Entry { acknowledged: Some(value), version, in_doubt: Vec::new() };
                    acknowledged.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(life);
        server.kill();
    });
    *ledger = shared.into_inner().unwrap();
    acknowledged.into_inner()
}

/// The value's number, and bytes that follow from it, so that a mixture of two values cannot pass for one.
fn body_of(value: u64) -> Vec<u8> {
    let length = 8 + (value % 1500) as usize;
    value.to_le_bytes().iter().copied().cycle().take(length).collect()
}

fn verify(server: &Server, ledger: &mut HashMap<String, Entry>, round: u64) {
    let mut client = server.client();
    for (key, entry) in ledger.iter_mut() {
        let answer = client.send("GET", &format!("/api/v1/kv/t/t/{key}"), &[], b"");
        let possible: Vec<u64> = entry.acknowledged.iter().chain(&entry.in_doubt).copied().collect();
        if answer.status == 404 {
            assert!(entry.acknowledged.is_none(), "round {round}: {key} is lost; it was {entry:?}");
            continue;
        }
        assert_eq!(answer.status, 200, "{answer:?}");
        let found = u64::from_le_bytes(answer.body[..8].try_into().unwrap());
        assert_eq!(answer.body, body_of(found), "round {round}: {key} holds bytes that nobody wrote");
        assert!(possible.contains(&found), "round {round}: {key} holds {found:#x}, not one of {entry:x?}");
        assert!(answer.version() >= entry.version, "round {round}: {key} went back to an older version");
        *entry = Entry { acknowledged: Some(found), version: answer.version(), in_doubt: Vec::new() };
    }
}
