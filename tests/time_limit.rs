//! `limits.request_timeout` holds over queue, read and commit, whatever the card does.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use support::{Card, CardOptions, Connection, Server, ServerBuilder, engines, eventually};

const VALUES: usize = 96;

fn key(n: usize) -> String {
    format!("/api/v1/kv/n/c/{n}")
}

/// Bytes that do not compress, so that each value is a block of its own.
fn value(n: usize) -> Vec<u8> {
    let mut state = n as u64 + 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(48 * 1024).collect()
}

fn card(backing: &tempfile::TempDir) -> Option<Card> {
    match Card::mount(backing.path(), CardOptions::default()) {
        Ok(card) => Some(card),
        Err(error) => {
            support::skipped(&format!("no FUSE here: {error}"));
            None
        }
    }
}

fn builder(engine: &str, card: &Card) -> ServerBuilder {
    let config = "[server]\nworkers = 2\n[store]\nreserve = 0\nblock_cache = \"2MiB\"\n[cache]\nsize = \"1MiB\"\n";
    Server::builder().engine(engine).config(config).data(&card.path().join("data"))
}

#[test]
fn a_write_whose_sync_hangs_is_answered_and_the_store_goes_on_once_it_can() {
    for engine in engines() {
        let backing = tempfile::tempdir().unwrap();
        let Some(card) = card(&backing) else { return };
        let server = builder(&engine, &card).config("[limits]\nrequest_timeout = \"1s\"").start();
        server.put(&key(0), b"before").expect(201);
        card.hold_syncs(true);
        let late = server.put(&key(1), b"?").expect(504);
        assert_eq!((late.code().as_str(), late.json()["written"].as_str()), ("OUTCOME_UNKNOWN", Some("unknown")));
        assert_eq!(server.get(&key(0)).expect(200).text(), "before", "{engine}: reads do not wait for it");
        card.hold_syncs(false);
        eventually("it is written after all", || server.get(&key(1)).status == 200);
        server.put(&key(2), b"after").expect(201);
    }
}

#[test]
fn reads_that_hang_and_what_waits_behind_them_are_answered() {
    for engine in engines() {
        let backing = tempfile::tempdir().unwrap();
        let Some(card) = card(&backing) else { return };
        let server = builder(&engine, &card).start();
        let mut client = server.client();
        for n in 0..VALUES {
            client.send("PUT", &format!("{}?durability=relaxed", key(n)), &[], &value(n)).expect(201);
        }
        drop(client);
        assert!(server.stop().success());

        let server = builder(&engine, &card).config("[limits]\nrequest_timeout = \"1s\"").start();
        eventually("the store is open", || server.get("/health").status == 200);
        card.hold_reads(true);
        let ask = |n: usize, method: &str| {
            let mut connection = server.connect();
            let fields: &[_] = &[("Cache-Control", "no-cache")];
            connection.write_request(method, &key(n), fields, b"x").unwrap();
            connection
        };
        // Far more than there are workers: most of them wait in the queue.
        let mut asked: Vec<Connection> = (0..12).map(|n| ask(n * 8, if n % 4 == 3 { "PUT" } else { "GET" })).collect();
        let answers: Vec<_> = asked.iter_mut().map(|connection| connection.read(false)).collect();
        for answer in &answers {
            assert!(matches!(answer.status, 200 | 204 | 503 | 504), "{engine}: {answer:?}");
        }
        let count = |code: &str| answers.iter().filter(|answer| answer.status >= 500 && answer.code() == code).count();
        assert!(count("STORE_UNAVAILABLE") + count("OUTCOME_UNKNOWN") > 0, "{engine}: no read hung: {answers:?}");
        assert!(count("OVERLOADED") > 0, "{engine}: nothing waited behind them: {answers:?}");
        server.get("/health/live").expect(200);

        card.hold_reads(false);
        eventually("reads go on", || server.get(&key(1)).status == 200);
        assert!(server.get(&key(2)).expect(200).body == value(2), "{engine}");
    }
}
