//! Export and import from outside, on every engine.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Answer, Server, on_every_engine};

const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

/// An import. A lane is free again a moment after its answer, and there are two.
fn import(server: &Server, query: &str, body: &[u8]) -> Answer {
    let mut answer = None;
    support::eventually("a lane is free", || {
        let came = server.send("POST", &format!("/api/v1/import{query}"), &[NDJSON], body);
        answer = Some(came).filter(|came| came.status != 503);
        answer.is_some()
    });
    answer.unwrap()
}

/// Lines of an export without what a store gives of its own: version and modification time.
fn essence(export: &str) -> Vec<serde_json::Value> {
    let mut lines: Vec<serde_json::Value> = export.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        let members = line.as_object_mut().unwrap();
        members.remove("version");
        members.remove("modified");
    }
    lines
}

#[test]
fn what_is_exported_can_be_imported_and_is_the_same() {
    on_every_engine(|server| {
        let mut client = server.client();
        for n in 0..250 {
            let path = format!("/api/v1/kv/ns{}/col/key%2F{n:03}", n % 3);
            let headers: &[(&str, &str)] = if n % 2 == 0 { &[("Content-Type", "application/json")] } else { &[] };
            client.send("PUT", &path, headers, format!("{{\n\"n\": {n}}}").as_bytes()).expect(201);
        }
        client.send("PUT", "/api/v1/kv/ns0/col/mortal?ttl=1000", &[], b"\x00\xff").expect(201);
        let export = server.get("/api/v1/export").expect(200);
        assert_eq!(export.header("Content-Type"), Some("application/x-ndjson"));
        let text = export.text();
        let end: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&end["end"], &end["items"]), (&true.into(), &251.into()));

        let other = Server::builder().start();
        for _ in 0..2 {
            let report = import(&other, "", text.as_bytes()).expect(200).json();
            assert_eq!(report["imported"], 251);
            assert_eq!(report["failed"], serde_json::json!([]));
            assert_eq!(essence(&other.get("/api/v1/export").text()), essence(&text));
        }
        assert!(other.get("/api/v1/kv/ns0/col/mortal").header("Larder-Ttl").is_some());

        let since = end["version"].as_u64().unwrap();
        client.send("PUT", "/api/v1/kv/ns9/col/new", &[], b"new").expect(201);
        assert_eq!(server.get(&format!("/api/v1/export?since={since}")).text().lines().count(), 2);
        assert_eq!(server.get("/api/v1/export?namespace=ns9&collection=col").text().lines().count(), 2);
        assert_eq!(server.get("/api/v1/export?collection=col").expect(400).code(), "INVALID_QUERY");
        let zipped = server.send("GET", "/api/v1/export", &[("Accept-Encoding", "gzip")], b"").expect(200);
        assert_eq!(zipped.header("Content-Encoding"), Some("gzip"));
        let third = Server::builder().start();
        let report = third.send("POST", "/api/v1/import", &[NDJSON, ("Content-Encoding", "gzip")], &zipped.body);
        assert_eq!(report.expect(200).json()["imported"], 252);
    });
}

