//! The served contract from outside. What it says is held against the server by `make test-contract`.

mod support;

use std::io::Read;

use serde_json::Value;
use support::{Server, on_every_engine};

const DOCUMENT: &str = "/openapi.json";

fn document(server: &Server) -> Value {
    server.get(DOCUMENT).expect(200).json()
}

#[test]
fn the_document_is_served_to_all_in_both_forms_and_revalidated() {
    on_every_engine(|server| {
        let plain = server.get(DOCUMENT).expect(200);
        assert_eq!(plain.header("Content-Type"), Some("application/json"));
        assert_eq!(plain.header("Cache-Control"), Some("no-cache"));
        assert_eq!(plain.header("Vary"), Some("Accept-Encoding"));
        assert_eq!(plain.json()["openapi"], "3.1.0");
        assert_eq!(plain.json()["info"]["version"], env!("CARGO_PKG_VERSION"));

        let packed = server.send("GET", DOCUMENT, &[("Accept-Encoding", "gzip")], b"").expect(200);
        assert_eq!(packed.header("Content-Encoding"), Some("gzip"));
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut unpacked).expect("gzip");
        assert_eq!(unpacked, plain.body);
        let unwanted = [("Accept-Encoding", "gzip"), ("X-No-Compression", "1")];
        assert_eq!(server.send("GET", DOCUMENT, &unwanted, b"").header("Content-Encoding"), None);

        let (plain_tag, packed_tag) = (plain.header("ETag").expect("a tag"), packed.header("ETag").expect("a tag"));
        assert_ne!(plain_tag, packed_tag);
        let again = server.send("GET", DOCUMENT, &[("If-None-Match", plain_tag)], b"").expect(304);
        assert_eq!(again.header("ETag"), Some(plain_tag));
        let fields = [("Accept-Encoding", "gzip"), ("If-None-Match", packed_tag)];
        server.send("GET", DOCUMENT, &fields, b"").expect(304);
        server.send("GET", DOCUMENT, &[("If-Match", "\"other\"")], b"").expect(412);

        let head = server.send("HEAD", DOCUMENT, &[], b"").expect(200);
        assert_eq!(head.header("Content-Length"), plain.header("Content-Length"));
        assert_eq!(server.send("OPTIONS", DOCUMENT, &[], b"").expect(204).header("Allow"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(server.send("POST", DOCUMENT, &[], b"").expect(405).code(), "METHOD_NOT_ALLOWED");
    });
}

#[test]
fn every_path_of_the_document_answers_options_with_its_methods() {
    on_every_engine(|server| {
        let document = document(server);
        let mut client = server.client();
        // Without www.dir there are no files, and what is not listed is 404.
        for (path, item) in document["paths"].as_object().expect("an object").iter().filter(|(path, _)| *path != "/") {
            let concrete = path.replace(['{', '}'], "");
            let answer = client.send("OPTIONS", &concrete, &[], b"").expect(204);
            let mut allowed: Vec<&str> = answer.header("Allow").expect("Allow").split(", ").collect();
            let mut listed: Vec<String> = item
                .as_object()
                .expect("an object")
                .keys()
                .filter(|key| *key != "parameters")
                .map(|key| key.to_uppercase())
                .collect();
            allowed.sort_unstable();
            listed.sort_unstable();
            assert_eq!(allowed, listed, "{path}");
        }
    });
}

#[test]
fn the_routes_of_larder_itself_refuse_a_query() {
    on_every_engine(|server| {
        for path in ["/health", "/health/live", "/metrics", "/api/v1/stats", DOCUMENT] {
            server.get(path).expect(200);
            assert_eq!(server.get(&format!("{path}?verbose=1")).expect(400).code(), "INVALID_QUERY", "{path}");
        }
    });
}

#[test]
fn the_stats_are_the_metrics_and_more() {
    on_every_engine(|server| {
        server.put("/api/v1/kv/a/b/c", b"x").expect(201);
        server.get("/api/v1/kv/a/b/c").expect(200);
        let stats = server.get("/api/v1/stats").expect(200).json();
        assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(stats["store"]["state"], "ok");
        assert!(stats["store"]["last_version"].as_u64().expect("a number") > 0, "{stats}");
        assert!(stats["cache"]["bytes_max"].as_u64().expect("a number") > 0, "{stats}");
        let page = server.get("/metrics").expect(200).text();
        // The text page leaves out distributions that nothing was recorded in.
        let metrics = stats["metrics"].as_object().expect("an object");
        for (name, _) in metrics.iter().filter(|(_, family)| family["kind"] != "distribution") {
            assert!(page.contains(name.as_str()), "{name} is no metric");
        }
        let packed = server.send("GET", "/api/v1/stats", &[("Accept-Encoding", "gzip")], b"").expect(200);
        assert_eq!(packed.header("Content-Encoding"), Some("gzip"));
        let refused = [("Accept-Encoding", "identity;q=0, gzip;q=0")];
        assert_eq!(server.send("GET", "/api/v1/stats", &refused, b"").expect(406).code(), "NOT_ACCEPTABLE");
    });
}

#[test]
fn numbers_count_by_their_value_and_not_by_their_spelling() {
    on_every_engine(|server| {
        let counter = "/api/v1/kv/a/b/n/incr";
        let json = [("Content-Type", "application/json")];
        assert_eq!(server.send("POST", counter, &json, b"{\"by\": 3.0}").expect(200).json()["value"], 3);
        assert_eq!(server.send("POST", counter, &json, b"{\"by\": 2e1}").expect(200).json()["value"], 23);
        assert_eq!(server.send("POST", counter, &json, b"{\"by\": 0.5}").expect(400).code(), "INVALID_JSON");
        let batch = br#"{"namespace":"a","collection":"b","operations":[{"op":"incr","key":"n","by":-3.0,"ttl":6e1}]}"#;
        assert_eq!(server.send("POST", "/api/v1/batch", &json, batch).expect(200).json()["results"][0]["value"], 20);
        server.send("PUT", "/api/v1/kv/a/b/t?ttl=1e1", &[], b"x").expect(201);
    });
}
