//! Collections from outside, on every engine: pages, streams, names, and removing what they hold.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{Answer, Server, on_every_engine};

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

fn put_json(server: &Server, path: &str, value: &Value) -> Answer {
    server.send("PUT", path, JSON, value.to_string().as_bytes())
}

/// Stores keys `00000`, `00001` … in batches, each with its number as the value.
fn fill(server: &Server, namespace: &str, collection: &str, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(1000) {
        let operations: Vec<Value> =
            chunk.iter().map(|n| json!({"op": "set", "key": format!("{n:05}"), "value": n})).collect();
        let document = json!({"namespace": namespace, "collection": collection, "operations": operations});
        server.send("POST", "/api/v1/batch", JSON, document.to_string().as_bytes()).expect(200);
    }
}

fn keys(answer: &Answer) -> Vec<String> {
    answer.json()["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_owned()).collect()
}

fn all_pages(server: &Server, path: &str) -> Vec<String> {
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("{path}{cursor}")).expect(200);
        seen.extend(keys(&page));
        match page.json()["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return seen,
        }
    }
}

#[test]
fn an_item_shows_what_is_known_of_a_value() {
    on_every_engine(|server| {
        let stored = put_json(server, "/api/v1/kv/a/b/k%2F1?ttl=1000", &json!({"n": 1})).expect(201);
        server.send("PUT", "/api/v1/kv/a/b/raw", &[("Content-Type", "image/png")], b"\x00\xff").expect(201);
        let list = server.get("/api/v1/kv/a/b").expect(200);
        assert_eq!(list.header("Content-Type"), Some("application/json"));
        let list = list.json();
        let item = &list["items"][0];
        assert_eq!(item["key"], "k/1");
        assert_eq!(item["version"], stored.version());
        assert_eq!((&item["size"], &item["content_type"]), (&json!(7), &json!("application/json")));
        assert_eq!(item["value"], json!({"n": 1}));
        for time in ["modified", "expires"] {
            let text = item[time].as_str().unwrap();
            assert!(text.len() == 24 && text.ends_with('Z'), "{text}");
        }
        assert_eq!((&list["items"][1]["value_base64"], &list["items"][1]["expires"]), (&json!("AP8="), &Value::Null));
        assert_eq!(list["next"], Value::Null);
        let bare = server.get("/api/v1/kv/a/b?values=false").json();
        assert!(bare["items"][0].get("value").is_none() && bare["items"][1].get("value_base64").is_none());
    });
}

/// JSON of lists and objects in one another.
fn nested(depth: usize) -> String {
    let lists = depth / 2;
    "[".repeat(lists) + &"{\"a\":".repeat(depth - lists) + "null" + &"}".repeat(depth - lists) + &"]".repeat(lists)
}