#[test]
fn a_cut_file_is_refused_whole_and_wrong_lines_are_reported() {
    on_every_engine(|server| {
        let record =
            |key: &str| format!("{{\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"{key}\",\"value\":1}}\n");
        let cut = record("one") + &record("two");
        assert_eq!(import(server, "", cut.as_bytes()).expect(400).code(), "BAD_REQUEST");
        let miscounted = cut.clone() + "{\"end\":true,\"items\":3}\n";
        assert_eq!(import(server, "", miscounted.as_bytes()).expect(400).code(), "BAD_REQUEST");
        server.get("/api/v1/kv/a/b/one").expect(404);
        assert_eq!(import(server, "?partial=true", cut.as_bytes()).expect(200).json()["imported"], 2);
        server.get("/api/v1/kv/a/b/one").expect(200);

        let mixed = record("three")
            + "{\"namespace\":\"_\"}\nnot json\n"
            + &record("..")
            + &record("four")
            + "{\"end\":true,\"items\":5}\n";
        let report = import(server, "", mixed.as_bytes()).expect(200).json();
        assert_eq!(report["imported"], 2);
        let lines: Vec<u64> =
            report["failed"].as_array().unwrap().iter().map(|f| f["line"].as_u64().unwrap()).collect();
        assert_eq!(lines, [2, 3, 4]);
        assert_eq!(report["failed"][2]["code"], "INVALID_KEY");
        let wrong = server.send("POST", "/api/v1/import", &[("Content-Type", "text/csv")], b"x").expect(415);
        assert_eq!(wrong.code(), "UNSUPPORTED_MEDIA_TYPE");
    });
}

#[test]
fn a_large_import_waits_on_the_card_and_comes_through() {
    on_every_engine(|server| {
        let value = "x".repeat(2000);
        let mut text = String::new();
        for n in 0..3000 {
            text.push_str(&format!(
                "{{\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"{n}\",\"value\":\"{value}\"}}\n"
            ));
        }
        text.push_str("{\"end\":true,\"items\":3000}\n");
        assert_eq!(import(server, "?durability=relaxed", text.as_bytes()).expect(200).json()["imported"], 3000);
        assert_eq!(server.get("/api/v1/kv/a/b/2999").expect(200).body.len(), 2002);
    });
}

#[test]
fn a_value_of_the_largest_size_allowed_comes_through_an_import() {
    for engine in support::engines() {
        let server = Server::builder().engine(&engine).config("[limits]\nvalue_bytes_max = \"3MiB\"").start();
        let value = vec![0xFF; 3 << 20];
        server.put("/api/v1/kv/a/b/large", &value).expect(201);
        let export = server.get("/api/v1/export").expect(200);
        server.delete("/api/v1/kv/a/b/large").expect(204);
        let report = import(&server, "", &export.body).expect(200).json();
        assert_eq!(report, serde_json::json!({"imported": 1, "failed": []}));
        assert!(server.get("/api/v1/kv/a/b/large").expect(200).body == value);
    }
}

#[test]
fn an_import_whose_body_stalls_is_answered_408_like_any_other_body() {
    for engine in support::engines() {
        let limits = "[limits]\nbody_timeout = \"1s\"\nbody_grace = \"1s\"\n";
        let server = Server::builder().engine(&engine).config(limits).start();
        let line = b"{\"namespace\":\"a\",\"collection\":\"b\",\"key\":\"k\",\"value\":1}\n";
        let fields = [NDJSON, ("Content-Length", "10000")];
        let cases = [("", &fields[..]), ("?partial=true", &fields), ("", &[NDJSON, ("Transfer-Encoding", "chunked")])];
        for (query, fields) in cases {
            let mut connection = server.connect();
            let body = if fields[1].0 == "Content-Length" { line.to_vec() } else { b"5\r\n{\"key".to_vec() };
            connection.write_request("POST", &format!("/api/v1/import{query}"), fields, &body).unwrap();
            let answer = connection.read(false).expect(408);
            assert_eq!((answer.code().as_str(), answer.header("Connection")), ("REQUEST_TIMEOUT", Some("close")));
        }
        let zipped = [NDJSON, ("Content-Encoding", "gzip"), ("Content-Length", "10000")];
        let mut connection = server.connect();
        connection.write_request("POST", "/api/v1/import", &zipped, b"\x1f\x8b\x08\x00\x00").unwrap();
        assert_eq!(connection.read(false).expect(408).code(), "REQUEST_TIMEOUT");
    }
}

/// How far an import goes on above the versions of its file.
const GAP: u64 = 1 << 40;

