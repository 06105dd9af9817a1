//! What clients of all kinds send besides the plain requests of the other tests: web pages of other origins, names in
//! other spellings, bodies as editors and libraries make them. Every engine answers alike.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Answer, Server, engines};

const APP: &str = "https://app.example";

/// Sends bytes as they are and reads one answer.
fn raw(server: &Server, bytes: impl AsRef<[u8]>) -> Answer {
    let mut connection = server.connect();
    // A head that is refused may be answered before all of it is sent.
    let _ = std::io::Write::write_all(&mut connection.stream(), bytes.as_ref());
    connection.read(false)
}

#[test]
fn a_page_may_read_what_the_engine_itself_refuses() {
    let origin = format!("Host: localhost\r\nX-Request-Id: r-1\r\nOrigin: {APP}\r\n");
    let many = "x: y\r\n".repeat(200);
    let cases: Vec<(u16, String)> = vec![
        (414, format!("GET /{} HTTP/1.1\r\n{origin}\r\n", "a".repeat(8_300))),
        (414, format!("GET /{} HTTP/1.1\r\n{origin}\r\n", "a".repeat(12_000))),
        (431, format!("GET / HTTP/1.1\r\n{origin}{many}\r\n")),
        (431, format!("GET / HTTP/1.1\r\n{origin}X: {}\r\n\r\n", "y".repeat(40_000))),
        (400, format!("GET / HTTP/1.1\r\n{origin}Host: other\r\n\r\n")),
        (400, format!("GET /\u{1} HTTP/1.1\r\n{origin}\r\n")),
        (400, format!("GET / HTTP/1.1\r\n{origin}Content-Length: x\r\n\r\n")),
        (501, format!("PUT /api/v1/kv/a/b/c HTTP/1.1\r\n{origin}Transfer-Encoding: x\r\n\r\n")),
        (505, format!("GET / HTTP/2.0\r\n{origin}\r\n")),
        (417, format!("PUT /api/v1/kv/a/b/c HTTP/1.1\r\n{origin}Expect: tea\r\nContent-Length: 1\r\n\r\n")),
        (413, format!("PUT /api/v1/kv/a/b/c HTTP/1.1\r\n{origin}Content-Length: 99999999\r\n\r\n")),
        (400, format!("PUT /api/v1/kv/a/b/c HTTP/1.1\r\n{origin}Transfer-Encoding: chunked\r\n\r\nzz\r\n")),
        (404, format!("GET /api/v1/none HTTP/1.1\r\n{origin}\r\n")),
    ];
    for engine in engines() {
        let server = Server::builder().engine(&engine).config(&format!("[cors]\norigins = [{APP:?}]\n")).start();
        for (status, request) in &cases {
            let shown = format!("{engine}: {status} {:.60}", request.escape_debug().to_string());
            let answer = raw(&server, request);
            assert_eq!((answer.status, answer.header("Access-Control-Allow-Origin")), (*status, Some(APP)), "{shown}");
            assert_eq!(
                (answer.header("Vary"), answer.header("X-Request-Id")),
                (Some("Origin"), Some("r-1")),
                "{shown}"
            );
            assert_eq!(answer.json()["request_id"], "r-1", "{shown}");
            let foreign = raw(&server, request.replace(APP, "https://evil.example"));
            assert_eq!(foreign.header("Access-Control-Allow-Origin"), None, "{shown}");
        }
        let open = Server::builder().engine(&engine).config("[cors]\norigins = [\"*\"]\n").start();
        // Whoever it was: every page may read it.
        let long = raw(&open, format!("GET /{}", "a".repeat(40_000)));
        assert_eq!((long.status, long.header("Access-Control-Allow-Origin")), (414, Some("*")), "{engine}");
    }
}