#[test]
fn a_value_that_nests_too_deep_breaks_nobody_elses_page() {
    on_every_engine(|server| {
        let depths = [64, 65, 130, 5000];
        let value_is_shown = |item: &Value, depth: usize| {
            let (shown, kept) = (item.get("value").is_some(), item.get("value_base64").is_some());
            assert_eq!((shown, kept), (depth <= 64, depth > 64), "{depth}");
            if let Some(text) = item["value_base64"].as_str() {
                assert_eq!(STANDARD.decode(text).unwrap(), nested(depth).as_bytes());
            }
        };
        for depth in depths {
            server.send("PUT", &format!("/api/v1/kv/a/b/{depth:05}"), JSON, nested(depth).as_bytes()).expect(201);
            assert_eq!(server.get(&format!("/api/v1/kv/a/b/{depth:05}")).text(), nested(depth));
        }
        // A list, a stream, an export, and the gets of a batch: each is read by a parser that ends at 128.
        let list = server.get("/api/v1/kv/a/b").expect(200).json();
        depths.iter().zip(list["items"].as_array().unwrap()).for_each(|(depth, item)| value_is_shown(item, *depth));
        let lines = [("Accept", "application/x-ndjson")];
        for stream in [server.send("GET", "/api/v1/kv/a/b", &lines, b""), server.get("/api/v1/export")] {
            let text = stream.expect(200).text();
            assert_eq!(text.lines().count(), depths.len() + 1);
            for (depth, line) in depths.iter().zip(text.lines()) {
                value_is_shown(&serde_json::from_str(line).unwrap(), *depth);
            }
        }
        let gets: Vec<Value> = depths.iter().map(|depth| json!({"op": "get", "key": format!("{depth:05}")})).collect();
        let abort = json!({"op": "delete", "key": "absent", "if_version": 1});
        for (more, status) in [(None, 200), (Some(json!({"op": "incr", "key": "n"})), 200), (Some(abort), 409)] {
            let operations: Vec<Value> = gets.iter().cloned().chain(more).collect();
            let document = json!({"namespace": "a", "collection": "b", "operations": operations});
            let answer = server.send("POST", "/api/v1/batch", JSON, document.to_string().as_bytes()).expect(status);
            let results = answer.json()["results"].clone();
            depths.iter().zip(results.as_array().unwrap()).for_each(|(depth, item)| value_is_shown(item, *depth));
        }
        // What a patch leaves may be as deep as it likes, and what an export gave is taken again as it was.
        let patch = [("Content-Type", "application/merge-patch+json")];
        let deep = format!("{{\"deep\":[{}]}}", nested(5000));
        let merged = server.send("PATCH", "/api/v1/kv/a/b/00064", &patch, deep.as_bytes()).expect(200);
        assert_eq!(merged.text(), deep);
        let file = server.get("/api/v1/export").expect(200).body;
        server.send("DELETE", "/api/v1/kv/a/b", &[], b"").expect(200);
        server.send("POST", "/api/v1/import", &[], &file).expect(200);
        assert_eq!(server.get("/api/v1/kv/a/b/05000").expect(200).text(), nested(5000));
        let back = server.get("/api/v1/kv/a/b/00064").expect(200);
        assert_eq!((back.text(), back.header("Content-Type")), (deep, Some("application/json")));
    });
}

#[test]
fn ranges_prefixes_and_pages_select_the_same_keys_forwards_and_backwards() {
    on_every_engine(|server| {
        fill(server, "a", "b", 250);
        fill(server, "a", "other", 3);
        assert_eq!(keys(&server.get("/api/v1/kv/a/b")).len(), 100);
        let all: Vec<String> = (0..250).map(|n| format!("{n:05}")).collect();
        assert_eq!(all_pages(server, "/api/v1/kv/a/b?limit=37"), all);
        let mut backwards = all_pages(server, "/api/v1/kv/a/b?limit=99&reverse=true&values=false");
        backwards.reverse();
        assert_eq!(backwards, all);
        assert_eq!(all_pages(server, "/api/v1/kv/a/b?prefix=0012"), all[120..130]);
        assert_eq!(all_pages(server, "/api/v1/kv/a/b?start=00010&end=00013"), all[10..13]);
        assert_eq!(keys(&server.get("/api/v1/kv/a/b?start=00010&end=00013&reverse=true")), ["00012", "00011", "00010"]);
        assert!(keys(&server.get("/api/v1/kv/a/nothing").expect(200)).is_empty());
    });
}

#[test]
fn bad_lists_are_refused_with_their_codes() {
    on_every_engine(|server| {
        for (query, code) in [
            ("limit=0", "INVALID_QUERY"),
            ("limit=1001", "INVALID_QUERY"),
            ("x=1", "INVALID_QUERY"),
            ("cursor=x", "INVALID_CURSOR"),
        ] {
            assert_eq!(server.get(&format!("/api/v1/kv/a/b?{query}")).expect(400).code(), code, "{query}");
        }
        assert_eq!(server.get("/api/v1/kv/_a/b").expect(400).code(), "INVALID_NAMESPACE");
        assert_eq!(server.get("/api/v1/kv/a/.b").expect(400).code(), "INVALID_COLLECTION");
        assert_eq!(server.get("/api/v1/kv/.a").expect(400).code(), "INVALID_NAMESPACE");
        assert_eq!(server.get("/api/v1/kv/a/b/").expect(404).code(), "NOT_FOUND");
        let allow = server.send("PUT", "/api/v1/kv/a/b", &[], b"").expect(405);
        assert!(allow.header("Allow").unwrap().contains("DELETE"));
    });
}