/// A record's line with its version, and an end line with another.
fn file(versions: &[u64], end: Option<u64>) -> String {
    let mut text = String::new();
    for version in versions {
        text.push_str(&format!(
            "{{\"namespace\":\"n\",\"collection\":\"c\",\"key\":\"k{version}\",\"version\":{version},\"value\":1}}\n"
        ));
    }
    match end {
        Some(end) => text + &format!("{{\"end\":true,\"items\":{},\"version\":{end}}}\n", versions.len()),
        None => text,
    }
}

/// The version that the next write takes.
fn next_version(server: &Server) -> u64 {
    let answer = server.put("/api/v1/kv/other/c/k", b"x");
    assert!(answer.status < 300, "{answer:?}");
    answer.version()
}

#[test]
fn tags_from_before_a_restore_stand_for_nothing_after_it() {
    on_every_engine(|server| {
        let old = Server::builder().start();
        for n in 0..21 {
            old.put(&format!("/api/v1/kv/n/c/k{}", n % 7), format!("old {n}").as_bytes());
        }
        let export = old.get("/api/v1/export").expect(200);
        import(server, "", &export.body).expect(200);
        // The old store goes on meanwhile, and so do the tags it hands out.
        let tags: Vec<String> = (1..200).map(|version| format!("\"{version}\"")).collect();
        let tags = tags.join(", ");
        for n in 0..40 {
            let key = format!("/api/v1/kv/n/c/k{}", n % 7);
            server.send("GET", &key, &[("If-None-Match", &tags)], b"").expect(200);
            server.send("PUT", &key, &[("If-Match", &tags)], b"lost update").expect(412);
            server.put(&key, b"new").expect(204);
        }
    });
}

#[test]
fn an_import_goes_on_above_its_file_and_changes_nothing_where_that_is_so_already() {
    on_every_engine(|server| {
        assert!(next_version(server) < 10);
        // A file made by hand, or of a store that nothing was ever written to, says nothing of versions.
        let plain =
            "{\"namespace\":\"n\",\"collection\":\"c\",\"key\":\"k\",\"value\":1}\n{\"end\":true,\"items\":1}\n";
        import(server, "", plain.as_bytes()).expect(200);
        import(server, "", file(&[], Some(0)).as_bytes()).expect(200);
        assert!(next_version(server) < 10);

        let mut above = 0;
        let mut import_then = |query: &str, text: String, expected: Option<u64>| {
            import(server, query, text.as_bytes()).expect(200);
            let next = next_version(server);
            match expected {
                Some(expected) => assert!((expected..expected + 50).contains(&next), "{next}, not {expected}: {text}"),
                None => assert!((above..above + 50).contains(&next), "{next}, not {above}: {text}"),
            }
            above = next;
        };
        // The end line, or a record above a lying one, with records below ours or none at all.
        import_then("", file(&[3, 500], Some(700)), Some(700 + GAP));
        import_then("", file(&[3, 500], Some(700)), None);
        import_then("", file(&[], Some(GAP)), None);
        import_then("", file(&[5], Some(2 * GAP)), Some(3 * GAP));
        import_then("", file(&[4 * GAP, 2], Some(1)), Some(5 * GAP));
        import_then("", file(&[], Some(6 * GAP)), Some(7 * GAP));
        let without_version = file(&[8 * GAP], None) + "{\"end\":true,\"items\":1}\n";
        import_then("", without_version, Some(9 * GAP));
        // A part tells as much as there is of it.
        import_then("?partial=true", file(&[1, 2, 3], None), None);
        import_then("?partial=true", file(&[1, 10 * GAP, 3], None), Some(11 * GAP));
        import_then("?partial=true", file(&[1], Some(12 * GAP)), Some(13 * GAP));
        import_then("?partial=true", String::new(), None);
        // What expired or is wrong in itself had its version all the same.
        let expired = file(&[14 * GAP], Some(1)).replace("\"value\"", "\"expires\":\"2024-01-01T00:00:00Z\",\"value\"");
        import_then("", expired, Some(15 * GAP));
        import_then("", file(&[16 * GAP], Some(1)).replace("\"value\"", "\"values\""), Some(17 * GAP));
        // A record that was imported is a write like any other.
        let tag = server.get(&format!("/api/v1/kv/n/c/k{}", 10 * GAP)).expect(200).version();
        assert!((11 * GAP..11 * GAP + 50).contains(&tag), "{tag}");
    });
}