#[test]
fn a_preflight_allows_what_libraries_add_and_what_the_owner_names() {
    for engine in engines() {
        let config =
            "[cors]\norigins = [\"capacitor://localhost\", \"https://app.example\"]\nheaders = [\"X-Device\"]\n";
        let server = Server::builder().engine(&engine).config(config).start();
        for origin in ["capacitor://localhost", APP] {
            let fields = [("Origin", origin), ("Access-Control-Request-Method", "PUT")];
            let answer = server.send("OPTIONS", "/api/v1/kv/a/b/c", &fields, b"").expect(204);
            assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(origin), "{engine}");
            let allowed = answer.header("Access-Control-Allow-Headers").unwrap();
            for name in ["authorization", "if-match", "tracestate", "x-requested-with", "x-device"] {
                assert!(allowed.split(", ").any(|one| one.eq_ignore_ascii_case(name)), "{engine}: {name} in {allowed}");
            }
            let exposed = answer.header("Access-Control-Expose-Headers").unwrap();
            for name in ["ETag", "Allow", "Accept-Patch", "Accept-Encoding", "Retry-After"] {
                assert!(exposed.split(", ").any(|one| one == name), "{engine}: {name} in {exposed}");
            }
        }
    }
}

#[test]
fn what_needs_no_escape_is_the_same_with_one() {
    for engine in engines() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(outer.path().join("www/sub")).unwrap();
        std::fs::write(outer.path().join("www/sub/a-b.txt"), "file").unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        let config = format!("[www]\ndir = {:?}\npublic = true\n", outer.path().join("www"));
        let server = Server::builder().engine(&engine).config(&config).start();
        let made = server.put("/api/v1/kv/my%2Dhome/my%5fcol/a%2Eb%2Fc", b"1").expect(201);
        assert_eq!(made.header("Location"), Some("/api/v1/kv/my-home/my_col/a.b%2Fc"), "{engine}");
        for (path, status, text) in [
            ("/api/v1/kv/my-home/my_col/a.b%2Fc", 200, "1"),
            ("/api/v1/kv/%6Dy%2dhome/my_col/%61.b%2fc", 200, "1"),
            ("/%61pi/v1/%6Bv/my-home/my_col/a.b%2Fc", 200, "1"),
            ("http://localhost/api/v1/%6Bv/my-home/my_col/a.b%2Fc", 200, "1"),
            ("/%68ealth/live", 200, ""),
            ("/sub/%61%2Db.txt", 200, "file"),
            ("/s%75b/a-b%2etxt?x=%2e", 200, "file"),
            // Once, and no more; and what means something else stays something else.
            ("/api/v1/kv/my%252Dhome/my_col/a.b%2Fc", 400, ""),
            ("/api/v1/kv/my-home/my_col/a.b%252Fc", 404, ""),
            ("/api/v1/kv/my-home%2Fmy_col/a.b", 400, ""),
            ("/api/v1/kv/my-home/my_col/%2e%2e", 400, ""),
            ("/api/v1/kv/my-home/%2e%2e/my_col", 400, ""),
            ("/api/v1/kv/%2ehidden/c/k", 400, ""),
            ("/api/v1/kv/my-home/my_col/%%32%44", 400, ""),
            ("/api%2Fv1/kv/my-home/my_col/a.b", 404, ""),
            ("/sub/%2e%2e/%2e%2e/secret", 404, ""),
            ("/%2e%2e/secret", 404, ""),
            ("/sub%2fa-b.txt", 404, ""),
        ] {
            let answer = server.get(path);
            let shown = format!("{engine} {path}: {}", answer.text());
            assert_eq!(answer.status, status, "{shown}");
            assert!(!answer.text().contains("secret") && (text.is_empty() || answer.text() == text), "{shown}");
        }
        assert_eq!(server.send("POST", "/api/v1/kv/n/c/k/%69ncr", &[], b"").expect(200).json()["value"], 1, "{engine}");
        assert_eq!(
            server.get("/api/v1/kv/my-home/my_col?%70refix=a%2Eb").json()["items"][0]["key"],
            "a.b/c",
            "{engine}"
        );
    }
}

#[test]
fn an_escaped_name_is_no_way_around_a_token() {
    for engine in engines() {
        let server = Server::builder().engine(&engine).config("[auth]\npublic_read = [\"open\"]\n").start();
        server.put("/api/v1/kv/home/c/k", b"1").expect(201);
        server.put("/api/v1/kv/open/c/k", b"2").expect(201);
        let elsewhere = [("X-Forwarded-For", "10.0.0.9")];
        let ask = |path: &str| server.send("GET", path, &elsewhere, b"");
        assert_eq!(ask("/api/v1/kv/%6Fpen/c/k").expect(200).text(), "2", "{engine}");
        for path in ["/api/v1/kv/%68ome/c/k", "/api/v1/kv/open%2F%2e%2e%2Fhome/c/k", "/api/v1/kv/open/%2e%2e/home"] {
            let answer = ask(path);
            assert!(matches!(answer.status, 400 | 401), "{engine} {path}: {}", answer.status);
        }
        ask("/%6Detrics").expect(401);
    }
}

