//! What a server does about a damaged journal and a card that fails.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Answer, Card, CardOptions, Failure, Fault, Op, Server, eventually};

fn journal(data: &Path) -> PathBuf {
    let journals = fs::read_dir(data.join("fjall")).unwrap().map(|entry| entry.unwrap().path());
    journals.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).max().unwrap()
}

fn version(answer: &Answer) -> u64 {
    answer.header("ETag").unwrap().trim_matches('"').parse().unwrap()
}

fn start(data: &Path) -> Server {
    Server::builder().config("[store]\nreserve = 0\n").data(data).start()
}

#[test]
fn damage_at_the_ceiling_of_versions_is_told_and_no_version_is_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = start(&data);
    let last = (0..5).map(|n| version(&server.put(&format!("/api/v1/kv/n/c/{n}"), b"x").expect(201))).max().unwrap();
    server.kill();
    let mut bytes = fs::read(journal(&data)).unwrap();
    let at = bytes.windows(8).position(|window| window == b"versions").expect("the ceiling in the journal");
    bytes[at] ^= 1;
    fs::write(journal(&data), bytes).unwrap();

    let server = start(&data);
    let health = server.get("/health").expect(503).json();
    assert_eq!(health["store"], "ok", "{health}");
    assert!(health["reason"].as_str().unwrap().contains("damaged"), "{health}");
    let stats = server.get("/api/v1/stats").expect(200).json();
    assert_eq!((&stats["store"]["state"], &stats["store"]["reason"]), (&"ok".into(), &health["reason"]));
    let lost = health["batches_lost"].as_u64().unwrap();
    assert!(lost >= 5, "{health}");
    assert_eq!(server.metric("larder_recovery_batches_lost"), lost as f64);
    server.get("/health/live").expect(200);
    server.get("/api/v1/kv/n/c/0").expect(404);
    let next = version(&server.put("/api/v1/kv/n/c/0", b"y").expect(201));
    assert!(next > last, "{next} after {last}");
    assert_eq!(server.get("/api/v1/kv/n/c/0").expect(200).text(), "y");
    server.kill();

    let server = start(&data);
    let health = server.get("/health").expect(200).json();
    assert!(health.get("batches_lost").is_none(), "{health}");
    assert_eq!(server.metric("larder_recovery_batches_lost"), 0.0);
}

#[test]
fn damage_is_told_also_while_the_store_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = start(&data);
    for n in 0..3 {
        server.put(&format!("/api/v1/kv/n/c/{n}"), b"a value to damage").expect(201);
    }
    server.kill();
    let mut bytes = fs::read(journal(&data)).unwrap();
    let at = bytes.windows(7).position(|window| window == b"a value").unwrap();
    bytes[at] ^= 1;
    fs::write(journal(&data), bytes).unwrap();
    fs::write(data.join("fjall/version"), b"no version").unwrap();

    let server = start(&data);
    let health = server.get("/health").expect(503).json();
    let stats = server.get("/api/v1/stats").expect(200).json();
    assert_eq!((&health["store"], &stats["store"]["state"]), (&"unavailable".into(), &"unavailable".into()));
    for reason in [&health["reason"], &stats["store"]["reason"]] {
        let reason = reason.as_str().unwrap();
        assert!(reason.contains("could not be opened") && reason.contains("groups of writes were lost"), "{reason}");
    }
    assert!(health["batches_lost"].as_u64().unwrap() >= 2, "{health}");
}

#[test]
fn what_is_acknowledged_after_a_part_of_the_store_was_lost_is_never_cut() {
    // What a power cut can take back of a disturbed first start, on a file system that promises no more than it must.
    let rows: [(&[&str], bool); 5] = [
        (&["keyspaces/2"], false),
        (&["keyspaces/1"], false),
        (&["keyspaces/0"], false),
        (&["keyspaces"], false),
        (&["keyspaces/1"], true),
    ];
    for (gone, has_stored) in rows {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let server = start(&data);
        if has_stored {
            server.put("/api/v1/kv/n/c/before", b"kept in the journal").expect(201);
        }
        server.kill();
        gone.iter().for_each(|part| fs::remove_dir_all(data.join("fjall").join(part)).unwrap());
        let server = start(&data);
        let health = server.get("/health");
        assert_eq!(health.status, if has_stored { 503 } else { 200 }, "{gone:?}: {}", health.text());
        for n in 0..300 {
            let answer = server.put(&format!("/api/v1/kv/n/c/{n}"), format!("{n}").as_bytes()).expect(201);
            assert_eq!(answer.header("Larder-Durability"), Some("synced"));
        }
        server.kill();
        let server = start(&data);
        server.get("/health").expect(200);
        for n in 0..300 {
            assert_eq!(server.get(&format!("/api/v1/kv/n/c/{n}")).expect(200).text(), format!("{n}"), "{gone:?}");
        }
        if has_stored {
            assert_eq!(server.get("/api/v1/kv/n/c/before").expect(200).text(), "kept in the journal");
        }
    }
}