#[test]
fn an_import_that_would_use_up_the_versions_is_refused() {
    on_every_engine(|server| {
        let end = 1 << 52;
        for query in ["", "?partial=true"] {
            let refused = [
                file(&[1], Some(end)),
                file(&[], Some(end)),
                file(&[1, end], Some(1)),
                file(&[(1 << 53) - 1], Some(1)),
                file(&[u64::MAX], Some(1)),
                file(&[1], Some(u64::MAX)),
            ];
            for text in refused {
                let answer = import(server, query, text.as_bytes()).expect(400);
                assert_eq!(answer.code(), "BAD_REQUEST", "{text}");
                assert!(query.contains("partial") || server.get("/api/v1/kv/n/c/k1").status == 404, "{text}");
            }
        }
        assert!(next_version(server) < GAP + 50, "what came before in a part may be stored, under versions of its own");
        import(server, "", file(&[end - 1], Some(end - 1)).as_bytes()).expect(200);
        assert!((end - 1 + GAP..end + GAP + 50).contains(&next_version(server)));
        assert_eq!(server.get("/health").expect(200).json()["status"], "ok");
    });
}

#[test]
fn an_import_that_is_killed_leaves_no_old_tags() {
    for engine in support::engines() {
        let folder = tempfile::tempdir().unwrap();
        let start = || Server::builder().engine(&engine).data(folder.path()).start();
        let server = start();
        let line = |n: u64| {
            let value = "x".repeat(900);
            format!(
                "{{\"namespace\":\"n\",\"collection\":\"c\",\"key\":\"{n:04}\",\"version\":{n},\"value\":\"{value}\"}}\n"
            )
        };
        let mut connection = server.connect();
        let fields = [NDJSON, ("Content-Length", "100000000")];
        let body: String = (1..=1000).map(line).collect();
        connection.write_request("POST", "/api/v1/import?partial=true", &fields, body.as_bytes()).unwrap();
        support::eventually("some of it is there", || server.get("/api/v1/kv/n/c/0001").status == 200);
        server.kill();
        let server = start();
        let listed = server.send("GET", "/api/v1/kv/n/c?values=false", &[("Accept", "application/x-ndjson")], b"");
        let text = listed.expect(200).text();
        let mut lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.pop();
        assert!(lines.iter().all(|line| line["version"].as_u64().unwrap() > GAP), "{text}");
        assert!(!lines.is_empty() && next_version(&server) > GAP);
        // The same file once more, whole: everything in it is below by now.
        let whole = (1..=10).map(line).collect::<String>() + "{\"end\":true,\"items\":10,\"version\":1000}\n";
        import(&server, "", whole.as_bytes()).expect(200);
        assert!(next_version(&server) < 2 * GAP);
    }
}

