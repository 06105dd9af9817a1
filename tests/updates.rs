//! Counters, merge patches, made keys and batches from outside, on every engine.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{Answer, Server, on_every_engine};

fn post(server: &Server, path: &str, body: &Value) -> Answer {
    server.send("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
}

fn batch(server: &Server, document: &Value) -> Answer {
    post(server, "/api/v1/batch", document)
}

#[test]
fn a_counter_counts_and_says_when_it_cannot() {
    on_every_engine(|server| {
        let path = "/api/v1/kv/a/counters/n";
        let incr = format!("{path}/incr");
        let first = server.send("POST", &incr, &[], b"").expect(200);
        assert_eq!(first.json()["value"], 1);
        assert_eq!(first.json()["version"], first.version());
        assert_eq!(post(server, &incr, &json!({"by": -3})).expect(200).json()["value"], -2);
        let read = server.get(path).expect(200);
        assert_eq!((read.text().as_str(), read.header("Content-Type")), ("-2", Some("application/json")));
        server.put(path, b"9223372036854775807").expect(204);
        assert_eq!(server.send("POST", &incr, &[], b"").expect(409).code(), "INTEGER_OVERFLOW");
        server.put(path, b"many").expect(204);
        assert_eq!(server.send("POST", &incr, &[], b"").expect(409).code(), "NOT_AN_INTEGER");
        assert_eq!(server.get(path).text(), "many");
        assert_eq!(post(server, &incr, &json!({"by": 1.5})).expect(400).code(), "INVALID_JSON");
        assert_eq!(server.send("PUT", &incr, &[], b"").expect(405).header("Allow"), Some("POST, OPTIONS"));
    });
}

#[test]
fn where_there_is_no_body_no_type_is_judged() {
    // What clients name by themselves, or by habit, for a POST, PATCH or DELETE that carries nothing.
    let types = [
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-8",
        "text/plain;charset=UTF-8",
        "application/octet-stream",
        "multipart/form-data; boundary=x",
        "no type",
        "",
    ];
    on_every_engine(|server| {
        let incr = "/api/v1/kv/a/counters/n/incr";
        let mut count = 0;
        for content_type in types {
            let typed = [("Content-Type", content_type)];
            let mut counts = |body: &[u8], fields: &[(&str, &str)]| {
                count += 1;
                let answer = server.send("POST", incr, fields, body).expect(200);
                assert_eq!(answer.json()["value"], count, "{content_type} {body:?}");
            };
            counts(b"", &typed);
            counts(b"\r\n", &typed);
            counts(b"", &[typed[0], ("Content-Encoding", "gzip")]);
            let patched = server.send("PATCH", "/api/v1/kv/a/b/doc", &typed, b"").expect(400);
            assert_eq!(patched.code(), "INVALID_JSON", "{content_type}");
            let batch = server.send("POST", "/api/v1/batch", &typed, b"").expect(400);
            assert_eq!(batch.code(), "INVALID_JSON", "{content_type}");
            let import = server.send("POST", "/api/v1/import", &typed, b"").expect(400);
            assert_eq!(import.code(), "BAD_REQUEST", "{content_type}");
            server.put("/api/v1/kv/a/b/gone", b"x").expect(201);
            server.send("DELETE", "/api/v1/kv/a/b/gone", &typed, b"").expect(204);
            server.send("DELETE", "/api/v1/kv/a/b", &typed, b"").expect(200);
            server.send("GET", "/api/v1/kv/a/b", &typed, b"").expect(200);
            server.send("OPTIONS", incr, &typed, b"").expect(204);
        }
        // An empty type is none, with a body too; another one is judged where there is something of that type.
        count += 1;
        assert_eq!(server.send("POST", incr, &[("Content-Type", "")], b"{}").expect(200).json()["value"], count);
        count += 5;
        assert_eq!(server.send("POST", incr, &[], b"{\"by\":5}").expect(200).json()["value"], count);
        for content_type in [types[0], types[2], types[3], types[4]] {
            let wrong = server.send("POST", incr, &[("Content-Type", content_type)], b"{}").expect(415);
            assert_eq!(wrong.code(), "UNSUPPORTED_MEDIA_TYPE", "{content_type}");
        }
        let coding = server.send("POST", incr, &[("Content-Encoding", "br")], b"").expect(415);
        assert_eq!(coding.code(), "UNSUPPORTED_ENCODING");
        assert_eq!(server.send("POST", incr, &[], b"").expect(200).json()["value"], count + 1);
    });
}

#[test]
fn many_who_count_at_once_lose_nothing() {
    on_every_engine(|server| {
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = server.client();
                    for _ in 0..50 {
                        client.send("POST", "/api/v1/kv/a/b/n/incr", &[], b"").expect(200);
                    }
                });
            }
        });
        assert_eq!(server.get("/api/v1/kv/a/b/n").text(), "400");
    });
}