#[test]
fn an_empty_prefix_removes_nothing() {
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        for key in ["a1", "a2", "b"] {
            server.put(&format!("/api/v1/kv/n/c/{key}"), b"x").expect(201);
        }
        for query in ["?prefix=", "?prefix", "?durability=sync&prefix=", "?prefix=&durability=relaxed"] {
            let answer = server.delete(&format!("/api/v1/kv/n/c{query}")).expect(400);
            assert_eq!(answer.code(), "INVALID_QUERY", "{engine} {query}");
        }
        assert_eq!(server.get("/api/v1/kv/n/c?prefix=").json()["items"].as_array().map(Vec::len), Some(3), "{engine}");
        assert_eq!(server.delete("/api/v1/kv/n/c?prefix=a").expect(200).json()["deleted"], 2, "{engine}");
        assert_eq!(server.delete("/api/v1/kv/n/c").expect(200).json()["deleted"], 1, "{engine}");
    }
}

const RECORD: &str = r#"{"namespace":"n","collection":"i","key":"k","value":1}"#;
const END: &str = r#"{"end":true,"items":1,"version":1}"#;
const NDJSON: [(&str, &str); 1] = [("Content-Type", "application/x-ndjson")];

#[test]
fn a_mark_before_a_document_is_no_part_of_it() {
    let patch = [("Content-Type", "application/merge-patch+json")];
    let get = r#"{"namespace":"n","collection":"c","operations":[{"op":"get","key":"k"}]}"#;
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        let post = |path: &str, fields: &[(&str, &str)], text: &str| {
            server.send("POST", path, fields, format!("\u{feff}{text}").as_bytes())
        };
        assert_eq!(post("/api/v1/kv/n/c/k/incr", &[], "{\"by\":5}").expect(200).json()["value"], 5, "{engine}");
        assert_eq!(post("/api/v1/kv/n/c/k/incr", &[], "").expect(200).json()["value"], 6, "{engine}");
        assert_eq!(post("/api/v1/batch", &[], get).expect(200).json()["results"][0]["value"], 6, "{engine}");
        let patched = server.send("PATCH", "/api/v1/kv/n/c/p", &patch, "\u{feff}{\"a\":1}".as_bytes()).expect(200);
        assert_eq!(patched.text(), "{\"a\":1}", "{engine}");
        for lines in [format!("{RECORD}\n{END}\n"), format!("\r\n{RECORD}\r\n\u{feff}{END}")] {
            let report = post("/api/v1/import", &NDJSON, &lines).expect(200).json();
            assert_eq!(
                (&report["imported"], report["failed"].as_array().map(Vec::len)),
                (&1.into(), Some(0)),
                "{engine}"
            );
        }
        let wide: Vec<u8> = get.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let refused = server.send("POST", "/api/v1/batch", &[], &[b"\xff\xfe", &wide[..]].concat()).expect(400);
        assert!(refused.json()["message"].as_str().unwrap().contains("UTF-16"), "{engine}");
    }
}

#[test]
fn what_stands_behind_the_end_line_of_an_import_is_named() {
    let other = RECORD.replace("\"k\"", "\"l\"");
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        let import = |text: String| server.send("POST", "/api/v1/import", &NDJSON, text.as_bytes());
        for (text, line) in [
            (format!("{RECORD}\n{END}\n{other}\n"), "line 3 "),
            (format!("{RECORD}\n{END}\n\n\n{other}\n{END}\n"), "line 5 "),
            (format!("{RECORD}\n{END}\n{END}\n"), "line 3 "),
            (format!("{RECORD}\n{END}\nrubbish"), "line 3 "),
        ] {
            let refused = import(text).expect(400).json();
            let message = refused["message"].as_str().unwrap();
            assert!(message.contains(line) && message.contains("behind the end line"), "{engine}: {message}");
        }
        assert_eq!(server.get("/api/v1/kv/n/i/k").status, 404, "{engine}: nothing was imported");
        let cut = import(format!("{RECORD}\n")).expect(400).json();
        assert!(cut["message"].as_str().unwrap().contains("end line is missing"), "{engine}: {cut}");
        assert_eq!(import(format!("{RECORD}\n{END}\n\r\n")).expect(200).json()["imported"], 1, "{engine}");
    }
}