#[test]
fn a_supervised_server_leaves_once_after_a_failed_write_and_then_stays_for_its_readers() {
    for fault in [Fault::SyncFails, Fault::WriteFindsNoSpace] {
        let backing = tempfile::tempdir().unwrap();
        let card = match Card::mount(backing.path(), CardOptions { power_cuts: true, ..CardOptions::default() }) {
            Ok(card) => card,
            Err(error) => return support::skipped(&format!("no FUSE here: {error}")),
        };
        let data = card.path().join("data");
        let supervised = || {
            // Nobody listens there: all that counts is that a service manager has said where it would.
            let builder = Server::builder().config("[store]\nreserve = 0\n").data(&data);
            builder.environment("NOTIFY_SOCKET", folder_of(&data).join("no-manager").to_str().unwrap()).start()
        };
        let mut server = supervised();
        server.put("/api/v1/kv/n/c/a", b"kept").expect(201);
        card.set_fault(fault);
        server.put("/api/v1/kv/n/c/b", b"?").expect(504);
        assert_eq!(server.wait().code(), Some(75), "{}", server.log());

        card.set_fault(Fault::None);
        let server = supervised();
        server.put("/api/v1/kv/n/c/c", b"again").expect(201);
        card.set_fault(fault);
        server.put("/api/v1/kv/n/c/b", b"?").expect(504);
        eventually("it says why it stays", || server.log().contains("the last restart is less than"));
        server.get("/health").expect(503);
        assert_eq!(server.get("/api/v1/kv/n/c/a").expect(200).text(), "kept");
        server.kill();
        card.set_fault(Fault::None);
    }
}

#[test]
fn an_import_whose_own_copy_cannot_be_read_is_not_blamed_on_the_client() {
    for (nth, failure) in [(1, Failure::Io), (2, Failure::Io), (4, Failure::Io), (1, Failure::NoSpace)] {
        let backing = tempfile::tempdir().unwrap();
        let card = match Card::mount(backing.path(), CardOptions::default()) {
            Ok(card) => card,
            Err(error) => return support::skipped(&format!("no FUSE here: {error}")),
        };
        let server = start(&card.path().join("data"));
        let value = "a".repeat(99_999);
        let line = |n| format!(r#"{{"namespace":"n","collection":"c","key":"{n}","value":"{value}"}}"#);
        let mut lines: String = (0..30).map(|n| line(n) + "\n").collect();
        lines.push_str("{\"end\":true,\"items\":30}\n");
        card.fail_at(Op::Read, nth, failure, true);
        let ndjson = ("Content-Type", "application/x-ndjson");
        let answer = server.send("POST", "/api/v1/import", &[ndjson], lines.as_bytes());
        card.disarm();
        assert_eq!(answer.clone().expect(504).code(), "OUTCOME_UNKNOWN");
        let said = answer.json();
        assert_eq!(said["written"], "unknown");
        for n in 0..said["imported"].as_u64().unwrap() {
            server.get(&format!("/api/v1/kv/n/c/{n}")).expect(200);
        }
        server.get("/health").expect(200);
    }
}

#[test]
fn relaxed_writes_from_before_a_failure_are_synced_when_it_stops_all_writes() {
    let rows = [(Failure::NoSpace, false, false), (Failure::NoSpace, true, true), (Failure::Io, true, false)];
    for (failure, for_good, stops) in rows.into_iter().chain([(Failure::Io, false, true)]) {
        let backing = tempfile::tempdir().unwrap();
        let options = CardOptions { power_cuts: true, failed_syncs_forget: true, ..CardOptions::default() };
        let mut card = match Card::mount(backing.path(), options) {
            Ok(card) => card,
            Err(error) => return support::skipped(&format!("no FUSE here: {error}")),
        };
        let data = card.path().join("data");
        // Long, so that the time of their own sync does not come.
        let server = Server::builder().config("[store]\nreserve = 0\nsync_interval = \"60m\"\n").data(&data).start();
        server.put("/api/v1/kv/n/c/synced", b"kept").expect(201);
        for n in 0..3 {
            let answer = server.put(&format!("/api/v1/kv/n/c/{n}?durability=relaxed"), b"promised").expect(201);
            assert_eq!(answer.header("Larder-Durability"), Some("relaxed; max-loss=3600s"));
        }
        card.fail_at(Op::Write, 1, failure, for_good);
        server.put("/api/v1/kv/n/c/unknown", b"?").expect(504);
        if stops {
            assert!(!server.stop().success());
        }
        card.cut_power();
        card.power_up().unwrap();
        let server = start(&data);
        server.get("/health").expect(200);
        server.get("/api/v1/kv/n/c/synced").expect(200);
        for n in 0..3 {
            assert_eq!(server.get(&format!("/api/v1/kv/n/c/{n}")).expect(200).text(), "promised", "{failure:?}");
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap()
}
