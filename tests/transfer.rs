//! Export and import from outside, on every engine.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Answer, Server, on_every_engine};

const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

fn import(server: &Server, query: &str, body: &[u8]) -> Answer {
    server.send("POST", &format!("/api/v1/import{query}"), &[NDJSON], body)
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