#[test]
fn a_page_is_gzipped_if_that_is_accepted() {
    on_every_engine(|server| {
        fill(server, "a", "b", 100);
        let plain = server.get("/api/v1/kv/a/b").expect(200);
        let coded = server.send("GET", "/api/v1/kv/a/b", &[("Accept-Encoding", "gzip")], b"").expect(200);
        assert_eq!(coded.header("Content-Encoding"), Some("gzip"));
        assert!(coded.header("Vary").unwrap().contains("Accept-Encoding"));
        let mut text = String::new();
        flate2::read::GzDecoder::new(&coded.body[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, plain.text());
        server.send("GET", "/api/v1/kv/a/b", &[("Accept-Encoding", "identity;q=0")], b"").expect(406);
    });
}

fn stream(server: &Server, path: &str) -> Vec<Value> {
    let answer = server.send("GET", path, &[("Accept", "application/x-ndjson")], b"").expect(200);
    assert_eq!(answer.header("Content-Type"), Some("application/x-ndjson"));
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_stream_gives_the_whole_range_and_its_end_line() {
    on_every_engine(|server| {
        fill(server, "a", "b", 3000);
        let lines = stream(server, "/api/v1/kv/a/b");
        assert_eq!(lines.len(), 3001);
        assert_eq!((&lines[2999]["key"], &lines[2999]["value"]), (&json!("02999"), &json!(2999)));
        let end = &lines[3000];
        assert_eq!((&end["end"], &end["items"]), (&json!(true), &json!(3000)));
        assert!(end["version"].as_u64() >= lines[2999]["version"].as_u64(), "{end}");
        let part = stream(server, "/api/v1/kv/a/b?prefix=0001&reverse=true&values=false");
        assert_eq!((part.len(), &part[0]["key"]), (11, &json!("00019")));
        assert!(part[0].get("value").is_none());
        let limited = server.send("GET", "/api/v1/kv/a/b?limit=5", &[("Accept", "application/x-ndjson")], b"");
        assert_eq!(limited.expect(400).code(), "INVALID_QUERY");
        assert_eq!(stream(server, "/api/v1/kv/a/nothing").len(), 1);
    });
}

#[test]
fn a_stream_shows_one_moment_whatever_is_written_meanwhile() {
    on_every_engine(|server| {
        // More than sockets buffer, so that the stream is still running when the writes come.
        let value = json!("x".repeat(100_000));
        for n in 0..200 {
            let answer = put_json(server, &format!("/api/v1/kv/a/b/{n:05}?durability=relaxed"), &value);
            assert_eq!(answer.status, 201);
        }
        let mut connection = server.connect();
        connection.write(b"GET /api/v1/kv/a/b HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n");
        let mut first = [0; 1];
        connection.stream().read_exact(&mut first).unwrap();
        server.delete("/api/v1/kv/a/b/00199").expect(204);
        put_json(server, "/api/v1/kv/a/b/00200", &json!(1)).expect(201);
        put_json(server, "/api/v1/kv/a/b/00198", &json!("changed")).expect(204);
        connection.stream().flush().unwrap();
        let mut rest = Vec::new();
        let mut piece = [0; 65536];
        while !rest.ends_with(b"0\r\n\r\n") {
            let count = connection.stream().read(&mut piece).unwrap();
            assert!(count > 0, "the stream was cut");
            rest.extend_from_slice(&piece[..count]);
        }
        let text = String::from_utf8(rest).unwrap();
        assert!(text.contains("\"00199\"") && !text.contains("\"00200\"") && !text.contains("changed"));
        assert!(text.contains("\"items\":200"));
    });
}

#[test]
fn names_are_listed_in_order_and_by_pages() {
    on_every_engine(|server| {
        for place in ["b/x", "a/y", "a/x", "a.c/x"] {
            put_json(server, &format!("/api/v1/kv/{place}/k"), &json!(1)).expect(201);
        }
        assert_eq!(server.get("/api/v1/kv").expect(200).json(), json!({"items": ["a", "a.c", "b"], "next": null}));
        assert_eq!(server.get("/api/v1/kv/a").expect(200).json(), json!({"items": ["x", "y"], "next": null}));
        assert_eq!(server.get("/api/v1/kv/none").expect(200).json(), json!({"items": [], "next": null}));
        let first = server.get("/api/v1/kv?limit=2").json();
        let next = server.get(&format!("/api/v1/kv?limit=2&cursor={}", first["next"].as_str().unwrap())).json();
        assert_eq!((&first["items"], &next["items"]), (&json!(["a", "a.c"]), &json!(["b"])));
        server.delete("/api/v1/kv/b/x/k").expect(204);
        assert_eq!(server.get("/api/v1/kv").json()["items"], json!(["a", "a.c"]));
        assert_eq!(server.get("/api/v1/kv?prefix=a").expect(400).code(), "INVALID_QUERY");
    });
}

#[test]
fn many_deletes_of_one_client_hold_up_nobody_elses() {
    // A card so slow that the first is under way until its time is over.
    let slow = ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"];
    let words = [&slow[..], &["inject=fdatasync:delay_exit=200000"]].concat();
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        return support::skipped("strace is not installed");
    }
    for engine in support::engines() {
        let config = "[limits]\nrequest_timeout = \"9s\"\n";
        let server = Server::builder().engine(&engine).config(config).wrapper(&words).start();
        fill(&server, "a", "many", 6000);
        fill(&server, "b", "few", 3);
        std::thread::scope(|scope| {
            let (refused, first) = std::sync::mpsc::channel();
            let ends: Vec<_> = (0..24)
                .map(|n| {
                    let (server, refused) = (&server, refused.clone());
                    scope.spawn(move || {
                        let answer = server.delete(&format!("/api/v1/kv/a/many?prefix={}", n % 3));
                        if answer.status == 503 {
                            let _ = refused.send(answer.json());
                        }
                        answer.status
                    })
                })
                .collect();
            // 1 under way, 16 behind it, and one too many: from here on others must get through.
            let problem = first.recv().unwrap();
            assert_eq!((&problem["code"], &problem["written"]), (&json!("OVERLOADED"), &json!("no")), "{engine}");
            let message = problem["message"].as_str().unwrap();
            assert!(message.contains("16 deletes of this token") && message.contains("one at a time"), "{message}");
            let other = server.delete("/api/v1/kv/b/few").expect(200).json();
            assert_eq!((&other["deleted"], &other["complete"]), (&json!(3), &json!(true)), "{engine}");
            let write = server.put("/api/v1/kv/a/other/k", b"x").expect(201);
            assert_eq!(write.header("Larder-Durability"), Some("synced"), "{engine}");
            let statuses: Vec<u16> = ends.into_iter().map(|end| end.join().unwrap()).collect();
            let refused = statuses.iter().filter(|status| **status == 503).count();
            // One that has ended before the last came makes room for that.
            assert!((1..=7).contains(&refused), "{engine}: {statuses:?}");
            assert_eq!(
                statuses.iter().filter(|status| **status == 200).count(),
                24 - refused,
                "{engine}: {statuses:?}"
            );
        });
        // strace itself is the child: ended first, it lets the server go.
        let children = format!("/proc/{0}/task/{0}/children", server.pid());
        for child in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            let _ = std::process::Command::new("kill").args(["-TERM", child]).status();
        }
        let mut server = server;
        server.wait();
    }
}

