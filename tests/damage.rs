//! Records that the card has damaged, from outside: what lists and exports say, and how to be rid of them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use larder::store::fjall::{FjallOptions, FjallStore};
use larder::store::{FullKey, Space, Store};
use serde_json::{Value, json};
use support::{Answer, Server, engines};

const NDJSON: (&str, &str) = ("Accept", "application/x-ndjson");
const BASE: &str = "/api/v1/kv/home/sensors";

fn start(engine: &str, data: &Path) -> Server {
    Server::builder().engine(engine).config("[store]\nreserve = 0\n").data(data).start()
}

/// Runs a test on a server of each engine whose keys 0 to 9 are there, of which 3 and 4 are damaged.
fn with_two_damaged_records(test: impl Fn(&Server)) {
    for engine in engines() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let server = start(&engine, &data);
        for n in 0..10 {
            server.put(&format!("{BASE}/{n}"), b"x").expect(201);
        }
        server.stop();
        let store = FjallStore::open(&data, FjallOptions::default()).unwrap();
        let damaged = |name| (Space::Data, FullKey::new("home", "sensors", name).shared(), Some(Bytes::from("?")));
        store.commit(vec![damaged("3"), damaged("4")], true).unwrap();
        store.close().unwrap();
        drop(store);
        test(&start(&engine, &data));
    }
}

fn keys(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect()
}

/// The last line of a stream.
fn end(answer: &Answer) -> Value {
    serde_json::from_str(answer.text().lines().last().unwrap()).unwrap()
}

#[test]
fn lists_and_exports_go_on_past_damaged_records_and_name_them() {
    with_two_damaged_records(|server| {
        let refused = server.get(&format!("{BASE}/3")).expect(500);
        assert_eq!(refused.code(), "INTERNAL");
        let page = server.get(BASE).expect(200).json();
        assert_eq!(keys(&page), ["0", "1", "2", "5", "6", "7", "8", "9"]);
        assert_eq!(page["damaged"], json!([{"key": "3"}, {"key": "4"}]));
        let page = server.get(&format!("{BASE}?reverse=true&limit=5")).expect(200).json();
        assert_eq!(keys(&page), ["9", "8", "7", "6", "5"]);
        let rest = server.get(&format!("{BASE}?reverse=true&cursor={}", page["next"].as_str().unwrap())).expect(200);
        assert_eq!(keys(&rest.json()), ["2", "1", "0"]);
        assert!(server.get(&format!("{BASE}?prefix=5")).json().get("damaged").is_none());
        assert_eq!(server.get("/api/v1/kv").expect(200).json()["items"], json!(["home"]));

        let lines = server.send("GET", BASE, &[NDJSON], b"").expect(200);
        assert_eq!((&end(&lines)["items"], &end(&lines)["damaged"]), (&8.into(), &json!([{"key": "3"}, {"key": "4"}])));
        let export = server.get("/api/v1/export").expect(200);
        let place = |key| json!({"namespace": "home", "collection": "sensors", "key": key});
        assert_eq!((&end(&export)["items"], &end(&export)["damaged"]), (&8.into(), &json!([place("3"), place("4")])));
        assert!(server.metric("larder_store_damage_met_total") >= 2.0);
        assert!(server.log().contains("home/sensors/3"), "{}", server.log());

        let other = Server::builder().start();
        let ndjson = ("Content-Type", "application/x-ndjson");
        let report = other.send("POST", "/api/v1/import", &[ndjson], export.text().as_bytes()).expect(200).json();
        assert_eq!((&report["imported"], &report["failed"]), (&8.into(), &json!([])));
    });
}

#[test]
fn a_damaged_record_can_be_written_anew_and_removed_alone_or_with_the_others() {
    with_two_damaged_records(|server| {
        server.put(&format!("{BASE}/3"), b"new").expect(204);
        assert_eq!(server.get(&format!("{BASE}/3")).expect(200).text(), "new");
        server.delete(&format!("{BASE}/4")).expect(204);
        server.get(&format!("{BASE}/4")).expect(404);
        assert!(server.get(BASE).json().get("damaged").is_none());
    });
    with_two_damaged_records(|server| {
        assert_eq!(server.delete(&format!("{BASE}?prefix=3")).expect(200).json()["deleted"], 1);
        assert_eq!(server.get(BASE).json()["damaged"], json!([{"key": "4"}]));
        assert_eq!(server.delete(BASE).expect(200).json(), json!({"deleted": 9, "complete": true}));
        assert_eq!(server.get(BASE).json(), json!({"items": [], "next": null}));
    });
}