#[test]
fn a_counter_keeps_its_life_unless_it_is_given_a_new_one() {
    on_every_engine(|server| {
        let path = "/api/v1/kv/a/b/n";
        server.put(&format!("{path}?ttl=100"), b"1").expect(201);
        server.send("POST", &format!("{path}/incr"), &[], b"").expect(200);
        assert!(server.get(path).header("Larder-Ttl").is_some());
        server.send("POST", &format!("{path}/incr?ttl=1000"), &[], b"").expect(200);
        assert!(server.get(path).header("Larder-Ttl").unwrap().parse::<f64>().unwrap() > 900.0);
    });
}

#[test]
fn a_merge_patch_changes_what_it_names() {
    on_every_engine(|server| {
        let path = "/api/v1/kv/a/docs/d";
        let patch = |body: &str| {
            server.send("PATCH", path, &[("Content-Type", "application/merge-patch+json")], body.as_bytes())
        };
        assert_eq!(patch(r#"{"a":{"b":1},"c":null}"#).expect(200).json(), json!({"a":{"b":1}}));
        let merged = patch(r#"{"a":{"b":null,"x":[1,2]},"d":12345678901234567890.5}"#).expect(200);
        assert_eq!(merged.text(), r#"{"a":{"x":[1,2]},"d":12345678901234567890.5}"#);
        assert_eq!(server.get(path).text(), merged.text());
        assert_eq!(server.get(path).version(), merged.version());
        let wrong = server.send("PATCH", path, &[("Content-Type", "application/json")], b"{}").expect(415);
        assert_eq!(wrong.code(), "UNSUPPORTED_MEDIA_TYPE");
        assert_eq!(patch("{").expect(400).code(), "INVALID_JSON");
        server.put(path, b"plain").expect(204);
        assert_eq!(patch("{}").expect(409).code(), "NOT_JSON");
    });
}

#[test]
fn a_made_key_is_new_and_told() {
    on_every_engine(|server| {
        let mut last = String::new();
        for n in 0..5 {
            let made = server.send("POST", "/api/v1/kv/a/log", &[("Content-Type", "text/plain")], b"line").expect(201);
            let location = made.header("Location").unwrap().to_owned();
            assert!(location > last, "{n}: {location} after {last}");
            assert_eq!(server.get(&location).expect(200).text(), "line");
            last = location;
        }
    });
}

#[test]
fn a_batch_is_all_or_nothing_and_sees_itself() {
    on_every_engine(|server| {
        let document = json!({"namespace": "home", "collection": "sensors", "operations": [
            {"op": "set", "key": "a", "value": {"t": 21.50}},
            {"op": "set", "key": "b", "value_base64": "AAEC", "content_type": "image/png", "ttl": 60},
            {"op": "get", "key": "a"},
            {"op": "delete", "key": "none"},
            {"op": "incr", "key": "n", "by": 2},
            {"op": "incr", "key": "n", "by": 2},
            {"op": "get", "key": "b"},
        ]});
        let answer = batch(server, &document).expect(200);
        assert_eq!(answer.header("Larder-Durability"), Some("synced"));
        let results = &answer.json()["results"];
        let statuses: Vec<u64> = results.as_array().unwrap().iter().map(|r| r["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [201, 201, 200, 404, 200, 200, 200]);
        assert_eq!(results[2]["value"], json!({"t": 21.50}));
        assert_eq!(results[5]["value"], 4);
        assert_eq!(results[6]["value_base64"], "AAEC");
        assert_eq!(results[1]["version"].as_u64().unwrap(), results[0]["version"].as_u64().unwrap() + 1);
        assert_eq!(server.get("/api/v1/kv/home/sensors/b").header("Content-Type"), Some("image/png"));

        let version = server.get("/api/v1/kv/home/sensors/a").version();
        let failing = json!({"namespace": "home", "collection": "sensors", "operations": [
            {"op": "set", "key": "new", "value": 1},
            {"op": "set", "key": "a", "value": 2, "if_version": version + 1},
            {"op": "set", "key": "later", "value": 3},
        ]});
        let aborted = batch(server, &failing).expect(409);
        assert_eq!(aborted.code(), "BATCH_ABORTED");
        assert_eq!(aborted.json()["failed"], 1);
        assert_eq!(aborted.json()["results"].as_array().unwrap().len(), 2);
        server.get("/api/v1/kv/home/sensors/new").expect(404);
        assert_eq!(server.get("/api/v1/kv/home/sensors/a").version(), version);

        let mut each = failing.clone();
        each["atomic"] = false.into();
        let results = batch(server, &each).expect(200).json();
        assert_eq!(results["results"][1], json!({"status": 412, "code": "PRECONDITION_FAILED"}));
        server.get("/api/v1/kv/home/sensors/later").expect(200);
        for (operation, status) in [
            (json!({"op": "set", "key": "a", "value": 1, "if_version": 0}), 409),
            (json!({"op": "delete", "key": "gone", "if_version": 7}), 409),
            (json!({"op": "delete", "key": "gone"}), 200),
        ] {
            let document = json!({"namespace": "home", "collection": "sensors", "operations": [operation]});
            batch(server, &document).expect(status);
        }
    });
}

#[test]
fn a_batch_keeps_to_its_limits() {
    on_every_engine(|server| {
        let many = |count: usize, atomic: bool| {
            let operations: Vec<Value> =
                (0..count).map(|n| json!({"op": "set", "key": format!("k{n}"), "value": n})).collect();
            json!({"namespace": "a", "collection": "b", "atomic": atomic, "operations": operations})
        };
        assert_eq!(batch(server, &many(1001, true)).expect(400).code(), "BATCH_SIZE_EXCEEDED");
        server.get("/api/v1/kv/a/b/k0").expect(404);
        for atomic in [true, false] {
            let results = batch(server, &many(1000, atomic)).expect(200).json();
            assert_eq!(results["results"].as_array().unwrap().len(), 1000);
        }
        assert_eq!(server.get("/api/v1/kv/a/b/k999").expect(200).text(), "999");
        let large = vec![b' '; (4 << 20) + 1];
        let over = server.send("POST", "/api/v1/batch", &[("Content-Type", "application/json")], &large);
        assert_eq!(over.expect(413).code(), "BODY_TOO_LARGE");
        for (body, code) in [("[]", "INVALID_JSON"), ("{\"operations\":[]}", "INVALID_OPERATION"), ("", "INVALID_JSON")]
        {
            let answer = server.send("POST", "/api/v1/batch", &[("Content-Type", "application/json")], body.as_bytes());
            assert_eq!(answer.expect(400).code(), code, "{body}");
        }
        let foreign = server.send("POST", "/api/v1/batch", &[("Content-Type", "text/plain")], b"{}");
        assert_eq!(foreign.expect(415).code(), "UNSUPPORTED_MEDIA_TYPE");
    });
}

#[test]
fn a_thousand_writers_with_one_tag_let_exactly_one_through_each_time() {
    on_every_engine(|server| {
        let path = "/api/v1/kv/a/b/contended";
        server.put(path, b"0").expect(201);
        let wins = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for writer in 0..20 {
                let wins = &wins;
                scope.spawn(move || {
                    let mut client = server.client();
                    for n in 0..50 {
                        let tag = client.send("GET", path, &[], b"").expect(200).header("ETag").unwrap().to_owned();
                        let body = format!("{writer}-{n}");
                        let answer = client.send("PUT", path, &[("If-Match", &tag)], body.as_bytes());
                        match answer.status {
                            204 => wins.lock().unwrap().push((tag, answer.version())),
                            412 => {}
                            _ => panic!("{answer:?}"),
                        }
                    }
                });
            }
        });
        let mut wins = wins.into_inner().unwrap();
        wins.sort_by_key(|(_, version)| *version);
        assert!(!wins.is_empty());
        // Each winner replaced exactly the version that the winner before it had made.
        for pair in wins.windows(2) {
            assert_eq!(pair[1].0, format!("\"{}\"", pair[0].1));
        }
        assert_eq!(server.get(path).version(), wins.last().unwrap().1);
    });
}

#[test]
fn the_gets_of_a_batch_answer_with_bounded_bytes_or_nothing_is_applied() {
    on_every_engine(|server| {
        server.put("/api/v1/kv/a/b/large", &vec![b'x'; 1 << 20]).expect(201);
        let get = json!({"op": "get", "key": "large"});
        let document = |operations: Vec<Value>, atomic: bool| json!({"namespace": "a", "collection": "b", "atomic": atomic, "operations": operations});
        assert_eq!(batch(server, &document(vec![get.clone()], true)).expect(200).json()["results"][0]["status"], 200);
        assert_eq!(batch(server, &document(vec![get.clone(); 2], true)).expect(413).code(), "BODY_TOO_LARGE");
        for atomic in [true, false] {
            let mut mixed = vec![json!({"op": "set", "key": "new", "value": 1})];
            mixed.extend(vec![get.clone(); 5]);
            assert_eq!(batch(server, &document(mixed, atomic)).expect(413).code(), "BODY_TOO_LARGE");
            let mut own = vec![json!({"op": "set", "key": "new", "value": "y".repeat(900_000)})];
            own.extend(vec![json!({"op": "get", "key": "new"}); 5]);
            assert_eq!(batch(server, &document(own, atomic)).expect(413).code(), "BODY_TOO_LARGE");
        }
        server.get("/api/v1/kv/a/b/new").expect(404);
        let mixed = vec![
            json!({"op": "incr", "key": "large"}),
            json!({"op": "set", "key": "large", "value": 7}),
            json!({"op": "get", "key": "large"}),
            json!({"op": "incr", "key": "large"}),
            json!({"op": "delete", "key": "large"}),
        ];
        let results = batch(server, &document(mixed, false)).expect(200).json()["results"].clone();
        let statuses: Vec<u64> = results.as_array().unwrap().iter().map(|r| r["status"].as_u64().unwrap()).collect();
        assert_eq!((statuses, &results[2]["value"]), (vec![409, 204, 200, 200, 204], &json!(7)));
        assert_eq!(results[0]["code"], "NOT_AN_INTEGER");
    });
}

#[test]
fn an_aborted_batch_shows_its_results_however_deep_a_value_nests() {
    on_every_engine(|server| {
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        server.send("PUT", "/api/v1/kv/a/b/deep", &[("Content-Type", "application/json")], deep.as_bytes()).expect(201);
        let document = json!({"namespace": "a", "collection": "b", "operations": [
            {"op": "get", "key": "deep"},
            {"op": "delete", "key": "none", "if_version": 7},
        ]});
        let aborted = batch(server, &document).expect(409).text();
        assert!(aborted.contains(r#""code":"BATCH_ABORTED""#) && aborted.contains(r#""failed":1"#), "{aborted}");
        assert!(aborted.ends_with("},{\"status\":412,\"code\":\"PRECONDITION_FAILED\"}]}"), "{aborted}");
    });
}

#[test]
fn a_batch_of_which_nothing_was_written_names_no_durability() {
    for engine in support::engines() {
        // All that the card has, of which some is taken: the store takes no writes from the start.
        let card = rustix::fs::statvfs(std::env::temp_dir()).unwrap();
        let reserve = format!("[store]\nreserve = {}", card.f_blocks * card.f_frsize - 1024 * 1024);
        let server = Server::builder().engine(&engine).config(&reserve).start();
        let operation = json!({"op": "set", "key": "k", "value": 1});
        let document = json!({"namespace": "a", "collection": "b", "atomic": false, "operations": [operation]});
        let answer = batch(&server, &document).expect(200);
        assert_eq!(answer.header("Larder-Durability"), None);
        let refused = json!({"status": 507, "code": "INSUFFICIENT_STORAGE", "written": "no"});
        assert_eq!(answer.json()["results"], json!([refused]));
    }
}

const KEY: &str = "/api/v1/kv/a/b/c";
const COLLECTION: &str = "/api/v1/kv/a/b";

/// Sends a write that must be refused, and looks whether anything was changed.
fn refuse_unchanged(server: &Server, method: &str, path: &str, fields: &[(&str, &str)]) {
    let before = server.get(COLLECTION).expect(200).text();
    let body: &[u8] = match (method, path) {
        ("DELETE" | "GET", _) => b"",
        (_, "/api/v1/batch") => br#"{"operations":[{"op":"delete","namespace":"a","collection":"b","key":"c"}]}"#,
        (_, "/api/v1/import") => b"{\"end\":true,\"items\":0,\"version\":1}\n",
        ("PATCH", _) => b"{}",
        _ => b"7",
    };
    let answer = server.send(method, path, fields, body).expect(400);
    assert_eq!(answer.code(), "BAD_REQUEST", "{method} {path} {fields:?}");
    assert_eq!(server.get(COLLECTION).expect(200).text(), before, "{method} {path} {fields:?}");
}

#[test]
fn what_a_write_does_not_heed_is_refused_and_nothing_is_written() {
    on_every_engine(|server| {
        server.put(KEY, b"the whole value").expect(201);
        let incr = format!("{KEY}/incr");
        let writes = [
            ("PUT", KEY),
            ("PATCH", KEY),
            ("DELETE", KEY),
            ("POST", &incr),
            ("POST", COLLECTION),
            ("DELETE", COLLECTION),
            ("POST", "/api/v1/batch"),
            ("POST", "/api/v1/import"),
        ];
        for (method, path) in writes {
            for field in [
                ("Content-Range", "bytes 5-8/9"),
                ("content-range", "bytes */9"),
                ("X-HTTP-Method-Override", "HEAD"),
                ("X-HTTP-Method", "LINK"),
                ("x-method-override", ""),
                ("Upload-Offset", "3"),
                ("If", "([\"5\"])"),
                ("Overwrite", "F"),
                ("Larder-Ttl", "60"),
                ("Content-Transfer-Encoding", "base64"),
                ("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA=="),
            ] {
                refuse_unchanged(server, method, path, &[field]);
            }
            if !path.starts_with(KEY) {
                for field in [("If-Match", "\"1\""), ("If-None-Match", "*"), ("If-Unmodified-Since", "x")] {
                    refuse_unchanged(server, method, path, &[field]);
                }
            }
        }
        refuse_unchanged(server, "GET", KEY, &[("X-HTTP-Method-Override", "PUT")]);
        assert_eq!(
            server.send("POST", &format!("{COLLECTION}?_method=DELETE"), &[], b"").expect(400).code(),
            "INVALID_QUERY"
        );
        for field in [
            ("X-HTTP-Method-Override", "PUT"),
            ("x-http-method", "put"),
            ("Content-Transfer-Encoding", "binary"),
            ("Range", "bytes=0-1"),
            ("Prefer", "return=minimal"),
        ] {
            server.send("PUT", KEY, &[field], b"new").expect(204);
        }
        server.send("GET", KEY, &[("Content-Range", "bytes 0-1/2"), ("Content-MD5", "x")], b"").expect(200);
    });
}

#[test]
fn a_body_that_contradicts_its_digest_is_not_stored() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let encode = |bytes: &[u8]| base64::prelude::BASE64_STANDARD.encode(bytes);
    let sha_256 = |body: &[u8]| encode(&sha2::Sha256::digest(body));
    let sha_512 = |body: &[u8]| encode(&sha2::Sha512::digest(body));
    on_every_engine(|server| {
        server.put(KEY, b"6").expect(201);
        let incr = format!("{KEY}/incr");
        for (method, path) in
            [("PUT", KEY), ("POST", &incr), ("POST", COLLECTION), ("POST", "/api/v1/batch"), ("PATCH", KEY)]
        {
            for field in [
                ("Content-Digest", format!("sha-256=:{}:", sha_256(b"other"))),
                ("Repr-Digest", format!("sha-512=:{}:", sha_512(b"other"))),
                ("Digest", format!("SHA-256={}", sha_256(b"other"))),
                ("Content-Digest", "sha-256=:nonsense".to_owned()),
                ("Content-Digest", "md5=:AAAAAAAAAAAAAAAAAAAAAA==:".to_owned()),
            ] {
                refuse_unchanged(server, method, path, &[(field.0, &field.1)]);
            }
        }
        let import = format!("sha-256=:{}:", sha_256(b"{\"end\":true,\"items\":0,\"version\":1}\n"));
        refuse_unchanged(server, "POST", "/api/v1/import", &[("Content-Digest", &import)]);
        let large = b"all work and no play ".repeat(10_000);
        for field in [
            ("Content-Digest", format!("sha-256=:{}:", sha_256(&large))),
            ("Repr-Digest", format!("sha-512=:{}:, sha-256=:{}:", sha_512(&large), sha_256(&large))),
            ("Digest", format!("md5=AAAA, sha-256={}", sha_256(&large))),
        ] {
            server.send("PUT", KEY, &[(field.0, &field.1)], &large).expect(204);
        }
        let zipped = larder::http::encoding::gzip(&large);
        let digest = format!("sha-256=:{}:", sha_256(&zipped));
        server.send("PUT", KEY, &[("Content-Encoding", "gzip"), ("Content-Digest", &digest)], &zipped).expect(204);
        assert!(server.get(KEY).body == large);
        let digest = format!("sha-256=:{}:", sha_256(&large));
        refuse_unchanged(server, "PUT", KEY, &[("Content-Encoding", "gzip"), ("Content-Digest", &digest)]);
    });
}