#[test]
fn a_prefix_or_a_whole_collection_is_removed_and_nothing_else() {
    on_every_engine(|server| {
        fill(server, "a", "b", 450);
        fill(server, "a", "bb", 2);
        let part = server.delete("/api/v1/kv/a/b?prefix=000").expect(200);
        assert_eq!(part.json(), json!({"deleted": 100, "complete": true}));
        assert_eq!(part.header("Larder-Durability"), Some("synced"));
        assert_eq!(keys(&server.get("/api/v1/kv/a/b?limit=1")), ["00100"]);
        server.get("/api/v1/kv/a/b/00050").expect(404);
        let whole = server.delete("/api/v1/kv/a/b").expect(200);
        assert_eq!(whole.json(), json!({"deleted": 350, "complete": true}));
        assert_eq!(server.delete("/api/v1/kv/a/b").expect(200).json()["deleted"], 0);
        assert_eq!(keys(&server.get("/api/v1/kv/a/bb")).len(), 2);
        assert_eq!(server.delete("/api/v1/kv/a/b?ttl=1").expect(400).code(), "INVALID_QUERY");
        assert_eq!(server.delete("/api/v1/kv/a/_b").expect(400).code(), "INVALID_COLLECTION");
    });
}

#[test]
fn others_write_while_a_collection_is_removed() {
    on_every_engine(|server| {
        fill(server, "a", "b", 2000);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut client = server.client();
                for n in 0..50 {
                    client.send("PUT", &format!("/api/v1/kv/other/c/{n}"), &[], b"x").expect(201);
                }
            });
            let removed = server.delete("/api/v1/kv/a/b").expect(200).json();
            assert_eq!(removed, json!({"deleted": 2000, "complete": true}));
            writer.join().unwrap();
        });
        assert_eq!(keys(&server.get("/api/v1/kv/other/c")).len(), 50);
        assert!(keys(&server.get("/api/v1/kv/a/b")).is_empty());
    });
}