/// Runs a test on a server of each engine with the keys 000 to 399, the file of whose table is damaged in its middle.
fn with_a_damaged_table(test: impl Fn(&Server)) {
    for engine in engines() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let server = start(&engine, &data);
        let mut client = server.client();
        for n in 0..400u32 {
            // Digits of its own for each, so that blocks are many.
            let value: String = (0..60).map(|m| format!("{:08x}", (n * 60 + m).wrapping_mul(0x9e37_79b9))).collect();
            client.send("PUT", &format!("{BASE}/{n:03}?durability=relaxed"), &[], value.as_bytes()).expect(201);
        }
        server.stop();
        let tables = std::fs::read_dir(data.join("fjall/keyspaces/1/tables")).unwrap();
        let size = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().len();
        let table = tables.map(|entry| entry.unwrap().path()).max_by_key(size).unwrap();
        let mut bytes = std::fs::read(&table).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(table, bytes).unwrap();
        test(&start(&engine, &data));
    }
}

#[test]
fn a_damaged_block_hides_its_own_records_and_no_others() {
    with_a_damaged_table(|server| {
        let page = server.list(&format!("{BASE}?limit=1000&values=false"));
        let seen = keys(&page);
        let hidden: Vec<String> = (0..400).map(|n| format!("{n:03}")).filter(|key| !seen.contains(&&**key)).collect();
        assert!((1..100).contains(&hidden.len()), "{hidden:?}");
        let before = seen[seen.partition_point(|key| **key < *hidden[0]) - 1];
        assert_eq!(page["damaged"], json!([{"after": before}]));
        let back = server.list(&format!("{BASE}?limit=1000&values=false&reverse=true"));
        assert!(keys(&back).iter().rev().eq(seen.iter()));

        let export = server.get("/api/v1/export").expect(200);
        let after = json!({"namespace": "home", "collection": "sensors", "key": before});
        assert_eq!(end(&export)["items"], seen.len());
        assert_eq!(end(&export)["damaged"], json!([{"after": after}]));
        assert_eq!(server.get("/api/v1/kv").expect(200).json()["items"], json!(["home"]));

        // Whoever knows a key can write it anew, and remove it.
        let key = format!("{BASE}/{}", hidden[0]);
        assert_eq!(server.get(&key).expect(500).code(), "INTERNAL");
        server.put(&key, b"new").expect(204);
        assert_eq!(server.get(&key).expect(200).text(), "new");
        server.delete(&key).expect(204);
        server.get(&key).expect(404);
        let removed = server.delete(BASE).expect(200).json();
        assert_eq!(removed, json!({"deleted": seen.len(), "complete": true, "unreadable": 1}));
        assert_eq!(server.get(BASE).expect(200).json()["items"], json!([]));
    });
}

#[test]
fn the_tools_write_what_can_be_read_and_say_with_their_exit_code_that_something_is_missing() {
    with_two_damaged_records(|server| {
        let folder = tempfile::tempdir().unwrap();
        for words in [&["export", "-o"][..], &["backup"]] {
            let file = folder.path().join(words[0]);
            let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
            let done = command.args(words).arg(&file).env("LARDER_URL", server.url()).output().unwrap();
            let said = String::from_utf8(done.stderr).unwrap();
            assert_eq!(done.status.code(), Some(1), "{said}");
            assert!(said.contains("\"key\":\"3\"") && said.contains("2 places"), "{said}");
            assert!(file.exists());
        }
        let file = folder.path().join("backup");
        let proof = Command::new(env!("CARGO_BIN_EXE_larder")).args(["restore", "--check"]).arg(&file).status();
        assert!(proof.unwrap().success());
    });
}