#[test]
fn a_weak_tag_is_named_where_it_cannot_match() {
    let patch = [("Content-Type", "application/merge-patch+json")];
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        let version = server.put("/api/v1/kv/n/c/k", b"1").expect(201).version();
        let weak = format!("W/\"{version}\"");
        let field = ("If-Match", weak.as_str());
        for (method, path, fields, body) in [
            ("PUT", "/api/v1/kv/n/c/k", vec![field], &b"2"[..]),
            ("DELETE", "/api/v1/kv/n/c/k", vec![field], b""),
            ("PATCH", "/api/v1/kv/n/c/k", vec![field, patch[0]], b"{}"),
            ("POST", "/api/v1/kv/n/c/k/incr", vec![field], b""),
            ("GET", "/api/v1/kv/n/c/k", vec![field], b""),
            ("GET", "/openapi.json", vec![field], b""),
        ] {
            let refused = server.send(method, path, &fields, body).expect(412);
            let message = refused.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains(&weak) && message.contains("compress"), "{engine} {method} {path}: {message}");
        }
        let plain = server.send("PUT", "/api/v1/kv/n/c/k", &[("If-Match", "\"0\"")], b"2").expect(412);
        assert!(!plain.text().contains("weak"), "{engine}");
        server.send("PUT", "/api/v1/kv/n/c/k", &[("If-Match", &weak[2..])], b"2").expect(204);
    }
}

#[test]
fn a_refusal_says_what_would_be_let_in() {
    for engine in engines() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::create_dir(outer.path().join("www")).unwrap();
        std::fs::write(outer.path().join("www/index.html"), "page").unwrap();
        let config = format!("[www]\ndir = {:?}\n[auth]\npublic_read = [\"open\"]\n", outer.path().join("www"));
        let server = Server::builder().engine(&engine).config(&config).start();
        let bare = raw(&server, "GET /api/v1/kv/n/c/k HTTP/1.0\r\n\r\n").expect(401).json();
        assert!(bare["message"].as_str().unwrap().contains("no Host"), "{engine}: {bare}");
        server.put("/api/v1/kv/open/c/k", b"1").expect(201);

        let add = ["token", "add", "one", "--scope", "read", "--data", server.data().to_str().unwrap()];
        let made = std::process::Command::new(support::binary()).args(add).output().unwrap();
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        support::eventually("the token is known", || server.get("/api/v1/kv/n/c/k").status == 401);

        let wrong =
            [("Authorization", "Bearer ldr_aaaaaaaaaaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")];
        let rubbish = [("Authorization", "Bearer x")];
        for (path, fields, explained) in [
            ("/api/v1/kv/open/c/k", &wrong, true),
            ("/api/v1/kv/open/c/k", &rubbish, true),
            ("/api/v1/kv/open/c", &wrong, true),
            ("/api/v1/kv/open", &wrong, true),
            ("/api/v1/kv/n/c/k", &wrong, false),
        ] {
            let refused = server.send("GET", path, fields, b"").expect(401).json();
            let message = refused["message"].as_str().unwrap();
            assert_eq!(message.contains("leave Authorization out"), explained, "{engine} {path}: {message}");
        }
        assert_eq!(server.get("/api/v1/kv/open/c/k").expect(200).text(), "1", "{engine}");

        let offers = |method: &str, path: &str, fields: &[(&str, &str)]| {
            let refused = server.send(method, path, fields, b"").expect(401);
            let offered: Vec<&str> = refused
                .headers
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case("WWW-Authenticate"))
                .map(|(_, value)| &value[..6])
                .collect();
            assert_eq!(offered[0], "Bearer", "{engine}");
            offered.contains(&"Basic ")
        };
        for (fields, expected) in [
            (&[("Sec-Fetch-Mode", "navigate")][..], true),
            (&[("Accept", "text/html,*/*;q=0.8")], true),
            (&[("Sec-Fetch-Mode", "navigate"), ("Accept", "*/*")], true),
            (&[("Sec-Fetch-Mode", "cors"), ("Accept", "text/html")], false),
            (&[("Sec-Fetch-Mode", "no-cors")], false),
            (&[("Accept", "*/*")], false),
            (&[("Accept", "application/json")], false),
            (&[], false),
        ] {
            assert_eq!(offers("GET", "/", fields), expected, "{engine} {fields:?}");
        }
        assert!(!offers("PUT", "/api/v1/kv/n/c/k", &[("Sec-Fetch-Mode", "navigate")]), "{engine}");
        let basic = format!("Basic {}", base64(&format!("x:{token}")));
        assert_eq!(server.send("GET", "/", &[("Authorization", &basic)], b"").expect(200).text(), "page", "{engine}");
    }
}