#[test]
fn what_has_expired_shows_nowhere() {
    on_every_engine(|server| {
        put_json(server, "/api/v1/kv/a/b/gone?ttl=0.05", &json!(1)).expect(201);
        put_json(server, "/api/v1/kv/a/b/kept", &json!(1)).expect(201);
        put_json(server, "/api/v1/kv/c/d/gone?ttl=0.05", &json!(1)).expect(201);
        support::eventually("the entries expire", || keys(&server.get("/api/v1/kv/a/b")) == ["kept"]);
        assert_eq!(stream(server, "/api/v1/kv/a/b").len(), 2);
        support::eventually("the namespace vanishes", || server.get("/api/v1/kv").json()["items"] == json!(["a"]));
        assert_eq!(server.delete("/api/v1/kv/a/b").json()["deleted"], 1);
    });
}

#[test]
fn one_stream_too_many_is_refused() {
    for engine in support::engines() {
        let server = Server::builder().engine(&engine).config("[limits]\nstreams_max = 1\n").start();
        let value = json!("x".repeat(100_000));
        for n in 0..200 {
            put_json(&server, &format!("/api/v1/kv/a/b/{n}?durability=relaxed"), &value).expect(201);
        }
        let mut connection = server.connect();
        connection.write(b"GET /api/v1/kv/a/b HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n");
        connection.stream().read_exact(&mut [0; 1]).unwrap();
        let refused = server.send("GET", "/api/v1/kv/a/b", &[("Accept", "application/x-ndjson")], b"").expect(503);
        assert_eq!((refused.code().as_str(), refused.header("Retry-After").is_some()), ("OVERLOADED", true));
        server.get("/api/v1/kv/a/b?limit=1").expect(200);
        drop(connection);
        support::eventually("the place is free again", || {
            server.send("GET", "/api/v1/kv/a/b?prefix=none", &[("Accept", "application/x-ndjson")], b"").status == 200
        });
    }
}

#[test]
fn a_restricted_token_sees_its_own_namespaces() {
    for engine in support::engines() {
        let data = tempfile::tempdir().unwrap();
        let token = |words: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_larder"));
            let made = command.args(["token", "add"]).args(words).env("LARDER_DATA_DIR", data.path()).output().unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            format!("Bearer {}", String::from_utf8(made.stdout).unwrap().trim())
        };
        let boss = token(&["boss", "--scope", "admin"]);
        let reader = token(&["reader", "--scope", "read", "--namespace", "home"]);
        let server = Server::builder().engine(&engine).data(data.path()).start();
        for namespace in ["attic", "home", "office"] {
            let path = format!("/api/v1/kv/{namespace}/b/k");
            server.send("PUT", &path, &[("Authorization", &boss)], b"x").expect(201);
        }
        let ask = |path: &str, token: &str| server.send("GET", path, &[("Authorization", token)], b"");
        assert_eq!(ask("/api/v1/kv", &boss).expect(200).json()["items"], json!(["attic", "home", "office"]));
        assert_eq!(ask("/api/v1/kv", &reader).expect(200).json(), json!({"items": ["home"], "next": null}));
        assert_eq!(ask("/api/v1/kv/home", &reader).expect(200).json()["items"], json!(["b"]));
        assert_eq!(ask("/api/v1/kv/work", &reader).expect(403).code(), "FORBIDDEN");
        assert_eq!(ask("/api/v1/kv/office/b", &reader).expect(403).code(), "FORBIDDEN");
        assert_eq!(server.get("/api/v1/kv").expect(401).code(), "UNAUTHORIZED");
        let remove = server.send("DELETE", "/api/v1/kv/home/b", &[("Authorization", &reader)], b"");
        assert_eq!(remove.expect(403).code(), "FORBIDDEN");
    }
}