#[test]
fn those_who_write_while_an_import_runs_get_versions_that_only_grow() {
    on_every_engine(|server| {
        let versions: Vec<u64> = (1..3000).collect();
        let text = file(&versions, Some(5000));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|n| {
                    let done = &done;
                    scope.spawn(move || {
                        let (mut client, mut taken) = (server.client(), Vec::new());
                        while !done.load(std::sync::atomic::Ordering::SeqCst) || taken.len() < 20 {
                            let answer = client.send("PUT", &format!("/api/v1/kv/w/c/{n}"), &[], b"x");
                            taken.push(answer.version());
                        }
                        taken
                    })
                })
                .collect();
            let ends = support::Ends(&done);
            let report = import(server, "?durability=relaxed", text.as_bytes());
            drop(ends);
            let mut all = Vec::new();
            for writer in writers {
                let taken = writer.join().unwrap();
                assert!(taken.is_sorted_by(|one, next| one < next), "{taken:?}");
                assert!(*taken.last().unwrap() >= 5000 + GAP, "those after the import are above it");
                all.extend(taken);
            }
            assert_eq!(report.expect(200).json()["imported"], versions.len());
            let exported = server.get("/api/v1/export?namespace=n").text();
            for line in exported.lines().filter(|line| !line.contains("\"end\"")) {
                all.push(serde_json::from_str::<serde_json::Value>(line).unwrap()["version"].as_u64().unwrap());
            }
            let (count, mut unique) = (all.len(), all);
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), count, "no version was used twice");
            assert!(unique.iter().all(|version| *version >= 5000 + GAP || *version < 5000));
        });
    });
}

#[test]
fn what_was_asked_since_before_an_import_is_everything() {
    for engine in support::engines() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::builder().engine(&engine).data(folder.path()).start();
        let since = |server: &Server, version: u64| {
            let answer = server.get(&format!("/api/v1/export?since={version}")).expect(200);
            let begins = answer.header("Larder-Since").unwrap().parse::<u64>().unwrap();
            let lines = answer.text();
            let end: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
            (begins, lines.lines().count() - 1, end["version"].as_u64().unwrap())
        };
        for n in 0..5 {
            server.put(&format!("/api/v1/kv/own/c/{n}"), b"x").expect(201);
        }
        assert_eq!(since(&server, 2), (2, 3, 5));
        assert_eq!(since(&server, 5), (5, 0, 5));
        assert_eq!(since(&server, 0), (0, 5, 5));
        assert!(server.get("/api/v1/export").expect(200).header("Larder-Since").is_none());
        let beyond = |server: &Server, version: u64| {
            let answer = server.get(&format!("/api/v1/export?since={version}")).expect(400);
            assert_eq!(answer.code(), "INVALID_QUERY");
        };
        beyond(&server, 6);
        beyond(&server, (1 << 53) - 1);

        import(&server, "", file(&[19, 20, 21], Some(21)).as_bytes()).expect(200);
        let (begins, items, last) = since(&server, 20);
        assert_eq!((begins, items), (0, 8), "what was here before is in no file of the other store");
        assert_eq!(since(&server, last), (last, 0, last));
        beyond(&server, last + 1);
        server.put("/api/v1/kv/own/c/new", b"x").expect(201);
        assert_eq!(since(&server, last).1, 1);
        // A second import of the same file raises nothing, and still a chain from elsewhere begins anew here.
        import(&server, "", file(&[19, 20, 21], Some(21)).as_bytes()).expect(200);
        assert_eq!(since(&server, 21).1, 9);
        assert_eq!(since(&server, last + 1).1, 3, "a chain of its own goes on at this very version");
        let (begins, items, last) = since(&server, last);
        assert_eq!((begins, items), (0, 9));
        server.kill();
        let server = Server::builder().engine(&engine).data(folder.path()).start();
        assert_eq!(since(&server, 21).1, 9, "it is remembered");
        assert_eq!(since(&server, last).1, 0);
    }
}

#[test]
fn tags_of_a_store_in_memory_do_not_come_back_on_other_bytes() {
    for engine in support::engines() {
        let server = || Server::builder().engine(&engine).config("[store]\nkind = \"memory\"").start();
        let firsts: Vec<u64> = (0..3).map(|_| server().put("/api/v1/kv/a/b/k", b"x").expect(201).version()).collect();
        assert!(firsts[0] != firsts[1] && firsts[1] != firsts[2] && firsts[0] != firsts[2], "{firsts:?}");
        assert!(firsts.iter().all(|version| *version < 1 << 52), "{firsts:?}");
    }
}