fn base64(text: &str) -> String {
    use ::base64::Engine as _;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn a_list_passes_for_no_object_and_no_message_names_a_type_of_rust() {
    let operations = |one: &str| format!(r#"{{"namespace":"n","collection":"c","operations":[{one}]}}"#);
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        let refused = |path: &str, fields: &[(&str, &str)], body: &str| {
            let answer = server.send("POST", path, fields, body.as_bytes());
            let text = answer.text();
            let is_told = !["struct", "u64", "i64", "sequence", "invalid type", "map", "field"]
                .iter()
                .any(|word| text.contains(word));
            assert!(is_told, "{engine} {path} {body}: {text}");
            (answer.status, text)
        };
        for body in [
            "[5]",
            "[]",
            "[[5]]",
            "5",
            "\"5\"",
            "null",
            "{\"by\":[5]}",
            "{\"by\":\"5\"}",
            "{\"by\":{\"$serde_json::private::Number\":\"5\"}}",
        ] {
            assert_eq!(refused("/api/v1/kv/n/c/k/incr", &[], body).0, 400, "{engine} {body}");
        }
        for body in [
            r#"[true,"n","c",[{"op":"get","key":"k"}]]"#.to_owned(),
            "[]".to_owned(),
            operations(r#"["set","k",null,null,1]"#),
            operations(r#"{"op":"get","key":"k"},["get","k"]"#),
            operations("5"),
            operations(r#"{"op":["get"],"key":"k"}"#),
            operations(r#"{"op":"get","key":{}}"#),
            operations(r#"{"op":"get","key":"k","if_version":"1"}"#),
            operations(r#"{"op":"set","key":"k","value":1,"ttl":"60"}"#),
            operations(r#"{"op":"set","key":"k","value":1,"ttl":{"$serde_json::private::Number":"60"}}"#),
            operations(r#"{"op":"incr","key":"k","by":[1]}"#),
            operations(r#"{"op":"get","key":"k","x":1}"#),
            operations(r#"{"op":"get"}"#),
            r#"{"atomic":"yes","operations":[]}"#.to_owned(),
            r#"{"operations":{"op":"get"}}"#.to_owned(),
        ] {
            assert_eq!(refused("/api/v1/batch", &[], &body).0, 400, "{engine} {body}");
        }
        for (body, status) in [
            (format!("{RECORD}\n[true,1]\n"), 400),
            (format!("{RECORD}\n[true,1,1]\n"), 400),
            (format!("[\"n\",\"i\",\"k\",1]\n{END}\n"), 200),
            (format!("{RECORD}\n{}\n", END.replace('1', "\"1\"")), 400),
            (format!("{}\n{END}\n", RECORD.replace("\"k\"", "[]")), 200),
        ] {
            let (got, text) = refused("/api/v1/import", &NDJSON, &body);
            assert_eq!(got, status, "{engine} {body}: {text}");
            assert!(status != 200 || text.contains("\"imported\":0"), "{engine} {body}: {text}");
        }
        assert_eq!(server.get("/api/v1/kv/n/i/k").status, 404, "{engine}");
    }
}

#[test]
fn what_larder_says_is_gzipped_for_whoever_takes_it() {
    let gzip = [("Accept-Encoding", "gzip")];
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(3000));
        server.send("PUT", "/api/v1/kv/n/c/k", &[("Content-Type", "application/json")], large.as_bytes()).expect(201);
        let gets = [r#"{"op":"get","key":"k"}"#; 5].join(",");
        let batch = format!(r#"{{"namespace":"n","collection":"c","operations":[{gets}]}}"#);
        let aborted = batch.replace("}]}", r#"},{"op":"delete","key":"k","if_version":0}]}"#);
        let patch = ("Content-Type", "application/merge-patch+json");
        for (method, path, status, body) in [
            ("GET", "/metrics", 200, ""),
            ("GET", "/api/v1/stats", 200, ""),
            ("GET", "/api/v1/kv/n/c?values=true", 200, ""),
            ("GET", "/openapi.json", 200, ""),
            ("POST", "/api/v1/batch", 200, batch.as_str()),
            ("POST", "/api/v1/batch", 409, aborted.as_str()),
            ("PATCH", "/api/v1/kv/n/c/k", 200, "{}"),
        ] {
            let fields = if method == "PATCH" { vec![gzip[0], patch] } else { vec![gzip[0]] };
            let coded = server.send(method, path, &fields, body.as_bytes()).expect(status);
            let shown = format!("{engine} {method} {path} {status}");
            assert_eq!(coded.header("Content-Encoding"), Some("gzip"), "{shown}");
            let vary = coded.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Vary"));
            assert!(vary.clone().any(|(_, value)| value.contains("Accept-Encoding")), "{shown}");
            let mut text = String::new();
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&coded.body[..]), &mut text).unwrap();
            let plain = server.send(method, path, &fields[1..], body.as_bytes()).expect(status);
            assert_eq!(plain.header("Content-Encoding"), None, "{shown}");
            assert!(
                !text.is_empty() && text.as_bytes()[..4] == plain.body[..4] && coded.body.len() < plain.body.len(),
                "{shown}"
            );
            let spared = [&fields[..], &[("X-No-Compression", "1")]].concat();
            assert_eq!(server.send(method, path, &spared, body.as_bytes()).header("Content-Encoding"), None, "{shown}");
        }
        let head = server.send("HEAD", "/metrics", &gzip, b"").expect(200);
        assert_eq!(head.header("Content-Encoding"), Some("gzip"), "{engine}");
        assert_eq!(server.send("GET", "/health", &gzip, b"").expect(200).header("Content-Encoding"), None, "{engine}");
        let only = [("Accept-Encoding", "gzip, identity;q=0")];
        assert_eq!(server.send("GET", "/health", &only, b"").expect(200).header("Content-Encoding"), Some("gzip"));
    }
}

#[test]
fn a_refusal_says_what_is_taken_instead() {
    for engine in engines() {
        let server = Server::builder().engine(&engine).start();
        server.put("/api/v1/kv/n/c/k", b"1").expect(201);
        let options = server.send("OPTIONS", "/api/v1/kv/n/c/k", &[], b"").expect(204);
        assert_eq!(options.header("Accept-Patch"), Some("application/merge-patch+json"), "{engine}");
        assert_eq!(
            server.send("OPTIONS", "/api/v1/kv/n/c", &[], b"").expect(204).header("Accept-Patch"),
            None,
            "{engine}"
        );
        for (method, path, body) in [
            ("PUT", "/api/v1/kv/n/c/k", "x"),
            ("POST", "/api/v1/kv/n/c", "x"),
            ("POST", "/api/v1/batch", "{}"),
            ("POST", "/api/v1/import", "{}"),
        ] {
            let refused = server.send(method, path, &[("Content-Encoding", "br")], body.as_bytes()).expect(415);
            assert_eq!(refused.header("Accept-Encoding"), Some("gzip, identity"), "{engine} {path}");
        }
        for path in ["/api/v1/kv/n/c/k", "/health", "/api/v1/none", "/", "/metrics"] {
            for method in ["FOO", "PROPFIND", "get", "LINK"] {
                let answer = server.send(method, path, &[], b"").expect(501);
                assert_eq!(answer.code(), "NOT_IMPLEMENTED", "{engine} {method} {path}");
            }
        }
        for (method, path) in
            [("POST", "/api/v1/kv/n/c/k"), ("PATCH", "/health"), ("PUT", "/api/v1/batch"), ("TRACE", "/health")]
        {
            let answer = server.send(method, path, &[], b"").expect(405);
            assert!(answer.header("Allow").is_some_and(|allow| allow.contains("OPTIONS")), "{engine} {method} {path}");
        }
    }
}
